//! Joining, by Kafka's rules.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;

use super::bench::{Bench, join_request, s, static_join, subscription, sync_request};
use crate::config::GroupSettings;
use crate::coordinator::group::Input;

fn protocols(names: &[&str]) -> Vec<JoinGroupRequestProtocol> {
    let protocol =
        |name: &&str| JoinGroupRequestProtocol::default().with_name(s(name)).with_metadata(subscription(&["orders"]));
    names.iter().map(protocol).collect()
}

#[test]
fn a_dynamic_member_gets_an_id_first() {
    let mut bench = Bench::new();
    let response = bench.join(join_request("g", ""));
    assert_eq!(response.error_code, ResponseError::MemberIdRequired.code());
    assert_eq!(&*response.member_id, "c-00000000-0000-0000-0000-000000000001");
    assert_eq!(bench.state("g"), "Empty");
}

#[test]
fn an_old_client_is_let_in_at_once() {
    let mut bench = Bench::new();
    bench.api_version = 3;
    let to = bench.send_join(join_request("g", ""));
    assert!(bench.is_parked(to));
    bench.advance(3_000);
    assert_eq!(bench.joined(to).error_code, 0);
}

#[test]
fn two_members_reach_a_stable_generation() {
    let mut bench = Bench::new();
    let (leader, first) = bench.enter("g");
    let (follower, second) = bench.enter("g");
    assert_eq!(bench.state("g"), "PreparingRebalance");
    bench.advance(2_999);
    assert!(bench.is_parked(first));
    bench.advance(3_001);
    let first = bench.joined(first);
    let second = bench.joined(second);
    assert_eq!((first.generation_id, second.generation_id), (1, 1));
    assert_eq!((first.members.len(), second.members.len()), (2, 0));
    assert_eq!((&*first.leader, &*second.leader), (leader.as_str(), leader.as_str()));
    assert_eq!(first.protocol_name.as_deref(), Some("range"));
    assert_eq!(first.protocol_type.as_deref(), Some("consumer"));
    assert_eq!(bench.state("g"), "CompletingRebalance");

    bench.auto_commit = false;
    let waiting = bench.send(Input::Sync(sync_request("g", 1, &follower, &[])));
    let assignment = [(leader.as_str(), "one"), (follower.as_str(), "two")];
    let leading = bench.send(Input::Sync(sync_request("g", 1, &leader, &assignment)));
    assert!(bench.is_parked(waiting) && bench.is_parked(leading), "the assignment is not committed yet");
    assert_eq!(bench.state("g"), "CompletingRebalance");
    bench.commit_all();
    assert_eq!(bench.synced(leading).assignment, "one");
    assert_eq!(bench.synced(waiting).assignment, "two");
    assert_eq!(bench.state("g"), "Stable");
}

#[test]
fn each_newcomer_makes_the_first_rebalance_wait_longer_but_not_for_ever() {
    let mut bench = Bench::new();
    let mut parked = Vec::new();
    // The longest rebalance timeout is one minute; a newcomer every two seconds.
    for _ in 0..29 {
        parked.push(bench.enter("g"));
        bench.advance(2_000);
    }
    assert!(parked.iter().all(|(_, to)| bench.is_parked(*to)));
    bench.advance(5_000);
    for (_, to) in parked {
        assert_eq!(bench.joined(to).generation_id, 1);
    }
}

#[test]
fn session_timeouts_have_bounds() {
    let mut bench = Bench::new();
    for (timeout, code) in
        [(5_999, ResponseError::InvalidSessionTimeout.code()), (6_000, 79), (1_800_000, 79), (1_800_001, 26)]
    {
        let response = bench.join(join_request("g", "").with_session_timeout_ms(timeout));
        assert_eq!(response.error_code, code, "{timeout}");
    }
}

