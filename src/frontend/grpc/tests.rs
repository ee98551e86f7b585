//! What the gRPC door says, without a network; tests/serve.rs and tests/etcd speak to real brokers.

mod door;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;
use tonic::metadata::MetadataMap;

use super::errors::{detail, explain, invalid, status};
use super::incoming::limited;
use super::metrics::{LimitLabels, Metrics, Seats};
use super::peers::{ask_released, rates_of, states_of, tell_released};
use super::records::{from_batches, in_one_piece, readable, to_batch};
use super::{admin, deadline, reflection};
use crate::base::{SessionId, TopicPartition};
use crate::broker::BrokerError;
use crate::cluster::picture::{Picture, leaving, led, session};
use crate::cluster::{DrainError, TopicError};
use crate::format::state::PartitionState;
use crate::partition::{AbortedTxn, LogError};
use crate::protocol::batch::{BatchHeader, Compression};
use crate::protocol::grpc::internal;
use crate::protocol::grpc::v1::{Reason, Record};

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

#[test]
fn what_waits_for_a_client_holds_no_page() {
    let pages = [Bytes::from(vec![1; 1 << 20]), Bytes::from(vec![2; 1 << 20])];
    let read = [pages[0].slice(5..105), pages[1].slice(..1), pages[0].slice(9..9)];
    let own = in_one_piece(&read);
    assert_eq!(own, read);
    drop(read);
    assert!(pages.iter().all(Bytes::is_unique), "a page is held");
    let (from, to) = (own[0].as_ptr() as usize, own[1].as_ptr() as usize);
    assert_eq!(to - from, 100, "in two pieces");
}

/// A batch of two records at `base_offset`, with these attribute bits.
fn batch(base_offset: i64, producer_id: i64, bits: i16) -> Bytes {
    let record = Record { value: Some(Bytes::from_static(b"v")), ..Record::default() };
    let made = to_batch([record.clone(), record], 0, Compression::None, Some((producer_id, 0, 0)));
    let mut header = BatchHeader::decode(&made).unwrap();
    header.base_offset = base_offset;
    header.attributes |= bits;
    let mut bytes = BytesMut::new();
    header.encode(&mut bytes);
    bytes.extend_from_slice(&made[bytes.len()..]);
    bytes.freeze()
}

#[test]
fn records_of_aborted_transactions_and_markers_are_not_given() {
    const TRANSACTIONAL: i16 = 0x10;
    const CONTROL: i16 = 0x20;
    let batches = [
        batch(0, 7, TRANSACTIONAL),
        batch(2, 8, TRANSACTIONAL),
        batch(4, 7, 0),
        batch(6, 7, TRANSACTIONAL | CONTROL),
        batch(8, 7, TRANSACTIONAL),
        batch(10, 8, TRANSACTIONAL),
        batch(12, 8, TRANSACTIONAL | CONTROL),
        batch(14, 9, 0),
    ];
    let aborted = |producer_id, first_offset, last_offset| AbortedTxn { producer_id, first_offset, last_offset };
    let bases = |aborted: &[AbortedTxn]| {
        let given = readable(&batches, aborted);
        let offsets: Vec<i64> = from_batches(&given, 1).unwrap().iter().map(|record| record.offset).collect();
        let bases: Vec<i64> = given.iter().map(|batch| BatchHeader::decode(batch).unwrap().base_offset).collect();
        assert!(offsets.iter().all(|offset| *offset >= 1 && bases.contains(&(offset & !1))), "{offsets:?}");
        bases
    };
    // Without a list all records are given, but no marker.
    assert_eq!(bases(&[]), [0, 2, 4, 8, 10, 14]);
    // Producer 7's first transaction was aborted, its second was not; what it wrote outside of them stays.
    assert_eq!(bases(&[aborted(7, 0, 7)]), [2, 4, 8, 10, 14]);
    assert_eq!(bases(&[aborted(8, 2, 13)]), [0, 4, 8, 14]);
    assert_eq!(bases(&[aborted(7, 0, 7), aborted(8, 2, 13), aborted(9, 0, 99)]), [4, 8, 14]);
    // A transaction that began before what is read.
    assert_eq!(bases(&[aborted(7, -5, 7)]), [2, 4, 8, 10, 14]);
    // Bytes without a header are left to whoever reads them, who refuses them.
    assert!(from_batches(&readable(&[Bytes::from_static(b"short")], &[]), 0).is_err());
}

#[test]
fn deadlines_are_read_as_grpc_writes_them() {
    let read = |text: &str| {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", text.parse().unwrap());
        deadline::of(&metadata)
    };
    let known = [("2H", 7_200_000), ("3M", 180_000), ("4S", 4_000), ("250m", 250), ("5000u", 5), ("7000000n", 7)];
    for (text, ms) in known {
        assert_eq!(read(text), Some(Duration::from_millis(ms)), "{text}");
    }
    for wrong in ["", "5", "S", "-1S", "123456789S", "1x", "1 S", "٣S"] {
        let metadata = wrong.parse().map(|value| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", value);
            metadata
        });
        assert!(metadata.map_or(true, |metadata| deadline::of(&metadata).is_none()), "{wrong}");
    }
    assert_eq!(deadline::of(&MetadataMap::new()), None);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_reader_ends_at_its_deadline() {
    let call = std::future::pending::<()>();
    let said = deadline::within(Some(Duration::from_secs(3)), call).await.unwrap_err();
    assert_eq!((said.code(), detail(&said).unwrap().retriable), (Code::DeadlineExceeded, true));
    deadline::within(None, std::future::ready(())).await.unwrap();
}

#[tokio::test]
async fn of_one_address_there_are_only_so_many_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, metrics) = (listener.local_addr().unwrap(), Metrics::default());
    let mut door = Box::pin(limited(listener, 10, 1, metrics.clone()));
    let _one = TcpStream::connect(address).await.unwrap();
    let first = door.next().await.unwrap().unwrap();
    let mut two = TcpStream::connect(address).await.unwrap();
    let mut byte = [0];
    tokio::select! {
        _ = door.next() => panic!("a second one was let in"),
        read = two.read(&mut byte) => assert!(read.is_err() || read.is_ok_and(|count| count == 0), "it is closed"),
    }
    assert_eq!((metrics.connections.get(), metrics.accepted.get()), (1, 2));
    let labels = LimitLabels { reason: "max_connections_per_ip" };
    assert_eq!(metrics.refused.get_or_create(&labels).get(), 1);
    drop(first);
    assert_eq!(metrics.connections.get(), 0);
    let _three = TcpStream::connect(address).await.unwrap();
    assert!(door.next().await.unwrap().is_ok());
}

#[test]
fn members_have_so_many_places() {
    let metrics = Metrics::default();
    let seats = Seats::new(1, metrics.clone());
    let seat = seats.take().unwrap();
    assert!(seats.take().is_none());
    assert_eq!(metrics.members.get(), 1);
    drop(seat);
    assert!(seats.take().is_some());
    assert_eq!(metrics.members.get(), 0);
    assert_eq!(metrics.refused.get_or_create(&LimitLabels { reason: "max_members" }).get(), 1);
}
