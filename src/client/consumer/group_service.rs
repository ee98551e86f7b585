//! The shell of a group's member: one task that keeps one stream, and joins anew when it breaks.
//!
//! Bounds: what waits to be taken, by the credit that brokers are given (a message costs at least a batch's header); commits that wait for their answers ([`COMMITS`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::Isolation;
use super::buffer::{Credit, Gone, MESSAGES, Reader, Writer, buffer};
use super::group::Settings;
use crate::base::Backoff;
use crate::client::connections::MAX_MESSAGE_BYTES;
use crate::client::{Error, Reason, Shared};
use crate::protocol::batch::HEADER_BYTES;
use crate::protocol::grpc::v1::consume_request::Kind as Asked;
use crate::protocol::grpc::v1::consume_response::Kind as Told;
use crate::protocol::grpc::v1::consumer_client::ConsumerClient;
use crate::protocol::grpc::v1::{
    ConsumeCommit, ConsumeOpen, ConsumeReleased, ConsumeRequest, FetchCredit, PartitionOffset,
};

/// Commits that wait for their answers; the next one is refused.
const COMMITS: usize = 64;
/// Requests that wait to be sent.
const REQUESTS: usize = 8;

type Answer = oneshot::Sender<Result<(), Error>>;

/// What the program wants.
#[derive(Debug)]
pub enum Command {
    Commit { offsets: Vec<PartitionOffset>, answer: Option<Answer> },
    Release,
}

/// Longest wait for the broker to say that the member has left, in milliseconds.
const LEAVE_LIMIT_MS: u64 = 5_000;

/// Reads until `end`, and leaves the group then; the task ends when that is done, or has taken too long.
pub fn start(
    shared: Arc<Shared>,
    settings: Settings,
    orders: mpsc::Receiver<Command>,
    end: CancellationToken,
) -> (Reader, JoinHandle<()>) {
    // An answer to a commit comes behind data, so nothing that the broker sends may be left unread: its credit is the limit.
    let messages = MESSAGES + settings.options.credit_bytes / HEADER_BYTES;
    let (writer, reader) = buffer(u32::MAX as usize, messages);
    let credit = Arc::new(Credit::default());
    let over = end.clone();
    let member = Member { credit, shared, settings, writer, orders, end, commits: BTreeMap::new(), next_commit: 1 };
    let driver = tokio::spawn(async move {
        let too_long = async {
            over.cancelled().await;
            tokio::time::sleep(Duration::from_millis(LEAVE_LIMIT_MS)).await;
        };
        tokio::select! {
            () = too_long => {}
            _ = member.run() => {}
        }
    });
    (reader, driver)
}

struct Member {
    /// Of what was taken and the broker does not know of.
    credit: Arc<Credit>,
    shared: Arc<Shared>,
    settings: Settings,
    writer: Writer,
    orders: mpsc::Receiver<Command>,
    end: CancellationToken,
    commits: BTreeMap<u64, Option<Answer>>,
    next_commit: u64,
}

/// How a stream ended.
enum Ended {
    /// All that was there has been read.
    Done,
    Broken(Error),
}

impl Member {
    async fn run(mut self) -> Result<(), Gone> {
        let mut failures = 0;
        loop {
            let (at, address) = self.shared.connections.current();
            let address = address.to_owned();
            let ended = self.take_part(&address, &mut failures).await?;
            for (_, answer) in std::mem::take(&mut self.commits) {
                let lost = Error::unavailable("the connection broke before the commit was acknowledged");
                if let Some(answer) = answer {
                    let _ = answer.send(Err(lost.possibly_done()));
                }
            }
            match ended {
                Ended::Done => return Ok(()),
                Ended::Broken(error) if error.is_retriable() => {
                    tracing::debug!(%error, "a group's member lost its broker");
                    self.shared.connections.next_after(at);
                    failures += 1;
                }
                Ended::Broken(error) => return self.writer.failed(error).await,
            }
            let pause = tokio::time::sleep(Backoff::default().pause(failures, &self.shared.rng));
            if self.end.run_until_cancelled(pause).await.is_none() {
                return Ok(());
            }
        }
    }

