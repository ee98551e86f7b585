//! One connection: requests in, replies out, in order.
//!
//! - Produce requests append in the order of arrival, as soon as they are read; their replies wait for durability side by
//!   side and go out in order.
//! - Any other request waits until every earlier reply has gone out and is answered before the next is read, as in Kafka.
//! - At an in-flight limit the socket is not read: backpressure reaches the client.
//!
//! Reader and writer are two halves of one task, so nothing is handed between threads. A client that goes away cancels
//! its long polls (fetch, join, sync); everything else that began is finished, and produce replies that nobody can
//! receive are dropped after the append.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::call::{Call, CallError, Prelude};
use super::frame::{FrameError, FrameReader, Guess, Reply, guess};
use super::metrics::{ApiLabels, CloseLabels, RequestLabels};
use super::versions::{Api, Step};
use super::{Front, Session, produce, versions};

/// Most replies of one connection that wait (pipelined produce requests); then the connection is not read.
const MAX_PIPELINED: usize = 512;
/// Bytes of ready replies gathered into one write.
const GATHER_BYTES: usize = 256 * 1024;

const HTTP_ANSWER: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n\
    This port speaks the Kafka protocol, not HTTP. Health, metrics and the console are on the HTTP port (9096).\n";

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the client closed it")]
    ByPeer,
    #[error("the broker is stopping")]
    Stopping,
    #[error("it speaks {0}")]
    Foreign(&'static str),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("its replies cannot be written: {0}")]
    Write(std::io::Error),
}

/// A reply that is due.
struct Due {
    reply: BoxFuture<'static, Option<Reply>>,
    api: &'static Api,
    arrived_us: u64,
    held: Held,
}

/// Bytes counted against the in-flight limits until dropped.
struct Held {
    front: Arc<Front>,
    bytes: i64,
    _connection: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.front.metrics.inflight_bytes.dec_by(self.bytes);
    }
}

/// How many replies are due, and a bell for when none is.
#[derive(Default)]
struct Pending {
    count: std::sync::atomic::AtomicUsize,
    drained: Notify,
}

impl Pending {
    fn add(&self) {
        self.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    fn remove(&self, count: usize) {
        if self.count.fetch_sub(count, std::sync::atomic::Ordering::Relaxed) == count {
            self.drained.notify_one();
        }
    }

    async fn none(&self) {
        while self.count.load(std::sync::atomic::Ordering::Relaxed) > 0 {
            self.drained.notified().await;
        }
    }
}

/// Serves one connection, given as its two halves, until either side ends it.
pub async fn run<R, W>(front: Arc<Front>, (read, write): (R, W), peer: SocketAddr, stop: CancellationToken)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (due, replies) = mpsc::channel(MAX_PIPELINED);
    let pending = Arc::new(Pending::default());
    let reading = Reading {
        inflight: Arc::new(Semaphore::new(front.settings.inflight_bytes_per_connection)),
        reader: FrameReader::new(read),
        front: front.clone(),
        peer,
        due,
        pending: pending.clone(),
        stop,
        first: true,
    };
    let reading = reading.run();
    let writing = write_replies(front.clone(), replies, write, pending);
    tokio::pin!(reading, writing);
    let ended = tokio::select! {
        biased;
        ended = &mut reading => match writing.await {
            Ok(mut write) => {
                if let Ended::Foreign("HTTP") = ended {
                    let _ = Reply::new([HTTP_ANSWER.as_bytes().into()]).write_to(&mut write, 1_000).await;
                }
                ended
            }
            Err(failed) => failed,
        },
        Err(failed) = &mut writing => failed,
    };
    report(&front, peer, &ended);
}

struct Reading<R> {
    front: Arc<Front>,
    peer: SocketAddr,
    reader: FrameReader<R>,
    inflight: Arc<Semaphore>,
    due: mpsc::Sender<Due>,
    pending: Arc<Pending>,
    stop: CancellationToken,
    first: bool,
}

