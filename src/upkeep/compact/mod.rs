//! Compaction of tiers: batches in small segments are put together, per partition, into objects of one topic (DESIGN 2.7).
//!
//! [`plan`] says which, [`build`] makes the bytes, [`service`] reads, writes and tells the log. Each broker compacts what it
//! leads.
//!
//! Invariants:
//! - The order of writes is: read the batches (every checksum is verified), create the object, then `RunsReplaced`. Sources
//!   lose their last reference with its commit, never before, and the collector takes them a grace period later.
//! - The batches are the same bytes: offsets, timestamps, producers, compression. Readers see no difference.
//! - One object is made at a time; it is all that compaction holds in memory.
//!
//! Crash: before the commit the new object is an orphan, which the collector takes once the stream has reached the seq that
//! its key names, or has ended ([`crate::format::keys::run`]); after it the sources are. Cancellation leaves the same.

pub mod build;
pub mod plan;
pub mod service;

#[cfg(test)]
mod tests;

pub use plan::Policy;
pub use service::{Compaction, CompactionSettings};
