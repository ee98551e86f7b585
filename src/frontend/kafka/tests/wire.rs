//! Requests over a socket, in every advertised version.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::error::ResponseError as Kafka;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Request, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::house::{Client, House, frame, house, versions};
use crate::config::KafkaSettings;
use crate::frontend::kafka::metrics::CloseLabels;
use crate::protocol::batch::{BatchBuilder, build_batch};

const TOPIC: &str = "greetings";

fn name(text: &'static str) -> TopicName {
    TopicName(StrBytes::from_static_str(text))
}

async fn with_topic() -> (House, Client, uuid::Uuid) {
    let house = house(KafkaSettings::default()).await;
    let mut client = house.client().await;
    let topic = CreatableTopic::default().with_name(name(TOPIC)).with_num_partitions(2).with_replication_factor(1);
    let created = client.call(&CreateTopicsRequest::default().with_topics(vec![topic]), 7).await;
    assert_eq!(created.topics[0].error_code, 0, "{:?}", created.topics[0].error_message);
    let id = created.topics[0].topic_id;
    (house, client, id)
}

fn now_ms() -> i64 {
    crate::base::Clock::system().wall_ms()
}

fn batch(value: &str) -> Bytes {
    build_batch(&[(Some("k".into()), Some(value.to_owned().into()))], now_ms())
}

fn produce(records: Bytes, acks: i16, id: Option<uuid::Uuid>) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(0).with_records(Some(records));
    let topic = TopicProduceData::default().with_partition_data(vec![data]);
    let topic = match id {
        Some(id) => topic.with_topic_id(id),
        None => topic.with_name(name(TOPIC)),
    };
    ProduceRequest::default().with_acks(acks).with_timeout_ms(5_000).with_topic_data(vec![topic])
}

