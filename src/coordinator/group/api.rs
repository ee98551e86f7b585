//! What can be asked of one shard, and the answers.
//!
//! Requests and responses are `kafka_protocol`'s message structs in one version-independent shape: the machine fills
//! every field that some version has, and the service takes back what the asked version lacks.

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, ListGroupsRequest, OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest,
    OffsetDeleteResponse, SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Caller {
    /// The request header's client id; empty for none.
    pub client_id: String,
    /// The client's address as Kafka shows it: a slash and the IP address.
    pub client_host: String,
    /// Version of the request.
    pub api_version: i16,
}

/// A request to one shard.
#[derive(Debug, Clone)]
pub enum Input {
    /// `JoinGroup`. `fresh` becomes part of the member id if one has to be made.
    Join {
        /// Who asks.
        caller: Caller,
        /// The request.
        request: JoinGroupRequest,
        /// A new random UUID.
        fresh: Uuid,
    },
    /// `SyncGroup`.
    Sync(SyncGroupRequest),
    /// `Heartbeat`.
    Heartbeat(HeartbeatRequest),
    /// `LeaveGroup`, with `members` filled for every version.
    Leave(LeaveGroupRequest),
    /// `OffsetCommit`.
    Commit {
        /// Version of the request.
        api_version: i16,
        /// The request.
        request: OffsetCommitRequest,
    },
    /// One group of an `OffsetFetch`.
    Fetch {
        /// The group and what is asked of it.
        group: OffsetFetchRequestGroup,
        /// Refuse offsets that an open transaction may change.
        require_stable: bool,
    },
    /// `OffsetDelete`.
    DeleteOffsets(OffsetDeleteRequest),
    /// `ListGroups`: the part of this shard.
    List(ListGroupsRequest),
    /// `DescribeGroups`: the groups of this shard.
    Describe(Vec<GroupId>),
    /// `DeleteGroups`: the groups of this shard.
    DeleteGroups(Vec<GroupId>),
    /// Topics were deleted: their committed offsets go.
    TopicsDeleted(Vec<String>),
}

/// An answer of one shard.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// To [`Input::Join`].
    Join(JoinGroupResponse),
    /// To [`Input::Sync`].
    Sync(SyncGroupResponse),
    /// To [`Input::Heartbeat`].
    Heartbeat(HeartbeatResponse),
    /// To [`Input::Leave`].
    Leave(LeaveGroupResponse),
    /// To [`Input::Commit`].
    Commit(OffsetCommitResponse),
    /// To [`Input::Fetch`].
    Fetch(OffsetFetchResponseGroup),
    /// To [`Input::DeleteOffsets`].
    DeleteOffsets(OffsetDeleteResponse),
    /// To [`Input::List`]; the error is the shard's.
    List(Result<Vec<ListedGroup>, ResponseError>),
    /// To [`Input::Describe`].
    Describe(Vec<DescribedGroup>),
    /// To [`Input::DeleteGroups`].
    DeleteGroups(Vec<DeletableGroupResult>),
    /// To [`Input::TopicsDeleted`]; the error is the shard's.
    TopicsDeleted(Result<(), ResponseError>),
}

/// A `StrBytes` of its own, which keeps no request buffer alive.
pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A group id of its own.
pub(super) fn group_id(id: &str) -> GroupId {
    GroupId(text(id))
}

/// An owned copy, which keeps no request buffer alive.
pub(super) fn own(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// A `JoinGroup` answer that only says why not.
pub(super) fn join_error(member_id: &str, error: ResponseError) -> JoinGroupResponse {
    JoinGroupResponse::default().with_member_id(text(member_id)).with_protocol_name(None).with_error_code(error.code())
}

/// A `SyncGroup` answer that only says why not.
pub(super) fn sync_error(error: ResponseError) -> SyncGroupResponse {
    SyncGroupResponse::default().with_error_code(error.code())
}

/// An `OffsetCommit` answer with one error for every partition.
pub(super) fn commit_error(request: &OffsetCommitRequest, error: ResponseError) -> OffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(error.code())
        });
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// An `OffsetFetch` answer of one group that only says why not.
pub(super) fn fetch_error(id: &GroupId, error: ResponseError) -> OffsetFetchResponseGroup {
    // Consumers before 3.9 do not expect COORDINATOR_NOT_AVAILABLE here, but do retry NOT_COORDINATOR.
    let error = match error {
        ResponseError::CoordinatorNotAvailable => ResponseError::NotCoordinator,
        error => error,
    };
    OffsetFetchResponseGroup::default().with_group_id(id.clone()).with_error_code(error.code())
}

