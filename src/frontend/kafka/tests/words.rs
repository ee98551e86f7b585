//! Parts without a socket: the fetch reply's bytes, fetch sessions, the table.

use bytes::Bytes;
use kafka_protocol::error::ResponseError as Kafka;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{ApiKey, BrokerId, FetchRequest, FetchResponse, ResponseHeader, TopicName};
use kafka_protocol::protocol::{Decodable, StrBytes};
use proptest::prelude::*;
use uuid::Uuid;

use crate::base::Rng;
use crate::frontend::kafka::call::Call;
use crate::frontend::kafka::endpoints::Endpoint;
use crate::frontend::kafka::fetch_reply::{PartitionReply, TopicReply, encode};
use crate::frontend::kafka::fetch_session::{Context, FetchSessions, Told};
use crate::frontend::kafka::versions;
use crate::partition::AbortedTxn;

fn call(version: i16) -> Call {
    Call { api: ApiKey::Fetch, version, correlation_id: 77, client_id: None, body: Bytes::new() }
}

fn partition() -> impl Strategy<Value = PartitionReply> {
    let batches = prop::collection::vec((0_usize..4000).prop_map(|length| Bytes::from(vec![7; length])), 0..4);
    let txn = (0_i64..9, 0_i64..9).prop_map(|(producer_id, first_offset)| AbortedTxn {
        producer_id,
        first_offset,
        last_offset: 10,
    });
    let leader = prop::option::of((0_i32..9, 0_i32..9));
    (0_i32..9, prop::option::of(prop::collection::vec(txn, 0..3)), batches, leader).prop_map(
        |(index, aborted, batches, current_leader)| PartitionReply {
            index,
            error_code: 3,
            high_watermark: 44,
            last_stable: 33,
            log_start: 22,
            aborted,
            batches,
            current_leader,
        },
    )
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (0_i32..9, "[a-z.]{1,200}", 0_i32..65_536, prop::option::of("[a-z]{0,9}")).prop_map(|(id, host, port, rack)| {
        let rack = rack.map(StrBytes::from_string);
        Endpoint { node_id: BrokerId(id), host: StrBytes::from_string(host), port, rack }
    })
}

proptest! {
    #[test]
    fn every_version_of_a_fetch_reply_decodes_to_what_was_meant(
        topics in prop::collection::vec(prop::collection::vec(partition(), 0..4), 0..3),
        leaders in prop::collection::vec(endpoint(), 0..4),
    ) {
        for version in 4..=17 {
            let replies: Vec<TopicReply> = topics.iter().map(|partitions| TopicReply {
                name: StrBytes::from_static_str("a-topic"), id: Uuid::from_u128(9), partitions: partitions.clone(),
            }).collect();
            let whole = encode(&call(version), 5, 6, replies, &leaders).unwrap().concat();
            prop_assert_eq!(u32::from_be_bytes(whole[..4].try_into().unwrap()) as usize, whole.len() - 4);
            let mut frame = whole.slice(4..);
            let header = ResponseHeader::decode(&mut frame, ApiKey::Fetch.response_header_version(version)).unwrap();
            prop_assert_eq!(header.correlation_id, 77);
            let response = FetchResponse::decode(&mut frame, version).unwrap();
            prop_assert!(frame.is_empty());
            if version >= 7 {
                prop_assert_eq!((response.error_code, response.session_id), (5, 6));
            }
            prop_assert_eq!(response.responses.len(), topics.len());
            for (got, want) in response.responses.iter().zip(&topics) {
                if version >= 13 {
                    prop_assert_eq!(got.topic_id, Uuid::from_u128(9));
                } else {
                    prop_assert_eq!(got.topic.as_str(), "a-topic");
                }
                prop_assert_eq!(got.partitions.len(), want.len());
                for (got, want) in got.partitions.iter().zip(want) {
                    prop_assert_eq!(got.partition_index, want.index);
                    prop_assert_eq!(got.high_watermark, 44);
                    prop_assert_eq!(got.last_stable_offset, 33);
                    prop_assert_eq!(got.log_start_offset, if version >= 5 { 22 } else { -1 });
                    prop_assert_eq!(got.aborted_transactions.as_ref().map(Vec::len), want.aborted.as_ref().map(Vec::len));
                    let records = Bytes::from(want.batches.concat());
                    prop_assert_eq!(got.records.clone().unwrap_or_default(), records);
                    let leader = want.current_leader.filter(|_| version >= 16).unwrap_or((-1, -1));
                    prop_assert_eq!((got.current_leader.leader_id.0, got.current_leader.leader_epoch), leader);
                }
            }
            let named = response.node_endpoints.into_iter();
            let named: Vec<Endpoint> = named
                .map(|node| Endpoint { node_id: node.node_id, host: node.host, port: node.port, rack: node.rack })
                .collect();
            prop_assert_eq!(&named[..], if version >= 16 { &leaders[..] } else { &[] });
        }
    }
}

