//! `esker.internal.v1.Peer`: what brokers of one cluster tell each other, both ends of it.

use bytes::{Bytes, BytesMut};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::coordination::{Asker, dispatch};
use crate::base::{SessionId, TopicPartition};
use crate::broker::{BrokerSlot, Told};
use crate::format::codec::Cursor;
use crate::format::state::PartitionState;
use crate::protocol::grpc::internal;
use crate::protocol::grpc::internal::{
    CoordinateRequest, CoordinateResponse, ReleasedRequest, ReleasedResponse, TrafficRequest, TrafficResponse,
};

/// Largest answer, in bytes. States beyond it are left out: the stream holds them.
pub const MAX_ANSWER_BYTES: usize = 32 << 20;
/// What of an answer is for states; the rest is names and lengths, in bytes.
const MAX_STATES_BYTES: usize = MAX_ANSWER_BYTES / 2;

/// See the module.
#[derive(Debug)]
pub struct Peer {
    slot: BrokerSlot,
}

impl Peer {
    /// Answers by the broker in `slot`.
    pub fn new(slot: BrokerSlot) -> Self {
        Self { slot }
    }
}

#[tonic::async_trait]
impl internal::peer_server::Peer for Peer {
    async fn released(&self, request: Request<ReleasedRequest>) -> Result<Response<ReleasedResponse>, Status> {
        let ReleasedRequest { broker_id, session_epoch, wanted } = request.into_inner();
        let wanted: Result<Vec<_>, String> =
            wanted.into_iter().map(|one| Ok((partition(one.partition)?, one.leader_epoch))).collect();
        let wanted = wanted.map_err(Status::invalid_argument)?;
        let told = self.slot.current().released(SessionId { broker_id, epoch: session_epoch }, &wanted);
        Ok(Response::new(tell_released(told)))
    }

    async fn traffic(&self, _: Request<TrafficRequest>) -> Result<Response<TrafficResponse>, Status> {
        let rates = self.slot.current().traffic().into_iter().map(|(partition, bytes_per_second)| {
            internal::traffic_response::Rate { partition: Some(name(partition)), bytes_per_second }
        });
        Ok(Response::new(TrafficResponse { rates: rates.collect() }))
    }

    async fn coordinate(&self, request: Request<CoordinateRequest>) -> Result<Response<CoordinateResponse>, Status> {
        let CoordinateRequest { api_key, version, request, client_id, client_host } = request.into_inner();
        let numbers = i16::try_from(api_key).ok().zip(i16::try_from(version).ok());
        let (api_key, version) =
            numbers.ok_or_else(|| Status::invalid_argument("API keys and versions have 16 bits"))?;
        let asker = Asker { client_id, client_host };
        let answered = dispatch(&self.slot.current(), api_key, version, &asker, request).await;
        let response = answered.map_err(Status::invalid_argument)?;
        Ok(Response::new(CoordinateResponse { response }))
    }
}

/// The question for the states in which `session` gave partitions away, each with its leader epoch.
pub fn ask_released(session: SessionId, wanted: &[(TopicPartition, i32)]) -> ReleasedRequest {
    let wanted = wanted.iter().map(|(partition, leader_epoch)| internal::released_request::Wanted {
        partition: Some(name(*partition)),
        leader_epoch: *leader_epoch,
    });
    ReleasedRequest { broker_id: session.broker_id, session_epoch: session.epoch, wanted: wanted.collect() }
}

pub(super) fn tell_released(told: Told) -> ReleasedResponse {
    let mut room = MAX_STATES_BYTES;
    let mut states = Vec::new();
    for (partition, leader_epoch, state) in told {
        let mut bytes = BytesMut::new();
        state.encode(&mut bytes);
        let Some(left) = room.checked_sub(bytes.len()) else { break };
        room = left;
        let (partition, state) = (Some(name(partition)), bytes.freeze());
        states.push(internal::released_response::State { partition, leader_epoch, state });
    }
    ReleasedResponse { states }
}

/// The states in an answer.
///
/// Errors: it cannot be read; what is wrong with it.
pub fn states_of(answer: ReleasedResponse) -> Result<Told, String> {
    let read = |one: internal::released_response::State| {
        let mut cursor = Cursor::new(&one.state, "partition state");
        let state = PartitionState::decode(&mut cursor).map_err(|error| error.to_string())?;
        Ok((partition(one.partition)?, one.leader_epoch, state))
    };
    answer.states.into_iter().map(read).collect()
}

/// The rates in an answer, in bytes per second.
///
/// Errors: it cannot be read; what is wrong with it.
pub fn rates_of(answer: TrafficResponse) -> Result<Vec<(TopicPartition, u64)>, String> {
    answer.rates.into_iter().map(|one| Ok((partition(one.partition)?, one.bytes_per_second))).collect()
}

fn name(partition: TopicPartition) -> internal::Partition {
    let topic_id = Bytes::copy_from_slice(partition.topic_id.as_bytes());
    internal::Partition { topic_id, index: partition.partition }
}

fn partition(name: Option<internal::Partition>) -> Result<TopicPartition, String> {
    let name = name.ok_or("a partition is missing")?;
    let topic_id = Uuid::from_slice(&name.topic_id).map_err(|_| "a topic id has 16 bytes".to_owned())?;
    Ok(TopicPartition::new(topic_id, name.index))
}
