//! Committed offsets, by Kafka's rules.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use kafka_protocol::messages::{ListGroupsRequest, OffsetDeleteRequest};

use super::bench::{Bench, commit_request, gid, join_request, leave_request, s, static_join, sync_request, tname};
use crate::coordinator::group::limits::COMMIT_TIMEOUT_MS;
use crate::coordinator::group::records::{Key, OffsetValue};
use crate::coordinator::group::{Input, Reply};

const DAY_MS: u64 = 24 * 3600 * 1000;

fn fetch_all(bench: &mut Bench, group: &str) -> OffsetFetchResponseGroup {
    let group = OffsetFetchRequestGroup::default().with_group_id(gid(group)).with_topics(None);
    match bench.call(Input::Fetch { group, require_stable: true }) {
        Reply::Fetch(response) => response,
        other => panic!("{other:?}"),
    }
}

fn delete(bench: &mut Bench, group: &str, topic: &str) -> (i16, Vec<i16>) {
    let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
    let topic = OffsetDeleteRequestTopic::default().with_name(tname(topic)).with_partitions(vec![partition]);
    let request = OffsetDeleteRequest::default().with_group_id(gid(group)).with_topics(vec![topic]);
    match bench.call(Input::DeleteOffsets(request)) {
        Reply::DeleteOffsets(response) => (
            response.error_code,
            response.topics.iter().flat_map(|topic| topic.partitions.iter().map(|p| p.error_code)).collect(),
        ),
        other => panic!("{other:?}"),
    }
}

