//! Three brokers, and gRPC clients that only know one of them: what others lead is written, read and asked through it, also while
//! a broker gives everything away and another is killed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use esker::protocol::grpc::v1;
use esker::protocol::grpc::v1::admin_client::AdminClient;
use esker::protocol::grpc::v1::consume_request::Kind as Consume;
use esker::protocol::grpc::v1::consume_response::Kind as Consumed;
use esker::protocol::grpc::v1::consumer_client::ConsumerClient;
use esker::protocol::grpc::v1::fetch_request::Kind as Fetch;
use esker::protocol::grpc::v1::fetch_response::Kind as Fetched;
use esker::protocol::grpc::v1::producer_client::ProducerClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::process::{Broker, Doors, Setup};
use crate::server::{Member, binary};
use crate::until;

const TOPIC: &str = "doors";
const PARTITIONS: i32 = 6;
/// Records of each partition.
const RECORDS: i32 = 300;
const LIMIT: Duration = Duration::from_mins(4);

fn start(folder: &Path, id: i32, endpoint: &str) -> (Broker, Doors) {
    let own = folder.join(id.to_string());
    std::fs::create_dir_all(&own).unwrap();
    let (metadata, objects) = (format!("etcd://{endpoint}"), format!("file://{}", folder.join("objects").display()));
    let id = id.to_string();
    let more = ["--group-initial-rebalance-delay", "0ms"];
    Setup::new(&own, &[&["--metadata", &metadata, "--object-store", &objects, "--broker-id", &id], &more[..]].concat())
        .start()
}

async fn channel(grpc: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{grpc}")).unwrap().connect().await.unwrap()
}

/// Partitions of each broker.
async fn led(admin: &AdminClient<Channel>) -> BTreeMap<i32, u64> {
    let told = admin.clone().describe_topic(v1::DescribeTopicRequest { name: TOPIC.to_owned() }).await;
    let Ok(told) = told else { return BTreeMap::new() };
    let mut led = BTreeMap::new();
    for partition in told.into_inner().partitions {
        *led.entry(partition.leader.map_or(-1, |leader| leader.broker_id)).or_default() += 1;
    }
    led
}

