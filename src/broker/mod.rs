//! Floor 6: the one façade that every front door calls.
//!
//! [`Broker`] joins the catalogue (which topics, who leads), the log (append), the reader (fetch), the group coordinator
//! and the limits. Its methods take and give plain values; they know topics and partitions, not wires. Where a rule of
//! Kafka concerns what happens (leader epochs, internal topics, auto-creation, timeouts) it is here; where it concerns
//! bytes it is in the front door.
//!
//! Invariant: a reply built from a returned `Ok` promises no more than the parts below it have made durable.
//! A crash loses nothing that was answered. Every future may be dropped: an append that was begun stays, a change of the
//! catalogue is done or not, and what follows from it ([`partitions`]) is the work of a task that repeats until it holds.

pub mod admin;
mod coordinator_log;
pub mod error;
pub mod groups;
pub mod log;
pub mod metrics;
pub mod partitions;
pub mod peer;
pub mod produce;
pub mod read;
pub mod slot;
mod standing;
pub mod topics;
pub mod traffic;

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

pub use error::BrokerError;
pub use groups::{GroupParts, Groups};
pub use log::BrokerLog;
pub use metrics::Metrics;
pub use partitions::{Loader, NoPeers, Partitions, Peers, Told, newest_state, state_or_empty};
pub use produce::PendingProduce;
pub use read::{ListedOffset, OffsetSpec};
pub use slot::BrokerSlot;

pub use crate::cluster::Topic;

use standing::Confirm;
use traffic::Traffic;

use crate::base::{Clock, TopicPartition};
use crate::cluster::{Catalogue, ClusterImage, ProducerIds};
use crate::config::topic::broker::BrokerConfigs;
use crate::fetch::Fetches;
use crate::partition::{Isolation, LogError, PartitionView};

/// What a broker is made of.
pub struct Parts {
    /// Topics and brokers.
    pub catalogue: Catalogue,
    /// Appends and changes of partitions.
    pub log: Arc<dyn BrokerLog>,
    /// Reads.
    pub fetches: Fetches,
    /// The log's partitions follow the catalogue.
    pub partitions: Partitions,
    /// Consumer groups.
    pub groups: Groups,
    /// Where producer ids come from.
    pub producer_ids: ProducerIds,
    /// The settings that DescribeConfigs shows.
    pub configs: BrokerConfigs,
    /// Where this broker keeps local files; shown by DescribeLogDirs.
    pub log_dir: String,
    /// Time.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
}

/// See the module.
pub struct Broker {
    catalogue: Catalogue,
    log: Arc<dyn BrokerLog>,
    fetches: Fetches,
    partitions: Partitions,
    groups: Groups,
    producer_ids: ProducerIds,
    configs: BrokerConfigs,
    log_dir: String,
    clock: Clock,
    metrics: Metrics,
    traffic: Mutex<Traffic>,
    confirm: Confirm,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("node_id", &self.configs.node_id).finish_non_exhaustive()
    }
}

impl Broker {
    /// A broker of these parts.
    pub fn new(parts: Parts) -> Self {
        let Parts { catalogue, log, fetches, partitions, groups, producer_ids, configs, log_dir, clock, metrics } =
            parts;
        Self {
            catalogue,
            log,
            fetches,
            partitions,
            groups,
            producer_ids,
            configs,
            log_dir,
            clock,
            metrics,
            traffic: Mutex::default(),
            confirm: Confirm::default(),
        }
    }

    /// Kafka node id.
    pub fn node_id(&self) -> i32 {
        self.configs.node_id
    }

    /// The cluster as it is known now.
    pub fn image(&self) -> Arc<ClusterImage> {
        self.catalogue.image()
    }

    /// Where this broker keeps local files.
    pub fn log_dir(&self) -> &str {
        &self.log_dir
    }

    /// A topic by name.
    pub fn topic(&self, image: &ClusterImage, name: &str) -> Result<Arc<Topic>, BrokerError> {
        image.topic(name).cloned().ok_or_else(|| BrokerError::UnknownTopic(name.to_owned()))
    }

    /// A topic by id.
    pub fn topic_by_id(&self, image: &ClusterImage, id: uuid::Uuid) -> Result<Arc<Topic>, BrokerError> {
        image.topic_by_id(id).cloned().ok_or(BrokerError::UnknownTopicId(id))
    }

    /// A partition of `topic`, if the cluster has it led by this broker: nobody waits for room in a log that will refuse.
    /// The log has the last word.
    fn led_here(&self, topic: &Topic, partition: i32) -> Result<TopicPartition, BrokerError> {
        let id = partition_of(topic, partition)?;
        match topic.assignment(partition) {
            Some(assignment) if assignment.session.broker_id == self.node_id() => Ok(id),
            _ => Err(LogError::NotLeader(id).into()),
        }
    }

    /// Offsets of a partition now.
    pub fn view(&self, topic: &Topic, partition: i32) -> Result<PartitionView, BrokerError> {
        Ok(self.fetches.reader().log().view(partition_of(topic, partition)?)?)
    }
}

/// A partition that the topic has.
pub fn partition_of(topic: &Topic, partition: i32) -> Result<TopicPartition, BrokerError> {
    match topic.assignment(partition) {
        Some(_) => Ok(topic.partition(partition)),
        None => Err(BrokerError::UnknownPartition { topic: topic.name.clone(), partition }),
    }
}

/// Judges the leader epoch that a client believes in (KIP-320); negative is none.
pub(crate) fn check_leader_epoch(view: &PartitionView, asked: i32) -> Result<(), BrokerError> {
    let current = view.leader_epoch;
    if asked < 0 || asked == current {
        Ok(())
    } else if asked < current {
        Err(BrokerError::FencedLeaderEpoch { got: asked, current })
    } else {
        Err(BrokerError::UnknownLeaderEpoch { got: asked, current })
    }
}

/// Where a reader of this isolation stops.
pub(crate) fn readable_end(view: &PartitionView, isolation: Isolation) -> i64 {
    match isolation {
        Isolation::ReadUncommitted => view.high_watermark,
        Isolation::ReadCommitted => view.last_stable,
    }
}
