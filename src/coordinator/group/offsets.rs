//! Committed offsets: commit, fetch, delete, expire.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse};

use super::api::text;
use super::classic::{Group, State};
use super::context::Context;
use super::limits::MAX_NAME_BYTES;
use super::records::OffsetValue;
use super::store::{Store, StoredGroup};

/// What `OffsetFetch` answers for a partition without a committed offset.
const NO_OFFSET: i64 = -1;
/// The commit asks for no retention time of its own.
const DEFAULT_RETENTION_MS: i64 = -1;

/// Whether an `OffsetCommit` may be written into `group`.
pub(super) fn validate_commit(group: &Group, request: &OffsetCommitRequest) -> Result<(), ResponseError> {
    let generation = request.generation_id_or_member_epoch;
    let instance = request.group_instance_id.as_deref();
    if generation < 0 && group.is(State::Empty) {
        // An administrator, or a consumer that assigns partitions to itself.
        return Ok(());
    }
    if generation >= 0 || !request.member_id.is_empty() || instance.is_some() {
        group.validate(&request.member_id, instance)?;
        if generation != group.generation {
            return Err(ResponseError::IllegalGeneration);
        }
    } else if !group.is(State::Empty) {
        return Err(ResponseError::UnknownMemberId);
    }
    // The member knows this generation, so it can handle being told to wait.
    if group.is(State::CompletingRebalance) { Err(ResponseError::RebalanceInProgress) } else { Ok(()) }
}

/// Appends what fits the limits and answers for each partition.
pub(super) fn commit(cx: &mut Context, request: &OffsetCommitRequest) -> OffsetCommitResponse {
    let now_ms = cx.now.wall_ms;
    let retention_ms = request.retention_time_ms;
    let expire_timestamp_ms =
        if retention_ms == DEFAULT_RETENTION_MS { -1 } else { now_ms.saturating_add(retention_ms).max(0) };
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let error = commit_one(cx, &request.group_id, &topic.name, partition, expire_timestamp_ms).err();
            partitions.push(
                OffsetCommitResponsePartition::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(error.map_or(0, |error| error.code())),
            );
        }
        let response = OffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_topic_id(topic.topic_id);
        topics.push(response.with_partitions(partitions));
    }
    OffsetCommitResponse::default().with_topics(topics)
}

fn commit_one(
    cx: &mut Context,
    group: &str,
    topic: &str,
    partition: &OffsetCommitRequestPartition,
    expire_timestamp_ms: i64,
) -> Result<(), ResponseError> {
    let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
    if metadata.len() > cx.settings.offset_metadata_max_bytes.min(MAX_NAME_BYTES) {
        return Err(ResponseError::OffsetMetadataTooLarge);
    }
    if topic.len() > MAX_NAME_BYTES {
        return Err(ResponseError::InvalidTopicException);
    }
    let value = OffsetValue {
        offset: partition.committed_offset,
        leader_epoch: partition.committed_leader_epoch.max(-1),
        metadata: metadata.to_owned(),
        commit_timestamp_ms: cx.now.wall_ms,
        expire_timestamp_ms,
    };
    cx.append_offset(group, topic, partition.partition_index, Some(&value));
    cx.metrics.offset_commits.inc();
    Ok(())
}

fn fetched(partition: i32, value: Option<&OffsetValue>) -> OffsetFetchResponsePartitions {
    let partition = OffsetFetchResponsePartitions::default().with_partition_index(partition);
    match value {
        Some(value) => partition
            .with_committed_offset(value.offset)
            .with_committed_leader_epoch(value.leader_epoch)
            .with_metadata(Some(text(&value.metadata))),
        None => {
            partition.with_committed_offset(NO_OFFSET).with_committed_leader_epoch(-1).with_metadata(Some(text("")))
        }
    }
}

