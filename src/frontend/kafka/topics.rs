//! CreateTopics, DeleteTopics, CreatePartitions.

use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
    DeleteTopicsResponse,
};

use super::call::Call;
use super::metadata::{text, topic_name};
use super::{Session, errors};
use crate::cluster::{NewPartitions, NewTopic, TopicRef};

pub(super) async fn create_topics(
    session: &Session,
    call: &Call,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let new: Vec<NewTopic> = request.topics.iter().map(new_topic).collect();
    let answers = session.broker().create_topics(new, request.validate_only).await;
    let topics = request.topics.iter().zip(answers).map(|(asked, answer)| {
        let result = CreatableTopicResult::default().with_name(asked.name.clone());
        match answer {
            Ok(created) => {
                let configs = created.configs.iter().map(|config| {
                    CreatableTopicConfigs::default()
                        .with_name(text(&config.name))
                        .with_value(config.value.as_deref().map(text))
                        .with_read_only(config.read_only)
                        .with_config_source(config.source.id())
                        .with_is_sensitive(config.sensitive)
                });
                let result = result.with_topic_id(created.id);
                if call.version < 5 {
                    return result;
                }
                result
                    .with_num_partitions(created.partitions)
                    .with_replication_factor(created.replication_factor)
                    .with_configs(Some(configs.collect()))
            }
            Err(error) => {
                session.count_error("CreateTopics", errors::code(&error));
                result.with_error_code(errors::code(&error)).with_error_message(errors::message(&error))
            }
        }
    });
    CreateTopicsResponse::default().with_topics(topics.collect())
}

fn new_topic(asked: &CreatableTopic) -> NewTopic {
    NewTopic {
        name: asked.name.to_string(),
        partitions: asked.num_partitions,
        replication_factor: asked.replication_factor,
        assignments: asked
            .assignments
            .iter()
            .map(|assignment| (assignment.partition_index, assignment.broker_ids.iter().map(|id| id.0).collect()))
            .collect(),
        configs: asked
            .configs
            .iter()
            .map(|config| (config.name.to_string(), config.value.as_ref().map(ToString::to_string)))
            .collect(),
    }
}

pub(super) async fn delete_topics(
    session: &Session,
    call: &Call,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let asked: Vec<TopicRef> = if call.version >= 6 {
        let by = request.topics.iter().map(|topic| match &topic.name {
            Some(name) => TopicRef::Name(name.to_string()),
            None => TopicRef::Id(topic.topic_id),
        });
        by.collect()
    } else {
        request.topic_names.iter().map(|name| TopicRef::Name(name.to_string())).collect()
    };
    let answers = session.broker().delete_topics(asked.clone()).await;
    let responses = asked.into_iter().zip(answers).map(|(asked, answer)| match answer {
        Ok((name, id)) => DeletableTopicResult::default().with_name(Some(topic_name(&name))).with_topic_id(id),
        Err(error) => {
            session.count_error("DeleteTopics", errors::code(&error));
            let (name, id) = match asked {
                TopicRef::Name(name) => (Some(topic_name(&name)), uuid::Uuid::nil()),
                TopicRef::Id(id) => (None, id),
            };
            let result =
                DeletableTopicResult::default().with_name(name).with_topic_id(id).with_error_code(errors::code(&error));
            if call.version >= 5 { result.with_error_message(errors::message(&error)) } else { result }
        }
    });
    DeleteTopicsResponse::default().with_responses(responses.collect())
}

pub(super) async fn create_partitions(
    session: &Session,
    _call: &Call,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let mut results = Vec::with_capacity(request.topics.len());
    for asked in &request.topics {
        let assignments = asked.assignments.as_ref().map(|assignments| {
            assignments.iter().map(|replicas| replicas.broker_ids.iter().map(|id| id.0).collect()).collect()
        });
        let new = NewPartitions { name: asked.name.to_string(), total: asked.count, assignments };
        let result = CreatePartitionsTopicResult::default().with_name(asked.name.clone());
        results.push(match session.broker().create_partitions(&new, request.validate_only).await {
            Ok(()) => result.with_error_message(None),
            Err(error) => {
                session.count_error("CreatePartitions", errors::code(&error));
                result.with_error_code(errors::code(&error)).with_error_message(errors::message(&error))
            }
        });
    }
    CreatePartitionsResponse::default().with_results(results)
}
