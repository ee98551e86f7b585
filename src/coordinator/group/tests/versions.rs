//! Every answer can be written in every version that is served, and FindCoordinator finds.

use bytes::BytesMut;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{
    DeleteGroupsResponse, DescribeGroupsResponse, FindCoordinatorRequest, HeartbeatResponse, LeaveGroupRequest,
    ListGroupsRequest, ListGroupsResponse, OffsetDeleteResponse, OffsetFetchRequest,
};
use kafka_protocol::protocol::{Encodable, Message};

use super::bench::{Bench, commit_request, gid, leave_request, s, static_join, sync_request, tname};
use crate::coordinator::group::api::{fetch_error, join_error};
use crate::coordinator::group::{Coordinating, Input, KeyType, Reply, find_coordinator, partition_for, versions};

fn writes<M: Encodable>(message: &M, version: i16) {
    let name = std::any::type_name::<M>();
    message.encode(&mut BytesMut::new(), version).unwrap_or_else(|error| panic!("{name} v{version}: {error}"));
}

fn all<M: Message>() -> std::ops::RangeInclusive<i16> {
    M::VERSIONS.min..=M::VERSIONS.max
}

#[test]
fn every_version_can_be_written() {
    let mut bench = Bench::new();
    let to = bench.send_join(static_join("g", "", "i1"));
    bench.advance(3_000);
    let joined = bench.joined(to);
    let member = joined.member_id.to_string();
    for version in all::<kafka_protocol::messages::JoinGroupResponse>() {
        writes(&versions::join_response(joined.clone(), version), version);
        let refused = join_error("m", ResponseError::UnknownMemberId);
        writes(&versions::join_response(refused, version), version);
    }
    let synced = bench.sync(sync_request("g", 1, &member, &[(&member, "mine")]));
    for version in all::<kafka_protocol::messages::SyncGroupResponse>() {
        writes(&synced, version);
    }
    for version in all::<HeartbeatResponse>() {
        writes(&HeartbeatResponse::default().with_error_code(27), version);
    }
    let request = commit_request("g", 1, &member, 5);
    let Reply::Commit(committed) = bench.call(Input::Commit { api_version: 9, request }) else { panic!() };
    for version in 2..=9 {
        writes(&committed, version);
    }
    let topic = OffsetFetchRequestTopic::default().with_name(tname("orders")).with_partition_indexes(vec![0, 1]);
    let request = OffsetFetchRequest::default().with_group_id(gid("g")).with_topics(Some(vec![topic]));
    for version in 1..=9 {
        let group = versions::fetch_groups(&request.clone().with_groups(fetch_groups()), version).remove(0);
        let Reply::Fetch(fetched) = bench.call(Input::Fetch { group, require_stable: false }) else { panic!() };
        let response = versions::fetch_response(vec![fetched], &request, version);
        writes(&response, version);
        if version < 8 {
            let partitions = &response.topics[0].partitions;
            assert_eq!((partitions[0].committed_offset, partitions[1].committed_offset), (5, -1));
        }
        let lost = vec![fetch_error(&gid("g"), ResponseError::CoordinatorNotAvailable)];
        let response = versions::fetch_response(lost, &request, version);
        writes(&response, version);
        let code = ResponseError::NotCoordinator.code();
        match version {
            1 => assert!(response.topics[0].partitions.iter().all(|partition| partition.error_code == code)),
            2..=7 => assert_eq!(response.error_code, code),
            _ => assert_eq!(response.groups[0].error_code, code),
        }
    }
    let Reply::List(Ok(listed)) = bench.call(Input::List(ListGroupsRequest::default())) else { panic!() };
    for version in all::<ListGroupsResponse>() {
        writes(&ListGroupsResponse::default().with_groups(listed.clone()), version);
    }
    let ids = vec![gid("g"), gid("nobody")];
    let Reply::Describe(described) = bench.call(Input::Describe(ids)) else { panic!() };
    for version in all::<DescribeGroupsResponse>() {
        let groups = versions::described(described.clone(), version);
        assert_eq!(groups[1].error_code, if version >= 6 { ResponseError::GroupIdNotFound.code() } else { 0 });
        writes(&DescribeGroupsResponse::default().with_groups(groups), version);
    }
    let Reply::DeleteGroups(results) = bench.call(Input::DeleteGroups(vec![gid("g")])) else { panic!() };
    for version in all::<DeleteGroupsResponse>() {
        writes(&DeleteGroupsResponse::default().with_results(results.clone()), version);
    }
    writes(&OffsetDeleteResponse::default().with_error_code(69), 0);
    let input = Input::Leave(leave_request("g", &[(&member, Some("i1"))]));
    let Reply::Leave(left) = bench.call(input) else { panic!() };
    for version in all::<kafka_protocol::messages::LeaveGroupResponse>() {
        writes(&versions::leave_response(left.clone(), version), version);
    }
}

fn fetch_groups() -> Vec<kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup> {
    vec![kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup::default().with_group_id(gid("g"))]
}

#[test]
fn an_old_leaver_is_alone_and_its_error_is_the_answers() {
    let request = LeaveGroupRequest::default().with_group_id(gid("g")).with_member_id(s("m"));
    let request = versions::leave_request(request, 2);
    assert_eq!((request.members.len(), &*request.members[0].member_id), (1, "m"));
    let mut bench = Bench::new();
    let Reply::Leave(response) = bench.call(Input::Leave(request)) else { panic!() };
    let response = versions::leave_response(response, 2);
    assert_eq!((response.error_code, response.members.len()), (ResponseError::UnknownMemberId.code(), 0));
}

#[test]
fn groups_hash_as_in_java() {
    // String.hashCode of each, in Java: 0, 98629247, 3556498, -1885221738, Integer.MIN_VALUE.
    assert_eq!(partition_for("", 50), 0);
    assert_eq!(partition_for("group", 50), 98_629_247 % 50);
    assert_eq!(partition_for("test", 50), 3_556_498 % 50);
    assert_eq!(partition_for("polygenelubricants", 50), 0);
    // A character outside the basic plane counts as its two UTF-16 units.
    assert_eq!(partition_for("\u{1F600}", i32::MAX), 0xD83D * 31 + 0xDE00);
}

#[test]
fn find_coordinator_answers_one_or_many() {
    let here = Coordinating { node_id: 7, host: "h".into(), port: 9092 };
    let locate = |kind: KeyType, key: &str| match (kind, key) {
        (KeyType::Group, "g") => Ok(here.clone()),
        (KeyType::Group, _) => Err(ResponseError::CoordinatorNotAvailable),
        _ => Err(ResponseError::InvalidRequest),
    };
    for version in 0..=6 {
        let batched = version >= 4;
        let mut request = FindCoordinatorRequest::default();
        if batched {
            request.coordinator_keys = vec![s("g"), s("h")];
        } else {
            request.key = s("g");
        }
        let response = find_coordinator(&request, version, locate);
        writes(&response, version);
        if batched {
            assert_eq!((response.coordinators[0].node_id.0, response.coordinators[0].error_code), (7, 0));
            assert_eq!((response.coordinators[1].node_id.0, response.coordinators[1].error_code), (-1, 15));
        } else {
            assert_eq!((response.node_id.0, response.port, response.error_code), (7, 9092, 0));
        }
        let wrong = find_coordinator(&request.with_key_type(9), version, locate);
        let code = if batched { wrong.coordinators[0].error_code } else { wrong.error_code };
        assert_eq!(code, ResponseError::InvalidRequest.code());
    }
}
