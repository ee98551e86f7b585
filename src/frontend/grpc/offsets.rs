//! Questions to the leaders of partitions: offsets by place or time, and moves of the log start.
//!
//! What this broker leads is answered here, the rest by its leaders, one request for each of them. While a leader moves the
//! question is asked again, for a bounded time. Nothing is kept: dropping a future ends it.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::{StreamExt as _, stream};
use tonic::Status;

use super::errors::{detail, explain, leader, passing};
use super::forward::Forward;
use crate::base::Clock;
use crate::broker::{Broker, BrokerError, BrokerSlot, ListedOffset, OffsetSpec};
use crate::cluster::ClusterImage;
use crate::partition::{Isolation, LogError};
use crate::protocol::grpc::v1;
use crate::protocol::grpc::v1::list_offsets_request::At as AskedAt;
use crate::protocol::grpc::v1::{Error, PartitionOffset, Reason};

/// Pause before a question is asked again, in milliseconds.
pub const PAUSE_MS: u64 = 100;
/// Longest wait for another broker's answer, in milliseconds.
const ANSWER_TIMEOUT_MS: u64 = 5_000;
/// Questions that this broker answers at once: one by time may read objects.
const AT_ONCE: usize = 16;
/// Longest wait for a moved log start to be committed, in milliseconds.
const DELETE_TIMEOUT_MS: u64 = 30_000;

/// Which offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// The first that can be read.
    Earliest,
    /// The end (exclusive).
    Latest,
    /// The first record at or after this time in milliseconds since the Unix epoch; the end if there is none.
    Timestamp(i64),
}

/// A question about one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// What is asked.
    pub at: At,
}

/// How long a question may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Asked by another broker: answered from here at once, or not.
    Forwarded,
    /// Asked again while leaders move, for so many milliseconds.
    Ms(u64),
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Offsets {
    slot: BrokerSlot,
    forward: Arc<Forward>,
    clock: Clock,
}

/// Who is to be asked.
enum Whom {
    /// This broker.
    Here,
    /// The leader at this endpoint.
    There(String),
    /// Nobody, for the moment or for good.
    Nobody(Error),
}

fn whom(broker: &Broker, image: &ClusterImage, topic: &str, partition: i32, patience: Patience) -> Whom {
    let topic = match broker.topic(image, topic) {
        Ok(topic) => topic,
        Err(error) => return Whom::Nobody(explain(&error, image)),
    };
    let Some(assignment) = topic.assignment(partition) else {
        let error = BrokerError::UnknownPartition { topic: topic.name.clone(), partition };
        return Whom::Nobody(explain(&error, image));
    };
    if patience == Patience::Forwarded || assignment.session.broker_id == broker.node_id() {
        return Whom::Here;
    }
    match leader(image, topic.partition(partition)) {
        Some(leader) => Whom::There(leader.grpc_endpoint),
        None => Whom::Nobody(explain(&LogError::NotLeader(topic.partition(partition)).into(), image)),
    }
}

impl Offsets {
    /// Asks the broker in `slot`, and others through `forward`.
    pub fn new(slot: BrokerSlot, forward: Arc<Forward>, clock: Clock) -> Self {
        Self { slot, forward, clock }
    }