/// Writes all records through one stream, the partitions in turn, each by an idempotent producer; checks the answers.
async fn write(channel: Channel, pace: Duration, written: &AtomicI32) {
    let mut producer = ProducerClient::new(channel);
    let init = producer.init_producer(v1::InitProducerRequest {}).await.unwrap().into_inner();
    let (sender, requests) = mpsc::channel(16);
    let mut answers = producer.produce_stream(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let sending = tokio::spawn(async move {
        for sequence in 0..RECORDS {
            for partition in 0..PARTITIONS {
                let value = Bytes::from(format!("{partition}/{sequence}"));
                let record = v1::Record { value: Some(value), ..v1::Record::default() };
                let (producer_id, producer_epoch) = (init.producer_id, init.producer_epoch);
                let request = v1::ProduceRequest {
                    id: (sequence * PARTITIONS + partition) as u64,
                    topic: TOPIC.to_owned(),
                    partition: Some(partition),
                    records: vec![record],
                    producer: Some(v1::ProducerState { producer_id, producer_epoch, base_sequence: sequence }),
                    timeout_ms: 60_000,
                    ..v1::ProduceRequest::default()
                };
                sender.send(request).await.unwrap();
            }
            tokio::time::sleep(pace).await;
        }
    });
    for number in 0..RECORDS * PARTITIONS {
        written.store(number, Ordering::Relaxed);
        let answer = answers.message().await.unwrap().expect("an answer to every request");
        assert_eq!(answer.id, number as u64);
        let appended = &answer.appended[0];
        assert_eq!(appended.error, None, "partition {}", appended.partition);
        assert_eq!(appended.base_offset, i64::from(number / PARTITIONS), "partition {}", appended.partition);
    }
    sending.await.unwrap();
}

/// Takes what comes until every partition has all its records, each once and in order.
#[derive(Default)]
struct Ledger(BTreeMap<i32, i32>);

impl Ledger {
    fn take(&mut self, data: &v1::FetchData) {
        let next = self.0.entry(data.partition).or_default();
        for record in &data.records {
            assert_eq!(record.offset, i64::from(*next), "partition {}", data.partition);
            assert_eq!(record.value.as_deref(), Some(format!("{}/{next}", data.partition).as_bytes()));
            *next += 1;
        }
    }

    fn is_full(&self) -> bool {
        self.0.len() == PARTITIONS as usize && self.0.values().all(|count| *count == RECORDS)
    }
}

async fn read(channel: Channel) {
    let partitions =
        (0..PARTITIONS).map(|partition| v1::FetchFrom { topic: TOPIC.to_owned(), partition, start: None }).collect();
    let open = v1::FetchOpen { partitions, credit_bytes: 10_000, ..v1::FetchOpen::default() };
    let (credit, requests) = mpsc::channel(16);
    credit.send(v1::FetchRequest { kind: Some(Fetch::Open(open)) }).await.unwrap();
    let fetched = ConsumerClient::new(channel).fetch(ReceiverStream::new(requests)).await;
    let mut answers = fetched.unwrap().into_inner();
    let mut ledger = Ledger::default();
    while !ledger.is_full() {
        match answers.message().await.unwrap().and_then(|answer| answer.kind) {
            Some(Fetched::Data(data)) => {
                ledger.take(&data);
                let back = v1::FetchCredit { bytes: data.bytes };
                credit.send(v1::FetchRequest { kind: Some(Fetch::Credit(back)) }).await.unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A group's only member; commits as it goes, so that it goes on where it was when it is dealt its partitions anew.
async fn consume(channel: Channel) {
    let open = v1::ConsumeOpen {
        group: "doors".to_owned(),
        topics: vec![TOPIC.to_owned()],
        session_timeout_ms: 6_000,
        ..v1::ConsumeOpen::default()
    };
    let (say, requests) = mpsc::channel(16);
    let send = async |kind| say.send(v1::ConsumeRequest { kind: Some(kind) }).await.unwrap();
    send(Consume::Open(open)).await;
    let consumed = ConsumerClient::new(channel).consume(ReceiverStream::new(requests)).await;
    let mut answers = consumed.unwrap().into_inner();
    let mut ledger = Ledger::default();
    let mut id = 0;
    while !ledger.is_full() {
        match answers.message().await.unwrap().and_then(|answer| answer.kind) {
            Some(Consumed::Assigned(assigned)) => {
                // A commit may not have been done.
                for at in assigned.partitions {
                    let next = ledger.0.entry(at.partition).or_default();
                    assert!(at.offset <= i64::from(*next), "partition {} goes on at {}", at.partition, at.offset);
                    *next = at.offset as i32;
                }
            }
            Some(Consumed::Data(data)) => {
                ledger.take(&data);
                id += 1;
                let place = v1::PartitionOffset {
                    topic: data.topic,
                    partition: data.partition,
                    offset: data.next_offset,
                    ..v1::PartitionOffset::default()
                };
                send(Consume::Commit(v1::ConsumeCommit { id, offsets: vec![place] })).await;
            }
            Some(Consumed::Revoking(_)) => send(Consume::Released(v1::ConsumeReleased {})).await,
            Some(Consumed::Committed(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_one_broker_reach_what_the_others_lead() {
    if binary().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let etcd = Member::alone(&folder.path().join("etcd"), &[]);
    let (first, doors) = start(folder.path(), 1, &etcd.endpoint());
    let (second, _) = start(folder.path(), 2, &etcd.endpoint());
    let (third, _) = start(folder.path(), 3, &etcd.endpoint());
    let channel = channel(doors.grpc).await;
    let mut admin = AdminClient::new(channel.clone());
    until("all are known", async || {
        let told = admin.clone().describe_cluster(v1::DescribeClusterRequest {}).await.unwrap().into_inner();
        told.brokers.len() == 3
    })
    .await;
    let new = v1::CreateTopicRequest { name: TOPIC.to_owned(), partitions: PARTITIONS, ..Default::default() };
    admin.create_topic(new).await.unwrap();
    until("each leads two", async || led(&admin).await == BTreeMap::from([(1, 2), (2, 2), (3, 2)])).await;

    let written = AtomicI32::new(0);
    let clients = async {
        let write = write(channel.clone(), Duration::from_millis(20), &written);
        tokio::join!(write, read(channel.clone()), consume(channel.clone()))
    };
    let trouble = async {
        let drain = v1::DrainBrokerRequest { broker_id: 2, undo: false };
        admin.clone().drain_broker(drain).await.unwrap();
        until("2 has given all away", async || !led(&admin).await.contains_key(&2)).await;
        // By then all brokers have heard of each other. Before, only the lease tells that one is gone.
        until("some is written", async || written.load(Ordering::Relaxed) > 60 * PARTITIONS).await;
        tokio::task::spawn_blocking(|| third.kill()).await.unwrap();
        until("1 leads all", async || led(&admin).await == BTreeMap::from([(1, PARTITIONS as u64)])).await;
    };
    let together = async { tokio::join!(clients, trouble) };
    tokio::time::timeout(LIMIT, together).await.expect("all of it is done in time");

    let undo = v1::DrainBrokerRequest { broker_id: 2, undo: true };
    admin.drain_broker(undo).await.unwrap();
    until("2 leads some again", async || led(&admin).await.get(&2).is_some_and(|count| *count == 3)).await;
    let asked = v1::ListOffsetsRequest {
        topic: TOPIC.to_owned(),
        at: Some(v1::list_offsets_request::At::Latest(true)),
        ..v1::ListOffsetsRequest::default()
    };
    let told = admin.list_offsets(asked).await.unwrap().into_inner().offsets;
    assert_eq!(told.len(), PARTITIONS as usize);
    assert!(told.iter().all(|one| one.error.is_none() && one.offset == i64::from(RECORDS)), "{told:?}");
    let before = told.into_iter().map(|one| v1::PartitionOffset { offset: 100, ..one }).collect();
    let moved = admin.delete_records(v1::DeleteRecordsRequest { before }).await.unwrap().into_inner().log_start;
    assert!(moved.iter().all(|one| one.error.is_none() && one.offset == 100), "{moved:?}");
    let group = v1::DescribeGroupRequest { group: "doors".to_owned() };
    let told = admin.describe_group(group).await.unwrap().into_inner();
    assert!(told.offsets.iter().all(|one| one.end_offset == i64::from(RECORDS)), "{told:?}");
    let listed = admin.list_groups(v1::ListGroupsRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.groups.iter().map(|group| group.group.as_str()).collect::<Vec<_>>(), ["doors"]);
    assert!(listed.incomplete.is_empty(), "{:?}", listed.incomplete);
    tokio::task::spawn_blocking(move || {
        assert!(second.stop().success());
        assert!(first.stop().success());
    })
    .await
    .unwrap();
}