    async fn take_part(&mut self, address: &str, failures: &mut u32) -> Result<Ended, Gone> {
        let channel = match self.shared.connections.to(address) {
            Ok(channel) => channel,
            Err(error) => return Ok(Ended::Broken(error)),
        };
        let mut client = ConsumerClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (requests, receiver) = mpsc::channel(REQUESTS);
        let Settings { group, topics, reset, instance_id, session_timeout_ms, options } = self.settings.clone();
        let credit = self.credit.clone();
        credit.take();
        let open = ConsumeOpen {
            group,
            topics,
            reset: reset.into(),
            read_committed: options.isolation == Isolation::ReadCommitted,
            // Positions are the broker's: it cuts batches where the group stands.
            raw_batches: false,
            credit_bytes: options.credit_bytes.saturating_sub(self.writer.queued_bytes()).max(1) as u64,
            instance_id,
            session_timeout_ms,
            release_timeout_ms: 0,
            stop_at_end: options.stop_at_end,
        };
        let _ = requests.send(ConsumeRequest { kind: Some(Asked::Open(open)) }).await;
        let end = self.end.clone();
        let mut answers = match end.run_until_cancelled(client.consume(ReceiverStream::new(receiver))).await {
            Some(Ok(answers)) => answers.into_inner(),
            Some(Err(status)) => return Ok(Ended::Broken(Error::of_status(&status))),
            // Nobody knows of it yet.
            None => return Ok(Ended::Done),
        };
        // With `stop_at_end`: what has not ended yet, and whether nothing is left; then only commits are made.
        let mut open: BTreeSet<(String, i32)> = BTreeSet::new();
        let mut ended = false;
        loop {
            tokio::select! {
                () = end.cancelled() => break,
                answer = answers.message() => match answer {
                    Err(status) => return Ok(Ended::Broken(Error::of_status(&status))),
                    Ok(None) if ended => return Ok(Ended::Done),
                    Ok(None) => return Ok(Ended::Broken(Error::unavailable("the broker ended the stream"))),
                    Ok(Some(answer)) => {
                        let Some(told) = answer.kind else { continue };
                        *failures = 0;
                        match told {
                            _ if ended && !matches!(told, Told::Committed(_)) => {}
                            Told::Assigned(assigned) => {
                                open = assigned.partitions.iter().map(|one| (one.topic.clone(), one.partition)).collect();
                                self.writer.assigned(assigned.partitions).await?;
                                ended = self.ended(&open).await?;
                            }
                            Told::Data(data) => {
                                let topic = data.topic.as_str().into();
                                self.writer.data(topic, i64::MIN, data, credit.clone()).await?;
                            }
                            Told::End(end) => {
                                open.remove(&(end.topic, end.partition));
                                ended = self.ended(&open).await?;
                            }
                            Told::Failure(failure) => {
                                self.writer.failed(Error::of_answer(failure.error.unwrap_or_default())).await?;
                                open.remove(&(failure.topic, failure.partition));
                                ended = self.ended(&open).await?;
                            }
                            Told::Committed(done) => {
                                if let Some(Some(answer)) = self.commits.remove(&done.id) {
                                    let _ = answer.send(first_failure(done.failed));
                                }
                            }
                            Told::Revoking(_) => self.writer.revoking().await?,
                        }
                    }
                },
                Ok(permit) = requests.reserve(), if credit.is_due() => {
                    permit.send(ConsumeRequest { kind: Some(Asked::Credit(FetchCredit { bytes: credit.take() })) });
                }
                () = credit.more.notified() => {}
                Some((permit, order)) = order(&requests, &mut self.orders) => {
                    let kind = match order {
                        Command::Release => Asked::Released(ConsumeReleased {}),
                        Command::Commit { offsets, answer } => match self.register(answer) {
                            Some(id) => Asked::Commit(ConsumeCommit { id, offsets }),
                            None => continue,
                        },
                    };
                    permit.send(ConsumeRequest { kind: Some(kind) });
                }
            }
        }
        // The member leaves when its requests end; the broker's answers end when it has left.
        drop(requests);
        while let Ok(Some(_)) = answers.message().await {}
        Ok(Ended::Done)
    }

    /// Whether all that is to be read has been; then the program is told.
    async fn ended(&self, open: &BTreeSet<(String, i32)>) -> Result<bool, Gone> {
        let ended = self.settings.options.stop_at_end && open.is_empty();
        if ended {
            self.writer.end().await?;
        }
        Ok(ended)
    }

    /// The number of a commit, unless too many wait.
    fn register(&mut self, answer: Option<Answer>) -> Option<u64> {
        if self.commits.len() >= COMMITS {
            if let Some(answer) = answer {
                let _ = answer.send(Err(Error::new(Reason::Overloaded, "too many commits wait for their answers")));
            }
            return None;
        }
        let id = self.next_commit;
        self.next_commit += 1;
        self.commits.insert(id, answer);
        Some(id)
    }
}

/// What the program wants next, when there is room to say it. Cancelled, it is still there.
async fn order<'a>(
    requests: &'a mpsc::Sender<ConsumeRequest>,
    orders: &mut mpsc::Receiver<Command>,
) -> Option<(mpsc::Permit<'a, ConsumeRequest>, Command)> {
    let permit = requests.reserve().await.ok()?;
    Some((permit, orders.recv().await?))
}

fn first_failure(failed: Vec<PartitionOffset>) -> Result<(), Error> {
    match failed.into_iter().find_map(|one| one.error) {
        None => Ok(()),
        Some(error) => Err(Error::of_answer(error)),
    }
}
