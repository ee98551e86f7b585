//! Counters of the page cache.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What the page cache did. Clones share the same counters.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Pages found in memory.
    pub hits_memory: Counter,
    /// Pages found on disk.
    pub hits_disk: Counter,
    /// Pages that had to be read from the store.
    pub misses: Counter,
    /// Ranged GETs sent to the store for pages.
    pub gets: Counter,
    /// Bytes that those GETs returned.
    pub get_bytes: Counter,
    /// GETs that failed.
    pub get_errors: Counter,
    /// Waits for a page that another reader was already loading.
    pub coalesced_waits: Counter,
    /// Pages loaded before they were asked for.
    pub read_ahead_pages: Counter,
    /// Read-aheads not done because their budget was used up.
    pub read_ahead_skips: Counter,
    /// Pages thrown out by checksum failures upstream.
    pub invalidated_pages: Counter,
    /// Reads that went straight to a local store.
    pub direct_reads: Counter,
    /// Bytes of those.
    pub direct_bytes: Counter,
    /// Pages that left memory because it was full.
    pub evictions: Gauge,
    /// Bytes of pages in memory.
    pub memory_bytes: Gauge,
    /// Bytes being read from the store.
    pub in_flight_bytes: Gauge,
}

impl Metrics {
    /// Makes the counters and names them in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let it = Self::default();
        let mut counter = |name, help, counter: &Counter| registry.register(name, help, counter.clone());
        counter("esker_cache_hits_memory_pages", "Pages found in memory", &it.hits_memory);
        counter("esker_cache_hits_disk_pages", "Pages found in the disk cache", &it.hits_disk);
        counter("esker_cache_misses_pages", "Pages read from the object store", &it.misses);
        counter("esker_cache_gets", "Ranged GETs sent for pages", &it.gets);
        counter("esker_cache_get_bytes", "Bytes returned by ranged GETs for pages", &it.get_bytes);
        counter("esker_cache_get_errors", "Ranged GETs for pages that failed", &it.get_errors);
        counter("esker_cache_coalesced_waits", "Waits for a page that was already being read", &it.coalesced_waits);
        counter("esker_cache_read_ahead_pages", "Pages read before they were asked for", &it.read_ahead_pages);
        counter("esker_cache_read_ahead_skips", "Read-aheads not done for want of budget", &it.read_ahead_skips);
        counter("esker_cache_invalidated_pages", "Pages dropped after a checksum failure", &it.invalidated_pages);
        counter("esker_cache_direct_reads", "Reads sent straight to a local store", &it.direct_reads);
        counter("esker_cache_direct_bytes", "Bytes read straight from a local store", &it.direct_bytes);
        let mut gauge = |name, help, gauge: &Gauge| registry.register(name, help, gauge.clone());
        gauge("esker_cache_evictions_pages", "Pages evicted from memory since start", &it.evictions);
        gauge("esker_cache_memory_bytes", "Bytes of pages in memory", &it.memory_bytes);
        gauge("esker_cache_in_flight_bytes", "Bytes being read from the object store", &it.in_flight_bytes);
        it
    }
}
