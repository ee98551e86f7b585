//! Consumer groups: the coordinator over this broker's log, and the topic that it lives on.
//!
//! `__consumer_offsets` is created when the first client asks for a coordinator. One task makes this broker coordinate the
//! partitions of it that it leads, and no others.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError as Kafka;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::{
    FindCoordinatorRequest, FindCoordinatorResponse, OffsetCommitRequest, OffsetCommitResponse,
};

use super::coordinator_log::OffsetsLog;
use super::{Broker, BrokerError, BrokerLog, Partitions};
use crate::base::{Clock, Rng, SessionId, Tasks};
use crate::cluster::{CONSUMER_OFFSETS, Catalogue, NewTopic, TopicError};
use crate::config::GroupSettings;
use crate::coordinator::group::{
    Coordinating, CoordinatorMetrics, GroupCoordinator, KeyType, find_coordinator, partition_for,
};
use crate::fetch::{Fetches, LogView};

/// Pause before committed offsets of deleted topics are forgotten again after a failure, in milliseconds.
const FORGET_RETRY_MS: u64 = 5_000;
const FORGET_TRIES: usize = 10;

/// The group coordinator of this broker.
#[derive(Clone)]
pub struct Groups {
    coordinator: GroupCoordinator,
    topic_partitions: i32,
    log: Arc<dyn LogView>,
    tasks: Tasks,
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups").field("topic_partitions", &self.topic_partitions).finish_non_exhaustive()
    }
}

/// What [`Groups::start`] needs.
pub struct GroupParts<'a> {
    /// Which partitions of `__consumer_offsets` there are.
    pub catalogue: &'a Catalogue,
    /// Where they are written.
    pub log: Arc<dyn BrokerLog>,
    /// Where they are read.
    pub fetches: Fetches,
    /// Tells when they are open.
    pub partitions: &'a Partitions,
    /// Who leads them here.
    pub session: SessionId,
    /// Kafka's `group.*` and `offsets.*`.
    pub settings: GroupSettings,
    /// Time.
    pub clock: Clock,
    /// Member ids.
    pub rng: Rng,
    /// Background tasks.
    pub tasks: &'a Tasks,
}

impl Groups {
    /// Starts the coordinator; it leads what this session leads from the moment that the log has it open.
    pub fn start(parts: GroupParts<'_>, metrics: CoordinatorMetrics) -> Self {
        let GroupParts { catalogue, log, fetches, partitions, session, mut settings, clock, rng, tasks } = parts;
        // The number is fixed once the topic exists: ids hash to partitions by it.
        if let Some(topic) = catalogue.image().topic(CONSUMER_OFFSETS) {
            settings.offsets_topic_partitions = topic.partitions.len() as i32;
        }
        let topic_partitions = settings.offsets_topic_partitions.max(1);
        let view = fetches.reader().log().clone();
        let log = Arc::new(OffsetsLog::new(catalogue.clone(), log, fetches));
        let coordinator = GroupCoordinator::new(log, settings, clock, rng, tasks.clone(), metrics);
        let groups = Self { coordinator, topic_partitions, log: view, tasks: tasks.clone() };
        tasks.spawn("group elections", groups.clone().follow(catalogue.clone(), partitions.clone(), session));
        groups
    }

    async fn follow(self, catalogue: Catalogue, partitions: Partitions, session: SessionId) {
        let stop = self.tasks.stopping();
        let mut status = partitions.status();
        let mut led: BTreeSet<i32> = BTreeSet::new();
        let mut last = catalogue.image();
        loop {
            status.borrow_and_update();
            let image = catalogue.image();
            if let Some(topic) = image.topic(CONSUMER_OFFSETS) {
                self.coordinator.set_partitions(topic.partitions.len() as i32);
            }
            let now: BTreeSet<i32> = image.topic(CONSUMER_OFFSETS).map_or_else(BTreeSet::new, |topic| {
                let all = (0..).zip(&topic.partitions);
                let ours = all.filter(|(index, assignment)| {
                    // One that is being given away has no coordinator until it has a new leader.
                    assignment.session == session
                        && assignment.target.is_none()
                        && self.log.view(topic.partition(*index)).is_ok()
                });
                ours.map(|(index, _)| index).collect()
            });
            led.difference(&now).for_each(|partition| self.coordinator.resign(*partition));
            now.difference(&led).for_each(|partition| self.coordinator.elect(*partition));
            led = now;
            // Whichever broker was asked to delete a topic: each forgets what it has.
            let deleted = last.topics().filter(|topic| image.topic_by_id(topic.id).is_none());
            let deleted: Vec<String> = deleted.map(|topic| topic.name.clone()).collect();
            if !deleted.is_empty() {
                self.forget_topics(deleted);
            }
            last = image;
            tokio::select! {
                () = stop.cancelled() => return,
                changed = status.changed() => if changed.is_err() { return },
            }
        }
    }

