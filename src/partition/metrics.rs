//! What the log tells Prometheus.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Why a segment was cut.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CutLabels {
    /// size, linger, idle or asked.
    pub reason: &'static str,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct LogMetrics {
    /// Batches appended.
    pub appended_batches: Counter,
    /// Bytes of batches appended.
    pub appended_bytes: Counter,
    /// Appends that found their batch appended already.
    pub duplicate_batches: Counter,
    /// Segments cut, by reason.
    pub cuts: Family<CutLabels, Counter>,
    /// Segments committed.
    pub committed_segments: Counter,
    /// Bytes of segments committed.
    pub committed_bytes: Counter,
    /// Seconds from a segment's first byte to its commit.
    pub commit_seconds: Histogram,
    /// Uploads that failed and were tried again.
    pub upload_retries: Counter,
    /// Bytes in memory that are not committed.
    pub unflushed_bytes: Gauge,
    /// Bytes of the stream that are not committed, in memory or in write-ahead files.
    pub uncommitted_bytes: Gauge,
    /// Bytes of committed batches in memory for readers.
    pub memory_tail_bytes: Gauge,
    /// Partitions led.
    pub partitions: Gauge,
    /// Appends that waited for room.
    pub admission_waits: Counter,
    /// Appends refused because no room came in time.
    pub admission_refusals: Counter,
    /// Syncs of write-ahead files.
    pub wal_syncs: Counter,
    /// Failed writes or syncs of write-ahead files.
    pub wal_errors: Counter,
    /// Files moved to the lost directory.
    pub lost_files: Counter,
    /// Checkpoints written.
    pub checkpoints: Counter,
    /// Bytes of the last checkpoint.
    pub checkpoint_bytes: Gauge,
}

impl LogMetrics {
    /// Makes them and puts them into `registry`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            appended_batches: Counter::default(),
            appended_bytes: Counter::default(),
            duplicate_batches: Counter::default(),
            cuts: Family::default(),
            committed_segments: Counter::default(),
            committed_bytes: Counter::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.0005, 2.0, 18)),
            upload_retries: Counter::default(),
            unflushed_bytes: Gauge::default(),
            uncommitted_bytes: Gauge::default(),
            memory_tail_bytes: Gauge::default(),
            partitions: Gauge::default(),
            admission_waits: Counter::default(),
            admission_refusals: Counter::default(),
            wal_syncs: Counter::default(),
            wal_errors: Counter::default(),
            lost_files: Counter::default(),
            checkpoints: Counter::default(),
            checkpoint_bytes: Gauge::default(),
        };
        let m = &metrics;
        registry.register("esker_log_appended_batches", "Batches appended", m.appended_batches.clone());
        registry.register("esker_log_appended_bytes", "Bytes of batches appended", m.appended_bytes.clone());
        registry.register("esker_log_duplicate_batches", "Appends found appended already", m.duplicate_batches.clone());
        registry.register("esker_log_cuts", "Segments cut, by reason", m.cuts.clone());
        registry.register("esker_log_committed_segments", "Segments committed", m.committed_segments.clone());
        registry.register("esker_log_committed_bytes", "Bytes of segments committed", m.committed_bytes.clone());
        registry.register("esker_log_commit_seconds", "First byte of a segment to commit", m.commit_seconds.clone());
        registry.register("esker_log_upload_retries", "Uploads that were tried again", m.upload_retries.clone());
        registry.register("esker_log_unflushed_bytes", "Uncommitted bytes in memory", m.unflushed_bytes.clone());
        registry.register(
            "esker_log_uncommitted_bytes",
            "Uncommitted bytes of the stream",
            m.uncommitted_bytes.clone(),
        );
        registry.register("esker_log_memory_tail_bytes", "Committed bytes kept in memory", m.memory_tail_bytes.clone());
        registry.register("esker_log_partitions", "Partitions led", m.partitions.clone());
        registry.register("esker_log_admission_waits", "Appends that waited for room", m.admission_waits.clone());
        registry.register(
            "esker_log_admission_refusals",
            "Appends refused for want of room",
            m.admission_refusals.clone(),
        );
        registry.register("esker_wal_syncs", "Syncs of write-ahead files", m.wal_syncs.clone());
        registry.register("esker_wal_errors", "Failed writes of write-ahead files", m.wal_errors.clone());
        registry.register("esker_log_lost_files", "Files moved to the lost directory", m.lost_files.clone());
        registry.register("esker_log_checkpoints", "Checkpoints written", m.checkpoints.clone());
        registry.register("esker_log_checkpoint_bytes", "Bytes of the last checkpoint", m.checkpoint_bytes.clone());
        metrics
    }
}
