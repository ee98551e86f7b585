//! Batches on their way to the leaders of their partitions, wherever those are.
//!
//! Each partition of a call has a [`lane`]: batches are begun in the order in which they came, many before the first is answered.
//! A batch that its leader refuses because it does not lead (any more) is sent to the next one, with all that follow it, in
//! order, until its time is up.
//!
//! Invariant: what is written was begun in order. Four rules see to it while leaders move:
//! - nothing is begun behind a batch of which it is known already that it is sent again;
//! - nothing is begun on another [`Way::Road`] than what is under way: it could overtake that;
//! - a leader to which batches are passed on refuses all that was sent behind a batch that it refused ([`Refused`]);
//! - the first batch of an idempotent producer goes alone: a leader takes any sequence of a producer that it does not know.
//!
//! A batch whose fate is not known is sent again only if it has a producer id: then it is written once all the same.
//!
//! Everything runs inside of one future, but for a task for each other broker ([`link`]) that ends with it.

mod link;
mod refused;
mod room;
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
use tokio::sync::{mpsc, oneshot};

use self::link::Links;
pub use self::refused::Refused;
pub use self::room::{Held, Room, Share};
use super::errors::{explain, leader};
use super::forward::Forward;
use crate::base::Clock;
use crate::broker::{Broker, BrokerError, BrokerSlot};
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
/// Idempotent producers of which a lane knows that the partition's log knows them. One that is forgotten waits once more.
const KNOWN_PRODUCERS: usize = 64;

/// A batch on its way.
#[derive(Debug)]
pub struct Job {
    /// The batch.
    pub batch: Bytes,
    /// When it is to be answered.
    pub acks: Acks,
    /// Its producer id, if it has one: then it may be sent again whatever happened to it.
    pub producer: Option<i64>,
    /// The attempt of the broker that passed it on; 0 if none did.
    pub attempt: u64,
    /// Until when it is tried, in the time of the clock.
    pub deadline_ms: u64,
    /// Which of its lane's batches with a producer id it is: the lane counts.
    pub number: usize,
    /// Its offset, or why it has none.
    pub answer: oneshot::Sender<Result<i64, Error>>,
    /// Its room in memory.
    pub room: Option<Arc<Room>>,
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
    /// Where the leader is and how it is reached. Batches on one road stay in the order in which they were begun.
    type Road: PartialEq + Send + Sync;

    /// The road as it is now.
    fn road(&self) -> Self::Road;

    /// Begins a batch: on return it has its place in the log, or in the stream to the leader, and what is left is the answer.
    /// `attempt` is more than that of any batch that was refused before, from 1.
    async fn begin(&self, road: &Self::Road, batch: Bytes, acks: Acks, left_ms: u64, attempt: u64) -> Outcome;
}

/// Which end of the way a lane is at.
#[derive(Debug, Clone)]
pub enum End {
    /// Where the client is: what fails is tried again.
    Near,
    /// Where another broker passes batches on to: that one tries again.
    Far(Arc<Refused>),
}

/// Batches that are tried, each with what came of it.
type Trying = FuturesOrdered<BoxFuture<'static, (Job, Result<i64, Failure>)>>;

/// Producers that had a batch written: the log knows them. The latest ones, at most [`KNOWN_PRODUCERS`].
#[derive(Debug, Default)]
struct Producers(VecDeque<i64>);

impl Producers {
    fn knows(&self, job: &Job) -> bool {
        job.producer.is_none_or(|producer| self.0.contains(&producer))
    }

    fn learn(&mut self, job: &Job, outcome: &Result<i64, Failure>) {
        let Some(producer) = job.producer.filter(|_| outcome.is_ok() && !self.knows(job)) else { return };
        if self.0.len() == KNOWN_PRODUCERS {
            self.0.pop_front();
        }
        self.0.push_back(producer);
    }
}

