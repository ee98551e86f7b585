//! DescribeCluster, DescribeTopicPartitions, DescribeProducers, DescribeLogDirs.

use kafka_protocol::error::ResponseError as Kafka;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{
    BrokerId, DescribeClusterRequest, DescribeClusterResponse, DescribeLogDirsRequest, DescribeLogDirsResponse,
    DescribeProducersRequest, DescribeProducersResponse, DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse, ProducerId,
};

use super::call::Call;
use super::metadata::{CLUSTER_OPERATIONS, TOPIC_OPERATIONS, text, topic_name};
use super::{Session, endpoints, errors};
use crate::broker::Topic;
use crate::cluster::ClusterImage;

/// Most partitions of one DescribeTopicPartitions reply (`max.request.partition.size.limit`).
const MAX_DESCRIBED_PARTITIONS: i32 = 2_000;
/// The endpoint type of brokers (KIP-919).
const BROKER_ENDPOINTS: i8 = 1;

pub(super) async fn describe_cluster(
    session: &Session,
    _call: &Call,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    let image = session.broker().image();
    let mut response = DescribeClusterResponse::default().with_endpoint_type(request.endpoint_type);
    if request.endpoint_type != BROKER_ENDPOINTS {
        let error = Kafka::MismatchedEndpointType;
        session.count_error("DescribeCluster", error.code());
        return response
            .with_error_code(error.code())
            .with_error_message(Some(text("brokers serve this listener, there is no listener of controllers")));
    }
    let brokers = endpoints::brokers(&image.brokers, session.front.external).map(|broker| {
        DescribeClusterBroker::default()
            .with_broker_id(broker.node_id)
            .with_host(broker.host)
            .with_port(broker.port)
            .with_rack(broker.rack)
    });
    response = response
        .with_cluster_id(text(&image.cluster_id))
        .with_controller_id(BrokerId(image.controller_id().unwrap_or(-1)))
        .with_brokers(brokers.collect());
    if request.include_cluster_authorized_operations {
        response = response.with_cluster_authorized_operations(CLUSTER_OPERATIONS);
    }
    response
}

pub(super) async fn describe_topic_partitions(
    session: &Session,
    _call: &Call,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let broker = session.broker();
    let image = broker.image();
    let cursor = request.cursor.as_ref();
    let from = cursor.map_or("", |cursor| cursor.topic_name.as_str());
    let first = |name: &str| match cursor {
        Some(cursor) if cursor.topic_name.as_str() == name => cursor.partition_index.max(0),
        _ => 0,
    };
    let mut names: Vec<String> = if request.topics.is_empty() {
        image.topics_from(from).map(|topic| topic.name.clone()).collect()
    } else {
        request.topics.iter().map(|topic| topic.name.to_string()).filter(|name| name.as_str() >= from).collect()
    };
    names.sort_unstable();
    names.dedup();

    let mut room = request.response_partition_limit.clamp(1, MAX_DESCRIBED_PARTITIONS);
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names {
        let topic = match broker.topic(&image, &name) {
            Ok(topic) => topic,
            Err(error) => {
                session.count_error("DescribeTopicPartitions", errors::code(&error));
                response.topics.push(
                    DescribeTopicPartitionsResponseTopic::default()
                        .with_error_code(errors::code(&error))
                        .with_name(Some(topic_name(&name)))
                        .with_topic_authorized_operations(i32::MIN),
                );
                continue;
            }
        };
        let start = first(&name);
        if room == 0 {
            response.next_cursor =
                Some(Cursor::default().with_topic_name(topic_name(&name)).with_partition_index(start));
            break;
        }
        let end = (topic.partitions.len() as i32).min(start.saturating_add(room));
        room -= (end - start).max(0);
        response.topics.push(partitions_of(&image, &topic, start, end));
        if end < topic.partitions.len() as i32 {
            response.next_cursor = Some(Cursor::default().with_topic_name(topic_name(&name)).with_partition_index(end));
            break;
        }
    }
    response
}

