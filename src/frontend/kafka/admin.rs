//! DeleteRecords, InitProducerId.

use std::sync::Arc;

use kafka_protocol::messages::delete_records_request::DeleteRecordsPartition;
use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::{
    DeleteRecordsRequest, DeleteRecordsResponse, InitProducerIdRequest, InitProducerIdResponse, ProducerId,
};

use super::call::Call;
use super::{Session, errors};
use crate::broker::{BrokerError, Topic};

pub(super) async fn delete_records(
    session: &Session,
    _call: &Call,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let broker = session.broker();
    let timeout_ms = u64::try_from(request.timeout_ms).unwrap_or(0);
    let image = broker.image();
    let mut waits = Vec::new();
    for (at, asked) in request.topics.iter().enumerate() {
        let topic = broker.topic(&image, &asked.name);
        for partition in &asked.partitions {
            waits.push(delete_before(session, at, topic.clone(), partition.clone(), timeout_ms));
        }
    }
    let mut topics: Vec<DeleteRecordsTopicResult> =
        request.topics.iter().map(|asked| DeleteRecordsTopicResult::default().with_name(asked.name.clone())).collect();
    for (at, result) in futures::future::join_all(waits).await {
        topics[at].partitions.push(result);
    }
    DeleteRecordsResponse::default().with_topics(topics)
}

async fn delete_before(
    session: &Session,
    at: usize,
    topic: Result<Arc<Topic>, BrokerError>,
    partition: DeleteRecordsPartition,
    timeout_ms: u64,
) -> (usize, DeleteRecordsPartitionResult) {
    let index = partition.partition_index;
    let result = DeleteRecordsPartitionResult::default().with_partition_index(index);
    let moved = match topic {
        Ok(topic) => session.broker().delete_records(&topic, index, partition.offset, timeout_ms).await,
        Err(error) => Err(error),
    };
    let result = match moved {
        Ok(log_start) => result.with_low_watermark(log_start),
        Err(error) => {
            session.count_error("DeleteRecords", errors::code(&error));
            result.with_low_watermark(-1).with_error_code(errors::code(&error))
        }
    };
    (at, result)
}

pub(super) async fn init_producer_id(
    session: &Session,
    _call: &Call,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let transactional_id = request.transactional_id.as_ref().map(|id| id.as_str());
    match session.broker().init_producer_id(transactional_id).await {
        Ok(producer_id) => {
            InitProducerIdResponse::default().with_producer_id(ProducerId(producer_id)).with_producer_epoch(0)
        }
        Err(error) => {
            if let Some(id) = transactional_id
                && let Some(hidden) = session.front.gates.transactions.open(session.front.clock.boot_ms())
            {
                tracing::warn!(peer = %session.peer, transactional_id = id, hidden, "refused a transactional producer: {error}");
            }
            session.count_error("InitProducerId", errors::code(&error));
            InitProducerIdResponse::default()
                .with_error_code(errors::code(&error))
                .with_producer_id(ProducerId(-1))
                .with_producer_epoch(-1)
        }
    }
}
