//! A watch: one stream of one member, begun again elsewhere when it breaks.
//!
//! The stream may break silently (a member that hangs, a connection that was cut), so a watch that hears nothing for
//! [`QUIET_MS`] asks for a sign of life and, without one, begins again. A member that loses its leader ends the stream by
//! itself (`hasleader`). Begun again means: from the first revision that was not given out. If that is compacted away by
//! then, the watcher gets `Resync` as its last word, as it does when it does not keep up ([`WATCH_QUEUE_CHANGES`]).
//!
//! A dropped `Watch` ends the task and the stream.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::assembler::{Assembler, Step};
use super::client::{Ask, CallError, Client, Repeat};
use super::range_end;
use super::status::Verdict;
use super::wire::{WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse, WatchUnion};
use crate::meta::watchers::WATCH_QUEUE_CHANGES;
use crate::meta::{Event, MetaError, Watch};

/// A watch that hears nothing for this long asks whether anybody is there, in milliseconds.
const QUIET_MS: u64 = 5_000;
/// Requests that wait to be sent on a stream: the first and a question for a sign of life.
const STREAM_REQUESTS: usize = 4;

/// A stream that has been begun.
struct Stream {
    at: usize,
    requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

/// Begins a watch. It is the server's when this returns.
pub async fn watch(client: &Client, prefix: &str, from: u64) -> Result<Watch, MetaError> {
    let (events, watch) = mpsc::channel(WATCH_QUEUE_CHANGES + 1);
    // Room that is kept for the last word.
    let last_word = events.clone().try_reserve_owned().ok();
    let assembler = Assembler::new(from);
    let mut follower = Follower { client: client.clone(), prefix: prefix.to_owned(), assembler, events, last_word };
    if from == 0 {
        follower.resync();
        tokio::spawn(async move { follower.events.closed().await });
        return Ok(watch);
    }
    let stream = follower.begin().await?;
    tokio::spawn(follower.run(stream));
    Ok(watch)
}

struct Follower {
    client: Client,
    prefix: String,
    assembler: Assembler,
    events: mpsc::Sender<Vec<Event>>,
    last_word: Option<mpsc::OwnedPermit<Vec<Event>>>,
}

/// Why a stream ended.
enum End {
    /// Nobody listens any more.
    Closed,
    /// The last word was said.
    Resync,
    /// To be begun again.
    Broken(String),
}

impl Follower {
    async fn begin(&mut self) -> Result<Stream, MetaError> {
        self.assembler.begin();
        let create = WatchCreateRequest {
            key: Bytes::copy_from_slice(self.prefix.as_bytes()),
            range_end: range_end(&self.prefix),
            start_revision: i64::try_from(self.assembler.next_revision()).unwrap_or(i64::MAX),
            fragment: true,
        };
        let begun = self.client.run("watch", Repeat::Freely, |ask| open(ask, create.clone())).await;
        let ((requests, answers), at) = begun.map_err(|error| match error {
            CallError::Meta(error) => error,
            error => MetaError::Unavailable { operation: "watch", reason: format!("{error:?}") },
        })?;
        Ok(Stream { at, requests, answers })
    }

    async fn run(mut self, mut stream: Stream) {
        let mut fruitless: u32 = 0;
        loop {
            let (begun_ms, from) = (self.client.now_ms(), self.assembler.next_revision());
            match self.follow(&mut stream).await {
                End::Closed => return,
                End::Resync => {
                    self.client.metrics().watch_resyncs.inc();
                    self.resync();
                    self.events.closed().await;
                    return;
                }
                End::Broken(reason) => {
                    let (endpoint, next_revision) = (self.client.endpoint(stream.at), self.assembler.next_revision());
                    tracing::debug!(endpoint, next_revision, reason, "a watch broke; beginning again");
                    drop(stream);
                    let lived_ms = self.client.now_ms().saturating_sub(begun_ms);
                    let useful = self.assembler.next_revision() > from || lived_ms >= QUIET_MS;
                    fruitless = if useful { 0 } else { fruitless.saturating_add(1) };
                    if fruitless > 1 && !self.pause(fruitless - 1).await {
                        return;
                    }
                    let Some(again) = self.begin_again().await else { return };
                    stream = again;
                }
            }
        }
    }