/// Takes the batches of one partition, in order, until there are no more.
pub async fn lane<W: Way>(way: W, clock: Clock, end: End, mut jobs: mpsc::Receiver<Job>) {
    let near = matches!(end, End::Near);
    let mut trying: Trying = FuturesOrdered::new();
    let mut redo: VecDeque<Job> = VecDeque::new();
    // Nothing is begun before everything that is tried has its answer: after a failure one batch goes ahead of the others.
    let mut careful = false;
    // Numbers of batches with a producer id that are tried. From the oldest one to the newest there are no more than the log
    // remembers, those between that are done too: one that was written, and is sent again because its answer was lost, must be
    // known as what it is.
    let mut under_way: VecDeque<usize> = VecDeque::new();
    let mut next_number = 0;
    let mut producers = Producers::default();
    let mut attempt = 1;
    // What is tried is on this road.
    let mut road = None;
    let mut open = true;
    while open || !trying.is_empty() || !redo.is_empty() {
        if trying.is_empty() {
            road = None;
        }
        let number = redo.front().map_or(next_number + 1, |job| job.number);
        let remembered = under_way.front().is_none_or(|oldest| number < oldest + PRODUCER_BATCHES);
        let may_begin = trying.is_empty() || (!careful && remembered);
        let job = if may_begin { redo.pop_front() } else { None };
        let job = if let Some(job) = job {
            job
        } else {
            tokio::select! {
                biased;
                Some((job, outcome)) = trying.next() => {
                    if job.producer.is_some() {
                        under_way.pop_front();
                    }
                    match outcome {
                        Err(failure) if near && is_worth_it(&job, &failure, &clock) => {
                            careful = true;
                            attempt += 1;
                            let mut again_first = VecDeque::from([job]);
                            gather(&mut trying, &mut again_first, &mut producers, &clock).await;
                            under_way.clear();
                            // What was not begun again yet came later.
                            again_first.append(&mut redo);
                            redo = again_first;
                            tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await;
                        }
                        outcome => {
                            careful &= !trying.is_empty();
                            producers.learn(&job, &outcome);
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
                    next_number += usize::from(job.producer.is_some());
                    Job { number: next_number, ..job }
                }
                else => return,
            }
        };
        let now = way.road();
        if !trying.is_empty() && (road.as_ref() != Some(&now) || (near && !producers.knows(&job))) {
            redo.push_front(job);
            careful = true;
            continue;
        }
        let now = road.insert(now);
        let left_ms = job.deadline_ms.saturating_sub(clock.boot_ms());
        under_way.extend(job.producer.is_some().then_some(job.number));
        let outcome = match &end {
            End::Far(refused) if let Some(error) = refused.of(job.attempt) => {
                std::future::ready(Err(Failure { error, unwritten: true })).boxed()
            }
            _ => {
                let mut begun = way.begin(now, job.batch.clone(), job.acks, left_ms, attempt).await;
                match (&mut begun).now_or_never() {
                    None => begun,
                    Some(outcome) => {
                        match (&outcome, &end) {
                            (Ok(_), _) => {}
                            (Err(failure), End::Near) => careful |= is_worth_it(&job, failure, &clock),
                            (Err(failure), End::Far(refused)) => refused.note(job.attempt, &failure.error),
                        }
                        std::future::ready(outcome).boxed()
                    }
                }
            }
        };
        trying.push_back(async move { (job, outcome.await) }.boxed());
    }
}

/// What follows a batch that failed: waits for all of it, and keeps what is to be sent again, in order.
async fn gather(trying: &mut Trying, redo: &mut VecDeque<Job>, producers: &mut Producers, clock: &Clock) {
    while let Some((job, outcome)) = trying.next().await {
        match outcome {
            Err(failure) if is_worth_it(&job, &failure, clock) || (job.producer.is_some() && came_early(&failure)) => {
                redo.push_back(job);
            }
            outcome => {
                producers.learn(&job, &outcome);
                answer(job, outcome);
            }
        }
    }
}

fn is_worth_it(job: &Job, failure: &Failure, clock: &Clock) -> bool {
    failure.may_be_repeated(job.producer.is_some()) && clock.boot_ms() + PAUSE_MS < job.deadline_ms
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

/// How a partition's leader is reached.
#[derive(Debug)]
pub enum Road {
    /// This broker is asked; the topic as it is now.
    Here(Arc<Broker>, Arc<Topic>),
    /// By the link with this number; what the topic is called there.
    Link(u64, String),
    /// It is not, because of this.
    Nowhere(Error),
}

impl PartialEq for Road {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Here(one, _), Self::Here(other, _)) => Arc::ptr_eq(one, other),
            (Self::Link(one, _), Self::Link(other, _)) => one == other,
            _ => false,
        }
    }
}

#[async_trait]
impl Way for ToPartition {
    type Road = Road;

    fn road(&self) -> Road {
        let broker = self.ways.slot.current();
        let image = broker.image();
        let topic = match broker.topic_by_id(&image, self.topic.id) {
            Ok(topic) => topic,
            Err(error) => return Road::Nowhere(explain(&error, &image)),
        };
        let partition = topic.partition(self.partition);
        let elsewhere = topic
            .assignment(self.partition)
            .is_some_and(|assignment| assignment.session.broker_id != broker.node_id() && !self.ways.forwarded);
        if !elsewhere {
            return Road::Here(broker, topic);
        }
        match leader(&image, partition) {
            Some(leader) => Road::Link(self.ways.links.open(&leader.grpc_endpoint, &image), topic.name.clone()),
            None => Road::Nowhere(explain(&BrokerError::from(LogError::NotLeader(partition)), &image)),
        }
    }

    async fn begin(&self, road: &Road, batch: Bytes, acks: Acks, left_ms: u64, attempt: u64) -> Outcome {
        let failed = |failure: Failure| std::future::ready(Err(failure)).boxed();
        let (link, topic) = match road {
            Road::Nowhere(error) => return failed(Failure::here(error.clone())),
            Road::Here(broker, topic) => {
                let slot = self.ways.slot.clone();
                return match broker.produce(topic, self.partition, &batch, acks, left_ms).await {
                    Ok(pending) => async move {
                        let done = pending.wait(left_ms).await.map(|appended| appended.base_offset);
                        done.map_err(|error| Failure::here(explain(&error, &slot.current().image())))
                    }
                    .boxed(),
                    Err(error) => failed(Failure::here(explain(&error, &broker.image()))),
                };
            }
            Road::Link(link, topic) => (link, topic),
        };
        let acks = match acks {
            Acks::Leader => v1::Acks::Leader,
            _ => v1::Acks::All,
        };
        let request = ProduceRequest {
            id: attempt,
            topic: topic.clone(),
            partition: Some(self.partition),
            batch,
            acks: acks.into(),
            timeout_ms: u32::try_from(left_ms).unwrap_or(u32::MAX).max(1),
            ..ProduceRequest::default()
        };
        match self.ways.links.send(*link, request).await {
            Err(failure) => failed(failure),
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
