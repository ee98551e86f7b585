//! Why a partition could not be read. Each concerns one partition; the others of the same request are answered.

use std::sync::Arc;

use crate::base::{ErrorKind, TopicPartition};
use crate::partition::LogError;

/// What went wrong, and with which bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The log refused: not led here, offset out of range.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The reader knows an older leader epoch than this broker leads under (KIP-320).
    #[error("partition {partition}: the request's leader epoch {asked} is older than {current}")]
    FencedLeaderEpoch {
        /// The partition.
        partition: TopicPartition,
        /// Epoch in the request.
        asked: i32,
        /// Epoch of this leader.
        current: i32,
    },
    /// The reader knows a newer leader epoch than this broker (KIP-320).
    #[error("partition {partition}: the request's leader epoch {asked} is newer than {current}")]
    UnknownLeaderEpoch {
        /// The partition.
        partition: TopicPartition,
        /// Epoch in the request.
        asked: i32,
        /// Epoch of this leader.
        current: i32,
    },
    /// Stored bytes are damaged, also after they were read again from the store.
    #[error("object '{object}' is damaged at offset {offset} of partition {partition}: {reason}")]
    Corrupt {
        /// Key of the object.
        object: Arc<str>,
        /// The partition.
        partition: TopicPartition,
        /// First offset that cannot be read.
        offset: i64,
        /// Which check failed.
        reason: Arc<str>,
    },
    /// An object that the log refers to is not in the store.
    #[error(
        "object '{object}', which holds offset {offset} of partition {partition}, is missing from the object store"
    )]
    Missing {
        /// Key of the object.
        object: Arc<str>,
        /// The partition.
        partition: TopicPartition,
        /// First offset that cannot be read.
        offset: i64,
    },
    /// The store did not answer, or refused.
    #[error("offset {offset} of partition {partition} could not be read: {reason}")]
    Store {
        /// What the caller should do.
        kind: ErrorKind,
        /// The partition.
        partition: TopicPartition,
        /// First offset that could not be read.
        offset: i64,
        /// What the store said; names the object.
        reason: Arc<str>,
    },
    /// The log's sources do not join: a bug, caught before a reader saw a gap or a record twice.
    #[error("partition {partition}: a batch begins at offset {found} where {expected} should follow")]
    Seam {
        /// The partition.
        partition: TopicPartition,
        /// Offset that should have come.
        expected: i64,
        /// Base offset of the batch that came.
        found: i64,
    },
}

impl FetchError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Log(error) => error.kind(),
            Self::FencedLeaderEpoch { .. } | Self::UnknownLeaderEpoch { .. } => ErrorKind::Conflict,
            Self::Corrupt { .. } | Self::Missing { .. } => ErrorKind::Corrupt,
            Self::Store { kind, .. } => *kind,
            Self::Seam { .. } => ErrorKind::Internal,
        }
    }
}