    /// Tries for as long as somebody listens. The pauses are those of the endpoints.
    async fn begin_again(&mut self) -> Option<Stream> {
        let closed = self.events.clone();
        let mut failures: u32 = 0;
        loop {
            self.client.metrics().watch_restarts.inc();
            let begun = tokio::select! {
                begun = self.begin() => begun,
                () = closed.closed() => return None,
            };
            match begun {
                Ok(stream) => return Some(stream),
                Err(error) => {
                    failures = failures.saturating_add(1);
                    if failures.is_power_of_two() {
                        tracing::warn!(%error, failures, "a watch of etcd cannot go on; trying again");
                    }
                    if !self.pause(failures).await {
                        return None;
                    }
                }
            }
        }
    }

    /// Pauses after so many failures in a row; whether somebody still listens.
    async fn pause(&self, failures: u32) -> bool {
        tokio::select! {
            () = tokio::time::sleep(self.client.pause(failures)) => true,
            () = self.events.closed() => false,
        }
    }

    /// Gives out what the stream brings, until it ends.
    async fn follow(&mut self, stream: &mut Stream) -> End {
        let mut asked = false;
        loop {
            let patience_ms = if asked { self.client.request_timeout_ms() } else { QUIET_MS };
            let answer = tokio::select! {
                answer = tokio::time::timeout(Duration::from_millis(patience_ms), stream.answers.message()) => answer,
                () = self.events.closed() => return End::Closed,
            };
            let answer = match answer {
                Err(_) if asked => {
                    let reason = format!("no sign of life within {patience_ms} ms");
                    self.client.failed(stream.at, &reason);
                    return End::Broken(reason);
                }
                Err(_) => {
                    asked = true;
                    // A queue that is full means that earlier questions were not even sent: the same silence.
                    let _ = stream.requests.try_send(sign_of_life());
                    continue;
                }
                Ok(Ok(Some(answer))) => answer,
                Ok(Ok(None)) => return End::Broken("the server ended the stream".to_owned()),
                Ok(Err(status)) => return self.broken(stream.at, &status),
            };
            asked = false;
            match self.assembler.accept(answer) {
                Step::Resync => return End::Resync,
                Step::Again(reason) => return End::Broken(reason),
                Step::Deliver(events) if events.is_empty() => {}
                Step::Deliver(events) => match self.events.try_send(events) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => return End::Resync,
                    Err(mpsc::error::TrySendError::Closed(_)) => return End::Closed,
                },
            }
        }
    }

    fn broken(&self, at: usize, status: &Status) -> End {
        match self.client.judge(status) {
            // One revision, or many at once, beyond what is taken at a time: read instead.
            Verdict::AnswerTooLarge | Verdict::Compacted => End::Resync,
            Verdict::Elsewhere { reason, .. } => {
                self.client.failed(at, &reason);
                End::Broken(reason)
            }
            verdict => End::Broken(format!("{verdict:?}")),
        }
    }

    fn resync(&mut self) {
        if let Some(permit) = self.last_word.take() {
            permit.send(vec![Event::Resync]);
        }
    }
}

fn sign_of_life() -> WatchRequest {
    WatchRequest { request: Some(WatchUnion::Progress(WatchProgressRequest {})) }
}

/// Begins a watch at one endpoint.
async fn open(
    ask: Ask,
    create: WatchCreateRequest,
) -> Result<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>), Status> {
    let (requests, sent) = mpsc::channel(STREAM_REQUESTS);
    let first = WatchRequest { request: Some(WatchUnion::Create(create)) };
    requests.try_send(first).map_err(|error| Status::internal(error.to_string()))?;
    let mut answers = ask.streaming(ReceiverStream::new(sent)).await?;
    let Some(created) = answers.message().await? else {
        return Err(Status::unavailable("the server ended the watch before it began"));
    };
    // A compacted start is told by the next message.
    if created.canceled && created.compact_revision == 0 {
        return Err(Status::unavailable(created.cancel_reason));
    }
    Ok((requests, answers))
}
