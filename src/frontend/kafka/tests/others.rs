//! A broker that is one of several: what it says of partitions, groups and brokers that are not its own.

use kafka_protocol::error::ResponseError as Kafka;
use kafka_protocol::messages::alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::describe_producers_request::TopicRequest as ProducersOf;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::house::{Client, House, house, versions};
use crate::cluster::{CONSUMER_OFFSETS, Registration};
use crate::config::KafkaSettings;
use crate::protocol::batch::build_batch;

const TOPIC: &str = "greetings";
/// Node id of the broker that leads [`AWAY`].
const OTHER: i32 = 7;
/// A partition that is led here, and one that is not.
const HERE: i32 = 0;
const AWAY: i32 = 1;

fn name(text: &'static str) -> TopicName {
    TopicName(StrBytes::from_static_str(text))
}

fn group(text: &str) -> GroupId {
    GroupId(StrBytes::from_string(text.to_owned()))
}

/// A house and a neighbour to whom one of the topic's two partitions was moved.
struct Street {
    house: House,
    client: Client,
    neighbour: Registration,
    topic_id: Uuid,
}

async fn street() -> Street {
    let house = house(KafkaSettings::default()).await;
    let mut client = house.client().await;
    let topic = CreatableTopic::default().with_name(name(TOPIC)).with_num_partitions(2).with_replication_factor(1);
    let created = client.call(&CreateTopicsRequest::default().with_topics(vec![topic]), 7).await;
    let topic_id = created.topics[0].topic_id;
    let neighbour = house.neighbour(OTHER, "other.example", Some("zone-b")).await;
    house.give(TOPIC, AWAY, neighbour.session()).await;
    Street { house, client, neighbour, topic_id }
}

fn produce(acks: i16, version: i16, id: Uuid) -> ProduceRequest {
    let batch = build_batch(&[(None, Some("hello".into()))], crate::base::Clock::system().wall_ms());
    let data =
        [HERE, AWAY].map(|index| PartitionProduceData::default().with_index(index).with_records(Some(batch.clone())));
    let topic = TopicProduceData::default().with_partition_data(data.to_vec());
    let topic = if version >= 13 { topic.with_topic_id(id) } else { topic.with_name(name(TOPIC)) };
    ProduceRequest::default().with_acks(acks).with_timeout_ms(5_000).with_topic_data(vec![topic])
}

fn fetch(version: i16, id: Uuid, leader_epoch: i32) -> FetchRequest {
    let partitions = [HERE, AWAY].map(|index| {
        FetchPartition::default()
            .with_partition(index)
            .with_partition_max_bytes(1 << 20)
            .with_current_leader_epoch(leader_epoch)
    });
    let topic = FetchTopic::default().with_partitions(partitions.to_vec());
    let topic = if version >= 13 { topic.with_topic_id(id) } else { topic.with_topic(name(TOPIC)) };
    FetchRequest::default().with_session_epoch(-1).with_max_wait_ms(60_000).with_min_bytes(1).with_topics(vec![topic])
}