    /// The coordinator itself.
    pub fn coordinator(&self) -> &GroupCoordinator {
        &self.coordinator
    }

    /// Committed offsets of deleted topics go, in the background.
    fn forget_topics(&self, topics: Vec<String>) {
        let groups = self.clone();
        let stop = self.tasks.stopping();
        self.tasks.spawn("forget deleted topics", async move {
            for _ in 0..FORGET_TRIES {
                match stop.run_until_cancelled(groups.coordinator.topics_deleted(&topics)).await {
                    None | Some(Ok(())) => return,
                    Some(Err(error)) => {
                        tracing::warn!(%error, "committed offsets of deleted topics are not forgotten yet");
                        let pause = tokio::time::sleep(Duration::from_millis(FORGET_RETRY_MS));
                        if stop.run_until_cancelled(pause).await.is_none() {
                            return;
                        }
                    }
                }
            }
        });
    }
}

impl Broker {
    /// The group coordinator. Requests about groups that another broker coordinates are answered `NOT_COORDINATOR`.
    pub fn groups(&self) -> &GroupCoordinator {
        self.groups.coordinator()
    }

    /// Makes sure that `__consumer_offsets` exists.
    async fn ensure_offsets_topic(&self) -> Result<(), BrokerError> {
        if self.image().topic(CONSUMER_OFFSETS).is_some() {
            return Ok(());
        }
        let new = NewTopic {
            name: CONSUMER_OFFSETS.to_owned(),
            partitions: self.groups.topic_partitions,
            replication_factor: -1,
            configs: vec![("cleanup.policy".to_owned(), Some("compact".to_owned()))],
            ..NewTopic::default()
        };
        match self.create_topics(vec![new], false).await.pop() {
            Some(Err(BrokerError::Topic(TopicError::AlreadyExists(_)))) | None => Ok(()),
            Some(created) => created.map(drop),
        }
    }

    /// Who coordinates groups. Transactional ids are refused: transactions are not served.
    pub async fn find_coordinator(&self, version: i16, request: &FindCoordinatorRequest) -> FindCoordinatorResponse {
        let ready = if request.key_type == 0 { self.ensure_offsets_topic().await } else { Ok(()) };
        if let Err(error) = &ready {
            tracing::warn!(%error, "the topic {CONSUMER_OFFSETS} could not be created");
        }
        let image = self.image();
        find_coordinator(request, version, |kind, key| match kind {
            KeyType::Transaction => Err(Kafka::TransactionalIdAuthorizationFailed),
            KeyType::Share => Err(Kafka::InvalidRequest),
            KeyType::Group => {
                let topic = image.topic(CONSUMER_OFFSETS).ok_or(Kafka::CoordinatorNotAvailable)?;
                let assignment = topic.assignment(partition_for(key, topic.partitions.len() as i32));
                let broker = assignment.and_then(|assignment| image.leading_broker(assignment));
                let broker = broker.ok_or(Kafka::CoordinatorNotAvailable)?;
                Ok(Coordinating {
                    node_id: broker.session.broker_id,
                    host: broker.host.clone(),
                    port: i32::from(broker.port),
                })
            }
        })
    }

    /// Commits offsets; partitions that do not exist are answered apart.
    pub async fn offset_commit(&self, version: i16, mut request: OffsetCommitRequest) -> OffsetCommitResponse {
        let image = self.image();
        let mut unknown: Vec<OffsetCommitResponseTopic> = Vec::new();
        for topic in &mut request.topics {
            let found = image.topic(&topic.name);
            let exists = |index: i32| found.is_some_and(|found| found.assignment(index).is_some());
            let missing: Vec<OffsetCommitResponsePartition> = topic
                .partitions
                .extract_if(.., |partition| !exists(partition.partition_index))
                .map(|partition| {
                    OffsetCommitResponsePartition::default()
                        .with_partition_index(partition.partition_index)
                        .with_error_code(Kafka::UnknownTopicOrPartition.code())
                })
                .collect();
            if !missing.is_empty() {
                unknown
                    .push(OffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(missing));
            }
        }
        if unknown.is_empty() {
            return self.groups().offset_commit(version, request).await;
        }
        request.topics.retain(|topic| !topic.partitions.is_empty());
        let mut response = if request.topics.is_empty() {
            OffsetCommitResponse::default()
        } else {
            self.groups().offset_commit(version, request).await
        };
        for topic in unknown {
            match response.topics.iter_mut().find(|known| known.name == topic.name) {
                Some(known) => known.partitions.extend(topic.partitions),
                None => response.topics.push(topic),
            }
        }
        response
    }
}
