//! The cluster as this broker knows it: an immutable snapshot, cheap to take and to keep.
//!
//! Invariant: a topic is in an image only with all its assignments (they are written in one transaction).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use uuid::Uuid;

use super::departed::{Brokers, Departed};
use crate::base::{SessionId, TopicPartition};
use crate::config::topic::{Configs, TopicSettings};
use crate::format::metadata::{AssignmentRecord, BrokerRecord, DeletionRecord, Sealed};

/// Offsets of consumer groups live here.
pub const CONSUMER_OFFSETS: &str = "__consumer_offsets";
/// State of transactional producers lives here.
pub const TRANSACTION_STATE: &str = "__transaction_state";

/// Name of the gRPC door among a broker's endpoints.
pub const GRPC_ENDPOINT: &str = "grpc";

/// Whether clients are told that the topic is internal, and may not write to it themselves.
pub fn is_internal(topic: &str) -> bool {
    topic == CONSUMER_OFFSETS || topic == TRANSACTION_STATE
}

/// A topic with its assignments.
#[derive(Debug, Clone)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: Uuid,
    /// Whether it is one of Kafka's internal topics.
    pub internal: bool,
    /// Replication factor as it was asked for; shown, without effect.
    pub replication_factor: i16,
    /// Overrides of its configs.
    pub configs: Configs,
    /// Its configs in force.
    pub settings: TopicSettings,
    /// When it was created, in milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// Who leads each partition, by index.
    pub partitions: Vec<AssignmentRecord>,
    /// Revision of the topic's record, for compares.
    pub mod_revision: u64,
    /// Revisions of its assignment chunks, for compares.
    pub chunk_revisions: Vec<u64>,
}

impl Topic {
    /// Partition `index` with the topic's id.
    pub fn partition(&self, index: i32) -> TopicPartition {
        TopicPartition::new(self.id, index)
    }

    /// The assignment of partition `index`, or `None` if there is no such partition.
    pub fn assignment(&self, index: i32) -> Option<&AssignmentRecord> {
        self.partitions.get(usize::try_from(index).ok()?)
    }
}

/// One state of the cluster.
#[derive(Debug, Clone, Default)]
pub struct ClusterImage {
    /// Revision of the metadata store that it shows; grows.
    pub version: u64,
    /// The cluster's id.
    pub cluster_id: String,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// Producer ids below this one belong to some broker's block.
    pub next_producer_id: i64,
    /// The controller's session.
    pub controller: Option<SessionId>,
    /// Revision of the controller's key, for compares; 0 if there is no controller.
    pub controller_revision: u64,
    /// Live brokers by id.
    pub brokers: Brokers,
    /// Brokers that have just left; clients are still told of them.
    pub departed: Departed,
    /// Who holds each broker id: the epoch of the session, by id.
    pub claims: BTreeMap<i32, u64>,
    /// Sessions on record, and where their streams were sealed.
    pub sessions: BTreeMap<SessionId, Option<Sealed>>,
    /// Deleted topics whose objects may still exist.
    pub deletions: BTreeMap<Uuid, Arc<DeletionRecord>>,
    /// Number of partitions of all topics.
    pub partition_count: usize,
    pub(super) by_name: BTreeMap<Arc<str>, Arc<Topic>>,
    pub(super) by_id: HashMap<Uuid, Arc<Topic>>,
}

impl ClusterImage {
    /// A topic by name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.by_name.get(name)
    }

    /// A topic by id.
    pub fn topic_by_id(&self, id: Uuid) -> Option<&Arc<Topic>> {
        self.by_id.get(&id)
    }

    /// All topics in the order of their names.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Arc<Topic>> {
        self.by_name.values()
    }

    /// Topics from `name` on (inclusive), in the order of their names.
    pub fn topics_from<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Arc<Topic>> + use<'a> {
        let start: std::ops::Bound<&str> = std::ops::Bound::Included(name);
        self.by_name.range::<str, _>((start, std::ops::Bound::Unbounded)).map(|(_, topic)| topic)
    }

    /// Number of topics.
    pub fn topic_count(&self) -> usize {
        self.by_name.len()
    }

    /// Who leads a partition, if it exists.
    pub fn leader(&self, partition: TopicPartition) -> Option<&AssignmentRecord> {
        self.topic_by_id(partition.topic_id)?.assignment(partition.partition)
    }

    /// The broker that leads under `assignment`, if its session is alive.
    pub fn leading_broker(&self, assignment: &AssignmentRecord) -> Option<&Arc<BrokerRecord>> {
        self.brokers.get(&assignment.session.broker_id).filter(|broker| broker.session == assignment.session)
    }

    /// Whether `session` holds its broker id: its lease has not ended, as far as is known.
    pub fn is_alive(&self, session: SessionId) -> bool {
        self.claims.get(&session.broker_id) == Some(&session.epoch)
    }

    /// Whether the stream of `session` is known to have been sealed (or is forgotten, being long sealed).
    pub fn is_sealed(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_none_or(Option::is_some)
    }

    /// Sessions that may be given partitions: alive, shown to clients, and not draining.
    pub fn candidates(&self) -> impl Iterator<Item = &Arc<BrokerRecord>> {
        self.brokers
            .values()
            .filter(|broker| !broker.draining && self.is_alive(broker.session) && !self.is_sealed(broker.session))
    }

    /// Whether `session` gives its partitions away and takes none.
    pub fn drains(&self, session: SessionId) -> bool {
        self.brokers.get(&session.broker_id).is_some_and(|broker| broker.session == session && broker.draining)
    }

    /// The controller, if it is alive.
    pub fn controller_id(&self) -> Option<i32> {
        self.controller.map(|session| session.broker_id)
    }

    /// Every partition that `session` leads, with its assignment.
    pub fn led_by(&self, session: SessionId) -> impl Iterator<Item = (TopicPartition, &AssignmentRecord)> {
        self.by_name.values().flat_map(move |topic| {
            let led = topic.partitions.iter().enumerate().filter(move |(_, assignment)| assignment.session == session);
            led.map(|(index, assignment)| (topic.partition(index as i32), assignment))
        })
    }
}
