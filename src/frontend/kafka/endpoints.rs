//! Where clients are told to connect: brokers as the door that a client came through shows them, and the leaders of
//! partitions that are not led here (KIP-951).

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError as Kafka;
use kafka_protocol::messages::{BrokerId, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use super::metadata::text;
use crate::cluster::{Brokers, ClusterImage, Topic};
use crate::format::metadata::{AssignmentRecord, BrokerRecord};

/// Name of the second listener's address among a broker's endpoints.
pub const EXTERNAL_ENDPOINT: &str = "kafka_external";

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
    /// `external`: the client came through the second listener. A broker without one has one address for all.
    fn of(node_id: i32, broker: &BrokerRecord, external: bool) -> Self {
        let external = broker.endpoints.get(EXTERNAL_ENDPOINT).filter(|_| external);
        let split = external.and_then(|address| address.rsplit_once(':'));
        let (host, port) = split
            .and_then(|(host, port)| Some((host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?)))
            .unwrap_or((&broker.host, broker.port));
        Self {
            node_id: BrokerId(node_id),
            host: text(host),
            port: i32::from(port),
            rack: broker.rack.as_deref().map(text),
        }
    }
}

/// Brokers, by id.
pub(super) fn brokers(brokers: &Brokers, external: bool) -> impl Iterator<Item = Endpoint> {
    brokers.iter().map(move |(id, broker)| Endpoint::of(*id, broker, external))
}

/// The leader under `assignment`, or Kafka's error if it is not to be reached.
pub(super) fn leader(image: &ClusterImage, assignment: &AssignmentRecord, external: bool) -> Result<Endpoint, Kafka> {
    let broker = image.leading_broker(assignment).ok_or(Kafka::LeaderNotAvailable)?;
    Ok(Endpoint::of(assignment.session.broker_id, broker, external))
}

/// Gives coordinators the addresses of the second listener.
pub(super) fn readdress(image: &ClusterImage, response: &mut FindCoordinatorResponse) {
    let of = |id: BrokerId| image.brokers.get(&id.0).map(|broker| Endpoint::of(id.0, broker, true));
    // The newer versions leave these fields out.
    if let Some(found) = of(response.node_id).filter(|_| !response.host.is_empty()) {
        (response.host, response.port) = (found.host, found.port);
    }
    for coordinator in &mut response.coordinators {
        if let Some(found) = of(coordinator.node_id) {
            (coordinator.host, coordinator.port) = (found.host, found.port);
        }
    }
}

/// The leaders that a reply names, so that clients go there without asking for metadata first (KIP-951).
pub(super) struct Leaders<'a> {
    image: &'a ClusterImage,
    external: bool,
    named: BTreeMap<BrokerId, Endpoint>,
}

impl<'a> Leaders<'a> {
    /// Nobody named yet.
    pub fn new(image: &'a ClusterImage, external: bool) -> Self {
        Self { image, external, named: BTreeMap::new() }
    }

    /// Id and epoch of the leader of a partition, which is named from now on; `None` if its session is not alive.
    pub fn name(&mut self, topic: &Topic, index: i32) -> Option<(BrokerId, i32)> {
        let assignment = topic.assignment(index)?;
        let found = leader(self.image, assignment, self.external).ok()?;
        let id = found.node_id;
        self.named.insert(id, found);
        Some((id, assignment.leader_epoch))
    }

    /// Everybody named.
    pub fn named(self) -> Vec<Endpoint> {
        self.named.into_values().collect()
    }
}
