//! Sync, heartbeat and leave, by Kafka's rules.

use kafka_protocol::error::ResponseError;

use super::bench::{Bench, heartbeat_request, join_request, leave_request, s, static_join, sync_request};
use crate::coordinator::group::limits::{COMMIT_TIMEOUT_MS, MAX_GROUP_RECORD_BYTES};
use crate::coordinator::group::{Input, Reply};

fn leave(bench: &mut Bench, group: &str, members: &[(&str, Option<&str>)]) -> (i16, Vec<i16>) {
    match bench.call(Input::Leave(leave_request(group, members))) {
        Reply::Leave(response) => {
            (response.error_code, response.members.iter().map(|member| member.error_code).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn sync_checks_member_generation_and_protocol() {
    let mut bench = Bench::new();
    assert_eq!(bench.sync(sync_request("", 1, "m", &[])).error_code, ResponseError::InvalidGroupId.code());
    assert_eq!(bench.sync(sync_request("g", 1, "m", &[])).error_code, ResponseError::UnknownMemberId.code());
    let ids = bench.stable("g", 2);
    assert_eq!(bench.sync(sync_request("g", 1, "m", &[])).error_code, ResponseError::UnknownMemberId.code());
    assert_eq!(bench.sync(sync_request("g", 2, &ids[0], &[])).error_code, ResponseError::IllegalGeneration.code());
    let wrong = sync_request("g", 1, &ids[0], &[]).with_protocol_name(Some(s("sticky")));
    assert_eq!(bench.sync(wrong).error_code, ResponseError::InconsistentGroupProtocol.code());
    let wrong = sync_request("g", 1, &ids[0], &[]).with_protocol_type(Some(s("connect")));
    assert_eq!(bench.sync(wrong).error_code, ResponseError::InconsistentGroupProtocol.code());
    let right = sync_request("g", 1, &ids[0], &[]).with_protocol_name(Some(s("range")));
    let response = bench.sync(right.with_protocol_type(Some(s("consumer"))));
    assert_eq!((response.error_code, response.assignment), (0, "a".into()));
    let (_, _parked) = bench.enter("g");
    assert_eq!(bench.sync(sync_request("g", 1, &ids[0], &[])).error_code, ResponseError::RebalanceInProgress.code());
}

#[test]
fn a_member_that_the_leader_forgot_gets_an_empty_assignment() {
    let mut bench = Bench::new();
    let (leader, a) = bench.enter("g");
    let (follower, b) = bench.enter("g");
    bench.advance(6_000);
    bench.joined(a);
    bench.joined(b);
    let stranger = [(leader.as_str(), "one"), ("a stranger", "lost")];
    assert_eq!(bench.sync(sync_request("g", 1, &leader, &stranger)).assignment, "one");
    let response = bench.sync(sync_request("g", 1, &follower, &[]));
    assert_eq!((response.error_code, response.assignment), (0, "".into()));
}

#[test]
fn a_leader_that_asks_twice_gets_the_assignment_that_is_stored() {
    let mut bench = Bench::new();
    let (leader, to) = bench.enter("g");
    bench.advance(3_000);
    bench.joined(to);
    bench.auto_commit = false;
    let first = bench.send(Input::Sync(sync_request("g", 1, &leader, &[(&leader, "one")])));
    let second = bench.send(Input::Sync(sync_request("g", 1, &leader, &[(&leader, "two")])));
    assert_eq!(bench.synced(first).error_code, ResponseError::RebalanceInProgress.code());
    bench.commit_all();
    assert_eq!(bench.synced(second).assignment, "one");
    assert_eq!(bench.log.len(), 1);
}

#[test]
fn who_joins_while_the_assignment_is_stored_starts_the_next_generation() {
    let mut bench = Bench::new();
    let (leader, to) = bench.enter("g");
    bench.advance(3_000);
    bench.joined(to);
    bench.auto_commit = false;
    let leading = bench.send(Input::Sync(sync_request("g", 1, &leader, &[(&leader, "one")])));
    let (_, newcomer) = bench.enter("g");
    assert_eq!(bench.synced(leading).error_code, ResponseError::RebalanceInProgress.code());
    bench.commit_all();
    assert_eq!(bench.state("g"), "PreparingRebalance");
    let again = bench.send_join(join_request("g", &leader));
    assert_eq!((bench.joined(again).generation_id, bench.joined(newcomer).generation_id), (2, 2));
}

#[test]
fn an_assignment_that_is_not_stored_in_time_starts_again() {
    let mut bench = Bench::new();
    let (leader, to) = bench.enter("g");
    bench.advance(3_000);
    bench.joined(to);
    bench.auto_commit = false;
    let leading = bench.send(Input::Sync(sync_request("g", 1, &leader, &[(&leader, "one")])));
    bench.advance(COMMIT_TIMEOUT_MS);
    assert_eq!(bench.synced(leading).error_code, ResponseError::CoordinatorNotAvailable.code());
    assert_eq!(bench.state("g"), "PreparingRebalance");
    bench.commit_all();
    assert_eq!(bench.state("g"), "PreparingRebalance");
}

#[test]
fn an_assignment_too_large_for_a_record_fails_the_rebalance() {
    let mut bench = Bench::new();
    let (leader, to) = bench.enter("g");
    bench.advance(3_000);
    bench.joined(to);
    let huge: &'static str = Box::leak("x".repeat(MAX_GROUP_RECORD_BYTES).into_boxed_str());
    let response = bench.sync(sync_request("g", 1, &leader, &[(&leader, huge)]));
    assert_eq!(response.error_code, ResponseError::UnknownServerError.code());
    assert_eq!(bench.state("g"), "PreparingRebalance");
    assert!(bench.log.is_empty());
}

#[test]
fn a_member_that_never_asks_for_its_assignment_is_out() {
    let mut bench = Bench::new();
    let (leader, a) = bench.enter("g");
    let (follower, b) = bench.enter("g");
    bench.advance(6_000);
    bench.joined(a);
    bench.joined(b);
    bench.sync(sync_request("g", 1, &leader, &[(&leader, "one"), (&follower, "two")]));
    for _ in 0..11 {
        bench.advance(5_000);
        assert_eq!(bench.heartbeat("g", 1, &leader), 0);
        assert_eq!(bench.heartbeat("g", 1, &follower), 0);
    }
    bench.advance(5_000);
    assert_eq!(bench.heartbeat("g", 1, &leader), ResponseError::RebalanceInProgress.code());
    assert_eq!(bench.heartbeat("g", 1, &follower), ResponseError::UnknownMemberId.code());
}

#[test]
fn heartbeats_keep_a_session_alive() {
    let mut bench = Bench::new();
    let ids = bench.stable("g", 2);
    for _ in 0..5 {
        bench.advance(9_000);
        assert_eq!(bench.heartbeat("g", 1, &ids[0]), if bench.state("g") == "Stable" { 0 } else { 27 });
    }
    assert_eq!(bench.heartbeat("g", 1, &ids[1]), ResponseError::UnknownMemberId.code());
    assert_eq!(bench.heartbeat("g", 9, &ids[0]), ResponseError::IllegalGeneration.code());
    assert_eq!(bench.heartbeat("nobody", 1, &ids[0]), ResponseError::UnknownMemberId.code());
    assert_eq!(bench.heartbeat("", 1, &ids[0]), ResponseError::InvalidGroupId.code());
    let fenced = heartbeat_request("g", 1, &ids[0]).with_group_instance_id(Some(s("i")));
    assert_eq!(
        bench.call(Input::Heartbeat(fenced)),
        Reply::Heartbeat(
            kafka_protocol::messages::HeartbeatResponse::default()
                .with_error_code(ResponseError::UnknownMemberId.code())
        )
    );
}

#[test]
fn a_parked_member_needs_no_heartbeat_but_a_new_one_is_dropped_after_five_minutes() {
    let mut bench = Bench::new();
    let ids = bench.stable("g", 1);
    let parked = {
        let (_, newcomer) = bench.enter("g");
        let waits = bench.send_join(join_request("g", &ids[0]).with_rebalance_timeout_ms(900_000));
        (newcomer, waits)
    };
    // Both are there, so the rebalance is over at once.
    assert_eq!((bench.joined(parked.0).generation_id, bench.joined(parked.1).generation_id), (2, 2));
    let mut bench = Bench::new();
    let to = bench
        .send_join(static_join("g", "", "i1").with_session_timeout_ms(1_800_000).with_rebalance_timeout_ms(900_000));
    bench.advance(3_000);
    let sleeper = bench.joined(to).member_id.to_string();
    bench.sync(sync_request("g", 1, &sleeper, &[(&sleeper, "mine")]));
    let (_, newcomer) = bench.enter("g");
    bench.advance(299_999);
    assert!(bench.is_parked(newcomer));
    bench.advance(1);
    assert_eq!(bench.joined(newcomer).error_code, ResponseError::UnknownMemberId.code());
}

#[test]
fn leaving_empties_the_group_and_says_so_when_it_is_stored() {
    let mut bench = Bench::new();
    let ids = bench.stable("g", 1);
    bench.auto_commit = false;
    let to = bench.send(Input::Leave(leave_request("g", &[(&ids[0], None)])));
    assert!(bench.is_parked(to));
    bench.commit_all();
    assert!(!bench.is_parked(to));
    assert_eq!(bench.state("g"), "Empty");
    bench.restart();
    assert_eq!(bench.state("g"), "Empty");
}

#[test]
fn each_leaver_gets_its_own_answer() {
    let mut bench = Bench::new();
    assert_eq!(leave(&mut bench, "", &[("m", None)]).0, ResponseError::InvalidGroupId.code());
    assert_eq!(leave(&mut bench, "nobody", &[("m", None)]), (0, vec![ResponseError::UnknownMemberId.code()]));
    let to = bench.send_join(static_join("g", "", "i1"));
    bench.advance(3_000);
    let fixed = bench.joined(to).member_id.to_string();
    bench.sync(sync_request("g", 1, &fixed, &[]));
    let pending = bench.join(join_request("g", "")).member_id.to_string();
    let unknown = ResponseError::UnknownMemberId.code();
    let fenced = ResponseError::FencedInstanceId.code();
    let answers = leave(
        &mut bench,
        "g",
        &[("", Some("nobody")), ("", None), ("wrong", Some("i1")), (&pending, None), ("", Some("i1")), (&fixed, None)],
    );
    assert_eq!(answers, (0, vec![unknown, unknown, fenced, 0, 0, unknown]));
    assert_eq!(bench.state("g"), "Empty");
}

#[test]
fn a_leaver_lets_the_others_go_on() {
    let mut bench = Bench::new();
    let ids = bench.stable("g", 3);
    assert_eq!(leave(&mut bench, "g", &[(&ids[0], None)]), (0, vec![0]));
    let first = bench.send_join(join_request("g", &ids[1]));
    assert!(bench.is_parked(first));
    assert_eq!(leave(&mut bench, "g", &[(&ids[2], None)]), (0, vec![0]));
    let joined = bench.joined(first);
    assert_eq!((joined.generation_id, joined.members.len()), (2, 1));
}

#[test]
fn who_waits_when_the_shard_goes_is_told() {
    let mut bench = Bench::new();
    let (leader, a) = bench.enter("g");
    bench.advance(3_000);
    bench.joined(a);
    let (_, joining) = bench.enter("h");
    bench.auto_commit = false;
    let syncing = bench.send(Input::Sync(sync_request("g", 1, &leader, &[])));
    let commit =
        bench.send(Input::Commit { api_version: 9, request: super::bench::commit_request("simple", -1, "", 1) });
    let told: std::collections::BTreeMap<_, _> = bench.unload().into_iter().collect();
    let error = ResponseError::NotCoordinator.code();
    assert!(matches!(&told[&joining], Reply::Join(response) if response.error_code == error));
    assert!(matches!(&told[&syncing], Reply::Sync(response) if response.error_code == error));
    assert!(matches!(&told[&commit], Reply::Commit(response) if response.topics[0].partitions[0].error_code == error));
    assert_eq!(told.len(), 3);
}
