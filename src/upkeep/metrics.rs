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
        m
    }
}
