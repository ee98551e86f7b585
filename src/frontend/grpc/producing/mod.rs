//! Batches on their way to the leaders of their partitions, wherever those are.
//!
//! Each partition of a call has a [`lane`]: batches are begun in the order in which they came, many before the first is answered.
//! A batch that its leader refuses because it does not lead (any more) is sent to the next one, with all that follow it, in
//! order, until its time is up. So an idempotent producer's sequences arrive in order whatever happens.
//!
//! A batch whose fate is not known is sent again only if it has a producer id: then it is written once all the same.
//!
//! Everything runs inside of one future, but for a task for each other broker ([`link`]) that ends with it.

mod link;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use self::link::Links;
use super::errors::{explain, leader};
use super::forward::Forward;
use crate::base::Clock;
use crate::broker::{BrokerError, BrokerSlot};
use crate::cluster::Topic;
use crate::format::state::PRODUCER_BATCHES;
use crate::partition::{Acks, LogError};
use crate::protocol::grpc::v1;
use crate::protocol::grpc::v1::{Error, ProduceRequest, Reason};

/// Requests of one stream that wait for their answers.
pub const PIPELINE: usize = 256;
/// Pause before a batch is sent again, in milliseconds.
const PAUSE_MS: u64 = 50;
/// A leader that a batch was passed on to has so much longer than it was told, in milliseconds: its own answer is better.
const GRACE_MS: u64 = 500;

/// A batch on its way.
#[derive(Debug)]
pub struct Job {
    /// The batch.
    pub batch: Bytes,
    /// When it is to be answered.
    pub acks: Acks,
    /// Has a producer id: it may be sent again whatever happened to it.
    pub idempotent: bool,
    /// Until when it is tried, in the time of the clock.
    pub deadline_ms: u64,
    /// Its offset, or why it has none.
    pub answer: oneshot::Sender<Result<i64, Error>>,
    /// Its room in memory.
    pub room: Option<Arc<OwnedSemaphorePermit>>,
}

/// Why a batch has no offset.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// The reason.
    pub error: Error,
    /// It was certainly not written.
    pub unwritten: bool,
}

impl Failure {
    /// As this broker's log says it.
    fn here(error: Error) -> Self {
        Self { unwritten: error.reason() == Reason::NotLeader, error }
    }

    /// As another broker says it, which may not have heard yet of what is known here.
    fn at_the_leader(error: Error) -> Self {
        let unwritten = matches!(error.reason(), Reason::NotLeader | Reason::UnknownTopic | Reason::UnknownPartition);
        Self { error: Error { retriable: error.retriable || unwritten, ..error }, unwritten }
    }

    /// Whether another try may do better, and cannot do harm.
    fn may_be_repeated(&self, idempotent: bool) -> bool {
        let passing = matches!(
            self.error.reason(),
            Reason::NotLeader | Reason::Unavailable | Reason::UnknownTopic | Reason::UnknownPartition
        );
        passing && self.error.retriable && (self.unwritten || idempotent)
    }
}

/// What a try comes to, when that is known.
pub type Outcome = BoxFuture<'static, Result<i64, Failure>>;

/// The way to a partition's leader.
#[async_trait]
pub trait Way: Send + Sync {
    /// Begins a batch: on return it has its place in the log, or in the stream to the leader, and what is left is the answer.
    async fn begin(&self, batch: Bytes, acks: Acks, left_ms: u64) -> Outcome;
}

/// Takes the batches of one partition, in order, until there are no more. `again` says whether failures are tried again.
pub async fn lane(way: Arc<dyn Way>, clock: Clock, again: bool, mut jobs: mpsc::Receiver<Job>) {
    type Trying = BoxFuture<'static, (Job, Result<i64, Failure>)>;
    let mut trying: FuturesOrdered<Trying> = FuturesOrdered::new();
    let mut redo: VecDeque<Job> = VecDeque::new();
    // After a failure one batch goes ahead of the others.
    let mut careful = false;
    // Batches with a producer id among those that are tried. No more than the log remembers: one that was written, and is sent
    // again because its answer was lost, must be known as what it is.
    let mut with_producer = 0;
    let mut open = true;
    while open || !trying.is_empty() || !redo.is_empty() {
        let may_begin = trying.is_empty() || (!careful && with_producer < PRODUCER_BATCHES);
        let job = if may_begin { redo.pop_front() } else { None };
        let job = if let Some(job) = job {
            job
        } else {
            tokio::select! {
                biased;
                Some((job, outcome)) = trying.next() => {
                    with_producer -= usize::from(job.idempotent);
                    match outcome {
                        Err(failure) if again && is_worth_it(&job, &failure, &clock) => {
                            careful = true;
                            let mut again_first = VecDeque::from([job]);
                            gather(&mut trying, &mut again_first, &clock).await;
                            with_producer = 0;
                            // What was not begun again yet came later.
                            again_first.append(&mut redo);
                            redo = again_first;
                            tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await;
                        }
                        outcome => {
                            careful = false;
                            answer(job, outcome);
                        }
                    }
                    continue;
                }
                job = jobs.recv(), if open && may_begin => {
                    let Some(job) = job else {
                        open = false;
                        continue;
                    };
                    job
                }
                else => return,
            }
        };
        let left_ms = job.deadline_ms.saturating_sub(clock.boot_ms());
        with_producer += usize::from(job.idempotent);
        let outcome = way.begin(job.batch.clone(), job.acks, left_ms).await;
        trying.push_back(async move { (job, outcome.await) }.boxed());
    }
}

