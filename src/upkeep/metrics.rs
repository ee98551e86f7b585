//! What upkeep tells Prometheus.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct UpkeepMetrics {
    /// Times that retention moved a log start.
    pub retention_moves: Counter,
    /// Objects deleted.
    pub deleted_objects: Counter,
    /// Bytes of objects deleted.
    pub deleted_bytes: Counter,
    /// Objects found unreferenced and waiting for the grace period to pass.
    pub marked_objects: Gauge,
    /// Deleted topics of which something may be left.
    pub deleted_topics: Gauge,
    /// Objects seen by the last pass.
    pub stored_objects: Gauge,
    /// Bytes of the objects seen by the last pass.
    pub stored_bytes: Gauge,
    /// Objects that compaction wrote.
    pub compacted_objects: Counter,
    /// Bytes of the objects that compaction wrote.
    pub compacted_bytes: Counter,
    /// Runs that compaction put into others.
    pub compacted_runs: Counter,
    /// Rounds of compaction that ended early because the store did not take an object.
    pub compaction_failures: Counter,
    /// Windows that could not be read, or were no longer there.
    pub compaction_skips: Counter,
    /// Bytes that the last look found worth compacting.
    pub compaction_backlog_bytes: Gauge,
    /// Runs of all partitions that are led here.
    pub partition_runs: Gauge,
}

impl UpkeepMetrics {
    /// Makes them and puts them into `registry`.
    pub fn new(registry: &mut Registry) -> Self {
        let m = Self::default();
        registry.register("esker_upkeep_retention_moves", "Log starts moved by retention", m.retention_moves.clone());
        registry.register("esker_upkeep_deleted_objects", "Objects deleted", m.deleted_objects.clone());
        registry.register("esker_upkeep_deleted_bytes", "Bytes of objects deleted", m.deleted_bytes.clone());
        registry.register("esker_upkeep_marked_objects", "Objects waiting to be deleted", m.marked_objects.clone());
        let help = "Deleted topics of which something may be left in the store";
        registry.register("esker_upkeep_deleted_topics", help, m.deleted_topics.clone());
        registry.register("esker_upkeep_stored_objects", "Objects in the store", m.stored_objects.clone());
        registry.register("esker_upkeep_stored_bytes", "Bytes of objects in the store", m.stored_bytes.clone());
        registry.register("esker_upkeep_compacted_objects", "Compacted runs written", m.compacted_objects.clone());
        registry.register("esker_upkeep_compacted_bytes", "Bytes of compacted runs written", m.compacted_bytes.clone());
        registry.register("esker_upkeep_compacted_runs", "Runs put into compacted ones", m.compacted_runs.clone());
        let help = "Rounds of compaction that the object store ended";
        registry.register("esker_upkeep_compaction_failures", help, m.compaction_failures.clone());
        let help = "Partitions that compaction passed over, because they moved or could not be read";
        registry.register("esker_upkeep_compaction_skips", help, m.compaction_skips.clone());
        let help = "Bytes that were worth compacting at the last look";
        registry.register("esker_upkeep_compaction_backlog_bytes", help, m.compaction_backlog_bytes.clone());
        let help = "Runs of batches in the indexes of the partitions led here";
        registry.register("esker_upkeep_partition_runs", help, m.partition_runs.clone());
        m
    }
}
