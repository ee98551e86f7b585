//! ListOffsets, OffsetForLeaderEpoch.

use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_protocol::messages::{
    ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
};

use super::call::Call;
use super::{Session, errors};
use crate::broker::{ListedOffset, OffsetSpec};
use crate::partition::Isolation;

pub(super) fn isolation(level: i8) -> Isolation {
    if level == 1 { Isolation::ReadCommitted } else { Isolation::ReadUncommitted }
}

/// Kafka's special timestamps, as far as the version knows them.
fn spec(timestamp: i64, version: i16) -> Option<OffsetSpec> {
    match timestamp {
        -1 => Some(OffsetSpec::Latest),
        -2 => Some(OffsetSpec::Earliest),
        -3 if version >= 7 => Some(OffsetSpec::MaxTimestamp),
        // Nothing is kept in a second tier: what is local begins at the log's start.
        -4 if version >= 8 => Some(OffsetSpec::Earliest),
        -5 if version >= 9 => Some(OffsetSpec::LatestTiered),
        0.. => Some(OffsetSpec::Timestamp(timestamp)),
        _ => None,
    }
}

pub(super) async fn list_offsets(session: &Session, call: &Call, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let broker = session.broker();
    let image = broker.image();
    let isolation = isolation(request.isolation_level);
    let mut topics = Vec::with_capacity(request.topics.len());
    for asked in &request.topics {
        let topic = broker.topic(&image, &asked.name);
        let mut partitions = Vec::with_capacity(asked.partitions.len());
        for partition in &asked.partitions {
            let answer = ListOffsetsPartitionResponse::default().with_partition_index(partition.partition_index);
            let Some(spec) = spec(partition.timestamp, call.version) else {
                session.count_error("ListOffsets", errors::UNSUPPORTED_VERSION);
                partitions.push(answer.with_error_code(errors::UNSUPPORTED_VERSION).with_offset(-1).with_timestamp(-1));
                continue;
            };
            let epoch = partition.current_leader_epoch;
            let found = match &topic {
                Ok(topic) => broker.list_offset(topic, partition.partition_index, epoch, spec, isolation).await,
                Err(error) => Err(error.clone()),
            };
            partitions.push(match found {
                Ok(ListedOffset { offset, timestamp, leader_epoch }) => {
                    let answer = answer.with_offset(offset).with_timestamp(timestamp);
                    if call.version >= 4 { answer.with_leader_epoch(leader_epoch) } else { answer }
                }
                Err(error) => {
                    session.count_error("ListOffsets", errors::code(&error));
                    answer.with_error_code(errors::code(&error)).with_offset(-1).with_timestamp(-1)
                }
            });
        }
        topics.push(ListOffsetsTopicResponse::default().with_name(asked.name.clone()).with_partitions(partitions));
    }
    ListOffsetsResponse::default().with_topics(topics)
}

pub(super) async fn offset_for_leader_epoch(
    session: &Session,
    _call: &Call,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let broker = session.broker();
    let image = broker.image();
    let topics = request.topics.iter().map(|asked| {
        let topic = broker.topic(&image, &asked.topic);
        let partitions = asked.partitions.iter().map(|partition| {
            let answer = EpochEndOffset::default().with_partition(partition.partition);
            let end = topic.clone().and_then(|topic| {
                let current = partition.current_leader_epoch;
                broker.epoch_end(&topic, partition.partition, current, partition.leader_epoch)
            });
            match end {
                Ok((leader_epoch, end_offset)) => answer.with_leader_epoch(leader_epoch).with_end_offset(end_offset),
                Err(error) => {
                    session.count_error("OffsetForLeaderEpoch", errors::code(&error));
                    answer.with_error_code(errors::code(&error)).with_leader_epoch(-1).with_end_offset(-1)
                }
            }
        });
        OffsetForLeaderTopicResult::default().with_topic(asked.topic.clone()).with_partitions(partitions.collect())
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}
