//! Where clients are told to connect: brokers as the door that a client came through shows them, and the leaders of
//! partitions that are not led here (KIP-951).

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError as Kafka;
use kafka_protocol::messages::BrokerId;
use kafka_protocol::protocol::StrBytes;

use super::metadata::text;
use crate::cluster::{ClusterImage, Topic};
use crate::format::metadata::{AssignmentRecord, BrokerRecord};

/// A broker as a client reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Kafka node id.
    pub node_id: BrokerId,
    /// Host name or address.
    pub host: StrBytes,
    /// Port.
    pub port: i32,
    /// Its zone.
    pub rack: Option<StrBytes>,
}

impl Endpoint {
    fn of(node_id: i32, broker: &BrokerRecord) -> Self {
        Self {
            node_id: BrokerId(node_id),
            host: text(&broker.host),
            port: i32::from(broker.port),
            rack: broker.rack.as_deref().map(text),
        }
    }
}

/// All live brokers, by id.
pub(super) fn brokers(image: &ClusterImage) -> impl Iterator<Item = Endpoint> {
    image.brokers.iter().map(|(id, broker)| Endpoint::of(*id, broker))
}

/// The leader under `assignment`, or Kafka's error if it is not to be reached.
pub(super) fn leader(image: &ClusterImage, assignment: &AssignmentRecord) -> Result<Endpoint, Kafka> {
    let broker = image.leading_broker(assignment).ok_or(Kafka::LeaderNotAvailable)?;
    Ok(Endpoint::of(assignment.session.broker_id, broker))
}

/// The leaders that a reply names, so that clients go there without asking for metadata first (KIP-951).
pub(super) struct Leaders<'a> {
    image: &'a ClusterImage,
    named: BTreeMap<BrokerId, Endpoint>,
}

impl<'a> Leaders<'a> {
    /// Nobody named yet.
    pub fn new(image: &'a ClusterImage) -> Self {
        Self { image, named: BTreeMap::new() }
    }

    /// Id and epoch of the leader of a partition, which is named from now on; `None` if its session is not alive.
    pub fn name(&mut self, topic: &Topic, index: i32) -> Option<(BrokerId, i32)> {
        let assignment = topic.assignment(index)?;
        let found = leader(self.image, assignment).ok()?;
        let id = found.node_id;
        self.named.insert(id, found);
        Some((id, assignment.leader_epoch))
    }

    /// Everybody named.
    pub fn named(self) -> Vec<Endpoint> {
        self.named.into_values().collect()
    }
}
