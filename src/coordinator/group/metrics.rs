//! Metrics of the group coordinator.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The state of a group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabel {
    /// Kafka's name of the state.
    pub state: &'static str,
}

/// Why a record was skipped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SkipLabel {
    /// `unknown_type` or `unreadable`.
    pub reason: &'static str,
}

/// Shared by all shards; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct GroupMetrics {
    /// Groups by state.
    pub groups: Family<StateLabel, Gauge>,
    /// Members of all groups.
    pub members: Gauge,
    /// Committed offsets that are kept.
    pub offsets: Gauge,
    /// Rebalances that reached Stable.
    pub rebalances: Counter,
    /// Offsets committed.
    pub offset_commits: Counter,
    /// Offsets removed because they were too old.
    pub offsets_expired: Counter,
    /// Offsets removed because somebody asked.
    pub offsets_deleted: Counter,
    /// Members removed because their session ended.
    pub sessions_expired: Counter,
    /// Joins refused because a limit on groups or members was reached.
    pub joins_refused: Counter,
    /// Records skipped while loading, by why.
    pub records_skipped: Family<SkipLabel, Counter>,
}

impl GroupMetrics {
    /// Makes the metrics known to `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let m = &metrics;
        registry.register("esker_coordinator_groups", "Consumer groups by state", m.groups.clone());
        registry.register("esker_coordinator_members", "Members of consumer groups", m.members.clone());
        registry.register("esker_coordinator_offsets", "Committed offsets kept", m.offsets.clone());
        registry.register("esker_coordinator_rebalances", "Rebalances completed", m.rebalances.clone());
        registry.register("esker_coordinator_offset_commits", "Offsets committed", m.offset_commits.clone());
        registry.register("esker_coordinator_offsets_expired", "Offsets expired", m.offsets_expired.clone());
        registry.register("esker_coordinator_offsets_deleted", "Offsets deleted on request", m.offsets_deleted.clone());
        registry.register(
            "esker_coordinator_sessions_expired",
            "Members whose session ended",
            m.sessions_expired.clone(),
        );
        registry.register("esker_coordinator_joins_refused", "Joins refused at a limit", m.joins_refused.clone());
        registry.register(
            "esker_coordinator_records_skipped",
            "Records of __consumer_offsets skipped while loading",
            m.records_skipped.clone(),
        );
        metrics
    }
}