#[test]
fn bad_names_are_refused() {
    let mut bench = Bench::new();
    assert_eq!(bench.join(join_request("", "")).error_code, ResponseError::InvalidGroupId.code());
    let unknown = bench.join(join_request("nobody", "some-member"));
    assert_eq!(unknown.error_code, ResponseError::UnknownMemberId.code());
    assert_eq!(&*unknown.member_id, "some-member");
    let no_protocols = bench.join(join_request("g", "").with_protocols(Vec::new()));
    assert_eq!(no_protocols.error_code, ResponseError::InconsistentGroupProtocol.code());
    let no_type = bench.join(join_request("g", "").with_protocol_type(s("")));
    assert_eq!(no_type.error_code, ResponseError::InconsistentGroupProtocol.code());
    assert_eq!(bench.state("g"), "Dead", "a refused join leaves no group behind");
    let huge = "x".repeat(40_000);
    assert_eq!(bench.join(join_request(&huge, "")).error_code, ResponseError::InvalidRequest.code());
}

#[test]
fn a_member_must_share_type_and_protocol() {
    let mut bench = Bench::new();
    bench.stable("g", 1);
    let other = bench.join(join_request("g", "").with_protocols(protocols(&["roundrobin"])));
    assert_eq!(other.error_code, ResponseError::InconsistentGroupProtocol.code());
    let connect = bench.join(join_request("g", "").with_protocol_type(s("connect")));
    assert_eq!(connect.error_code, ResponseError::InconsistentGroupProtocol.code());
}

#[test]
fn the_protocol_with_most_votes_among_common_ones_wins() {
    let mut bench = Bench::new();
    bench.api_version = 3;
    let sets: [&[&str]; 3] = [&["a", "b", "c"], &["c", "b"], &["b", "c"]];
    let parked: Vec<_> =
        sets.iter().map(|names| bench.send_join(join_request("g", "").with_protocols(protocols(names)))).collect();
    bench.advance(6_000);
    for to in parked {
        assert_eq!(bench.joined(to).protocol_name.as_deref(), Some("b"));
    }
}

#[test]
fn a_pending_member_that_stays_away_is_forgotten() {
    let mut bench = Bench::new();
    let id = bench.join(join_request("g", "")).member_id.to_string();
    bench.advance(10_000);
    assert_eq!(bench.state("g"), "Dead");
    assert_eq!(bench.join(join_request("g", &id)).error_code, ResponseError::UnknownMemberId.code());
    assert!(bench.log.is_empty());
}

#[test]
fn a_rebalance_waits_for_members_and_pending_ones_until_their_time_is_up() {
    let mut bench = Bench::new();
    let ids = bench.stable("g", 2);
    let (third, parked) = bench.enter("g");
    assert_eq!(bench.state("g"), "PreparingRebalance");
    for id in &ids {
        assert_eq!(bench.heartbeat("g", 1, id), ResponseError::RebalanceInProgress.code());
    }
    let first = bench.send_join(join_request("g", &ids[0]));
    assert!(bench.is_parked(parked) && bench.is_parked(first));
    // The second member never joins, though it keeps its session alive.
    for _ in 0..12 {
        bench.advance(5_000);
        if bench.state("g") == "PreparingRebalance" {
            bench.heartbeat("g", 1, &ids[1]);
        }
    }
    let joined = bench.joined(first);
    assert_eq!((joined.generation_id, joined.members.len()), (2, 2));
    assert_eq!(bench.joined(parked).member_id.to_string(), third);
    assert_eq!(bench.heartbeat("g", 2, &ids[1]), ResponseError::UnknownMemberId.code());
}

#[test]
fn another_member_leads_if_the_leader_does_not_join() {
    let mut bench = Bench::new();
    let ids = bench.stable("g", 2);
    let (_, parked) = bench.enter("g");
    let follower = bench.send_join(join_request("g", &ids[1]));
    bench.advance(60_000);
    let joined = bench.joined(follower);
    assert_eq!(&*joined.leader, ids[1].as_str());
    assert_eq!(joined.members.len(), 2);
    assert_eq!(bench.joined(parked).error_code, 0);
}

#[test]
fn a_follower_that_joins_again_unchanged_gets_its_place_back() {
    let mut bench = Bench::new();
    let ids = bench.stable("g", 2);
    let again = bench.join(join_request("g", &ids[1]));
    assert_eq!((again.error_code, again.generation_id, again.members.len()), (0, 1, 0));
    assert_eq!(bench.state("g"), "Stable");
    let changed = bench.send_join(join_request("g", &ids[1]).with_protocols(vec![
        JoinGroupRequestProtocol::default().with_name(s("range")).with_metadata(subscription(&["other"])),
    ]));
    assert!(bench.is_parked(changed));
    assert_eq!(bench.state("g"), "PreparingRebalance");
}