impl<R: AsyncRead + Unpin> Reading<R> {
    async fn run(mut self) -> Ended {
        loop {
            if let Err(ended) = self.one_request().await {
                return ended;
            }
        }
    }

    async fn one_request(&mut self) -> Result<(), Ended> {
        let front = self.front.clone();
        let head = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Ended::Stopping),
            head = self.reader.peek_length(front.settings.idle_timeout_ms) => head?.ok_or(Ended::ByPeer)?,
        };
        if std::mem::take(&mut self.first) {
            match guess(head) {
                Guess::Kafka => {}
                Guess::Tls => return Err(Ended::Foreign("TLS")),
                Guess::Http => return Err(Ended::Foreign("HTTP")),
            }
        }
        let limit_bytes = front.settings.max_request_bytes;
        let announced = i32::from_be_bytes(head);
        let length = usize::try_from(announced).ok().filter(|length| *length <= limit_bytes);
        let length = length.ok_or(FrameError::Length { length: announced, limit_bytes })?;
        let hold = self.hold(length + 4).await;
        let frame = self.reader.read(length).await?;
        front.metrics.received_bytes.inc_by(length as u64 + 4);
        let arrived_us = front.clock.boot_us();

        let prelude = Prelude::read(&frame)?;
        let (api, call) = match versions::find(prelude.api_key, prelude.version) {
            Ok(api) => (api, Call::read(api.key, prelude.version, frame)?),
            Err(CallError::UnknownVersion { api: kafka_protocol::messages::ApiKey::ApiVersions, .. }) => {
                self.pending.none().await;
                let reply = versions::unsupported_api_versions(prelude.correlation_id)?;
                let api = versions::api_versions();
                return self.push(Box::pin(std::future::ready(Some(reply))), api, arrived_us, hold).await;
            }
            Err(unknown) => {
                front.metrics.unsupported.inc();
                return Err(unknown.into());
            }
        };
        let labels = RequestLabels { api: api.name, version: call.version };
        front.metrics.requests.get_or_create(&labels).inc();

        if api.pipelined {
            let session = Session::new(front, self.peer);
            let reply = produce::begin(&session, call).await?;
            return self.push(reply, api, arrived_us, hold).await;
        }
        self.pending.none().await;
        let session = Session::new(front, self.peer);
        let running = (api.run)(&session, call);
        let step = if api.long_poll {
            tokio::select! {
                biased;
                step = running => step?,
                () = self.reader.peer_closed() => return Err(Ended::ByPeer),
                () = self.stop.cancelled() => return Err(Ended::Stopping),
            }
        } else {
            running.await?
        };
        match step {
            Step::Reply(reply) => self.push(Box::pin(std::future::ready(Some(reply))), api, arrived_us, hold).await,
        }
    }

    async fn push(
        &self,
        reply: BoxFuture<'static, Option<Reply>>,
        api: &'static Api,
        arrived_us: u64,
        held: Held,
    ) -> Result<(), Ended> {
        self.pending.add();
        let due = Due { reply, api, arrived_us, held };
        // The receiver goes away only after a failed write, which ends the connection on its own.
        self.due.send(due).await.map_err(|_| Ended::ByPeer)
    }

    async fn hold(&self, bytes: usize) -> Held {
        let front = &self.front;
        let one = take(&self.inflight, bytes, front.settings.inflight_bytes_per_connection, front).await;
        let all = take(&front.inflight, bytes, front.settings.inflight_bytes, front).await;
        front.metrics.inflight_bytes.inc_by(bytes as i64);
        Held { front: front.clone(), bytes: bytes as i64, _connection: one, _all: all }
    }
}

/// Takes `bytes` of a limit, or all of it where a single request is larger.
async fn take(from: &Arc<Semaphore>, bytes: usize, limit_bytes: usize, front: &Front) -> OwnedSemaphorePermit {
    let count = u32::try_from(bytes.min(limit_bytes)).unwrap_or(u32::MAX);
    if let Ok(permit) = from.clone().try_acquire_many_owned(count) {
        return permit;
    }
    front.metrics.throttled_reads.inc();
    from.clone().acquire_many_owned(count).await.expect("the semaphores of in-flight bytes are never closed")
}

