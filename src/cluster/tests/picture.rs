//! Images of clusters, drawn by hand.

#![expect(missing_docs, reason = "only tests see it; it is public for those of the floors above")]

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use crate::base::{SessionId, TopicPartition};
use crate::cluster::{ClusterImage, Topic};
use crate::config::topic::{Configs, TopicSettings};
use crate::format::metadata::{AssignmentRecord, BrokerRecord, FromStream, Sealed};

pub fn session(broker_id: i32, epoch: u64) -> SessionId {
    SessionId { broker_id, epoch }
}

/// Partition `index` of topic number `topic`.
pub fn partition(topic: u128, index: i32) -> TopicPartition {
    TopicPartition::new(Uuid::from_u128(topic), index)
}

/// A partition that `session` leads, of which nothing is in other streams.
pub fn led(session: SessionId, leader_epoch: i32) -> AssignmentRecord {
    AssignmentRecord { session, leader_epoch, from: Vec::new(), target: None, acquired: false }
}

/// ... and whose state is still in the stream of another.
pub fn led_from(session: SessionId, leader_epoch: i32, from: SessionId, sealed_seq: u64) -> AssignmentRecord {
    let from = vec![FromStream { session: from, leader_epoch: leader_epoch - 1, sealed_seq }];
    AssignmentRecord { from, ..led(session, leader_epoch) }
}

/// … whose state some stream is known to hold.
pub fn acquired(assignment: AssignmentRecord) -> AssignmentRecord {
    AssignmentRecord { acquired: true, ..assignment }
}

/// ... and that is to go to `target`.
pub fn leaving(session: SessionId, leader_epoch: i32, target: SessionId) -> AssignmentRecord {
    AssignmentRecord { target: Some(target), ..led(session, leader_epoch) }
}

#[derive(Debug, Clone, Default)]
pub struct Picture {
    pub image: ClusterImage,
}

impl Picture {
    /// Brokers 1 to `count`, alive, each with a session of its own number.
    pub fn of(count: i32) -> Self {
        (1..=count).fold(Self::default(), |picture, id| picture.broker(session(id, id as u64), None, false))
    }

    pub fn broker(mut self, session: SessionId, zone: Option<&str>, draining: bool) -> Self {
        let record = BrokerRecord {
            session,
            host: format!("host-{}", session.broker_id),
            port: 9092,
            rack: zone.map(str::to_owned),
            endpoints: BTreeMap::new(),
            draining,
        };
        self.image.brokers.insert(session.broker_id, Arc::new(record));
        self.image.claims.insert(session.broker_id, session.epoch);
        self.image.sessions.entry(session).or_default();
        self
    }

    /// Its lease has ended; its stream is not sealed yet.
    pub fn dead(mut self, session: SessionId) -> Self {
        self.image.brokers.remove(&session.broker_id);
        self.image.claims.remove(&session.broker_id);
        self.image.sessions.entry(session).or_default();
        self
    }

    pub fn sealed(mut self, session: SessionId, seq: u64) -> Self {
        self = self.dead(session);
        self.image.sessions.insert(session, Some(Sealed { seq, at_ms: 0 }));
        self
    }

    pub fn topic(mut self, number: u128, partitions: Vec<AssignmentRecord>) -> Self {
        let id = Uuid::from_u128(number);
        let topic = Arc::new(Topic {
            name: format!("topic-{number}"),
            id,
            internal: false,
            replication_factor: 1,
            configs: Configs::default(),
            settings: TopicSettings::default(),
            created_ms: 0,
            mod_revision: 1,
            chunk_revisions: vec![1],
            partitions,
        });
        self.image.partition_count += topic.partitions.len();
        self.image.by_name.insert(topic.name.as_str().into(), topic.clone());
        self.image.by_id.insert(id, topic);
        self
    }
}
