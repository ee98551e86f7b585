//! Metrics of the runtime.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Shared by all shards of one coordinator; cheap to clone.
#[derive(Debug, Clone)]
pub struct RuntimeMetrics {
    /// Shards that serve.
    pub active_shards: Gauge,
    /// Shards that load or wait to load again.
    pub loading_shards: Gauge,
    /// Seconds from the start of a load to serving.
    pub load_seconds: Histogram,
    /// Records read by loads.
    pub loaded_records: Counter,
    /// Batches that could not be read by a load and were skipped.
    pub unreadable_batches: Counter,
    /// Batches appended.
    pub appends: Counter,
    /// Their bytes.
    pub append_bytes: Counter,
    /// Seconds from append to commit.
    pub commit_seconds: Histogram,
    /// Shards that were given up because an append failed.
    pub failures: Counter,
    /// Requests refused at a limit.
    pub refused: Counter,
    /// Logs rewritten to their live state.
    pub rewrites: Counter,
}

impl RuntimeMetrics {
    /// Metrics that nobody reads.
    pub fn detached() -> Self {
        Self {
            active_shards: Gauge::default(),
            loading_shards: Gauge::default(),
            load_seconds: Histogram::new(exponential_buckets(0.001, 4.0, 9)),
            loaded_records: Counter::default(),
            unreadable_batches: Counter::default(),
            appends: Counter::default(),
            append_bytes: Counter::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            failures: Counter::default(),
            refused: Counter::default(),
            rewrites: Counter::default(),
        }
    }

    /// Makes the metrics known to `registry`; `coordinator` is part of their names (`group`, `txn`).
    pub fn register(registry: &mut Registry, coordinator: &str) -> Self {
        let registry = registry.sub_registry_with_prefix(format!("esker_coordinator_{coordinator}"));
        let m = Self::detached();
        registry.register("active_shards", "Shards that serve", m.active_shards.clone());
        registry.register("loading_shards", "Shards that load", m.loading_shards.clone());
        registry.register("load_seconds", "Time to load a shard", m.load_seconds.clone());
        registry.register("loaded_records", "Records read by loads", m.loaded_records.clone());
        registry.register("unreadable_batches", "Batches skipped by loads", m.unreadable_batches.clone());
        registry.register("appends", "Batches appended", m.appends.clone());
        registry.register("append_bytes", "Bytes of batches appended", m.append_bytes.clone());
        registry.register("commit_seconds", "Time from append to commit", m.commit_seconds.clone());
        registry.register("failures", "Shards given up after a failed append", m.failures.clone());
        registry.register("refused_requests", "Requests refused at a limit", m.refused.clone());
        registry.register("rewrites", "Logs rewritten to their live state", m.rewrites.clone());
        m
    }
}