fn fetch(offset: i64, max_wait_ms: i32, id: Option<uuid::Uuid>) -> FetchRequest {
    let partition = FetchPartition::default().with_fetch_offset(offset).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_partitions(vec![partition]);
    let topic = match id {
        Some(id) => topic.with_topic_id(id),
        None => topic.with_topic(name(TOPIC)),
    };
    FetchRequest::default()
        .with_max_wait_ms(max_wait_ms)
        .with_min_bytes(1)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

#[tokio::test(flavor = "multi_thread")]
async fn records_go_in_and_come_out_in_every_version() {
    let (_house, mut client, id) = with_topic().await;
    let mut expected = 0;
    for version in versions::<ProduceRequest>() {
        let by_id = (version >= 13).then_some(id);
        for acks in [1, -1] {
            let answer = client.call(&produce(batch("hello"), acks, by_id), version).await;
            let partition = &answer.responses[0].partition_responses[0];
            assert_eq!((partition.error_code, partition.base_offset), (0, expected), "v{version}");
            expected += 1;
        }
    }
    for version in versions::<FetchRequest>() {
        let by_id = (version >= 13).then_some(id);
        let answer = client.call(&fetch(0, 0, by_id), version).await;
        let partition = &answer.responses[0].partitions[0];
        assert_eq!((partition.error_code, partition.high_watermark), (0, expected), "v{version}");
        let records = partition.records.clone().unwrap();
        let first = crate::protocol::batch::BatchHeader::decode(&records).unwrap();
        assert_eq!(first.base_offset, 0);
    }
    for version in versions::<ListOffsetsRequest>() {
        for (timestamp, offset) in [(-2, 0), (-1, expected), (0, 0), (i64::MAX, -1)] {
            let partition = ListOffsetsPartition::default().with_timestamp(timestamp).with_current_leader_epoch(-1);
            let topic = ListOffsetsTopic::default().with_name(name(TOPIC)).with_partitions(vec![partition]);
            let answer = client.call(&ListOffsetsRequest::default().with_topics(vec![topic]), version).await;
            let partition = &answer.topics[0].partitions[0];
            assert_eq!((partition.error_code, partition.offset), (0, offset), "v{version} at {timestamp}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_api_answers_in_every_version() {
    let (_house, mut client, _) = with_topic().await;
    macro_rules! all {
        ($($request:ident),* $(,)?) => { $(
            for version in versions::<$request>() {
                client.call(&$request::default(), version).await;
            }
        )* };
    }
    all!(
        MetadataRequest,
        ListOffsetsRequest,
        FetchRequest,
        OffsetForLeaderEpochRequest,
        CreateTopicsRequest,
        DeleteTopicsRequest,
        DeleteRecordsRequest,
        CreatePartitionsRequest,
        InitProducerIdRequest,
        DescribeConfigsRequest,
        AlterConfigsRequest,
        IncrementalAlterConfigsRequest,
        DescribeProducersRequest,
        DescribeLogDirsRequest,
        DescribeTopicPartitionsRequest,
        DescribeClusterRequest,
        FindCoordinatorRequest,
        ListGroupsRequest,
        DescribeGroupsRequest,
        DeleteGroupsRequest,
        OffsetDeleteRequest,
        OffsetFetchRequest,
        OffsetCommitRequest,
        HeartbeatRequest,
        LeaveGroupRequest,
        SyncGroupRequest,
        JoinGroupRequest,
        ApiVersionsRequest,
    );
    for version in versions::<MetadataRequest>() {
        let all = client.call(&MetadataRequest::default().with_topics(None), version).await;
        assert_eq!(all.brokers.len(), 1, "v{version}");
        if version >= 1 {
            assert!(all.topics.iter().any(|topic| topic.name == Some(name(TOPIC))), "v{version}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_created_for_whoever_asks_unless_it_says_no() {
    let (_house, mut client, _) = with_topic().await;
    let ask = |text, create| {
        MetadataRequest::default()
            .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(name(text)))]))
            .with_allow_auto_topic_creation(create)
    };
    let no = client.call(&ask("fresh", false), 12).await;
    assert_eq!(no.topics[0].error_code, Kafka::UnknownTopicOrPartition.code());
    let yes = client.call(&ask("fresh", true), 12).await;
    assert_eq!((yes.topics[0].error_code, yes.topics[0].partitions.len()), (0, 1));
    let bad = client.call(&ask("what a name", true), 12).await;
    assert_eq!(bad.topics[0].error_code, Kafka::InvalidTopicException.code());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_told_by_its_id_whatever_the_name_says() {
    let (_house, mut client, _) = with_topic().await;
    let all = client.call(&MetadataRequest::default().with_topics(None), 12).await;
    let id = all.topics.iter().find(|topic| topic.name == Some(name(TOPIC))).unwrap().topic_id;
    for empty in [None, Some(name(""))] {
        let asked = MetadataRequestTopic::default().with_name(empty).with_topic_id(id);
        let told = client.call(&MetadataRequest::default().with_topics(Some(vec![asked])), 12).await;
        assert_eq!((told.topics[0].error_code, &told.topics[0].name), (0, &Some(name(TOPIC))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_after_the_last_field_are_ignored() {
    let (_house, mut client, _) = with_topic().await;
    let mut bytes = BytesMut::from(&frame(&MetadataRequest::default().with_topics(None), 12, 1)[..]);
    bytes.extend_from_slice(&[1, 0, 0]);
    let length = bytes.len() as i32 - 4;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    client.stream.write_all(&bytes).await.unwrap();
    assert!(client.answer::<MetadataRequest>(1, 12).await.topics.iter().any(|topic| topic.name == Some(name(TOPIC))));
}

#[tokio::test(flavor = "multi_thread")]
async fn produce_requests_are_pipelined_and_answered_in_order() {
    let (_house, mut client, _) = with_topic().await;
    let mut sent = Vec::new();
    for number in 0..200 {
        let acks = [1, -1][number % 2];
        sent.push(client.send(&produce(batch(&number.to_string()), acks, None), 9).await);
    }
    let last = client.send(&MetadataRequest::default(), 9).await;
    for (offset, id) in sent.into_iter().enumerate() {
        let answer = client.answer::<ProduceRequest>(id, 9).await;
        assert_eq!(answer.responses[0].partition_responses[0].base_offset, offset as i64);
    }
    client.answer::<MetadataRequest>(last, 9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_fetch_wakes_when_records_come() {
    let (house, mut client, _) = with_topic().await;
    let waiting = client.send(&fetch(0, 30_000, None), 11).await;
    let mut producer = house.client().await;
    producer.call(&produce(batch("news"), -1, None), 9).await;
    let answer = client.answer::<FetchRequest>(waiting, 11).await;
    assert!(answer.responses[0].partitions[0].records.as_ref().is_some_and(|records| !records.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_cancels_its_long_poll() {
    let (house, mut client, _) = with_topic().await;
    client.send(&fetch(0, 600_000, None), 11).await;
    drop(client);
    tokio::time::timeout(Duration::from_secs(20), async {
        while house.front.metrics.connections.get() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the connection ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_batches_have_their_codes_and_hurt_nobody_else() {
    let (_house, mut client, _) = with_topic().await;
    let mut damaged = BytesMut::from(&batch("x")[..]);
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let mut old = BytesMut::from(&batch("x")[..]);
    old[16] = 1;
    let sequence = |base| BatchBuilder::new().producer(1, 0, base).key_value(now_ms(), "k", "v").build();
    let cases = [
        (damaged.freeze(), Kafka::CorruptMessage.code()),
        (old.freeze(), Kafka::UnsupportedForMessageFormat.code()),
        (Bytes::new(), Kafka::InvalidRecord.code()),
        (Bytes::from([batch("a"), batch("b")].concat()), Kafka::InvalidRecord.code()),
        (Bytes::from(vec![0; 20]), Kafka::CorruptMessage.code()),
        (build_batch(&[(None, Some(vec![0; 2_000_000].into()))], now_ms()), Kafka::MessageTooLarge.code()),
        (build_batch(&[(None, None)], i64::MAX / 2), Kafka::InvalidTimestamp.code()),
        (BatchBuilder::new().control().key_value(0, "k", "v").build(), Kafka::InvalidRecord.code()),
        (sequence(0), 0),
        (sequence(5), Kafka::OutOfOrderSequenceNumber.code()),
        (batch("fine"), 0),
    ];
    for (records, code) in cases {
        let code = if records.len() == 20 { Kafka::UnsupportedForMessageFormat.code() } else { code };
        for version in [3, 9, 12] {
            let retry = code == 0 && version > 3;
            if retry && crate::protocol::batch::BatchHeader::decode(&records).unwrap().has_producer_id() {
                continue;
            }
            let answer = client.call(&produce(records.clone(), -1, None), version).await;
            let partition = &answer.responses[0].partition_responses[0];
            assert_eq!(partition.error_code, code, "v{version}: {:?}", partition.error_message);
        }
    }
}

/// Versions 0 to 2, by hand: acks, timeout, one topic, one partition, a message set.
fn legacy_produce(version: i16, records: &[u8]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_i32(0);
    body.put_i16(0);
    body.put_i16(version);
    body.put_i32(5);
    body.put_i16(-1);
    body.put_i16(-1);
    body.put_i32(1_000);
    body.put_i32(1);
    body.put_i16(TOPIC.len() as i16);
    body.put_slice(TOPIC.as_bytes());
    body.put_i32(1);
    body.put_i32(0);
    body.put_i32(records.len() as i32);
    body.put_slice(records);
    let length = body.len() as u32 - 4;
    body[..4].copy_from_slice(&length.to_be_bytes());
    body.freeze()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_produce_versions_get_an_answer_that_they_understand() {
    let (_house, mut client, _) = with_topic().await;
    for version in 0..3_i16 {
        let mut old = BytesMut::from(&batch("x")[..]);
        old[16] = version.min(1) as u8;
        for (records, code) in [(old.freeze(), Kafka::UnsupportedForMessageFormat.code()), (batch("new"), 0)] {
            client.stream.write_all(&legacy_produce(version, &records)).await.unwrap();
            let answer = client.frame().await.unwrap();
            // Correlation id, one topic, its name, one partition, its index; then the code and the base offset.
            let at = 4 + 4 + 2 + TOPIC.len() + 4 + 4;
            assert_eq!(i16::from_be_bytes(answer[at..at + 2].try_into().unwrap()), code, "v{version}");
            let behind = [0, 4, 12][version as usize];
            assert_eq!(answer.len(), at + 2 + 8 + behind, "v{version}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_version_of_api_versions_is_answered_in_version_0() {
    let (_house, mut client, _) = with_topic().await;
    let id = {
        let mut bytes = BytesMut::from(&frame(&ApiVersionsRequest::default(), 3, 9)[..]);
        bytes[6..8].copy_from_slice(&99_i16.to_be_bytes());
        client.stream.write_all(&bytes).await.unwrap();
        9
    };
    let answer = client.answer::<ApiVersionsRequest>(id, 0).await;
    assert_eq!(answer.error_code, Kafka::UnsupportedVersion.code());
    assert_eq!(answer.api_keys[0].api_key, ApiVersionsRequest::KEY);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_kafka_is_closed_and_http_is_told_why() {
    let (house, _client, _) = with_topic().await;
    let mut browser = house.client().await.stream;
    browser.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut text = String::new();
    browser.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 400") && text.contains("Kafka"), "{text}");

    let hostile: [&[u8]; 6] = [
        &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01],
        &i32::MAX.to_be_bytes(),
        &(-1_i32).to_be_bytes(),
        // An unknown API; a known one with an unknown version; a request cut short in its header.
        &[0, 0, 0, 10, 0x7f, 0x7f, 0, 0, 0, 0, 0, 1, 0xff, 0xff],
        &[0, 0, 0, 10, 0, 3, 0x7f, 0, 0, 0, 0, 1, 0xff, 0xff],
        &[0, 0, 0, 3, 0, 3, 0],
    ];
    for bytes in hostile {
        let mut client = house.client().await;
        client.stream.write_all(bytes).await.unwrap();
        assert_eq!(client.frame().await, None, "{bytes:?}");
    }
    // A body whose array would need two thousand million elements.
    let mut client = house.client().await;
    let mut bytes = BytesMut::from(&frame(&MetadataRequest::default().with_topics(Some(Vec::new())), 1, 3)[..]);
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&i32::MAX.to_be_bytes());
    client.stream.write_all(&bytes).await.unwrap();
    assert_eq!(client.frame().await, None);
    // Nobody else noticed.
    house.client().await.call(&MetadataRequest::default(), 9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unacknowledged_produce_that_fails_closes_the_connection() {
    let (_house, mut client, _) = with_topic().await;
    client.send(&produce(batch("fine"), 0, None), 9).await;
    client.call(&MetadataRequest::default(), 9).await;
    client.send(&produce(Bytes::new(), 0, None), 9).await;
    assert_eq!(client.frame().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_the_limit_are_closed() {
    let house = house(KafkaSettings { max_connections: 1, ..KafkaSettings::default() }).await;
    let mut first = house.client().await;
    first.call(&ApiVersionsRequest::default(), 0).await;
    let mut second = house.client().await;
    assert_eq!(second.frame().await, None);
    first.call(&ApiVersionsRequest::default(), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_address_over_its_limit_are_closed() {
    let house = house(KafkaSettings { max_connections_per_ip: 1, ..KafkaSettings::default() }).await;
    let mut first = house.client().await;
    first.call(&ApiVersionsRequest::default(), 0).await;
    let mut second = house.client().await;
    assert_eq!(second.frame().await, None);
    first.call(&ApiVersionsRequest::default(), 0).await;
    let refused = CloseLabels { reason: "max_connections_per_ip" };
    assert_eq!(house.front.metrics.refused.get_or_create(&refused).get(), 1);
    // Another address of this machine has room of its own, and the first gets its room back.
    let mut other = house.client_from([127, 0, 0, 2].into()).await;
    other.call(&ApiVersionsRequest::default(), 0).await;
    drop(first);
    let request = frame(&ApiVersionsRequest::default(), 0, 1);
    loop {
        let mut third = house.client().await;
        if third.stream.write_all(&request).await.is_ok() && third.frame().await.is_some() {
            break;
        }
    }
}
