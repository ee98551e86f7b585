#![allow(clippy::unwrap_used)]

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, Message, StrBytes};
use proptest::prelude::*;

use super::*;

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn topic() -> TopicName {
    TopicName(text("a-topic"))
}

/// Every version that encodes is walked to its end, exactly; one byte less is refused, one more is nobody's.
fn walks<T: Encodable + Decodable + Message>(api: ApiKey, requests: &[T]) {
    let mut walked = 0;
    for version in T::VERSIONS.min..=T::VERSIONS.max {
        for request in requests {
            let mut bytes = BytesMut::new();
            if request.encode(&mut bytes, version).is_err() {
                // A field that this version lacks.
                continue;
            }
            assert_eq!(walk(api, version, &bytes), Ok(0), "{api:?} v{version}");
            assert!(check(api, version, &bytes[..bytes.len() - 1]).is_err(), "{api:?} v{version}, cut short");
            bytes.put_u8(0);
            assert_eq!(walk(api, version, &bytes), Ok(1), "{api:?} v{version}, too long");
            assert_eq!(check(api, version, &bytes), Ok(()), "{api:?} v{version}, too long");
            walked += 1;
        }
    }
    assert!(walked > i32::from(T::VERSIONS.max - T::VERSIONS.min), "{api:?}: only {walked} walked");
}

#[test]
fn requests_without_elements_are_walked_in_every_version() {
    macro_rules! all {
        ($($api:ident $request:ident),* $(,)?) => { $( walks(ApiKey::$api, &[$request::default()]); )* };
    }
    all!(
        Produce ProduceRequest, Fetch FetchRequest, ListOffsets ListOffsetsRequest, Metadata MetadataRequest,
        OffsetCommit OffsetCommitRequest, FindCoordinator FindCoordinatorRequest,
        JoinGroup JoinGroupRequest, Heartbeat HeartbeatRequest, SyncGroup SyncGroupRequest,
        DescribeGroups DescribeGroupsRequest, DeleteGroups DeleteGroupsRequest, OffsetDelete OffsetDeleteRequest,
        CreateTopics CreateTopicsRequest, DeleteTopics DeleteTopicsRequest, DeleteRecords DeleteRecordsRequest,
        CreatePartitions CreatePartitionsRequest, InitProducerId InitProducerIdRequest,
        OffsetForLeaderEpoch OffsetForLeaderEpochRequest, DescribeConfigs DescribeConfigsRequest,
        AlterConfigs AlterConfigsRequest, IncrementalAlterConfigs IncrementalAlterConfigsRequest,
        DescribeCluster DescribeClusterRequest, DescribeProducers DescribeProducersRequest,
        DescribeLogDirs DescribeLogDirsRequest, DescribeTopicPartitions DescribeTopicPartitionsRequest,
        LeaveGroup LeaveGroupRequest, OffsetFetch OffsetFetchRequest,
    );
}

