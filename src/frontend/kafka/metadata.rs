//! Metadata: brokers, topics, leaders.

use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::call::Call;
use super::{Session, endpoints, errors};
use crate::broker::{BrokerError, Topic};
use crate::cluster::ClusterImage;

const API: &str = "Metadata";
/// What an anonymous client may do with a topic: everything. Bits are Kafka's `AclOperation` codes.
pub(super) const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
/// … with the cluster.
pub(super) const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

pub(super) async fn metadata(session: &Session, call: &Call, request: MetadataRequest) -> MetadataResponse {
    let broker = session.broker();
    let everything = match &request.topics {
        None => true,
        Some(topics) => call.version == 0 && topics.is_empty(),
    };
    let mut topics = Vec::new();
    if everything {
        let image = broker.image();
        topics.extend(image.topics().map(|topic| describe(&image, topic, &request)));
    } else {
        if call.version < 4 || request.allow_auto_topic_creation {
            let by_name = request.topics.iter().flatten().filter(|topic| topic.topic_id.is_nil());
            let names = by_name.filter_map(|topic| topic.name.as_deref());
            broker.auto_create(names.map(ToString::to_string).collect()).await;
        }
        let image = broker.image();
        for asked in request.topics.iter().flatten() {
            let found = match &asked.name {
                // The Java client asks for an id with an empty name, franz-go with none.
                Some(name) if asked.topic_id.is_nil() => broker.find_topic_for_metadata(&image, name),
                _ => broker.topic_by_id(&image, asked.topic_id),
            };
            topics.push(match found {
                Ok(topic) => describe(&image, &topic, &request),
                Err(error) => {
                    session.count_error(API, errors::code(&error));
                    MetadataResponseTopic::default()
                        .with_error_code(errors::code(&error))
                        .with_name(asked.name.clone().or_else(|| (call.version < 12).then(TopicName::default)))
                        .with_topic_id(asked.topic_id)
                        .with_topic_authorized_operations(i32::MIN)
                }
            });
        }
    }
    let image = broker.image();
    let listed = image.departed.with(&image.brokers, session.front.clock.boot_ms());
    let brokers = endpoints::brokers(&listed, session.front.external).map(|broker| {
        MetadataResponseBroker::default()
            .with_node_id(broker.node_id)
            .with_host(broker.host)
            .with_port(broker.port)
            .with_rack(broker.rack)
    });
    let operations = if request.include_cluster_authorized_operations { CLUSTER_OPERATIONS } else { i32::MIN };
    MetadataResponse::default()
        .with_brokers(brokers.collect())
        .with_cluster_id(Some(text(&image.cluster_id)))
        .with_controller_id(BrokerId(image.controller_id().unwrap_or(-1)))
        .with_topics(topics)
        .with_cluster_authorized_operations(operations)
}

fn describe(image: &ClusterImage, topic: &Topic, request: &MetadataRequest) -> MetadataResponseTopic {
    let partitions = (0..).zip(&topic.partitions).map(|(index, assignment)| {
        let replica = BrokerId(assignment.session.broker_id);
        let answer = MetadataResponsePartition::default()
            .with_partition_index(index)
            .with_leader_epoch(assignment.leader_epoch)
            .with_replica_nodes(vec![replica]);
        match endpoints::leader(image, assignment, false) {
            Ok(leader) => answer.with_leader_id(leader.node_id).with_isr_nodes(vec![replica]),
            Err(error) => {
                answer.with_error_code(error.code()).with_leader_id(BrokerId(-1)).with_offline_replicas(vec![replica])
            }
        }
    });
    let operations = if request.include_topic_authorized_operations { TOPIC_OPERATIONS } else { i32::MIN };
    MetadataResponseTopic::default()
        .with_name(Some(topic_name(&topic.name)))
        .with_topic_id(topic.id)
        .with_is_internal(topic.internal)
        .with_partitions(partitions.collect())
        .with_topic_authorized_operations(operations)
}

/// The topic of a request that names topics up to some version and gives ids after it.
pub(super) fn by_name_or_id(
    session: &Session,
    image: &ClusterImage,
    by_id: bool,
    name: &TopicName,
    id: uuid::Uuid,
) -> Result<std::sync::Arc<Topic>, BrokerError> {
    if by_id { session.broker().topic_by_id(image, id) } else { session.broker().topic(image, name) }
}
