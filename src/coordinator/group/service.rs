//! The group coordinator as the broker calls it: every API in every version.
//!
//! Requests go to the shard of their group; those about several groups are split by shard and gathered again. What the
//! caller has to do before: authorise, and leave out of an `OffsetCommit` the partitions that do not exist.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use futures::future::join_all;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, GroupId,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest,
    OffsetDeleteResponse, OffsetFetchRequest, OffsetFetchResponse, SyncGroupRequest, SyncGroupResponse,
};
use prometheus_client::registry::Registry;

use super::api::{Caller, Input, Reply, commit_error, deleted, described_error, fetch_error, join_error, sync_error};
use super::find::partition_for;
use super::limits::TOPICS_DELETED_TRIES;
use super::machine::GroupMachine;
use super::metrics::GroupMetrics;
use super::versions;
use crate::base::{Clock, Rng, Tasks};
use crate::config::GroupSettings;
use crate::coordinator::runtime::limits::RETRY_PAUSE_MS;
use crate::coordinator::runtime::{CoordinatorLog, Runtime, RuntimeMetrics};

/// What a caller is told when its shard went away before answering: ask who the coordinator is now.
const GONE: ResponseError = ResponseError::NotCoordinator;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct GroupCoordinator {
    runtime: Runtime<GroupMachine>,
    rng: Rng,
    partitions: Arc<AtomicI32>,
}

/// Takes the one variant of a reply that answers an input; another would be a bug, answered as a lost shard is.
macro_rules! expect {
    ($reply:expr, $variant:ident, $lost:expr) => {
        match $reply {
            Ok(Reply::$variant(response)) => response,
            _ => $lost,
        }
    };
}

/// What the coordinator counts, over all lives of it in a process. Clones share the counters.
#[derive(Debug, Clone)]
pub struct CoordinatorMetrics {
    groups: GroupMetrics,
    runtime: RuntimeMetrics,
}

impl CoordinatorMetrics {
    /// Makes the counters and names them in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        Self { groups: GroupMetrics::register(registry), runtime: RuntimeMetrics::register(registry, "group") }
    }
}

impl GroupCoordinator {
    /// Leads no partition yet: see [`GroupCoordinator::elect`].
    pub fn new(
        log: Arc<dyn CoordinatorLog>,
        settings: GroupSettings,
        clock: Clock,
        rng: Rng,
        tasks: Tasks,
        metrics: CoordinatorMetrics,
    ) -> Self {
        let CoordinatorMetrics { groups: metrics, runtime: runtime_metrics } = metrics;
        let partitions = settings.offsets_topic_partitions.max(1);
        let max_groups = max_groups_per_shard(settings.max_groups, partitions);
        let settings = Arc::new(settings);
        let make = move || GroupMachine::new(settings.clone(), max_groups, metrics.clone());
        let partitions = Arc::new(AtomicI32::new(partitions));
        Self { runtime: Runtime::new(log, clock, tasks, runtime_metrics, make), rng, partitions }
    }

    /// The partition of `__consumer_offsets` that holds `group`.
    pub fn partition_for(&self, group: &str) -> i32 {
        partition_for(group, self.partitions.load(Ordering::Relaxed))
    }

    /// How many partitions `__consumer_offsets` has: another broker, with other settings, may have created it.
    pub fn set_partitions(&self, partitions: i32) {
        self.partitions.store(partitions.max(1), Ordering::Relaxed);
    }

    /// This broker leads a partition of `__consumer_offsets` from now on.
    pub fn elect(&self, partition: i32) {
        self.runtime.elect(partition);
    }

    /// This broker does not lead a partition of `__consumer_offsets` any more.
    pub fn resign(&self, partition: i32) {
        self.runtime.resign(partition);
    }

    async fn call(&self, group: &str, input: Input) -> Result<Reply, crate::coordinator::runtime::ShardGone> {
        self.runtime.call(self.partition_for(group), input).await
    }

    /// `JoinGroup`; resolves when the rebalance has gathered its members.
    pub async fn join_group(&self, caller: Caller, request: JoinGroupRequest) -> JoinGroupResponse {
        let version = caller.api_version;
        let (group, member) = (request.group_id.clone(), request.member_id.clone());
        let input = Input::Join { caller, request, fresh: self.rng.uuid() };
        let response = expect!(self.call(&group, input).await, Join, join_error(&member, GONE));
        versions::join_response(response, version)
    }

    /// `SyncGroup`; resolves when the leader's assignment is committed.
    pub async fn sync_group(&self, request: SyncGroupRequest) -> SyncGroupResponse {
        let group = request.group_id.clone();
        expect!(self.call(&group, Input::Sync(request)).await, Sync, sync_error(GONE))
    }

    /// `Heartbeat`.
    pub async fn heartbeat(&self, request: HeartbeatRequest) -> HeartbeatResponse {
        let group = request.group_id.clone();
        let lost = HeartbeatResponse::default().with_error_code(GONE.code());
        expect!(self.call(&group, Input::Heartbeat(request)).await, Heartbeat, lost)
    }