fn request(id: i32, epoch: i32, partitions: &[(i32, i64)]) -> FetchRequest {
    let partitions = partitions.iter().map(|(index, offset)| {
        FetchPartition::default().with_partition(*index).with_fetch_offset(*offset).with_partition_max_bytes(100)
    });
    let topic = FetchTopic::default()
        .with_topic(TopicName(StrBytes::from_static_str("t")))
        .with_partitions(partitions.collect::<Vec<_>>());
    let topics = if topic.partitions.is_empty() { Vec::new() } else { vec![topic] };
    FetchRequest::default().with_session_id(id).with_session_epoch(epoch).with_topics(topics)
}

fn told(records_bytes: usize, high_watermark: i64) -> Told {
    Told { records_bytes, error_code: 0, high_watermark, log_start: 0 }
}

#[test]
fn a_session_remembers_partitions_and_tells_only_news() {
    let (sessions, rng) = (FetchSessions::new(2), Rng::seeded(3));
    let (context, wanted) = sessions.begin(&request(0, 0, &[(0, 5), (1, 6)]), 12, 0).unwrap();
    assert_eq!((context, wanted.len()), (Context::New, 2));
    let (id, named) = sessions.finish(context, &wanted, &[told(0, 9), told(0, 9)], 0, &rng);
    assert_ne!(id, 0);
    assert_eq!(named, [true, true]);

    // Nothing new: nothing named.
    let (context, wanted) = sessions.begin(&request(id, 1, &[]), 12, 1).unwrap();
    assert_eq!(wanted.iter().map(|wanted| wanted.offset).collect::<Vec<_>>(), [5, 6]);
    assert_eq!(sessions.finish(context, &wanted, &[told(0, 9), told(0, 9)], 1, &rng), (id, vec![false, false]));

    // Records move a partition behind the others; a new high watermark is news.
    let (context, wanted) = sessions.begin(&request(id, 2, &[(0, 7)]), 12, 2).unwrap();
    assert_eq!(wanted[0].offset, 7);
    assert_eq!(sessions.finish(context, &wanted, &[told(50, 9), told(0, 10)], 2, &rng), (id, vec![true, true]));
    let (_, wanted) = sessions.begin(&request(id, 3, &[]), 12, 3).unwrap();
    assert_eq!(wanted.iter().map(|wanted| wanted.partition).collect::<Vec<_>>(), [1, 0]);

    // A wrong epoch, a wrong id, names where ids were promised.
    assert_eq!(sessions.begin(&request(id, 9, &[]), 12, 4).unwrap_err(), Kafka::InvalidFetchSessionEpoch);
    assert_eq!(sessions.begin(&request(id ^ 1, 4, &[]), 12, 4).unwrap_err(), Kafka::FetchSessionIdNotFound);
    assert_eq!(sessions.begin(&request(id, 4, &[]), 13, 4).unwrap_err(), Kafka::FetchSessionTopicIdError);

    // The end of the session.
    let (context, _) = sessions.begin(&request(id, -1, &[(0, 1)]), 12, 5).unwrap();
    assert_eq!(context, Context::Full);
    assert_eq!(sessions.size(), (0, 0));
}

#[test]
fn at_the_limit_only_rested_sessions_give_way() {
    let (sessions, rng) = (FetchSessions::new(1), Rng::seeded(3));
    let open = |now_ms| {
        let (context, wanted) = sessions.begin(&request(0, 0, &[(0, 5)]), 12, now_ms).unwrap();
        sessions.finish(context, &wanted, &[told(0, 1)], now_ms, &rng).0
    };
    let first = open(0);
    assert_ne!(first, 0);
    assert_eq!(open(60_000), 0);
    let second = open(130_000);
    assert_ne!(second, 0);
    assert!(sessions.begin(&request(first, 1, &[]), 12, 130_000).is_err());
    assert_eq!(sessions.size(), (1, 1));
}

#[test]
fn the_table_is_in_order_and_within_what_the_codec_knows() {
    for pair in versions::APIS.windows(2) {
        assert!((pair[0].key as i16) < (pair[1].key as i16), "{:?} is out of order", pair[1].key);
    }
    for api in versions::APIS {
        let codec = api.key.valid_versions();
        assert!(api.max <= codec.max, "{:?}", api.key);
        assert!(api.min >= codec.min || api.key == ApiKey::Produce, "{:?}", api.key);
        assert_eq!(format!("{:?}", api.key), api.name);
    }
    assert!(versions::find(18, 99).is_err() && versions::find(-1, 0).is_err() && versions::find(9999, 0).is_err());
}