/// Answers an `OffsetFetch` from the stored offsets; a group without any has none.
pub(super) fn fetch(store: &Store, request: &OffsetFetchRequestGroup) -> OffsetFetchResponseGroup {
    let id: &str = &request.group_id;
    let topics = match &request.topics {
        Some(topics) => topics
            .iter()
            .map(|topic| {
                let one = |partition: &i32| fetched(*partition, store.offset(id, &topic.name, *partition));
                OffsetFetchResponseTopics::default()
                    .with_name(topic.name.clone())
                    .with_topic_id(topic.topic_id)
                    .with_partitions(topic.partition_indexes.iter().map(one).collect())
            })
            .collect(),
        None => store.group(id).map(all_offsets).unwrap_or_default(),
    };
    OffsetFetchResponseGroup::default().with_group_id(request.group_id.clone()).with_topics(topics)
}

fn all_offsets(stored: &StoredGroup) -> Vec<OffsetFetchResponseTopics> {
    let topic = |(name, partitions): (&String, &std::collections::BTreeMap<i32, OffsetValue>)| {
        let partitions = partitions.iter().map(|(partition, value)| fetched(*partition, Some(value)));
        OffsetFetchResponseTopics::default()
            .with_name(kafka_protocol::messages::TopicName(text(name)))
            .with_partitions(partitions.collect())
    };
    stored.offsets.iter().map(topic).collect()
}

/// Handles an `OffsetDelete` for a group that exists.
pub(super) fn delete(
    cx: &mut Context,
    group: &Group,
    request: &OffsetDeleteRequest,
) -> Result<OffsetDeleteResponse, ResponseError> {
    if !group.is(State::Empty) && !group.uses_consumer_protocol() {
        return Err(ResponseError::NonEmptyGroup);
    }
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let subscribed = group.is_subscribed_to(&topic.name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let index = partition.partition_index;
            let mut response = OffsetDeleteResponsePartition::default().with_partition_index(index);
            if subscribed {
                response.error_code = ResponseError::GroupSubscribedToTopic.code();
            } else if cx.store.offset(&group.id, &topic.name, index).is_some() {
                cx.append_offset(&group.id, &topic.name, index, None);
                cx.metrics.offsets_deleted.inc();
            }
            partitions.push(response);
        }
        topics.push(OffsetDeleteResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions));
    }
    Ok(OffsetDeleteResponse::default().with_topics(topics))
}

/// Appends tombstones for the offsets of `group` that `doomed` picks; returns how many, and whether any is left.
pub(super) fn remove_where(
    cx: &mut Context,
    group: &str,
    mut doomed: impl FnMut(&str, &OffsetValue) -> bool,
) -> (usize, bool) {
    let Some(stored) = cx.store.group(group) else { return (0, false) };
    let mut removed = Vec::new();
    let mut left = false;
    for (topic, partitions) in &stored.offsets {
        for (partition, value) in partitions {
            if doomed(topic, value) {
                removed.push((topic.clone(), *partition));
            } else {
                left = true;
            }
        }
    }
    for (topic, partition) in &removed {
        cx.append_offset(group, topic, *partition, None);
    }
    (removed.len(), left)
}

/// Removes the offsets of `group` that are too old (KIP-211). Returns whether none is left.
///
/// They age from when the group became empty; in a stable consumer group and for a simple group from their own commit.
/// Topics that the group is subscribed to are in use. A commit that named its own retention time goes by that.
pub(super) fn expire(cx: &mut Context, group: &Group) -> bool {
    let since_empty = if group.protocol_type.is_some() {
        if group.is(State::Empty) {
            group.state_timestamp_ms
        } else if group.is(State::Stable) && group.subscribed.is_some() {
            None
        } else {
            return cx.store.group(&group.id).is_none_or(|stored| stored.offsets.is_empty());
        }
    } else {
        None
    };
    let now_ms = cx.now.wall_ms;
    let retention_ms = cx.settings.offsets_retention_ms;
    let (expired, left) = remove_where(cx, &group.id, |topic, value| {
        if group.is_subscribed_to(topic) {
            return false;
        }
        if value.expire_timestamp_ms >= 0 {
            return now_ms >= value.expire_timestamp_ms;
        }
        let since_ms = since_empty.unwrap_or(value.commit_timestamp_ms);
        now_ms.saturating_sub(since_ms) >= retention_ms
    });
    cx.metrics.offsets_expired.inc_by(expired as u64);
    !left
}
