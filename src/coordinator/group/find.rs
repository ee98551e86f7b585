//! Which partition, and so which broker, coordinates a group.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use super::api::text;

/// From this version on a request names several keys.
const BATCHED: i16 = 4;

/// What a key of `FindCoordinator` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// A group id.
    Group,
    /// A transactional id.
    Transaction,
    /// A share group's partition (KIP-932); never found here.
    Share,
}

/// A broker that coordinates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coordinating {
    /// Kafka node id.
    pub node_id: i32,
    /// Where clients reach it.
    pub host: String,
    /// Its Kafka port.
    pub port: i32,
}

/// Java's `String.hashCode`: over UTF-16 code units.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

/// The partition of `__consumer_offsets` (or `__transaction_state`) that holds `id`; `partitions` is at least 1.
pub fn partition_for(id: &str, partitions: i32) -> i32 {
    let hash = java_hash(id);
    // Kafka's `Utils.abs`: the smallest integer has no absolute value and counts as 0.
    let positive = if hash == i32::MIN { 0 } else { hash.abs() };
    positive % partitions.max(1)
}

/// Answers a `FindCoordinator` of any version; `locate` says who coordinates a key.
pub fn find_coordinator(
    request: &FindCoordinatorRequest,
    version: i16,
    mut locate: impl FnMut(KeyType, &str) -> Result<Coordinating, ResponseError>,
) -> FindCoordinatorResponse {
    let kind = match request.key_type {
        0 => Ok(KeyType::Group),
        1 => Ok(KeyType::Transaction),
        2 => Ok(KeyType::Share),
        _ => Err(ResponseError::InvalidRequest),
    };
    let mut find = |key: &StrBytes| {
        let found = kind.and_then(|kind| locate(kind, key));
        let coordinator = Coordinator::default().with_key(key.clone());
        match found {
            Ok(found) => {
                coordinator.with_node_id(BrokerId(found.node_id)).with_host(text(&found.host)).with_port(found.port)
            }
            Err(error) => coordinator
                .with_node_id(BrokerId(-1))
                .with_port(-1)
                .with_error_code(error.code())
                .with_error_message(Some(text(&error.to_string()))),
        }
    };
    if version >= BATCHED {
        let coordinators = request.coordinator_keys.iter().map(find).collect();
        return FindCoordinatorResponse::default().with_coordinators(coordinators);
    }
    let one = find(&request.key);
    FindCoordinatorResponse::default()
        .with_node_id(one.node_id)
        .with_host(one.host)
        .with_port(one.port)
        .with_error_code(one.error_code)
        .with_error_message(one.error_message)
}