    /// The offsets that are asked for, in the order of the questions.
    pub async fn list(
        &self,
        asks: &[Ask],
        isolation: Isolation,
        patience: Patience,
    ) -> Vec<Result<ListedOffset, Error>> {
        let mut answers: Vec<Option<Result<ListedOffset, Error>>> = vec![None; asks.len()];
        let began_ms = self.clock.boot_ms();
        loop {
            let open: Vec<usize> = (0..asks.len()).filter(|at| !settled(answers[*at].as_ref())).collect();
            for (at, answer) in self.list_once(asks, &open, isolation, patience).await {
                answers[at] = Some(answer);
            }
            if answers.iter().all(|answer| settled(answer.as_ref())) || !self.again(began_ms, patience) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await;
        }
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(unanswered()))).collect()
    }

    fn again(&self, began_ms: u64, patience: Patience) -> bool {
        match patience {
            Patience::Forwarded => false,
            Patience::Ms(limit) => self.clock.boot_ms().saturating_sub(began_ms) + PAUSE_MS <= limit,
        }
    }

    async fn list_once(
        &self,
        asks: &[Ask],
        open: &[usize],
        isolation: Isolation,
        patience: Patience,
    ) -> Vec<(usize, Result<ListedOffset, Error>)> {
        let broker = self.slot.current();
        let image = broker.image();
        let mut answers = Vec::with_capacity(open.len());
        let mut here = Vec::new();
        let mut there: BTreeMap<(String, Arc<str>, At), Vec<usize>> = BTreeMap::new();
        for at in open {
            let ask = &asks[*at];
            match whom(&broker, &image, &ask.topic, ask.partition, patience) {
                Whom::Here => here.push(*at),
                Whom::There(endpoint) => there.entry((endpoint, ask.topic.clone(), ask.at)).or_default().push(*at),
                Whom::Nobody(error) => answers.push((*at, Err(error))),
            }
        }
        let own = stream::iter(here).map(|at| {
            let (broker, image) = (&broker, &image);
            async move {
                let listed = list_here(broker, image, &asks[at], isolation).await;
                (at, listed.map_err(|error| explain(&error, &broker.image())))
            }
        });
        let others = there.into_iter().map(|((endpoint, topic, what), asked)| {
            let partitions: Vec<i32> = asked.iter().map(|at| asks[*at].partition).collect();
            let request = v1::ListOffsetsRequest {
                topic: topic.to_string(),
                partitions: partitions.clone(),
                at: Some(match what {
                    At::Earliest => AskedAt::Earliest(true),
                    At::Latest => AskedAt::Latest(true),
                    At::Timestamp(ms) => AskedAt::TimestampMs(ms),
                }),
                read_committed: isolation == Isolation::ReadCommitted,
            };
            let image = &image;
            async move {
                let told = within(self.forward.list_offsets(&endpoint, request, image)).await;
                let told = told.map(|answer| answer.offsets);
                asked.into_iter().zip(by_partition(told, &partitions)).collect::<Vec<_>>()
            }
        });
        let (own, others) = tokio::join!(own.buffered(AT_ONCE).collect::<Vec<_>>(), join_all(others));
        answers.extend(own);
        for (at, told) in others.into_iter().flatten() {
            let listed = |told: PartitionOffset| ListedOffset {
                offset: told.offset,
                timestamp: -1,
                leader_epoch: told.leader_epoch,
            };
            answers.push((at, told.map(listed)));
        }
        answers
    }

    /// Moves log starts; the answers are in the order of the questions.
    pub async fn delete_records(&self, before: &[PartitionOffset], patience: Patience) -> Vec<Result<i64, Error>> {
        let mut answers: Vec<Option<Result<i64, Error>>> = vec![None; before.len()];
        let began_ms = self.clock.boot_ms();
        loop {
            let open: Vec<usize> = (0..before.len()).filter(|at| !settled(answers[*at].as_ref())).collect();
            for (at, answer) in self.delete_once(before, &open, patience).await {
                answers[at] = Some(answer);
            }
            if answers.iter().all(|answer| settled(answer.as_ref())) || !self.again(began_ms, patience) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await;
        }
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(unanswered()))).collect()
    }

    async fn delete_once(
        &self,
        before: &[PartitionOffset],
        open: &[usize],
        patience: Patience,
    ) -> Vec<(usize, Result<i64, Error>)> {
        let broker = self.slot.current();
        let image = broker.image();
        let mut answers = Vec::with_capacity(open.len());
        let mut here = Vec::new();
        let mut there: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
        for at in open {
            let PartitionOffset { topic, partition, .. } = &before[*at];
            match whom(&broker, &image, topic, *partition, patience) {
                Whom::Here => here.push(*at),
                Whom::There(endpoint) => there.entry((endpoint, topic.clone())).or_default().push(*at),
                Whom::Nobody(error) => answers.push((*at, Err(error))),
            }
        }
        let own = here.into_iter().map(|at| {
            let (broker, image, asked) = (&broker, &image, &before[at]);
            async move {
                let moved = match broker.topic(image, &asked.topic) {
                    Ok(topic) => broker.delete_records(&topic, asked.partition, asked.offset, DELETE_TIMEOUT_MS).await,
                    Err(error) => Err(error),
                };
                (at, moved.map_err(|error| explain(&error, &broker.image())))
            }
        });
        let others = there.into_iter().map(|((endpoint, _), asked)| {
            let partitions: Vec<i32> = asked.iter().map(|at| before[*at].partition).collect();
            let request = v1::DeleteRecordsRequest { before: asked.iter().map(|at| before[*at].clone()).collect() };
            let image = &image;
            async move {
                let told = self.forward.delete_records(&endpoint, request, image).await;
                let told = told.map(|answer| answer.log_start).map_err(|status| lost(&status));
                asked.into_iter().zip(by_partition(told, &partitions)).collect::<Vec<_>>()
            }
        });
        let (own, others) = tokio::join!(join_all(own), join_all(others));
        answers.extend(own);
        answers.extend(others.into_iter().flatten().map(|(at, told)| (at, told.map(|told| told.offset))));
        answers
    }
}

