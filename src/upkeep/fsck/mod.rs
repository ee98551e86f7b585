//! Checking what is stored: `esker fsck`.
//!
//! It finds out what must be there in the same way as garbage collection does (lists first, reads references then), and then
//! reads all of it: every referenced byte exists, its checksums hold, offsets have no gap and no overlap. What garbage
//! collection would take is listed as orphans.
//!
//! Invariants:
//! - It writes nothing. [`remove`] deletes orphans, and only when told to.
//! - A fault is a fault of committed data or of what a recovery needs. Beside running brokers an object may go, or come,
//!   between two looks: what is missing is looked for again before it is reported.
//! - Where a stream cannot be read, nothing is known of what it refers to: then nothing is called an orphan.
//!
//! Crash and cancellation: nothing is left behind; a removal that was cut short is a smaller removal.

mod machine;
mod service;
#[cfg(test)]
mod tests;

use crate::base::{SessionId, TopicPartition};

pub use service::{Examiner, FsckError, Progress, remove};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultKind {
    /// An object that must be there is not.
    Missing,
    /// An object ends too early.
    Truncated,
    /// A checksum does not hold, or the content makes no sense.
    Damaged,
    /// Offsets that are nowhere.
    Gap,
    /// Offsets that are there twice.
    Overlap,
}

impl FaultKind {
    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Truncated => "truncated",
            Self::Damaged => "damaged",
            Self::Gap => "gap",
            Self::Overlap => "overlap",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// The object that it was found in, if it is one.
    pub key: Option<String>,
    /// The partition whose records are concerned, if it is known.
    pub partition: Option<TopicPartition>,
    /// More, in words.
    pub detail: String,
}

/// An object that nothing leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Its key.
    pub key: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was written, in milliseconds since the Unix epoch.
    pub modified_ms: i64,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The cluster's id, if the metadata store has one.
    pub cluster_id: Option<String>,
    /// Objects in the store, and their bytes.
    pub objects: usize,
    /// Bytes of all objects.
    pub bytes: u64,
    /// Bytes that were read and checked.
    pub checked_bytes: u64,
    /// Streams that must stay, in order.
    pub streams: Vec<SessionId>,
    /// Partitions whose state was found.
    pub partitions: usize,
    /// Offsets from log start to the end, of all partitions.
    pub offsets: i64,
    /// What is wrong, in order.
    pub faults: Vec<Fault>,
    /// What nothing leads to; `None` if that is not known, because a stream could not be read or partitions moved.
    pub orphans: Option<Vec<Orphan>>,
    /// Keys that this version does not know. They are left alone.
    pub unknown: Vec<String>,
    /// Worth knowing.
    pub notes: Vec<String>,
}