#[test]
fn requests_with_elements_are_walked_in_every_version() {
    let data = PartitionProduceData::default().with_index(3).with_records(Some(Bytes::from_static(b"records")));
    let by_name = TopicProduceData::default().with_name(topic()).with_partition_data(vec![data.clone(), data.clone()]);
    let by_id = TopicProduceData::default().with_topic_id(uuid::Uuid::from_u128(7)).with_partition_data(vec![data]);
    walks(
        ApiKey::Produce,
        &[
            ProduceRequest::default().with_acks(-1).with_timeout_ms(9).with_topic_data(vec![by_name]),
            ProduceRequest::default().with_topic_data(vec![by_id]),
        ],
    );

    let partition = FetchPartition::default().with_partition(1).with_fetch_offset(5).with_partition_max_bytes(9);
    let fetch = |topic: FetchTopic| FetchRequest::default().with_topics(vec![topic.clone(), topic]);
    walks(
        ApiKey::Fetch,
        &[
            fetch(FetchTopic::default().with_topic(topic()).with_partitions(vec![partition.clone()])),
            fetch(FetchTopic::default().with_topic_id(uuid::Uuid::from_u128(7)).with_partitions(vec![partition]))
                .with_cluster_id(Some(text("tagged"))),
            FetchRequest::default().with_forgotten_topics_data(vec![
                ForgottenTopic::default().with_topic(topic()).with_partitions(vec![1, 2, 3]),
            ]),
            FetchRequest::default(),
        ],
    );

    walks(
        ApiKey::CreateTopics,
        &[CreateTopicsRequest::default().with_topics(vec![
            CreatableTopic::default()
                .with_name(topic())
                .with_assignments(vec![
                    CreatableReplicaAssignment::default().with_broker_ids(vec![BrokerId(1), BrokerId(2)]),
                ])
                .with_configs(vec![CreatableTopicConfig::default().with_name(text("k")).with_value(None)]),
        ])],
    );
    walks(
        ApiKey::Metadata,
        &[
            MetadataRequest::default()
                .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(topic())); 3])),
            MetadataRequest::default().with_topics(Some(Vec::new())),
        ],
    );
    let cursor = describe_topic_partitions_request::Cursor::default().with_topic_name(topic());
    walks(
        ApiKey::DescribeTopicPartitions,
        &[DescribeTopicPartitionsRequest::default()
            .with_cursor(Some(cursor))
            .with_topics(vec![describe_topic_partitions_request::TopicRequest::default().with_name(topic())])],
    );
}

#[test]
fn a_hostile_array_length_is_refused_before_anything_is_allocated() {
    // Metadata v1: an array of 2^31-1 topics in four bytes.
    assert_eq!(check(ApiKey::Metadata, 1, &i32::MAX.to_be_bytes()), Err(ShapeError::PastEnd));
    assert_eq!(check(ApiKey::Metadata, 1, &(-2_i32).to_be_bytes()), Err(ShapeError::BadLength));
    // Metadata v9: the same, compact.
    assert_eq!(check(ApiKey::Metadata, 9, &[0xff, 0xff, 0xff, 0xff, 0x0f]), Err(ShapeError::PastEnd));
    // As many as the bytes allow, and still too many.
    let mut many = BytesMut::new();
    let count = MAX_ELEMENTS + 1;
    many.put_u32(count as u32);
    many.resize(4 + 2 * count, 0);
    assert_eq!(check(ApiKey::Metadata, 1, &many), Err(ShapeError::TooManyElements));
}

proptest! {
    #[test]
    fn what_passes_decodes_or_fails_without_a_panic(
        at in 0_usize..super::table::SHAPES.len(), version in 0_i16..14, bytes in prop::collection::vec(0_u8..8, 0..80),
    ) {
        let api = super::table::SHAPES[at].api;
        if check(api, version, &bytes).is_ok() && version <= 9 {
            let mut body = Bytes::from(bytes);
            match api {
                ApiKey::Produce => drop(ProduceRequest::decode(&mut body, version)),
                ApiKey::Fetch => drop(FetchRequest::decode(&mut body, version)),
                ApiKey::Metadata => drop(MetadataRequest::decode(&mut body, version)),
                ApiKey::JoinGroup => drop(JoinGroupRequest::decode(&mut body, version)),
                ApiKey::CreateTopics => drop(CreateTopicsRequest::decode(&mut body, version)),
                _ => {}
            }
        }
    }

    #[test]
    fn damaged_requests_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)) {
        let partition = FetchPartition::default().with_partition(1);
        let request = FetchRequest::default()
            .with_topics(vec![FetchTopic::default().with_topic(topic()).with_partitions(vec![partition; 3])]);
        for version in 4..=12 {
            let mut bytes = BytesMut::new();
            request.encode(&mut bytes, version).unwrap();
            for (at, value) in &flips {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            if check(ApiKey::Fetch, version, &bytes).is_ok() {
                let _ = FetchRequest::decode(&mut bytes.freeze(), version);
            }
        }
    }
}