const NOT_LEADER: i16 = Kafka::NotLeaderOrFollower.code();
const NOBODY: (i32, i32) = (-1, -1);

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_is_told_who_leads_instead() {
    let Street { house, mut client, neighbour, topic_id } = street().await;
    for version in versions::<ProduceRequest>() {
        let answer = client.call(&produce(-1, version, topic_id), version).await;
        let [here, away] = &answer.responses[0].partition_responses[..] else { panic!("{answer:?}") };
        assert_eq!((here.error_code, away.error_code), (0, NOT_LEADER), "v{version}");
        let leader = |answer: &produce_response::PartitionProduceResponse| {
            (answer.current_leader.leader_id.0, answer.current_leader.leader_epoch)
        };
        assert_eq!(leader(here), NOBODY, "v{version}");
        assert_eq!(leader(away), if version >= 10 { (OTHER, 1) } else { NOBODY }, "v{version}");
        if version < 10 {
            assert_eq!(answer.node_endpoints, [], "v{version}");
            continue;
        }
        let [node] = &answer.node_endpoints[..] else { panic!("v{version}: {answer:?}") };
        assert_eq!((node.node_id.0, &*node.host, node.port), (OTHER, "other.example", 9092), "v{version}");
        assert_eq!(node.rack.as_deref(), Some("zone-b"), "v{version}");
    }
    // A leader that is not alive is not named: there is nothing to connect to.
    neighbour.release().await.unwrap();
    house.caught_up().await;
    let answer = client.call(&produce(-1, 12, topic_id), 12).await;
    let away = &answer.responses[0].partition_responses[1];
    assert_eq!((away.error_code, away.current_leader.leader_id.0), (NOT_LEADER, -1));
    assert_eq!(answer.node_endpoints, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_told_who_leads_instead() {
    let Street { house, mut client, neighbour, topic_id } = street().await;
    client.call(&produce(-1, 12, topic_id), 12).await;
    for version in versions::<FetchRequest>() {
        let answer = client.call(&fetch(version, topic_id, -1), version).await;
        let [here, away] = &answer.responses[0].partitions[..] else { panic!("{answer:?}") };
        assert_eq!((here.error_code, away.error_code), (0, NOT_LEADER), "v{version}");
        let leader = (away.current_leader.leader_id.0, away.current_leader.leader_epoch);
        assert_eq!(leader, if version >= 16 { (OTHER, 1) } else { NOBODY }, "v{version}");
        assert_eq!(here.current_leader.leader_id.0, -1, "v{version}");
        let named: Vec<(i32, &str, i32, Option<&str>)> = answer
            .node_endpoints
            .iter()
            .map(|node| (node.node_id.0, &*node.host, node.port, node.rack.as_deref()))
            .collect();
        let other = (OTHER, "other.example", 9092, Some("zone-b"));
        assert_eq!(named, if version >= 16 { vec![other] } else { vec![] }, "v{version}");
    }
    neighbour.release().await.unwrap();
    house.caught_up().await;
    let answer = client.call(&fetch(17, topic_id, -1), 17).await;
    let away = &answer.responses[0].partitions[1];
    assert_eq!((away.error_code, away.current_leader.leader_id.0, answer.node_endpoints.len()), (NOT_LEADER, -1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_with_an_old_epoch_is_told_the_new_one() {
    let Street { house, mut client, topic_id, .. } = street().await;
    // There and back again: this broker leads it under epoch 2.
    house.give(TOPIC, AWAY, house.session).await;
    let answer = client.call(&fetch(16, topic_id, 0), 16).await;
    let [here, away] = &answer.responses[0].partitions[..] else { panic!("{answer:?}") };
    assert_eq!((here.error_code, away.error_code), (0, Kafka::FencedLeaderEpoch.code()));
    assert_eq!((away.current_leader.leader_id.0, away.current_leader.leader_epoch), (1, 2));
    assert_eq!(answer.node_endpoints.iter().map(|node| node.node_id.0).collect::<Vec<_>>(), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unacknowledged_produce_to_the_wrong_broker_closes_the_connection() {
    let Street { house, mut client, topic_id, .. } = street().await;
    client.send(&produce(0, 9, topic_id), 9).await;
    assert_eq!(client.frame().await, None, "the only way to say it");
    let mut client = house.client().await;
    let answer = client.call(&produce(1, 9, topic_id), 9).await;
    assert_eq!(answer.responses[0].partition_responses[0].base_offset, 1, "what is led here was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_about_a_partition_go_to_its_leader() {
    let Street { house: _house, mut client, .. } = street().await;
    let partitions = [HERE, AWAY].map(|index| {
        ListOffsetsPartition::default().with_partition_index(index).with_timestamp(-1).with_current_leader_epoch(-1)
    });
    let topic = ListOffsetsTopic::default().with_name(name(TOPIC)).with_partitions(partitions.to_vec());
    let answer = client.call(&ListOffsetsRequest::default().with_topics(vec![topic]), 9).await;
    let codes: Vec<i16> = answer.topics[0].partitions.iter().map(|partition| partition.error_code).collect();
    assert_eq!(codes, [0, NOT_LEADER], "ListOffsets");

    let partitions = [HERE, AWAY].map(|index| {
        OffsetForLeaderPartition::default().with_partition(index).with_current_leader_epoch(-1).with_leader_epoch(0)
    });
    let topic = OffsetForLeaderTopic::default().with_topic(name(TOPIC)).with_partitions(partitions.to_vec());
    let answer = client.call(&OffsetForLeaderEpochRequest::default().with_topics(vec![topic]), 4).await;
    let codes: Vec<i16> = answer.topics[0].partitions.iter().map(|partition| partition.error_code).collect();
    assert_eq!(codes, [0, NOT_LEADER], "OffsetForLeaderEpoch");

    let partitions =
        [HERE, AWAY].map(|index| DeleteRecordsPartition::default().with_partition_index(index).with_offset(0));
    let topic = DeleteRecordsTopic::default().with_name(name(TOPIC)).with_partitions(partitions.to_vec());
    let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(5_000);
    let answer = client.call(&request, 2).await;
    let codes: Vec<i16> = answer.topics[0].partitions.iter().map(|partition| partition.error_code).collect();
    assert_eq!(codes, [0, NOT_LEADER], "DeleteRecords");

    let topic = ProducersOf::default().with_name(name(TOPIC)).with_partition_indexes(vec![HERE, AWAY]);
    let answer = client.call(&DescribeProducersRequest::default().with_topics(vec![topic]), 0).await;
    let codes: Vec<i16> = answer.topics[0].partitions.iter().map(|partition| partition.error_code).collect();
    assert_eq!(codes, [0, NOT_LEADER], "DescribeProducers");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_is_shown_with_all_its_brokers_and_who_leads_what() {
    let Street { house, mut client, neighbour, .. } = street().await;
    let all = MetadataRequest::default().with_topics(None);
    let told = client.call(&all, 12).await;
    let brokers: Vec<(i32, &str, Option<&str>)> =
        told.brokers.iter().map(|broker| (broker.node_id.0, &*broker.host, broker.rack.as_deref())).collect();
    assert_eq!(brokers, [(1, "127.0.0.1", None), (OTHER, "other.example", Some("zone-b"))]);
    assert_eq!(told.controller_id.0, 1);
    let leaders = |told: &MetadataResponse| -> Vec<(i16, i32, i32, Vec<i32>)> {
        let topic = told.topics.iter().find(|topic| topic.name == Some(name(TOPIC))).unwrap();
        let ids = |ids: &[BrokerId]| ids.iter().map(|id| id.0).collect();
        let told = topic.partitions.iter().map(|partition| {
            let offline = ids(&partition.offline_replicas);
            (partition.error_code, partition.leader_id.0, partition.leader_epoch, offline)
        });
        told.collect()
    };
    assert_eq!(leaders(&told), [(0, 1, 0, vec![]), (0, OTHER, 1, vec![])]);
    let cluster = client.call(&DescribeClusterRequest::default().with_endpoint_type(1), 2).await;
    let brokers: Vec<(i32, Option<&str>)> =
        cluster.brokers.iter().map(|broker| (broker.broker_id.0, broker.rack.as_deref())).collect();
    assert_eq!((brokers, cluster.controller_id.0), (vec![(1, None), (OTHER, Some("zone-b"))], 1));

    neighbour.release().await.unwrap();
    house.caught_up().await;
    let told = client.call(&all, 12).await;
    assert_eq!(told.brokers.len(), 2, "clients are told of it for a moment more");
    let cluster = client.call(&DescribeClusterRequest::default().with_endpoint_type(1), 2).await;
    assert_eq!(cluster.brokers.len(), 1, "operators are not");
    let gone = Kafka::LeaderNotAvailable.code();
    assert_eq!(leaders(&told), [(0, 1, 0, vec![]), (gone, -1, 1, vec![OTHER])]);
    let request = DescribeTopicPartitionsRequest::default().with_response_partition_limit(10);
    let described = client.call(&request, 0).await;
    let away = &described.topics[0].partitions[AWAY as usize];
    assert_eq!((away.error_code, away.leader_id.0, away.leader_epoch), (0, -1, 1));
    assert_eq!(away.offline_replicas, [BrokerId(OTHER)]);
    // Back under a new session, which leads nothing yet: the partition is still not served.
    let back = house.neighbour(OTHER, "other.example", None).await;
    assert_eq!(leaders(&client.call(&all, 12).await)[1].1, -1);
    house.give(TOPIC, AWAY, back.session()).await;
    assert_eq!(leaders(&client.call(&all, 12).await)[1], (0, OTHER, 2, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_sent_to_their_coordinator() {
    let Street { house, mut client, neighbour, .. } = street().await;
    let find =
        |id: &str| FindCoordinatorRequest::default().with_coordinator_keys(vec![StrBytes::from_string(id.to_owned())]);
    // Makes the topic, whose three partitions are led here.
    let found = client.call(&find("a"), 4).await;
    assert_eq!(found.coordinators[0].node_id.0, 1);
    house.give(CONSUMER_OFFSETS, 0, neighbour.session()).await;
    house.give(CONSUMER_OFFSETS, 1, neighbour.session()).await;
    let broker = house.front.broker.current();
    let of = |wanted: i32| {
        let mut ids = (0..).map(|n| format!("group-{n}"));
        ids.find(|id| broker.groups().partition_for(id) == wanted).unwrap()
    };
    let (away, here) = (of(0), of(2));
    for (id, node, host) in [(&away, OTHER, "other.example"), (&here, 1, "127.0.0.1")] {
        let found = client.call(&find(id), 4).await;
        let found = &found.coordinators[0];
        assert_eq!((found.error_code, found.node_id.0, &*found.host), (0, node, host));
    }

    let not_here = Kafka::NotCoordinator.code();
    let protocol = JoinGroupRequestProtocol::default().with_name(StrBytes::from_static_str("range"));
    let join = JoinGroupRequest::default()
        .with_group_id(group(&away))
        .with_session_timeout_ms(10_000)
        .with_protocol_type(StrBytes::from_static_str("consumer"))
        .with_protocols(vec![protocol]);
    assert_eq!(client.call(&join, 9).await.error_code, not_here);
    let sync = SyncGroupRequest::default().with_group_id(group(&away));
    assert_eq!(client.call(&sync, 5).await.error_code, not_here);
    let heartbeat = HeartbeatRequest::default().with_group_id(group(&away));
    assert_eq!(client.call(&heartbeat, 4).await.error_code, not_here);
    let leave = LeaveGroupRequest::default().with_group_id(group(&away));
    assert_eq!(client.call(&leave, 5).await.error_code, not_here);
    let commit = |id: &str| {
        let partition = OffsetCommitRequestPartition::default().with_committed_offset(3);
        let topic = OffsetCommitRequestTopic::default().with_name(name(TOPIC)).with_partitions(vec![partition]);
        OffsetCommitRequest::default().with_group_id(group(id)).with_topics(vec![topic])
    };
    let committed = client.call(&commit(&away), 9).await;
    assert_eq!(committed.topics[0].partitions[0].error_code, not_here);
    let fetch = |id: &str| OffsetFetchRequestGroup::default().with_group_id(group(id)).with_topics(None);
    let fetched = client.call(&OffsetFetchRequest::default().with_groups(vec![fetch(&away)]), 9).await;
    assert_eq!(fetched.groups[0].error_code, not_here);
    let deleted = client.call(&OffsetDeleteRequest::default().with_group_id(group(&away)), 0).await;
    assert_eq!(deleted.error_code, not_here);
    let described = client.call(&DescribeGroupsRequest::default().with_groups(vec![group(&away)]), 5).await;
    assert_eq!(described.groups[0].error_code, not_here);
    let deleted = client.call(&DeleteGroupsRequest::default().with_groups_names(vec![group(&away)]), 2).await;
    assert_eq!(deleted.results[0].error_code, not_here);

    // A group of this broker's is served, and is the only one that it lists.
    loop {
        let committed = client.call(&commit(&here), 9).await;
        match committed.topics[0].partitions[0].error_code {
            0 => break,
            code => assert_eq!(code, Kafka::CoordinatorLoadInProgress.code()),
        }
    }
    let listed = client.call(&ListGroupsRequest::default(), 4).await;
    let listed: Vec<&str> = listed.groups.iter().map(|group| &**group.group_id).collect();
    assert_eq!(listed, [&here]);

    neighbour.release().await.unwrap();
    house.caught_up().await;
    let found = client.call(&find(&away), 4).await;
    assert_eq!(found.coordinators[0].error_code, Kafka::CoordinatorNotAvailable.code());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_here_is_shown_and_nothing_else() {
    let Street { house, mut client, neighbour, .. } = street().await;
    let asks = DescribableLogDirTopic::default().with_topic(name(TOPIC)).with_partitions(vec![HERE, AWAY]);
    for topics in [None, Some(vec![asks])] {
        let told = client.call(&DescribeLogDirsRequest::default().with_topics(topics), 4).await;
        let [topic] = &told.results[0].topics[..] else { panic!("{told:?}") };
        let indexes: Vec<i32> = topic.partitions.iter().map(|partition| partition.partition_index).collect();
        assert_eq!(indexes, [HERE]);
    }
    house.give(TOPIC, HERE, neighbour.session()).await;
    let told = client.call(&DescribeLogDirsRequest::default().with_topics(None), 4).await;
    assert_eq!(told.results[0].topics, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn configs_of_another_broker_are_asked_for_there() {
    let Street { house: _house, mut client, .. } = street().await;
    let other = StrBytes::from_string(OTHER.to_string());
    for (asked, part) in [(other, "expected 1 or empty string, but received 7"), ("x".into(), "must be an integer")] {
        let resource = DescribeConfigsResource::default().with_resource_type(4).with_resource_name(asked.clone());
        let told = client.call(&DescribeConfigsRequest::default().with_resources(vec![resource]), 4).await;
        let told = &told.results[0];
        assert_eq!(told.error_code, Kafka::InvalidRequest.code());
        assert!(told.error_message.as_ref().unwrap().contains(part), "{told:?}");
        let resource = AlterConfigsResource::default().with_resource_type(4).with_resource_name(asked);
        let told = client.call(&AlterConfigsRequest::default().with_resources(vec![resource]), 2).await;
        let told = &told.responses[0];
        assert_eq!(told.error_code, Kafka::InvalidRequest.code());
        assert!(told.error_message.as_ref().unwrap().contains(part), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_broker_serves_the_connections_of_the_old_one() {
    let first = house(KafkaSettings::default()).await;
    let second = house(KafkaSettings::default()).await;
    let mut client = first.client().await;
    let cluster = |house: &House| house.catalogue.image().brokers[&1].port;
    let told = client.call(&MetadataRequest::default(), 9).await;
    assert_eq!(told.brokers[0].port, i32::from(cluster(&first)));
    let old = first.front.broker.replace(second.front.broker.current());
    let told = client.call(&MetadataRequest::default(), 9).await;
    assert_eq!(told.brokers[0].port, i32::from(cluster(&second)));
    // No connection keeps the old one: it is held by this test and by nobody else.
    assert_eq!(std::sync::Arc::strong_count(&old), 1);
}
