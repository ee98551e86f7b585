//! What the gRPC door says, without a network; tests/serve.rs and tests/etcd speak to real brokers.

use std::sync::Arc;

use bytes::BytesMut;
use tonic::Code;

use super::errors::{detail, explain, invalid, status};
use super::peers::{ask_released, rates_of, states_of, tell_released};
use super::{admin, reflection};
use crate::base::{SessionId, TopicPartition};
use crate::broker::BrokerError;
use crate::cluster::picture::{Picture, leaving, led, session};
use crate::cluster::{DrainError, TopicError};
use crate::format::state::PartitionState;
use crate::partition::LogError;
use crate::protocol::grpc::internal;
use crate::protocol::grpc::v1::Reason;

const OWN: SessionId = SessionId { broker_id: 1, epoch: 1 };
const OTHER: SessionId = SessionId { broker_id: 2, epoch: 2 };

fn partition(index: i32) -> TopicPartition {
    TopicPartition::new(uuid::Uuid::from_u128(9), index)
}

#[test]
fn reflection_can_be_built() {
    assert!(reflection().build_v1().is_ok() && reflection().build_v1alpha().is_ok());
}

#[test]
fn states_come_through_as_they_were() {
    let state = PartitionState { leader_epoch: 4, log_start: 7, next_offset: 11, ..PartitionState::default() };
    let told = vec![(partition(0), 4, state.clone()), (partition(1), 2, PartitionState::default())];
    assert_eq!(states_of(tell_released(told.clone())).unwrap(), told);
    let asked = ask_released(OTHER, &[(partition(5), 3)]);
    assert_eq!((asked.broker_id, asked.session_epoch, asked.wanted[0].leader_epoch), (2, 2, 3));
}

#[test]
fn an_answer_that_cannot_be_read_says_why() {
    let mut bytes = BytesMut::new();
    PartitionState::default().encode(&mut bytes);
    let name = internal::Partition { topic_id: vec![0; 16].into(), index: 0 };
    let state = |partition, state| internal::ReleasedResponse {
        states: vec![internal::released_response::State { partition, leader_epoch: 0, state }],
    };
    assert!(states_of(state(Some(name.clone()), bytes.clone().freeze())).is_ok());
    assert!(states_of(state(None, bytes.clone().freeze())).is_err());
    assert!(states_of(state(Some(name), bytes.freeze().slice(1..))).is_err());
    let short = internal::Partition { topic_id: vec![0; 15].into(), index: 0 };
    let rate = internal::traffic_response::Rate { partition: Some(short), bytes_per_second: 1 };
    assert!(rates_of(internal::TrafficResponse { rates: vec![rate] }).is_err());
}

#[test]
fn the_cluster_is_counted() {
    let gone = session(3, 3);
    let picture = Picture::of(2)
        .sealed(gone, 5)
        .topic(1, vec![led(OWN, 0), leaving(OWN, 0, OTHER), led(OTHER, 0)])
        .topic(2, vec![led(gone, 0)]);
    let said = admin::describe(&picture.image, 2);
    assert_eq!((said.topics, said.partitions, said.offline_partitions, said.answering_broker_id), (2, 4, 1, 2));
    let loads: Vec<(i32, u64, u64)> =
        said.brokers.iter().map(|broker| (broker.id, broker.partitions, broker.leaving_partitions)).collect();
    assert_eq!(loads, [(1, 2, 1), (2, 1, 0)]);
}

#[test]
fn a_status_says_whether_trying_again_helps() {
    let picture = Picture::of(2);
    let code = |error: BrokerError| status(&error, &picture.image).code();
    assert_eq!(code(DrainError::NoSuchBroker(7).into()), Code::NotFound);
    assert_eq!(code(DrainError::LastBroker(7).into()), Code::FailedPrecondition);
    assert_eq!(code(DrainError::Unavailable("etcd".to_owned()).into()), Code::Unavailable);
    assert_eq!(code(TopicError::InvalidName("a b".to_owned()).into()), Code::InvalidArgument);
    assert_eq!(code(TopicError::AlreadyExists("t".to_owned()).into()), Code::AlreadyExists);
    assert_eq!(code(LogError::Overloaded { limit: "memory.unflushed" }.into()), Code::ResourceExhausted);
    assert_eq!(code(LogError::Fenced.into()), Code::Unavailable);
}

#[test]
fn the_detail_says_who_leads() {
    let mut picture = Picture::of(2).topic(9, vec![led(OTHER, 0)]);
    let error = BrokerError::from(LogError::NotLeader(partition(0)));
    assert_eq!(explain(&error, &picture.image).leader, None, "it has no gRPC door");
    let mut other = (*picture.image.brokers[&2]).clone();
    other.endpoints.insert("grpc".to_owned(), "two:9094".to_owned());
    picture.image.brokers.insert(2, Arc::new(other));
    let said = detail(&status(&error, &picture.image)).unwrap();
    assert_eq!((said.reason(), said.retriable), (Reason::NotLeader, true));
    let leader = said.leader.unwrap();
    assert_eq!((leader.broker_id, leader.grpc_endpoint.as_str()), (2, "two:9094"));
    let plain = detail(&invalid("no")).unwrap();
    assert_eq!((plain.reason(), plain.retriable, plain.message.as_str()), (Reason::Invalid, false, "no"));
    assert_eq!(detail(&tonic::Status::internal("a proxy said so")), None);
}