#[test]
fn a_leader_that_joins_again_starts_a_rebalance() {
    let mut bench = Bench::new();
    let ids = bench.stable("g", 2);
    let leader = bench.send_join(join_request("g", &ids[0]));
    assert_eq!(bench.state("g"), "PreparingRebalance");
    let follower = bench.send_join(join_request("g", &ids[1]));
    assert_eq!((bench.joined(leader).generation_id, bench.joined(follower).generation_id), (2, 2));
}

#[test]
fn a_lost_join_answer_is_given_again_while_completing() {
    let mut bench = Bench::new();
    let (id, to) = bench.enter("g");
    bench.advance(3_000);
    bench.joined(to);
    let again = bench.join(join_request("g", &id));
    assert_eq!((again.error_code, again.generation_id, again.members.len()), (0, 1, 1));
}

#[test]
fn a_second_join_of_the_same_member_answers_the_first() {
    let mut bench = Bench::new();
    let (id, first) = bench.enter("g");
    let second = bench.send_join(join_request("g", &id));
    assert_eq!(bench.joined(first).error_code, ResponseError::RebalanceInProgress.code());
    bench.advance(6_000);
    assert_eq!(bench.joined(second).error_code, 0);
}

#[test]
fn a_full_group_takes_nobody() {
    let mut bench = Bench::with(GroupSettings { max_size: 2, ..GroupSettings::default() });
    bench.stable("g", 2);
    let third = bench.join(join_request("g", ""));
    assert_eq!(third.error_code, ResponseError::GroupMaxSizeReached.code());
    assert_eq!(bench.state("g"), "Stable");
}

#[test]
fn a_loaded_group_above_a_lowered_limit_shrinks() {
    let mut bench = Bench::new();
    let ids = bench.stable("g", 3);
    bench.settings.max_size = 2;
    bench.restart();
    assert_eq!(bench.state("g"), "PreparingRebalance");
    let first = bench.send_join(join_request("g", &ids[0]));
    let second = bench.send_join(join_request("g", &ids[1]));
    let third = bench.join(join_request("g", &ids[2]));
    assert_eq!(third.error_code, ResponseError::GroupMaxSizeReached.code());
    bench.advance(60_000);
    assert_eq!((bench.joined(first).generation_id, bench.joined(second).generation_id), (2, 2));
}

#[test]
fn a_shard_that_is_full_of_groups_takes_no_other() {
    let mut bench = Bench::new();
    for group in 0..1000 {
        assert_eq!(bench.join(join_request(&format!("g{group}"), "")).error_code, 79);
    }
    let refused = bench.join(join_request("one-more", ""));
    assert_eq!(refused.error_code, ResponseError::CoordinatorNotAvailable.code());
    bench.advance(10_000);
    assert_eq!(bench.join(join_request("one-more", "")).error_code, 79, "the others have expired");
}

#[test]
fn a_static_member_needs_no_id_first_and_keeps_its_place() {
    let mut bench = Bench::new();
    let to = bench.send_join(static_join("g", "", "i1"));
    bench.advance(3_000);
    let joined = bench.joined(to);
    let old = joined.member_id.to_string();
    assert!(old.starts_with("i1-"), "{old}");
    assert_eq!(bench.sync(sync_request("g", 1, &old, &[(&old, "mine")])).assignment, "mine");

    let back = bench.join(static_join("g", "", "i1"));
    let new = back.member_id.to_string();
    assert_ne!(old, new);
    assert_eq!((back.error_code, back.generation_id, back.skip_assignment), (0, 1, true));
    assert_eq!((&*back.leader, back.members.len()), (new.as_str(), 1));
    assert_eq!(bench.state("g"), "Stable");
    assert_eq!(bench.sync(sync_request("g", 1, &new, &[])).assignment, "mine");

    let fenced = sync_request("g", 1, &old, &[]).with_group_instance_id(Some(s("i1")));
    assert_eq!(bench.sync(fenced).error_code, ResponseError::FencedInstanceId.code());
    assert_eq!(bench.sync(sync_request("g", 1, &old, &[])).error_code, ResponseError::UnknownMemberId.code());
    let fenced = bench.join(static_join("g", &old, "i1"));
    assert_eq!(fenced.error_code, ResponseError::FencedInstanceId.code());
    let unknown = bench.join(static_join("g", &old, "i2"));
    assert_eq!(unknown.error_code, ResponseError::UnknownMemberId.code());
}

