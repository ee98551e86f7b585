//! The whole coordinator over a log in memory: shards, loads, commits that come late or never.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::{
    DeleteGroupsRequest, DescribeGroupsRequest, JoinGroupResponse, ListGroupsRequest, OffsetCommitRequest,
    OffsetFetchRequest,
};
use prometheus_client::registry::Registry;

use super::bench::{
    START_WALL_MS, commit_request, gid, heartbeat_request, join_request, s, static_join, sync_request, tname,
};
use super::fake_log::FakeLog;
use crate::base::{ManualClock, Rng, Tasks};
use crate::config::GroupSettings;
use crate::coordinator::group::{Caller, CoordinatorMetrics, GroupCoordinator};

struct World {
    clock: ManualClock,
    tasks: Tasks,
    groups: GroupCoordinator,
    registry: Registry,
}

impl World {
    fn new(log: &FakeLog) -> Self {
        let clock = ManualClock::starting_at(START_WALL_MS);
        let tasks = Tasks::new();
        let mut registry = Registry::default();
        let settings = GroupSettings { initial_rebalance_delay_ms: 100, ..GroupSettings::default() };
        let groups = GroupCoordinator::new(
            std::sync::Arc::new(log.clone()),
            settings,
            clock.clock(),
            // Another life draws other ids.
            Rng::seeded(log.appends() as u64),
            tasks.clone(),
            CoordinatorMetrics::register(&mut registry),
        );
        Self { clock, tasks, groups, registry }
    }

    /// Leads every partition, and has loaded it.
    async fn leading(log: &FakeLog) -> Self {
        let world = Self::new(log);
        for partition in 0..50 {
            world.groups.elect(partition);
        }
        world.settle().await;
        world
    }

    /// Lets every task run until it waits.
    async fn settle(&self) {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }

    async fn advance(&self, ms: u64) {
        for _ in 0..ms / 50 {
            self.clock.advance_ms(50);
            tokio::time::advance(Duration::from_millis(50)).await;
            self.settle().await;
        }
    }

    fn caller() -> Caller {
        Caller { client_id: "c".into(), client_host: "/127.0.0.1".into(), api_version: 9 }
    }