/// Writes replies in order until the reader has gone; gives the socket back.
async fn write_replies<W: AsyncWrite + Unpin>(
    front: Arc<Front>,
    mut replies: mpsc::Receiver<Due>,
    mut half: W,
    pending: Arc<Pending>,
) -> Result<W, Ended> {
    let mut queue: VecDeque<Due> = VecDeque::new();
    loop {
        if queue.is_empty() {
            match replies.recv().await {
                Some(due) => queue.push_back(due),
                None => return Ok(half),
            }
        }
        let mut gathered = Reply::default();
        let mut written = 0;
        let mut held = Vec::new();
        while let Some(mut due) = queue.pop_front() {
            let reply = if written == 0 {
                due.reply.await
            } else {
                let Some(reply) = futures::FutureExt::now_or_never(&mut due.reply) else {
                    queue.push_front(due);
                    break;
                };
                reply
            };
            let elapsed_us = front.clock.boot_us().saturating_sub(due.arrived_us);
            let labels = ApiLabels { api: due.api.name };
            front.metrics.latency_s.get_or_create(&labels).observe(elapsed_us as f64 / 1e6);
            if let Some(reply) = reply {
                gathered.append(reply);
            }
            written += 1;
            held.push(due.held);
            if queue.is_empty()
                && let Ok(next) = replies.try_recv()
            {
                queue.push_back(next);
            }
            if gathered.bytes() > GATHER_BYTES {
                break;
            }
        }
        front.metrics.sent_bytes.inc_by(gathered.bytes() as u64);
        gathered.write_to(&mut half, front.settings.idle_timeout_ms).await.map_err(Ended::Write)?;
        drop(held);
        pending.remove(written);
    }
}

fn report(front: &Front, peer: SocketAddr, ended: &Ended) {
    let now_ms = front.clock.boot_ms();
    let reason = match ended {
        Ended::ByPeer => return tracing::debug!(%peer, "connection ended: {ended}"),
        Ended::Stopping => "stopping",
        Ended::Frame(FrameError::Idle) => "idle",
        Ended::Frame(FrameError::Io(_)) | Ended::Write(_) => "io",
        Ended::Frame(FrameError::CutShort) => "cut_short",
        Ended::Frame(FrameError::Stalled) => "stalled",
        Ended::Frame(FrameError::Length { .. }) => "request_too_large",
        Ended::Foreign("TLS") => "tls",
        Ended::Foreign(_) => "http",
        Ended::Call(CallError::UnknownApi(_) | CallError::UnknownVersion { .. }) => "unsupported",
        Ended::Call(CallError::SilentProduce(_)) => "acks0_failed",
        Ended::Call(CallError::Encode { .. }) => "internal",
        Ended::Call(_) => "malformed",
    };
    front.metrics.closed.get_or_create(&CloseLabels { reason }).inc();
    match ended {
        Ended::Foreign(protocol) => {
            if let Some(hidden) = front.gates.foreign.open(now_ms) {
                let hint = if *protocol == "TLS" {
                    "set security.protocol=PLAINTEXT in the client"
                } else {
                    "health and metrics are on the HTTP port"
                };
                tracing::warn!(%peer, hidden, "closed a connection to the Kafka port that speaks {protocol}: {hint}");
            }
        }
        Ended::Call(CallError::Encode { .. }) => {
            if let Some(hidden) = front.gates.failure.open(now_ms) {
                tracing::error!(%peer, hidden, "closed a Kafka connection: {ended}");
            }
        }
        Ended::Call(_) | Ended::Frame(FrameError::Length { .. }) => {
            if let Some(hidden) = front.gates.bad_request.open(now_ms) {
                tracing::warn!(%peer, hidden, "closed a Kafka connection: {ended}");
            }
        }
        _ => tracing::debug!(%peer, "connection ended: {ended}"),
    }
}