/// A `LeaveGroup` answer for a group that does not exist: each member is unknown.
pub(super) fn leave_unknown(request: &LeaveGroupRequest) -> LeaveGroupResponse {
    let members = request.members.iter().map(|member| {
        MemberResponse::default()
            .with_member_id(member.member_id.clone())
            .with_group_instance_id(member.group_instance_id.clone())
            .with_error_code(ResponseError::UnknownMemberId.code())
    });
    LeaveGroupResponse::default().with_members(members.collect())
}

impl Input {
    /// The answer when `self` cannot be handled.
    pub(super) fn refuse(&self, error: ResponseError) -> Reply {
        let code = error.code();
        match self {
            Self::Join { request, .. } => Reply::Join(join_error(&request.member_id, error)),
            Self::Sync(_) => Reply::Sync(sync_error(error)),
            // A heartbeat that arrives while the group is being loaded is taken for good: the timers start afterwards.
            Self::Heartbeat(_) if error == ResponseError::CoordinatorLoadInProgress => {
                Reply::Heartbeat(HeartbeatResponse::default())
            }
            Self::Heartbeat(_) => Reply::Heartbeat(HeartbeatResponse::default().with_error_code(code)),
            Self::Leave(_) => Reply::Leave(LeaveGroupResponse::default().with_error_code(code)),
            Self::Commit { request, .. } => Reply::Commit(commit_error(request, error)),
            Self::Fetch { group, .. } => Reply::Fetch(fetch_error(&group.group_id, error)),
            Self::DeleteOffsets(_) => Reply::DeleteOffsets(OffsetDeleteResponse::default().with_error_code(code)),
            Self::List(_) => Reply::List(Err(error)),
            Self::Describe(ids) => Reply::Describe(ids.iter().map(|id| described_error(id, error)).collect()),
            Self::DeleteGroups(ids) => Reply::DeleteGroups(ids.iter().map(|id| deleted(id, code)).collect()),
            Self::TopicsDeleted(_) => Reply::TopicsDeleted(Err(error)),
        }
    }
}

/// A `DescribeGroups` answer for one group that only says why not.
pub(super) fn described_error(id: &GroupId, error: ResponseError) -> DescribedGroup {
    DescribedGroup::default().with_group_id(id.clone()).with_error_code(error.code())
}

/// A `DeleteGroups` answer for one group.
pub(super) fn deleted(id: &GroupId, error_code: i16) -> DeletableGroupResult {
    DeletableGroupResult::default().with_group_id(id.clone()).with_error_code(error_code)
}

impl Reply {
    /// This answer, with `error` in place of the success that it promised.
    pub(super) fn failed(self, error: ResponseError) -> Self {
        let code = error.code();
        match self {
            Self::Join(reply) => Self::Join(join_error(&reply.member_id, error)),
            Self::Sync(_) => Self::Sync(sync_error(error)),
            Self::Heartbeat(_) => Self::Heartbeat(HeartbeatResponse::default().with_error_code(code)),
            Self::Leave(_) => Self::Leave(LeaveGroupResponse::default().with_error_code(code)),
            Self::Commit(mut reply) => {
                for partition in reply.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                    partition.error_code = code;
                }
                Self::Commit(reply)
            }
            Self::Fetch(reply) => Self::Fetch(fetch_error(&reply.group_id, error)),
            Self::DeleteOffsets(_) => Self::DeleteOffsets(OffsetDeleteResponse::default().with_error_code(code)),
            Self::List(_) => Self::List(Err(error)),
            Self::Describe(groups) => {
                Self::Describe(groups.iter().map(|group| described_error(&group.group_id, error)).collect())
            }
            Self::DeleteGroups(results) => {
                Self::DeleteGroups(results.iter().map(|result| deleted(&result.group_id, code)).collect())
            }
            Self::TopicsDeleted(_) => Self::TopicsDeleted(Err(error)),
        }
    }
}
