//! The log of an internal topic, as the coordinators see it. The broker implements it over its own log and reader.

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::base::ErrorKind;

/// Why the log did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LogFailure {
    /// What to do about it.
    pub kind: ErrorKind,
    /// For people.
    pub message: String,
}

/// Resolves when a batch is committed (acks=all), with the offset of its first record.
///
/// An error means that the batch is not in the log and never will be, nor is any batch appended after it under the same
/// leadership. A commit whose outcome is not known yet stays pending.
pub type Commit = BoxFuture<'static, Result<i64, LogFailure>>;

/// Some batches of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// Whole record batches in order; an element may hold several, one after the other.
    pub batches: Vec<Bytes>,
    /// The offset to go on from.
    pub next_offset: i64,
    /// Whether everything that is committed has been read.
    pub end: bool,
}

/// See the module. Partitions are those of one internal topic.
#[async_trait::async_trait]
pub trait CoordinatorLog: Send + Sync + 'static {
    /// Appends one record batch v2, uncompressed, base offset 0.
    ///
    /// Resolves when the batch has its place: of two appends of one partition, the one whose future was awaited to its
    /// end first comes first. The returned [`Commit`] need not be polled for the batch to be committed. An error of kind
    /// `Overloaded` or `Retriable` means that nothing was appended and the same call may be repeated.
    async fn append(&self, partition: i32, batch: Bytes) -> Result<Commit, LogFailure>;

    /// Reads committed batches from `offset` (inclusive) on; an offset before log start reads from log start. The first
    /// batch may begin before `offset`.
    async fn read_from(&self, partition: i32, offset: i64) -> Result<LogChunk, LogFailure>;

    /// Records before `offset` (exclusive) are not needed any more. Done means durable; an error may be ignored.
    async fn move_log_start(&self, partition: i32, offset: i64) -> Result<(), LogFailure>;
}