    /// `LeaveGroup`.
    pub async fn leave_group(&self, version: i16, request: LeaveGroupRequest) -> LeaveGroupResponse {
        let group = request.group_id.clone();
        let input = Input::Leave(versions::leave_request(request, version));
        let lost = LeaveGroupResponse::default().with_error_code(GONE.code());
        versions::leave_response(expect!(self.call(&group, input).await, Leave, lost), version)
    }

    /// `OffsetCommit`; resolves when the offsets are committed to the log.
    pub async fn offset_commit(&self, version: i16, request: OffsetCommitRequest) -> OffsetCommitResponse {
        let group = request.group_id.clone();
        let lost = commit_error(&request, GONE);
        let input = Input::Commit { api_version: version, request };
        expect!(self.call(&group, input).await, Commit, lost)
    }

    /// `OffsetFetch`.
    pub async fn offset_fetch(&self, version: i16, request: OffsetFetchRequest) -> OffsetFetchResponse {
        let groups = versions::fetch_groups(&request, version);
        let fetch = |group: OffsetFetchRequestGroup| self.fetch_group(group, request.require_stable);
        let groups = join_all(groups.into_iter().map(fetch)).await;
        versions::fetch_response(groups, &request, version)
    }

    async fn fetch_group(&self, group: OffsetFetchRequestGroup, require_stable: bool) -> OffsetFetchResponseGroup {
        let id = group.group_id.clone();
        let input = Input::Fetch { group, require_stable };
        expect!(self.call(&id, input).await, Fetch, fetch_error(&id, GONE))
    }

    /// `OffsetDelete`.
    pub async fn offset_delete(&self, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
        let group = request.group_id.clone();
        let lost = OffsetDeleteResponse::default().with_error_code(GONE.code());
        expect!(self.call(&group, Input::DeleteOffsets(request)).await, DeleteOffsets, lost)
    }

    /// `ListGroups`: the groups that this broker coordinates.
    pub async fn list_groups(&self, request: ListGroupsRequest) -> ListGroupsResponse {
        let shards = self.runtime.partitions().into_iter();
        let parts = join_all(shards.map(|shard| self.runtime.call(shard, Input::List(request.clone())))).await;
        let mut groups = Vec::new();
        for part in parts {
            match expect!(part, List, Err(GONE)) {
                Ok(part) => groups.extend(part),
                // The shard has just gone elsewhere; its new coordinator lists its groups.
                Err(ResponseError::NotCoordinator) => {}
                Err(error) => return ListGroupsResponse::default().with_error_code(error.code()),
            }
        }
        ListGroupsResponse::default().with_groups(groups)
    }

    /// The groups by their shards.
    fn by_shard(&self, groups: Vec<GroupId>) -> BTreeMap<i32, Vec<GroupId>> {
        let mut shards: BTreeMap<i32, Vec<GroupId>> = BTreeMap::new();
        for group in groups {
            shards.entry(self.partition_for(&group)).or_default().push(group);
        }
        shards
    }

    /// `DescribeGroups`.
    pub async fn describe_groups(&self, version: i16, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
        let shards = self.by_shard(request.groups).into_iter().map(|(shard, ids)| async move {
            let lost = ids.iter().map(|id| described_error(id, GONE)).collect();
            expect!(self.runtime.call(shard, Input::Describe(ids)).await, Describe, lost)
        });
        let groups = join_all(shards).await.into_iter().flatten().collect();
        DescribeGroupsResponse::default().with_groups(versions::described(groups, version))
    }

    /// `DeleteGroups`.
    pub async fn delete_groups(&self, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
        let shards = self.by_shard(request.groups_names).into_iter().map(|(shard, ids)| async move {
            let lost = ids.iter().map(|id| deleted(id, GONE.code())).collect();
            expect!(self.runtime.call(shard, Input::DeleteGroups(ids)).await, DeleteGroups, lost)
        });
        let results = join_all(shards).await.into_iter().flatten().collect();
        DeleteGroupsResponse::default().with_results(results)
    }

    /// Topics were deleted: removes their committed offsets from every shard that is led here. An error means that some
    /// may be left; they expire like others, and the same call may be repeated.
    pub async fn topics_deleted(&self, topics: &[String]) -> Result<(), ResponseError> {
        let shards = self.runtime.partitions().into_iter();
        join_all(shards.map(|shard| self.forget_topics(shard, topics))).await.into_iter().collect()
    }

    async fn forget_topics(&self, shard: i32, topics: &[String]) -> Result<(), ResponseError> {
        let mut result = Err(GONE);
        for _ in 0..TOPICS_DELETED_TRIES {
            let reply = self.runtime.call(shard, Input::TopicsDeleted(topics.to_vec())).await;
            result = expect!(reply, TopicsDeleted, Err(GONE));
            match result {
                Err(ResponseError::CoordinatorLoadInProgress | ResponseError::CoordinatorNotAvailable) => {
                    tokio::time::sleep(Duration::from_millis(RETRY_PAUSE_MS)).await;
                }
                _ => break,
            }
        }
        result
    }
}

/// Ids do not hash evenly, so a shard may hold some times its share; never more than all.
fn max_groups_per_shard(max_groups: usize, partitions: i32) -> usize {
    let share = max_groups / usize::try_from(partitions).unwrap_or(1).max(1);
    (share * 4 + 100).min(max_groups)
}