#[test]
fn an_old_client_that_comes_back_as_static_leader_is_not_told_to_assign() {
    let mut bench = Bench::new();
    bench.api_version = 5;
    let to = bench.send_join(static_join("g", "", "i1"));
    bench.advance(3_000);
    let old = bench.joined(to).member_id.to_string();
    bench.sync(sync_request("g", 1, &old, &[(&old, "mine")]));
    let back = bench.join(static_join("g", "", "i1"));
    assert_eq!((&*back.leader, back.members.len(), back.skip_assignment), (old.as_str(), 0, false));
}

#[test]
fn a_static_members_new_id_is_told_only_when_it_is_stored() {
    let mut bench = Bench::new();
    let to = bench.send_join(static_join("g", "", "i1"));
    bench.advance(3_000);
    let old = bench.joined(to).member_id.to_string();
    bench.sync(sync_request("g", 1, &old, &[(&old, "mine")]));
    bench.auto_commit = false;
    let back = bench.send_join(static_join("g", "", "i1"));
    assert!(bench.is_parked(back));
    bench.restart();
    assert_eq!(bench.heartbeat("g", 1, &old), 0, "the old id is still the one in the log");
}

#[test]
fn a_static_member_that_comes_back_changed_rebalances() {
    let mut bench = Bench::new();
    let to = bench.send_join(static_join("g", "", "i1").with_protocols(protocols(&["range", "sticky"])));
    bench.advance(3_000);
    let old = bench.joined(to).member_id.to_string();
    bench.sync(sync_request("g", 1, &old, &[(&old, "mine")]));
    let back = bench.join(static_join("g", "", "i1").with_protocols(protocols(&["sticky", "range"])));
    assert_eq!((back.generation_id, back.protocol_name.as_deref()), (2, Some("sticky")));
}

#[test]
fn a_static_member_that_comes_back_while_its_old_self_waits_fences_it() {
    let mut bench = Bench::new();
    let first = bench.send_join(static_join("g", "", "i1"));
    let second = bench.send_join(static_join("g", "", "i1"));
    assert_eq!(bench.joined(first).error_code, ResponseError::FencedInstanceId.code());
    bench.advance(6_000);
    let joined = bench.joined(second);
    assert_eq!((joined.error_code, joined.members.len()), (0, 1));
    // In CompletingRebalance the leader may be assigning to the old id already.
    let third = bench.join(static_join("g", "", "i1"));
    assert_eq!((third.error_code, third.generation_id), (0, 2));
}

#[test]
fn static_members_survive_a_rebalance_that_they_miss() {
    let mut bench = Bench::new();
    let to = bench.send_join(static_join("g", "", "i1").with_session_timeout_ms(600_000));
    bench.advance(3_000);
    let sleeper = bench.joined(to).member_id.to_string();
    bench.sync(sync_request("g", 1, &sleeper, &[(&sleeper, "mine")]));
    let (dynamic, parked) = bench.enter("g");
    bench.advance(60_000);
    let joined = bench.joined(parked);
    assert_eq!((joined.generation_id, joined.members.len()), (2, 2));
    assert_eq!(&*joined.leader, dynamic.as_str());
}

#[test]
fn a_group_of_absent_static_members_waits_for_their_sessions() {
    let mut bench = Bench::new();
    let to = bench.send_join(static_join("g", "", "i1").with_session_timeout_ms(100_000));
    bench.advance(3_000);
    let sleeper = bench.joined(to).member_id.to_string();
    bench.sync(sync_request("g", 1, &sleeper, &[(&sleeper, "mine")]));
    let pending = bench.join(join_request("g", "")).member_id.to_string();
    let joining = bench.send_join(join_request("g", &pending));
    bench.call(Input::Leave(super::bench::leave_request("g", &[(&pending, None)])));
    assert_eq!(bench.joined(joining).error_code, ResponseError::UnknownMemberId.code());
    bench.advance(90_000);
    assert_eq!(bench.state("g"), "PreparingRebalance");
    bench.advance(60_000);
    assert_eq!(bench.state("g"), "Empty");
}