    fn start_join(&self, request: kafka_protocol::messages::JoinGroupRequest) -> BoxFuture<'static, JoinGroupResponse> {
        let groups = self.groups.clone();
        let task = tokio::spawn(async move { groups.join_group(Self::caller(), request).await });
        async move { task.await.unwrap() }.boxed()
    }

    async fn commit(&self, group: &str, offset: i64) -> i16 {
        let request: OffsetCommitRequest = commit_request(group, -1, "", offset);
        self.groups.offset_commit(9, request).await.topics[0].partitions[0].error_code
    }

    async fn fetch(&self, group: &str) -> (i16, i64) {
        let topic = OffsetFetchRequestTopics::default().with_name(tname("orders")).with_partition_indexes(vec![0]);
        let asked = OffsetFetchRequestGroup::default().with_group_id(gid(group)).with_topics(Some(vec![topic]));
        let response = self.groups.offset_fetch(9, OffsetFetchRequest::default().with_groups(vec![asked])).await;
        let group = &response.groups[0];
        (group.error_code, group.topics.first().map_or(-2, |topic| topic.partitions[0].committed_offset))
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_committed_is_there_after_a_restart() {
    let log = FakeLog::default();
    let world = World::leading(&log).await;
    for n in 0..20 {
        assert_eq!(world.commit(&format!("g{n}"), 100 + n).await, 0);
    }
    world.tasks.stop().await;
    let world = World::leading(&log).await;
    for n in 0..20 {
        assert_eq!(world.fetch(&format!("g{n}")).await, (0, 100 + n));
    }
    let listed = world.groups.list_groups(ListGroupsRequest::default()).await;
    assert_eq!(listed.groups.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_commit_is_answered_when_it_is_durable_and_a_fetch_waits_for_it() {
    let log = FakeLog::default();
    let world = World::leading(&log).await;
    let shard = world.groups.partition_for("g");
    log.hold(true);
    let mut commit = world.commit("g", 5).boxed();
    let mut fetch = world.fetch("g").boxed();
    assert!(futures::poll!(&mut commit).is_pending());
    world.settle().await;
    assert!(futures::poll!(&mut fetch).is_pending());
    world.settle().await;
    assert!(futures::poll!(&mut commit).is_pending() && futures::poll!(&mut fetch).is_pending());
    log.release(shard);
    assert_eq!((commit.await, fetch.await), (0, (0, 5)));
}

#[tokio::test(start_paused = true)]
async fn several_appends_are_in_flight_at_once() {
    let log = FakeLog::default();
    let world = World::leading(&log).await;
    let shard = world.groups.partition_for("g");
    log.hold(true);
    let commits: Vec<_> = (0..10)
        .map(|offset| {
            let groups = world.groups.clone();
            tokio::spawn(async move { groups.offset_commit(9, commit_request("g", -1, "", offset)).await })
        })
        .collect();
    world.settle().await;
    assert_eq!(log.pending(shard), 10);
    log.release(shard);
    for commit in commits {
        assert_eq!(commit.await.unwrap().topics[0].partitions[0].error_code, 0);
    }
    assert_eq!(world.fetch("g").await, (0, 9));
}

#[tokio::test(start_paused = true)]
async fn a_lost_append_is_never_seen_and_the_shard_comes_back() {
    let log = FakeLog::default();
    let world = World::leading(&log).await;
    let shard = world.groups.partition_for("g");
    assert_eq!(world.commit("g", 1).await, 0);
    log.hold(true);
    let mut commit = world.commit("g", 2).boxed();
    let mut fetch = world.fetch("g").boxed();
    assert!(futures::poll!(&mut commit).is_pending());
    world.settle().await;
    assert!(futures::poll!(&mut fetch).is_pending());
    world.settle().await;
    log.lose(shard);
    assert_eq!(commit.await, ResponseError::NotCoordinator.code());
    assert_eq!(fetch.await.0, ResponseError::NotCoordinator.code());
    log.hold(false);
    world.settle().await;
    assert_eq!(world.fetch("g").await, (0, 1));
    assert_eq!(world.commit("g", 3).await, 0);
    assert_eq!(world.fetch("g").await, (0, 3));
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_takes_too_long_gets_a_retriable_error() {
    let log = FakeLog::default();
    let world = World::leading(&log).await;
    let shard = world.groups.partition_for("g");
    log.hold(true);
    let groups = world.groups.clone();
    let commit = tokio::spawn(async move { groups.offset_commit(9, commit_request("g", -1, "", 8)).await });
    world.settle().await;
    world.advance(5_000).await;
    let response = commit.await.unwrap();
    assert_eq!(response.topics[0].partitions[0].error_code, ResponseError::CoordinatorNotAvailable.code());
    // It was in flight all the time, and the store was not told otherwise.
    log.release(shard);
    world.settle().await;
    assert_eq!(world.fetch("g").await, (0, 8));
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_loads_says_so_and_one_that_is_elsewhere_too() {
    let log = FakeLog::default();
    log.make_unreadable(true);
    let world = World::new(&log);
    let shard = world.groups.partition_for("g");
    assert_eq!(world.commit("g", 1).await, ResponseError::NotCoordinator.code());
    world.groups.elect(shard);
    world.settle().await;
    assert_eq!(world.commit("g", 1).await, ResponseError::CoordinatorLoadInProgress.code());
    assert_eq!(world.fetch("g").await.0, ResponseError::CoordinatorLoadInProgress.code());
    assert_eq!(world.groups.heartbeat(heartbeat_request("g", 1, "m")).await.error_code, 0);
    log.make_unreadable(false);
    world.advance(200).await;
    assert_eq!(world.commit("g", 1).await, 0);
    world.groups.resign(shard);
    assert_eq!(world.commit("g", 1).await, ResponseError::NotCoordinator.code());
    world.groups.elect(shard);
    world.settle().await;
    assert_eq!(world.fetch("g").await, (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_new_shard_waits_for_what_the_old_one_has_in_flight() {
    let log = FakeLog::default();
    let world = World::leading(&log).await;
    let shard = world.groups.partition_for("g");
    log.hold(true);
    let commit = world.groups.offset_commit(9, commit_request("g", -1, "", 4));
    let mut commit = Box::pin(commit);
    assert!(futures::poll!(&mut commit).is_pending());
    world.settle().await;
    world.groups.resign(shard);
    world.groups.elect(shard);
    world.settle().await;
    assert_eq!(commit.await.topics[0].partitions[0].error_code, ResponseError::NotCoordinator.code());
    assert_eq!(world.fetch("g").await.0, ResponseError::CoordinatorLoadInProgress.code());
    log.release(shard);
    world.settle().await;
    assert_eq!(world.fetch("g").await, (0, 4));
}

#[tokio::test(start_paused = true)]
async fn a_static_member_outlives_the_broker() {
    let log = FakeLog::default();
    let world = World::leading(&log).await;
    let join = world.start_join(static_join("g", "", "i1"));
    world.settle().await;
    world.advance(100).await;
    let joined = join.await;
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    let member = joined.member_id.to_string();
    let synced = world.groups.sync_group(sync_request("g", 1, &member, &[(&member, "mine")])).await;
    assert_eq!((synced.error_code, synced.assignment), (0, "mine".into()));
    world.tasks.stop().await;

    let world = World::leading(&log).await;
    assert_eq!(world.groups.heartbeat(heartbeat_request("g", 1, &member)).await.error_code, 0);
    let back = world.start_join(static_join("g", "", "i1"));
    world.settle().await;
    let back = back.await;
    assert_eq!((back.error_code, back.generation_id, back.skip_assignment), (0, 1, true));
    let synced = world.groups.sync_group(sync_request("g", 1, &back.member_id, &[])).await;
    assert_eq!(synced.assignment, "mine");
    let fenced = world.groups.heartbeat(heartbeat_request("g", 1, &member).with_group_instance_id(Some(s("i1")))).await;
    assert_eq!(fenced.error_code, ResponseError::FencedInstanceId.code());
}

#[tokio::test(start_paused = true)]
async fn sessions_end_by_the_shards_own_timer() {
    let world = World::leading(&FakeLog::default()).await;
    let join = world.start_join(static_join("g", "", "i1"));
    world.settle().await;
    world.advance(100).await;
    assert_eq!(join.await.error_code, 0);
    world.advance(10_000).await;
    let described = world.groups.describe_groups(5, DescribeGroupsRequest::default().with_groups(vec![gid("g")])).await;
    assert_eq!(&*described.groups[0].group_state, "Empty");
}

#[tokio::test(start_paused = true)]
async fn a_long_log_is_rewritten_to_its_live_state() {
    let log = FakeLog::default();
    let world = World::leading(&log).await;
    let shard = world.groups.partition_for("g");
    // Another group of the same shard that is written once, first.
    let other = (0..10_000).map(|n| format!("o{n}")).find(|id| world.groups.partition_for(id) == shard).unwrap();
    assert_eq!(world.commit(&other, 77).await, 0);
    let metadata = "m".repeat(4000);
    for offset in 0..1500 {
        let mut request = commit_request("g", -1, "", offset);
        request.topics[0].partitions[0].committed_metadata = Some(s(&metadata));
        world.groups.offset_commit(9, request).await;
    }
    world.settle().await;
    assert!(log.log_start(shard) > 1000, "log start is {}", log.log_start(shard));
    assert!(log.bytes(shard) < 3 << 20, "{} bytes are left", log.bytes(shard));
    world.tasks.stop().await;
    let world = World::leading(&log).await;
    assert_eq!(world.fetch("g").await, (0, 1499));
    assert_eq!(world.fetch(&other).await, (0, 77));
}

#[tokio::test(start_paused = true)]
async fn a_log_of_tombstones_is_dropped_whole() {
    let log = FakeLog::default();
    let world = World::leading(&log).await;
    let shard = world.groups.partition_for("g");
    let metadata = "m".repeat(4000);
    for offset in 0..1040 {
        let mut request = commit_request("g", -1, "", offset);
        request.topics[0].partitions[0].committed_metadata = Some(s(&metadata));
        world.groups.offset_commit(9, request).await;
        if offset == 1030 {
            let deleted = world.groups.delete_groups(DeleteGroupsRequest::default().with_groups_names(vec![gid("g")]));
            assert_eq!(deleted.await.results[0].error_code, 0);
        }
    }
    world.groups.topics_deleted(&["orders".to_owned()]).await.unwrap();
    world.settle().await;
    assert!(log.log_start(shard) > 900, "log start is {}", log.log_start(shard));
    assert_eq!(world.fetch("g").await, (0, -1));
}

#[tokio::test(start_paused = true)]
async fn idle_shards_do_nothing() {
    let log = FakeLog::default();
    let world = World::leading(&log).await;
    world.advance(60_000).await;
    assert_eq!(log.appends(), 0);
}

#[tokio::test(start_paused = true)]
async fn metrics_tell_what_is_there() {
    let world = World::leading(&FakeLog::default()).await;
    let join = world.start_join(static_join("g", "", "i1"));
    world.settle().await;
    world.advance(100).await;
    join.await;
    world.commit("h", 1).await;
    world.advance(5_000).await;
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &world.registry).unwrap();
    for line in [
        "esker_coordinator_groups{state=\"CompletingRebalance\"} 1",
        "esker_coordinator_groups{state=\"Empty\"} 1",
        "esker_coordinator_members 1",
        "esker_coordinator_offsets 1",
        "esker_coordinator_offset_commits_total 1",
        "esker_coordinator_group_active_shards 50",
        "esker_coordinator_group_appends_total 1",
    ] {
        assert!(text.contains(line), "no '{line}' in:\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dynamic_member_joins_through_the_service() {
    let world = World::leading(&FakeLog::default()).await;
    let first = world.groups.join_group(World::caller(), join_request("g", "")).await;
    assert_eq!(first.error_code, ResponseError::MemberIdRequired.code());
    assert!(first.member_id.starts_with("c-") && first.member_id.len() == 38, "{}", &*first.member_id);
    let join = world.start_join(join_request("g", &first.member_id));
    world.settle().await;
    world.advance(100).await;
    assert_eq!(join.await.generation_id, 1);
}
