//! Counters of the read path.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What the read path did. Clones share the same counters.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Bytes of batches returned from the log's memory.
    pub memory_bytes: Counter,
    /// Bytes of batches returned from stored objects (through the page cache).
    pub stored_bytes: Counter,
    /// Bytes read from this broker's own write-ahead files instead of the store.
    pub local_copy_bytes: Counter,
    /// Object footers found decoded.
    pub index_hits: Counter,
    /// Object footers read and decoded.
    pub index_loads: Counter,
    /// Bytes of decoded footers held.
    pub index_bytes: Gauge,
    /// Reads repeated past the cache because a check failed.
    pub rereads: Counter,
    /// Objects found damaged, after the second read.
    pub corrupt: Counter,
    /// Objects found missing.
    pub missing: Counter,
    /// Sources of the log that did not join.
    pub seams: Counter,
    /// Fetches waiting for data.
    pub waiters: Gauge,
    /// Fetches answered at once because too many were waiting.
    pub waiters_refused: Counter,
    /// Waits that ended because data came or a partition was lost.
    pub wakes: Counter,
    /// Waits that ended at their deadline.
    pub timeouts: Counter,
}

impl Metrics {
    /// Makes the counters and names them in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let it = Self::default();
        let mut counter = |name, help, counter: &Counter| registry.register(name, help, counter.clone());
        counter("esker_fetch_memory_bytes", "Bytes of batches returned from memory of the log", &it.memory_bytes);
        counter("esker_fetch_stored_bytes", "Bytes of batches returned from stored objects", &it.stored_bytes);
        counter("esker_fetch_local_copy_bytes", "Bytes read from kept write-ahead files", &it.local_copy_bytes);
        counter("esker_fetch_index_hits", "Object footers found decoded", &it.index_hits);
        counter("esker_fetch_index_loads", "Object footers read and decoded", &it.index_loads);
        counter("esker_fetch_rereads", "Reads repeated past the cache after a failed check", &it.rereads);
        counter("esker_fetch_corrupt_objects", "Damaged objects met by readers", &it.corrupt);
        counter("esker_fetch_missing_objects", "Missing objects met by readers", &it.missing);
        counter("esker_fetch_seam_errors", "Sources of the log that did not join", &it.seams);
        counter("esker_fetch_waiters_refused", "Fetches answered at once for want of waiters", &it.waiters_refused);
        counter("esker_fetch_wakes", "Waits ended by data or by the loss of a partition", &it.wakes);
        counter("esker_fetch_timeouts", "Waits ended by their deadline", &it.timeouts);
        let mut gauge = |name, help, gauge: &Gauge| registry.register(name, help, gauge.clone());
        gauge("esker_fetch_index_bytes", "Bytes of decoded object footers held", &it.index_bytes);
        gauge("esker_fetch_waiters", "Fetches waiting for data", &it.waiters);
        it
    }
}