fn delete_group(bench: &mut Bench, group: &str) -> i16 {
    match bench.call(Input::DeleteGroups(vec![gid(group)])) {
        Reply::DeleteGroups(results) => results[0].error_code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_commit_is_a_record_of_kafkas_and_is_read_back() {
    let mut bench = Bench::new();
    let mut request = commit_request("g", -1, "", 42);
    request.topics[0].partitions[0].committed_leader_epoch = 6;
    request.topics[0].partitions[0].committed_metadata = Some(s("note"));
    assert_eq!(bench.commit(request), 0);
    assert_eq!(bench.log.len(), 1);
    assert_eq!(bench.log[0].key, Key::offset("g", "orders", 0));
    let value = OffsetValue::decode(bench.log[0].value.as_ref().unwrap()).unwrap();
    assert_eq!((value.offset, value.leader_epoch, value.version()), (42, 6, 3));
    assert_eq!(value.commit_timestamp_ms, bench.now.wall_ms);
    let all = fetch_all(&mut bench, "g");
    let partition = &all.topics[0].partitions[0];
    assert_eq!((partition.committed_offset, partition.committed_leader_epoch), (42, 6));
    assert_eq!(partition.metadata.as_deref(), Some("note"));
    assert_eq!(bench.state("g"), "Empty");
}

#[test]
fn what_was_never_committed_is_minus_one() {
    let mut bench = Bench::new();
    assert_eq!(bench.fetch("nobody"), -1);
    assert!(fetch_all(&mut bench, "nobody").topics.is_empty());
    bench.commit(commit_request("g", -1, "", 1));
    let mut asked = kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopics::default();
    asked.name = tname("other");
    asked.partition_indexes = vec![0, 9];
    let group = OffsetFetchRequestGroup::default().with_group_id(gid("g")).with_topics(Some(vec![asked]));
    let Reply::Fetch(response) = bench.call(Input::Fetch { group, require_stable: false }) else { panic!() };
    for partition in &response.topics[0].partitions {
        assert_eq!((partition.committed_offset, partition.committed_leader_epoch, partition.error_code), (-1, -1, 0));
        assert_eq!(partition.metadata.as_deref(), Some(""));
    }
}

#[test]
fn commits_are_checked_against_the_group() {
    let mut bench = Bench::new();
    assert_eq!(bench.commit(commit_request("nobody", 1, "m", 1)), ResponseError::GroupIdNotFound.code());
    bench.api_version = 8;
    assert_eq!(bench.commit(commit_request("nobody", 1, "m", 1)), ResponseError::IllegalGeneration.code());
    bench.api_version = 9;

    let (leader, to) = bench.enter("g");
    bench.advance(3_000);
    bench.joined(to);
    assert_eq!(bench.commit(commit_request("g", 1, &leader, 1)), ResponseError::RebalanceInProgress.code());
    bench.sync(sync_request("g", 1, &leader, &[]));
    assert_eq!(bench.commit(commit_request("g", 1, &leader, 1)), 0);
    assert_eq!(bench.commit(commit_request("g", 0, &leader, 2)), ResponseError::IllegalGeneration.code());
    assert_eq!(bench.commit(commit_request("g", 1, "stranger", 2)), ResponseError::UnknownMemberId.code());
    assert_eq!(bench.commit(commit_request("g", -1, "", 2)), ResponseError::UnknownMemberId.code());
    let instance = commit_request("g", 1, &leader, 2).with_group_instance_id(Some(s("i")));
    assert_eq!(bench.commit(instance), ResponseError::UnknownMemberId.code());
    assert_eq!(bench.fetch("g"), 1);
    // While the others join, a member may still commit what it has done.
    let _ = bench.enter("g");
    assert_eq!(bench.commit(commit_request("g", 1, &leader, 3)), 0);
}

#[test]
fn a_fenced_instance_cannot_commit() {
    let mut bench = Bench::new();
    let to = bench.send_join(static_join("g", "", "i1"));
    bench.advance(3_000);
    let old = bench.joined(to).member_id.to_string();
    bench.sync(sync_request("g", 1, &old, &[]));
    bench.join(static_join("g", "", "i1"));
    let fenced = commit_request("g", 1, &old, 2).with_group_instance_id(Some(s("i1")));
    assert_eq!(bench.commit(fenced), ResponseError::FencedInstanceId.code());
}

#[test]
fn a_commit_is_as_good_as_a_heartbeat() {
    let mut bench = Bench::new();
    let ids = bench.stable("g", 1);
    for offset in 0..5 {
        bench.advance(9_000);
        assert_eq!(bench.commit(commit_request("g", 1, &ids[0], offset)), 0);
    }
}

#[test]
fn metadata_has_a_limit() {
    let mut bench = Bench::new();
    for (length, code) in [(4096, 0), (4097, ResponseError::OffsetMetadataTooLarge.code())] {
        let mut request = commit_request("g", -1, "", 1);
        request.topics[0].partitions[0].committed_metadata = Some(s(&"m".repeat(length)));
        assert_eq!(bench.commit(request), code);
    }
    let mut request = commit_request("h", -1, "", 1);
    request.topics[0].partitions[0].committed_metadata = Some(s(&"m".repeat(4097)));
    bench.commit(request);
    assert_eq!(bench.state("h"), "Dead", "a group of which nothing is stored is not kept");
}

#[test]
fn names_that_no_record_can_hold_are_refused() {
    let mut bench = Bench::new();
    let long = "x".repeat(32_768);
    assert_eq!(bench.commit(commit_request(&long, -1, "", 1)), ResponseError::InvalidGroupId.code());
    let mut request = commit_request("g", -1, "", 1);
    request.topics[0].name = tname(&long);
    assert_eq!(bench.commit(request), ResponseError::InvalidTopicException.code());
    assert_eq!((bench.state("g").as_str(), bench.log.len()), ("Dead", 0));
}

#[test]
fn a_fetch_behind_a_commit_that_hangs_is_answered_in_time() {
    let mut bench = Bench::new();
    bench.auto_commit = false;
    bench.send(Input::Commit { api_version: 9, request: commit_request("g", -1, "", 1) });
    bench.advance(COMMIT_TIMEOUT_MS);
    let group = OffsetFetchRequestGroup::default().with_group_id(gid("g")).with_topics(None);
    let to = bench.send(Input::Fetch { group, require_stable: false });
    assert!(bench.is_parked(to));
    bench.advance(COMMIT_TIMEOUT_MS);
    let Reply::Fetch(response) = bench.reply(to) else { panic!() };
    assert_eq!(response.error_code, ResponseError::NotCoordinator.code());
}

#[test]
fn replies_wait_for_their_own_append_only() {
    let mut bench = Bench::new();
    bench.auto_commit = false;
    let input = |offset| Input::Commit { api_version: 9, request: commit_request("g", -1, "", offset) };
    let first = bench.send(input(1));
    let second = bench.send(input(2));
    bench.commit_one();
    assert!(!bench.is_parked(first) && bench.is_parked(second));
    bench.advance(COMMIT_TIMEOUT_MS);
    let Reply::Commit(response) = bench.reply(second) else { panic!() };
    assert_eq!(response.topics[0].partitions[0].error_code, ResponseError::CoordinatorNotAvailable.code());
    bench.commit_all();
    assert_eq!(bench.fetch("g"), 2);
}

#[test]
fn offsets_of_an_empty_group_expire_a_week_after_it_became_empty() {
    let mut bench = Bench::new();
    let ids = bench.stable("g", 1);
    bench.commit(commit_request("g", 1, &ids[0], 5));
    bench.advance(1);
    bench.call(Input::Leave(leave_request("g", &[(&ids[0], None)])));
    bench.advance(7 * DAY_MS - 600_001);
    assert_eq!(bench.fetch("g"), 5);
    bench.advance(1_200_002);
    assert_eq!(bench.fetch("g"), -1);
    assert_eq!(bench.state("g"), "Dead");
    let tombstones: Vec<_> = bench.log.iter().filter(|record| record.value.is_none()).map(|r| r.key.clone()).collect();
    assert_eq!(tombstones, [Key::offset("g", "orders", 0), Key::group("g")]);
    bench.restart();
    assert_eq!(bench.machine.store().groups().count(), 0);
}

#[test]
fn the_week_goes_on_over_a_restart() {
    let mut bench = Bench::new();
    let ids = bench.stable("g", 1);
    bench.commit(commit_request("g", 1, &ids[0], 5));
    bench.call(Input::Leave(leave_request("g", &[(&ids[0], None)])));
    bench.advance(4 * DAY_MS);
    bench.restart();
    bench.advance(2 * DAY_MS);
    assert_eq!(bench.fetch("g"), 5);
    bench.advance(DAY_MS + 600_000);
    assert_eq!(bench.fetch("g"), -1);
}

#[test]
fn offsets_of_a_simple_group_expire_a_week_after_their_commit() {
    let mut bench = Bench::new();
    bench.commit(commit_request("g", -1, "", 5));
    bench.advance(6 * DAY_MS);
    bench.commit(commit_request("g", -1, "", 6));
    bench.advance(6 * DAY_MS);
    assert_eq!(bench.fetch("g"), 6);
    bench.advance(DAY_MS + 600_000);
    assert_eq!((bench.fetch("g"), bench.state("g").as_str()), (-1, "Dead"));
}

#[test]
fn what_a_living_group_is_subscribed_to_does_not_expire_the_rest_does() {
    let mut bench = Bench::new();
    let ids = bench.stable("g", 1);
    let mut other = commit_request("g", 1, &ids[0], 9);
    other.topics[0].name = tname("unused");
    bench.commit(commit_request("g", 1, &ids[0], 5));
    bench.commit(other);
    for _ in 0..(8 * DAY_MS / 9_000) {
        bench.advance(9_000);
        assert_eq!(bench.heartbeat("g", 1, &ids[0]), 0);
    }
    let all = fetch_all(&mut bench, "g");
    assert_eq!(all.topics.iter().map(|topic| topic.name.to_string()).collect::<Vec<_>>(), ["orders"]);
}

#[test]
fn a_commit_may_name_its_own_retention() {
    let mut bench = Bench::new();
    bench.commit(commit_request("g", -1, "", 5).with_retention_time_ms(3_600_000));
    let value = OffsetValue::decode(bench.log[0].value.as_ref().unwrap()).unwrap();
    assert_eq!((value.version(), value.expire_timestamp_ms), (1, bench.now.wall_ms + 3_600_000));
    bench.advance(3_600_000 + 600_000);
    assert_eq!(bench.fetch("g"), -1);
}

#[test]
fn deleting_offsets_spares_what_is_in_use() {
    let mut bench = Bench::new();
    assert_eq!(delete(&mut bench, "", "orders").0, ResponseError::InvalidGroupId.code());
    assert_eq!(delete(&mut bench, "nobody", "orders").0, ResponseError::GroupIdNotFound.code());
    let ids = bench.stable("g", 1);
    let mut other = commit_request("g", 1, &ids[0], 9);
    other.topics[0].name = tname("unused");
    bench.commit(other);
    bench.commit(commit_request("g", 1, &ids[0], 5));
    assert_eq!(delete(&mut bench, "g", "orders"), (0, vec![ResponseError::GroupSubscribedToTopic.code()]));
    assert_eq!(delete(&mut bench, "g", "unused"), (0, vec![0]));
    assert_eq!(delete(&mut bench, "g", "unknown"), (0, vec![0]));
    assert_eq!(bench.fetch("g"), 5);
    assert_eq!(fetch_all(&mut bench, "g").topics.len(), 1);
    bench.call(Input::Leave(leave_request("g", &[(&ids[0], None)])));
    assert_eq!(delete(&mut bench, "g", "orders"), (0, vec![0]));
    assert_eq!(bench.fetch("g"), -1);

    let connect = join_request("c", "").with_group_instance_id(Some(s("w1"))).with_protocol_type(s("connect"));
    let to = bench.send_join(connect);
    bench.advance(3_000);
    assert_eq!(bench.joined(to).error_code, 0);
    assert_eq!(delete(&mut bench, "c", "orders").0, ResponseError::NonEmptyGroup.code());
}

#[test]
fn deleting_a_group_takes_everything() {
    let mut bench = Bench::new();
    assert_eq!(delete_group(&mut bench, "nobody"), ResponseError::GroupIdNotFound.code());
    let ids = bench.stable("g", 1);
    bench.commit(commit_request("g", 1, &ids[0], 5));
    assert_eq!(delete_group(&mut bench, "g"), ResponseError::NonEmptyGroup.code());
    bench.call(Input::Leave(leave_request("g", &[(&ids[0], None)])));
    bench.auto_commit = false;
    let to = bench.send(Input::DeleteGroups(vec![gid("g")]));
    assert!(bench.is_parked(to));
    bench.commit_all();
    let Reply::DeleteGroups(results) = bench.reply(to) else { panic!() };
    assert_eq!(results[0].error_code, 0);
    bench.restart();
    assert_eq!((bench.fetch("g"), bench.state("g").as_str()), (-1, "Dead"));
}

#[test]
fn a_deleted_topic_takes_its_offsets() {
    let mut bench = Bench::new();
    let ids = bench.stable("g", 1);
    bench.commit(commit_request("g", 1, &ids[0], 5));
    let mut other = commit_request("simple", -1, "", 9);
    other.topics[0].name = tname("kept");
    bench.commit(other);
    bench.commit(commit_request("simple", -1, "", 6));
    bench.commit(commit_request("gone", -1, "", 7));
    bench.call(Input::TopicsDeleted(vec!["orders".into()]));
    assert_eq!((bench.fetch("g"), bench.fetch("simple"), bench.fetch("gone")), (-1, -1, -1));
    assert_eq!(fetch_all(&mut bench, "simple").topics.len(), 1);
    assert_eq!(bench.state("gone"), "Dead");
    bench.restart();
    assert_eq!(bench.machine.store().offsets(), 1);
}

#[test]
fn groups_are_listed_by_state_and_type() {
    let mut bench = Bench::new();
    bench.stable("g", 1);
    bench.commit(commit_request("simple", -1, "", 1));
    let mut list = |states: &[&str], types: &[&str]| {
        let request = ListGroupsRequest::default()
            .with_states_filter(states.iter().map(|state| s(state)).collect())
            .with_types_filter(types.iter().map(|kind| s(kind)).collect());
        match bench.call(Input::List(request)) {
            Reply::List(Ok(groups)) => groups
                .iter()
                .map(|group| {
                    [&group.group_id.0, &group.protocol_type, &group.group_state, &group.group_type]
                        .map(ToString::to_string)
                        .join("/")
                })
                .collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(list(&[], &[]), ["g/consumer/Stable/classic", "simple//Empty/classic"]);
    assert_eq!(list(&["stable", "dead"], &[]), ["g/consumer/Stable/classic"]);
    assert_eq!(list(&[" EMPTY "], &["Classic"]), ["simple//Empty/classic"]);
    assert!(list(&[], &["consumer"]).is_empty());
}

#[test]
fn a_group_is_described_with_its_members() {
    let mut bench = Bench::new();
    let ids = bench.stable("g", 2);
    let Reply::Describe(groups) = bench.call(Input::Describe(vec![gid("g"), gid("nobody")])) else { panic!() };
    let group = &groups[0];
    assert_eq!((&*group.protocol_type, &*group.protocol_data, group.members.len()), ("consumer", "range", 2));
    let member = &group.members[0];
    assert_eq!((&*member.member_id, &*member.client_id, &*member.client_host), (ids[0].as_str(), "c", "/127.0.0.1"));
    assert_eq!(member.member_metadata, super::bench::subscription(&["orders"]));
    assert_eq!(member.member_assignment, "a");
    assert_eq!((&*groups[1].group_state, groups[1].error_code), ("Dead", 0));
    let _ = bench.enter("g");
    let Reply::Describe(groups) = bench.call(Input::Describe(vec![gid("g")])) else { panic!() };
    assert_eq!((&*groups[0].protocol_data, groups[0].members[0].member_metadata.len()), ("", 0));
}
