//! The words that the floors above use to speak with the log.

use bytes::Bytes;

use crate::base::{ErrorKind, TopicPartition};
pub use crate::format::state::{AbortedTxn, ObjectRef, Run};

/// Offsets of a partition at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionView {
    /// Epoch under which this broker leads.
    pub leader_epoch: i32,
    /// First offset that can be read.
    pub log_start: i64,
    /// High watermark: end (exclusive) of what is committed.
    pub high_watermark: i64,
    /// Last stable offset: first offset of the oldest open transaction, or the high watermark.
    pub last_stable: i64,
    /// End (exclusive) of what is appended, committed or not.
    pub log_end: i64,
    /// Bytes of batches between log start and high watermark, as stored.
    pub size_bytes: u64,
}

/// How far a reader may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Up to the high watermark.
    ReadUncommitted,
    /// Up to the last stable offset, aborted transactions listed.
    ReadCommitted,
}

/// Where the next bytes of a partition are. Taken from one snapshot of the state.
#[derive(Debug, Clone)]
pub struct ReadPlan {
    /// Offsets at that moment.
    pub view: PartitionView,
    /// Nothing may be returned at or past this offset.
    pub limit: i64,
    /// Aborted transactions that overlap `[offset, limit)`; empty for `ReadUncommitted`.
    pub aborted: Vec<AbortedTxn>,
    /// The source of the first bytes at or after the asked-for offset.
    pub source: ReadSource,
}

/// One kind of source; a reader that has used it up and wants more plans again from where it stands.
#[derive(Debug, Clone)]
pub enum ReadSource {
    /// Nothing committed (or stable) at or after the offset.
    End,
    /// Whole batches from memory, in order; the first contains (or follows) the asked-for offset.
    Memory(Vec<Bytes>),
    /// Runs in stored objects, in order and without gaps but those of the log; the first contains (or follows) the offset.
    Runs(Vec<Run>),
}

/// What a successful append promises to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the batch's first record.
    pub base_offset: i64,
    /// Broker's append time in milliseconds since the Unix epoch, or -1 when the topic keeps the producer's.
    pub log_append_time_ms: i64,
    /// Log start offset at that moment.
    pub log_start: i64,
}

/// What an append's reply has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// No reply.
    None,
    /// The write-ahead file holds it.
    Leader,
    /// Its segment is committed in the object store.
    All,
}

/// Why an append (or another change of a partition) did not happen. Names are those of Kafka's errors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// This broker does not lead the partition (or not any more).
    #[error("this broker does not lead partition {0}")]
    NotLeader(TopicPartition),
    /// The offset lies before log start or past the end.
    #[error("offset {offset} of partition {partition} is outside {log_start}..={high_watermark}")]
    OffsetOutOfRange {
        /// The partition.
        partition: TopicPartition,
        /// The asked-for offset.
        offset: i64,
        /// First readable offset.
        log_start: i64,
        /// End of what is committed.
        high_watermark: i64,
    },
    /// An idempotent producer's batch does not follow its last one.
    #[error("producer {producer_id} sent sequence {got} where {expected} follows")]
    OutOfOrderSequence {
        /// The producer.
        producer_id: i64,
        /// Sequence received.
        got: i32,
        /// Sequence expected.
        expected: i32,
    },
    /// A duplicate older than the last five batches, whose offset is no longer known.
    #[error("producer {producer_id} repeated an old batch (sequence {got})")]
    DuplicateSequence {
        /// The producer.
        producer_id: i64,
        /// Sequence received.
        got: i32,
    },
    /// The producer's epoch is older than one already seen.
    #[error("producer {producer_id} has epoch {got}, a newer one ({current}) is at work")]
    InvalidProducerEpoch {
        /// The producer.
        producer_id: i64,
        /// Epoch received.
        got: i16,
        /// Newest epoch.
        current: i16,
    },
    /// Transactional data without a transaction, or the other way round.
    #[error("producer {producer_id} is in no state to do that: {reason}")]
    InvalidTxnState {
        /// The producer.
        producer_id: i64,
        /// Which rule was broken.
        reason: &'static str,
    },
    /// Nothing was appended, or it is not yet known: repeat it.
    #[error("{0}")]
    Retriable(String),
    /// A limit was reached and did not clear in time; nothing was appended.
    #[error("limit {limit} reached; try again")]
    Overloaded {
        /// Name of the limit.
        limit: &'static str,
    },
    /// The session was ended; the broker registers anew. Whether uncommitted batches survive is not known.
    #[error("this broker's session was ended (sealed by another)")]
    Fenced,
    /// Local disk trouble.
    #[error("{0}")]
    Environment(String),
}

impl LogError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotLeader(_) => ErrorKind::Conflict,
            Self::OffsetOutOfRange { .. }
            | Self::OutOfOrderSequence { .. }
            | Self::DuplicateSequence { .. }
            | Self::InvalidProducerEpoch { .. }
            | Self::InvalidTxnState { .. } => ErrorKind::Invalid,
            Self::Retriable(_) => ErrorKind::Retriable,
            Self::Overloaded { .. } => ErrorKind::Overloaded,
            Self::Fenced => ErrorKind::Fenced,
            Self::Environment(_) => ErrorKind::Environment,
        }
    }
}

/// An idempotent or transactional producer, as `DescribeProducers` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerView {
    /// The producer.
    pub producer_id: i64,
    /// Its epoch.
    pub producer_epoch: i16,
    /// Sequence of its last record, or -1.
    pub last_sequence: i32,
    /// When it last wrote, in milliseconds since the Unix epoch.
    pub last_timestamp: i64,
    /// Epoch of the transaction coordinator that last wrote a marker, or -1.
    pub coordinator_epoch: i32,
    /// First offset of its open transaction, or -1.
    pub current_txn_start_offset: i64,
}