async fn list_here(
    broker: &Broker,
    image: &ClusterImage,
    ask: &Ask,
    isolation: Isolation,
) -> Result<ListedOffset, BrokerError> {
    let topic = broker.topic(image, &ask.topic)?;
    let spec = match ask.at {
        At::Earliest => OffsetSpec::Earliest,
        At::Latest => OffsetSpec::Latest,
        At::Timestamp(at) => OffsetSpec::Timestamp(at),
    };
    let found = broker.list_offset(&topic, ask.partition, -1, spec, isolation).await?;
    if found.offset >= 0 {
        return Ok(found);
    }
    // No record is that young.
    broker.list_offset(&topic, ask.partition, -1, OffsetSpec::Latest, isolation).await
}

async fn within<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Error> {
    match tokio::time::timeout(Duration::from_millis(ANSWER_TIMEOUT_MS), answer).await {
        Ok(answer) => answer.map_err(|status| lost(&status)),
        Err(_) => Err(unanswered()),
    }
}

/// Each asked partition's part of another broker's answer. A topic that the other broker has not heard of yet is no last word:
/// this one has.
fn by_partition(told: Result<Vec<PartitionOffset>, Error>, partitions: &[i32]) -> Vec<Result<PartitionOffset, Error>> {
    let told = match told {
        Ok(told) => told,
        Err(error) => return vec![Err(passing(error)); partitions.len()],
    };
    let mut told: BTreeMap<i32, PartitionOffset> = told.into_iter().map(|one| (one.partition, one)).collect();
    let part = |index: &i32| match told.remove(index) {
        Some(PartitionOffset { error: Some(error), .. }) => Err(passing(error)),
        Some(one) => Ok(one),
        None => Err(unanswered()),
    };
    partitions.iter().map(part).collect()
}

/// What another broker's status says; one that is not in our words may go away.
pub fn lost(status: &Status) -> Error {
    detail(status).unwrap_or_else(|| Error {
        reason: Reason::Unavailable.into(),
        message: format!("the partition's leader did not answer: {}", status.message()),
        retriable: true,
        leader: None,
    })
}

fn unanswered() -> Error {
    let message = "the partition's leader did not answer".to_owned();
    Error { reason: Reason::Unavailable.into(), message, retriable: true, leader: None }
}

fn settled<T>(answer: Option<&Result<T, Error>>) -> bool {
    match answer {
        None => false,
        Some(Ok(_)) => true,
        Some(Err(error)) => !error.retriable,
    }
}
