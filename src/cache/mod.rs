//! Floor 2: reads of immutable objects through fixed-size pages.
//!
//! [`ObjectReader`] answers "these bytes of that object". It keeps pages (1 MiB by default) in a [`PageCache`], and of any
//! number of readers that miss the same page at once, one GET serves all. Neighbouring missing pages share a GET;
//! readers that move forward through an object get the next pages before they ask.
//!
//! Two page caches: [`memory`] (a plain least-recently-used map; simulators and tests) and [`hybrid`] (memory and disk,
//! over `foyer`, which is named in that one file only: its clock may hang under time-shadowing simulators).
//!
//! Invariant: an object's bytes never change once it can be read, so a page needs no validation, only checksums above.
//! Invariant: bytes being fetched never exceed `in_flight_bytes`; pages held never exceed `memory_bytes` + `disk_bytes`
//! (readers that still hold slices of evicted pages come on top: their requests bound those).
//! Invariant: nothing is cached that the store did not return; a failed read leaves no trace, the next one tries again.
//!
//! Crash: pages on disk are a cache; whatever a crash leaves of them is either whole (checked by the engine and again by
//! the batch's own checksum) or dropped. Cancellation: loads run in their own tasks, so a reader that goes away
//! disturbs neither the load nor the others that wait for it.
//!
//! It never writes, and knows nothing of batches or partitions.
//!
//! # Local stores are read through pages as well
//!
//! The kernel caches a local store's files too, so direct reads were measured against pages (`fetch/tests/local_store.rs`;
//! 64 MiB, warm kernel cache, 2 cores, debug build, reads of 1 MiB):
//!
//! | | first reader | same reader again | 16 readers |
//! |---|---|---|---|
//! | direct | 1.4 GB/s | 2.0 GB/s | 2.2 GB/s |
//! | pages | 1.1 GB/s | 80 GB/s | 77 GB/s |
//!
//! A lone reader of cold data loses a quarter, of more than any network carries; everybody after the first saves the system
//! call, the thread hop and the copy, since pages are shared, not copied. Small objects (a local store cuts every few
//! milliseconds) gain too: one page holds footer and batches. So pages are the default everywhere; `bypass_local`
//! turns them off. A disk tier in front of a local store would be pointless.

pub mod bytes;
pub mod hybrid;
pub mod lru;
pub mod memory;
pub mod metrics;
mod read_ahead;
pub mod reader;
pub mod single_flight;

use std::fmt;
use std::sync::Arc;

use ::bytes::Bytes;
use async_trait::async_trait;

pub use self::bytes::ObjectBytes;
pub use hybrid::HybridPages;
pub use memory::MemoryPages;
pub use metrics::Metrics;
pub use reader::{ObjectReader, ReadError, Settings, Source};

/// A page: `number` counts from 0 in steps of the configured page size.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageKey {
    /// Key of the object in the store.
    pub object: Arc<str>,
    /// Position divided by the page size.
    pub number: u64,
}

/// What a page cache holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes of pages in memory.
    pub memory_bytes: u64,
    /// Pages that left memory because it was full, since start.
    pub memory_evictions: u64,
}

/// A place to keep pages. It may forget any page at any time and never invents one.
///
/// Implementations pass the suite in `cache/tests/contract.rs`.
#[async_trait]
pub trait PageCache: fmt::Debug + Send + Sync + 'static {
    /// The page, if it is in memory. Never blocks.
    fn get_memory(&self, key: &PageKey) -> Option<Bytes>;

    /// The page, if a slower tier holds it; `None` also when that tier cannot be read (it is only a cache).
    async fn get_slow(&self, key: &PageKey) -> Option<Bytes>;

    /// Whether [`PageCache::get_slow`] can ever find something.
    fn has_slow_tier(&self) -> bool;

    /// Keeps a page, or not. Never blocks; the bytes are visible to `get_memory` when it returns, unless they were
    /// evicted at once.
    fn insert(&self, key: PageKey, bytes: Bytes);

    /// Forgets a page in every tier; when it returns no `get` finds it.
    fn remove(&self, key: &PageKey);

    /// What is held now.
    fn usage(&self) -> Usage;

    /// Writes back what should survive a restart and frees the machine's resources.
    async fn close(&self);
}

#[cfg(test)]
mod tests;
