//! Requests of older versions brought into the one shape, and answers cut down to what the asked version can say.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};
use kafka_protocol::messages::{
    JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse, OffsetFetchRequest, OffsetFetchResponse,
};

use super::api::text;

/// `JoinGroup`: from this version on the leader learns the members' instance ids.
const JOIN_NAMES_INSTANCES: i16 = 5;
/// `JoinGroup`: from this version on the protocol's name may be null.
const JOIN_NULL_PROTOCOL: i16 = 7;
/// `LeaveGroup`: from this version on several members leave at once.
const LEAVE_BATCHED: i16 = 3;
/// `OffsetFetch`: from this version on there is an error for the whole answer.
const FETCH_HAS_ERROR: i16 = 2;
/// `OffsetFetch`: from this version on several groups are asked for.
const FETCH_BATCHED: i16 = 8;
/// `DescribeGroups`: from this version on a group that does not exist is an error (KIP-1043).
const DESCRIBE_NAMES_UNKNOWN: i16 = 6;

pub(super) fn join_response(mut response: JoinGroupResponse, version: i16) -> JoinGroupResponse {
    if version < JOIN_NAMES_INSTANCES {
        for member in &mut response.members {
            member.group_instance_id = None;
        }
    }
    if version < JOIN_NULL_PROTOCOL && response.protocol_name.is_none() {
        response.protocol_name = Some(text(""));
    }
    response
}

pub(super) fn leave_request(mut request: LeaveGroupRequest, version: i16) -> LeaveGroupRequest {
    if version < LEAVE_BATCHED {
        let member_id = std::mem::take(&mut request.member_id);
        request.members = vec![MemberIdentity::default().with_member_id(member_id)];
    }
    request
}

pub(super) fn leave_response(mut response: LeaveGroupResponse, version: i16) -> LeaveGroupResponse {
    if version < LEAVE_BATCHED {
        // The one member's error is the answer's.
        if let Some(member) = response.members.pop().filter(|_| response.error_code == 0) {
            response.error_code = member.error_code;
        }
        response.members.clear();
    }
    response
}

/// The groups that are asked for.
pub(super) fn fetch_groups(request: &OffsetFetchRequest, version: i16) -> Vec<OffsetFetchRequestGroup> {
    if version >= FETCH_BATCHED {
        return request.groups.clone();
    }
    let topics = request.topics.as_ref().map(|topics| {
        let topic = |topic: &kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic| {
            OffsetFetchRequestTopics::default()
                .with_name(topic.name.clone())
                .with_partition_indexes(topic.partition_indexes.clone())
        };
        topics.iter().map(topic).collect()
    });
    vec![OffsetFetchRequestGroup::default().with_group_id(request.group_id.clone()).with_topics(topics)]
}

pub(super) fn fetch_response(
    mut groups: Vec<OffsetFetchResponseGroup>,
    request: &OffsetFetchRequest,
    version: i16,
) -> OffsetFetchResponse {
    if version >= FETCH_BATCHED {
        return OffsetFetchResponse::default().with_groups(groups);
    }
    let group = groups.pop().unwrap_or_default();
    let response = OffsetFetchResponse::default();
    if group.error_code != 0 {
        if version >= FETCH_HAS_ERROR {
            return response.with_error_code(group.error_code);
        }
        return response.with_topics(each_partition(request, group.error_code));
    }
    let topics = group.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_committed_offset(partition.committed_offset)
                .with_committed_leader_epoch(partition.committed_leader_epoch)
                .with_metadata(partition.metadata)
                .with_error_code(partition.error_code)
        });
        OffsetFetchResponseTopic::default().with_name(topic.name).with_partitions(partitions.collect())
    });
    response.with_topics(topics.collect())
}

fn each_partition(request: &OffsetFetchRequest, error_code: i16) -> Vec<OffsetFetchResponseTopic> {
    let topics = request.topics.iter().flatten().map(|topic| {
        let partitions = topic.partition_indexes.iter().map(|index| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(*index)
                .with_committed_offset(-1)
                .with_metadata(Some(text("")))
                .with_error_code(error_code)
        });
        OffsetFetchResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
    });
    topics.collect()
}

pub(super) fn described(mut groups: Vec<DescribedGroup>, version: i16) -> Vec<DescribedGroup> {
    for group in &mut groups {
        if version < 4 {
            for member in &mut group.members {
                member.group_instance_id = None;
            }
        }
        if version >= DESCRIBE_NAMES_UNKNOWN && group.error_code == 0 && &*group.group_state == "Dead" {
            group.error_code = ResponseError::GroupIdNotFound.code();
            group.error_message = Some(text(&format!("Group {} not found.", &*group.group_id)));
        }
    }
    groups
}