fn partitions_of(image: &ClusterImage, topic: &Topic, start: i32, end: i32) -> DescribeTopicPartitionsResponseTopic {
    let partitions = (start..end).filter_map(|index| {
        let assignment = topic.assignment(index)?;
        let replica = BrokerId(assignment.session.broker_id);
        let answer = DescribeTopicPartitionsResponsePartition::default()
            .with_partition_index(index)
            .with_leader_epoch(assignment.leader_epoch)
            .with_replica_nodes(vec![replica])
            .with_eligible_leader_replicas(Some(Vec::new()))
            .with_last_known_elr(Some(Vec::new()));
        // Without an error code where there is no leader, unlike Metadata.
        Some(match endpoints::leader(image, assignment, false) {
            Ok(leader) => answer.with_leader_id(leader.node_id).with_isr_nodes(vec![replica]),
            Err(_) => answer.with_leader_id(BrokerId(-1)).with_offline_replicas(vec![replica]),
        })
    });
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(topic_name(&topic.name)))
        .with_topic_id(topic.id)
        .with_is_internal(topic.internal)
        .with_partitions(partitions.collect())
        .with_topic_authorized_operations(TOPIC_OPERATIONS)
}

pub(super) async fn describe_producers(
    session: &Session,
    _call: &Call,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    let broker = session.broker();
    let image = broker.image();
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partition_indexes.iter().map(|index| {
            let found = broker.topic(&image, &topic.name).and_then(|topic| broker.producers(&topic, *index));
            match found {
                Ok(producers) => {
                    let active = producers.iter().map(|producer| {
                        ProducerState::default()
                            .with_producer_id(ProducerId(producer.producer_id))
                            .with_producer_epoch(i32::from(producer.producer_epoch))
                            .with_last_sequence(producer.last_sequence)
                            .with_last_timestamp(producer.last_timestamp)
                            .with_coordinator_epoch(producer.coordinator_epoch)
                            .with_current_txn_start_offset(producer.current_txn_start_offset)
                    });
                    PartitionResponse::default().with_partition_index(*index).with_active_producers(active.collect())
                }
                Err(error) => {
                    session.count_error("DescribeProducers", errors::code(&error));
                    PartitionResponse::default()
                        .with_partition_index(*index)
                        .with_error_code(errors::code(&error))
                        .with_error_message(errors::message(&error))
                }
            }
        });
        TopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
    });
    DescribeProducersResponse::default().with_topics(topics.collect())
}

pub(super) async fn describe_log_dirs(
    session: &Session,
    _call: &Call,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let broker = session.broker();
    let image = broker.image();
    let size = |topic: &Topic, index: i32| {
        let view = broker.view(topic, index).ok()?;
        Some(
            DescribeLogDirsPartition::default()
                .with_partition_index(index)
                .with_partition_size(i64::try_from(view.size_bytes).unwrap_or(i64::MAX)),
        )
    };
    // Topics of which nothing is led here are other brokers' to show.
    let answer = |topic: &Topic, partitions: Vec<DescribeLogDirsPartition>| {
        let answer = DescribeLogDirsTopic::default().with_name(topic_name(&topic.name));
        (!partitions.is_empty()).then(|| answer.with_partitions(partitions))
    };
    let topics: Vec<DescribeLogDirsTopic> = match &request.topics {
        None => image
            .topics()
            .filter_map(|topic| {
                answer(topic, (0..topic.partitions.len() as i32).filter_map(|index| size(topic, index)).collect())
            })
            .collect(),
        Some(asked) => asked
            .iter()
            .filter_map(|asked| {
                let topic = image.topic(&asked.topic)?;
                answer(topic, asked.partitions.iter().filter_map(|index| size(topic, *index)).collect())
            })
            .collect(),
    };
    let directory = DescribeLogDirsResult::default().with_log_dir(text(broker.log_dir())).with_topics(topics);
    DescribeLogDirsResponse::default().with_results(vec![directory])
}