/// What follows a batch that failed: waits for all of it, and keeps what is to be sent again, in order.
async fn gather(
    trying: &mut FuturesOrdered<BoxFuture<'static, (Job, Result<i64, Failure>)>>,
    redo: &mut VecDeque<Job>,
    clock: &Clock,
) {
    while let Some((job, outcome)) = trying.next().await {
        match outcome {
            Err(failure) if is_worth_it(&job, &failure, clock) || (job.idempotent && came_early(&failure)) => {
                redo.push_back(job);
            }
            outcome => answer(job, outcome),
        }
    }
}

fn is_worth_it(job: &Job, failure: &Failure, clock: &Clock) -> bool {
    failure.may_be_repeated(job.idempotent) && clock.boot_ms() + PAUSE_MS < job.deadline_ms
}

/// It arrived before the one that failed.
fn came_early(failure: &Failure) -> bool {
    failure.error.reason() == Reason::OutOfOrderSequence
}

fn answer(job: Job, outcome: Result<i64, Failure>) {
    // Whoever asked may be gone.
    let _ = job.answer.send(outcome.map_err(|failure| failure.error));
    drop(job.room);
}

/// What the lanes of one call share.
#[derive(Debug)]
pub struct Ways {
    slot: BrokerSlot,
    links: Links,
    /// Came from another broker: what is not led here is its business.
    forwarded: bool,
}

impl Ways {
    /// The ways of one call; requests to other brokers are at most `max_message_bytes` long.
    pub fn new(slot: BrokerSlot, forward: Arc<Forward>, max_message_bytes: usize, forwarded: bool) -> Self {
        Self { slot, links: Links::new(forward, max_message_bytes), forwarded }
    }
}

/// The way to one partition.
#[derive(Debug)]
pub struct ToPartition {
    /// What it shares with others.
    pub ways: Arc<Ways>,
    /// The topic as it was found first: one of the same name that comes later is another one.
    pub topic: Arc<Topic>,
    /// The partition.
    pub partition: i32,
}

#[async_trait]
impl Way for ToPartition {
    async fn begin(&self, batch: Bytes, acks: Acks, left_ms: u64) -> Outcome {
        let failed = |error: Error| std::future::ready(Err(Failure::here(error))).boxed();
        let slot = self.ways.slot.clone();
        let broker = slot.current();
        let image = broker.image();
        let topic = match broker.topic_by_id(&image, self.topic.id) {
            Ok(topic) => topic,
            Err(error) => return failed(explain(&error, &image)),
        };
        let partition = topic.partition(self.partition);
        let elsewhere = topic
            .assignment(self.partition)
            .is_some_and(|assignment| assignment.session.broker_id != broker.node_id() && !self.ways.forwarded);
        if !elsewhere {
            return match broker.produce(&topic, self.partition, &batch, acks, left_ms).await {
                Ok(pending) => async move {
                    let done = pending.wait(left_ms).await.map(|appended| appended.base_offset);
                    done.map_err(|error| Failure::here(explain(&error, &slot.current().image())))
                }
                .boxed(),
                Err(error) => failed(explain(&error, &broker.image())),
            };
        }
        let Some(leader) = leader(&image, partition) else {
            return failed(explain(&BrokerError::from(LogError::NotLeader(partition)), &image));
        };
        let acks = match acks {
            Acks::Leader => v1::Acks::Leader,
            _ => v1::Acks::All,
        };
        let request = ProduceRequest {
            topic: topic.name.clone(),
            partition: Some(self.partition),
            batch,
            acks: acks.into(),
            timeout_ms: u32::try_from(left_ms).unwrap_or(u32::MAX).max(1),
            ..ProduceRequest::default()
        };
        match self.ways.links.send(&leader.grpc_endpoint, request, &image).await {
            Err(failure) => std::future::ready(Err(failure)).boxed(),
            Ok(told) => async move {
                let limit = Duration::from_millis(left_ms + GRACE_MS);
                match tokio::time::timeout(limit, told).await {
                    Ok(Ok(told)) => told,
                    Ok(Err(_)) => Err(unanswered(Reason::Unavailable)),
                    Err(_) => Err(unanswered(Reason::TimedOut)),
                }
            }
            .boxed(),
        }
    }
}

fn unanswered(reason: Reason) -> Failure {
    let message = "the partition's leader did not answer; the records may have been written".to_owned();
    Failure { error: Error { reason: reason.into(), message, retriable: true, leader: None }, unwritten: false }
}
