//! Joining, by Kafka's rules.

use kafka_protocol::error::ResponseError;

use super::bench::{Bench, join_request, sync_request};

#[test]
fn a_dynamic_member_gets_an_id_first() {
    let mut bench = Bench::new();
    let response = bench.join(join_request("g", ""));
    assert_eq!(response.error_code, ResponseError::MemberIdRequired.code());
    assert_eq!(&*response.member_id, "c-00000000-0000-0000-0000-000000000001");
    assert_eq!(bench.state("g"), "Empty");
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
    let waiting = bench.send(crate::coordinator::group::Input::Sync(sync_request("g", 1, &follower, &[])));
    let leading = bench.send(crate::coordinator::group::Input::Sync(sync_request(
        "g",
        1,
        &leader,
        &[(&leader, "one"), (&follower, "two")],
    )));
    assert!(bench.is_parked(waiting) && bench.is_parked(leading), "the assignment is not committed yet");
    assert_eq!(bench.state("g"), "CompletingRebalance");
    bench.commit_all();
    assert_eq!(bench.synced(leading).assignment, "one");
    assert_eq!(bench.synced(waiting).assignment, "two");
    assert_eq!(bench.state("g"), "Stable");
}
