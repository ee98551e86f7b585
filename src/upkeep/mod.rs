//! Floor 5: upkeep: compaction puts small segments together ([`compact`]), retention moves log start, garbage collection
//! deletes what nothing leads to.
//!
//! Invariants:
//! - Nothing referenced is deleted: an object goes only after two marks, a grace period apart, both found that no
//!   partition's index, no stream that a recovery would read and no `from` list leads to it. Each mark lists first and
//!   reads references then, so it sees whatever refers to what it has listed.
//! - One broker collects, the controller, and it knows what the partitions of all brokers refer to; while partitions move,
//!   nobody collects.
//! - Nothing unreferenced stays for ever: every pass looks at every object.
//! - The record of a deleted topic goes when no broker's stream holds a partition of it and its objects are deleted.
//!
//! Crash: marks are in memory; a restart begins to count the grace period anew. Cancellation: between any two deletes.
//!
//! It never touches keys that are not segments, seals, checkpoints or compacted runs.

mod collect;
pub mod compact;
mod deletions;
pub mod fsck;
mod metrics;
mod references;
mod retention;
mod service;

#[cfg(test)]
mod tests;

pub use collect::{Collector, Listing, LiveSet, SEAL_KEPT_MS};
pub use compact::{Compaction, CompactionSettings};
pub use metrics::UpkeepMetrics;
pub use retention::{RetentionRule, new_log_start};
pub use service::{Upkeep, UpkeepSettings};
