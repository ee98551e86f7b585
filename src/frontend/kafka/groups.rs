//! Consumer groups: the coordinator answers in Kafka's own messages; here is who asks, and the counting of errors.

use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, FindCoordinatorRequest,
    FindCoordinatorResponse, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest, OffsetFetchResponse,
    SyncGroupRequest, SyncGroupResponse,
};

use super::call::Call;
use super::{Session, endpoints};
use crate::coordinator::group::Caller;

pub(super) async fn find_coordinator(
    session: &Session,
    call: &Call,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let mut response = session.broker().find_coordinator(call.version, &request).await;
    if session.front.external {
        endpoints::readdress(&session.broker().image(), &mut response);
    }
    session.count_error("FindCoordinator", response.error_code);
    response.coordinators.iter().for_each(|found| session.count_error("FindCoordinator", found.error_code));
    response
}

pub(super) async fn join_group(session: &Session, call: &Call, request: JoinGroupRequest) -> JoinGroupResponse {
    let caller = Caller {
        client_id: call.client_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        client_host: format!("/{}", session.peer.ip()),
        api_version: call.version,
    };
    let response = session.broker().groups().join_group(caller, request).await;
    session.count_error("JoinGroup", response.error_code);
    response
}

pub(super) async fn sync_group(session: &Session, _call: &Call, request: SyncGroupRequest) -> SyncGroupResponse {
    let response = session.broker().groups().sync_group(request).await;
    session.count_error("SyncGroup", response.error_code);
    response
}

pub(super) async fn heartbeat(session: &Session, _call: &Call, request: HeartbeatRequest) -> HeartbeatResponse {
    let response = session.broker().groups().heartbeat(request).await;
    session.count_error("Heartbeat", response.error_code);
    response
}

pub(super) async fn leave_group(session: &Session, call: &Call, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let response = session.broker().groups().leave_group(call.version, request).await;
    session.count_error("LeaveGroup", response.error_code);
    response
}

pub(super) async fn offset_commit(
    session: &Session,
    call: &Call,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    let response = session.broker().offset_commit(call.version, request).await;
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.for_each(|partition| session.count_error("OffsetCommit", partition.error_code));
    response
}

pub(super) async fn offset_fetch(session: &Session, call: &Call, request: OffsetFetchRequest) -> OffsetFetchResponse {
    let response = session.broker().groups().offset_fetch(call.version, request).await;
    session.count_error("OffsetFetch", response.error_code);
    response.groups.iter().for_each(|group| session.count_error("OffsetFetch", group.error_code));
    response
}

pub(super) async fn offset_delete(
    session: &Session,
    _call: &Call,
    request: OffsetDeleteRequest,
) -> OffsetDeleteResponse {
    let response = session.broker().groups().offset_delete(request).await;
    session.count_error("OffsetDelete", response.error_code);
    response
}

pub(super) async fn list_groups(session: &Session, _call: &Call, request: ListGroupsRequest) -> ListGroupsResponse {
    let response = session.broker().groups().list_groups(request).await;
    session.count_error("ListGroups", response.error_code);
    response
}

pub(super) async fn describe_groups(
    session: &Session,
    call: &Call,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let response = session.broker().groups().describe_groups(call.version, request).await;
    response.groups.iter().for_each(|group| session.count_error("DescribeGroups", group.error_code));
    response
}

pub(super) async fn delete_groups(
    session: &Session,
    _call: &Call,
    request: DeleteGroupsRequest,
) -> DeleteGroupsResponse {
    let response = session.broker().groups().delete_groups(request).await;
    response.results.iter().for_each(|result| session.count_error("DeleteGroups", result.error_code));
    response
}
