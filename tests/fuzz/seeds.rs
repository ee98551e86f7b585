//! Valid inputs of every target.

use bytes::{Bytes, BytesMut};
use esker::base::{SessionId, TopicPartition};
use esker::format::checkpoint;
use esker::format::entry::Entry;
use esker::format::frame::{FrameKind, put_frame};
use esker::format::prelude::{ObjectKind, Prelude};
use esker::format::state::{AbortedTxn, EpochStart, ObjectRef, PartitionState, ProducerBatch, ProducerState, Run};
use esker::protocol::batch::header::assign;
use esker::protocol::batch::{BatchBuilder, Compression, NewRecord};
use esker::wal::scan;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiKey, FetchRequest, GroupId, JoinGroupRequest, ProduceRequest, RequestHeader, RequestKind, TopicName,
};
use kafka_protocol::protocol::{Encodable, StrBytes};
use uuid::Uuid;

/// The valid inputs of a target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "wire" => frames(),
        "segment" => vec![segment()],
        "write_ahead" => vec![write_ahead(), segment()],
        "checkpoint" => vec![checkpoint_of(0), checkpoint_of(1), checkpoint_of(3)],
        "batch" => batches().iter().map(|batch| batch.to_vec()).collect(),
        other => panic!("no inputs for the target '{other}'"),
    }
}

fn partition(number: i32) -> TopicPartition {
    TopicPartition::new(Uuid::from_u128(7), number)
}

const SESSION: SessionId = SessionId { broker_id: 1, epoch: 9 };

fn prelude(kind: ObjectKind) -> Prelude {
    Prelude { kind, object_id: Uuid::from_u128(3), session: SESSION, seq: 4 }
}

fn batches() -> Vec<Bytes> {
    let record = NewRecord {
        timestamp: 1_700_000_000_000,
        key: Some("key".into()),
        value: Some("value".repeat(5).into()),
        headers: vec![("header".into(), Some("1".into())), ("empty".into(), None)],
    };
    let tombstone = NewRecord { value: None, headers: Vec::new(), ..record.clone() };
    let codecs = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    let mut all = Vec::new();
    for codec in codecs {
        let builder = BatchBuilder::new().compression(codec).record(record.clone()).record(tombstone.clone());
        all.push(builder.clone().producer(5, 1, 3).build());
        all.push(builder.build());
    }
    all
}

fn state(seed: i64) -> PartitionState {
    let object = ObjectRef::Segment { session: SESSION, seq: seed as u64 };
    let run = |first: i64| Run {
        first_offset: first,
        next_offset: first + 5,
        max_timestamp: 1_700_000_000_000 + seed,
        object,
        position: 64,
        length: 900,
        batch_bytes: 800,
    };
    let sent = ProducerBatch { first_sequence: 0, last_sequence: 4, last_offset: 9, timestamp: 17 };
    let producer = ProducerState {
        epoch: 1,
        coordinator_epoch: -1,
        txn_first_offset: (seed % 2 == 0).then_some(6),
        last_append_ms: 1_700_000_000_000,
        batches: [sent].into(),
    };
    PartitionState {
        leader_epoch: 3,
        log_start: 0,
        next_offset: 10,
        epochs: vec![EpochStart { epoch: 0, start_offset: 0 }, EpochStart { epoch: 3, start_offset: 5 }],
        runs: [run(0), run(5)].into(),
        producers: [(5, producer)].into(),
        aborted: [AbortedTxn { producer_id: 5, first_offset: 1, last_offset: 3 }].into(),
    }
}

fn checkpoint_of(partitions: i32) -> Vec<u8> {
    let states: Vec<_> = (0..partitions).map(|number| (partition(number), state(i64::from(number)))).collect();
    let states = states.iter().map(|(partition, state)| (*partition, state));
    checkpoint::encode(&prelude(ObjectKind::Checkpoint), states).to_vec()
}

fn write_ahead() -> Vec<u8> {
    let mut file = BytesMut::from(&prelude(ObjectKind::Segment).encode()[..]);
    let mut put = |number, entry: &Entry| {
        put_frame(&mut file, entry.kind(), partition(number), 1_700_000_000_000, &entry.encode_control());
    };
    put(0, &Entry::Acquired(Box::new(state(1))));
    put(1, &Entry::LogStartMoved { log_start: 3 });
    put(1, &Entry::ProducersExpired { up_to_ms: 17 });
    put(2, &Entry::Dropped);
    put(1, &Entry::Released(Box::new(state(2))));
    for (number, batch) in batches().iter().enumerate() {
        let mut batch = batch.to_vec();
        assign(&mut batch, 10 + 2 * number as i64, 3);
        put_frame(&mut file, FrameKind::Batch, partition(0), 1_700_000_000_000, &batch);
    }
    file.to_vec()
}

fn segment() -> Vec<u8> {
    let (_, chunks) = scan(write_ahead().into()).unwrap();
    chunks.unwrap().concat()
}

/// Every API in every version with its fields at their defaults, and three with content.
fn frames() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for api in ApiKey::iter() {
        let range = api.valid_versions();
        for version in range.min..=range.max {
            // A body of zeros is a request without elements in nearly every API.
            let mut frame = header(api, version);
            frame.extend([0; 24]);
            all.push(frame);
        }
    }
    let name = TopicName(StrBytes::from_static_str("topic"));
    let data = PartitionProduceData::default().with_index(0).with_records(Some(batches()[0].clone()));
    let topic = TopicProduceData::default().with_name(name.clone()).with_partition_data(vec![data]);
    let produce = ProduceRequest::default().with_acks(-1).with_timeout_ms(1000).with_topic_data(vec![topic]);
    let wanted = FetchPartition::default().with_partition(1).with_fetch_offset(3).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic(name).with_partitions(vec![wanted]);
    let fetch = FetchRequest::default().with_max_bytes(1 << 20).with_topics(vec![topic]);
    let assignor = JoinGroupRequestProtocol::default()
        .with_name(StrBytes::from_static_str("range"))
        .with_metadata(Bytes::from_static(b"metadata"));
    let join = JoinGroupRequest::default()
        .with_group_id(GroupId(StrBytes::from_static_str("group")))
        .with_protocol_type(StrBytes::from_static_str("consumer"))
        .with_protocols(vec![assignor]);
    for (api, version, request) in [
        (ApiKey::Produce, 3, RequestKind::Produce(produce.clone())),
        (ApiKey::Produce, 9, RequestKind::Produce(produce)),
        (ApiKey::Fetch, 4, RequestKind::Fetch(fetch.clone())),
        (ApiKey::Fetch, 12, RequestKind::Fetch(fetch)),
        (ApiKey::JoinGroup, 2, RequestKind::JoinGroup(join.clone())),
        (ApiKey::JoinGroup, 9, RequestKind::JoinGroup(join)),
    ] {
        let mut body = BytesMut::new();
        request.encode(&mut body, version).unwrap();
        let mut frame = header(api, version);
        frame.extend(body);
        all.push(frame);
    }
    all
}

fn header(api: ApiKey, version: i16) -> Vec<u8> {
    let header = RequestHeader::default()
        .with_request_api_key(api as i16)
        .with_request_api_version(version)
        .with_correlation_id(5)
        .with_client_id(Some(StrBytes::from_static_str("client")));
    let mut frame = BytesMut::new();
    header.encode(&mut frame, api.request_header_version(version)).unwrap();
    frame.to_vec()
}
