//! Why the broker does not do what a front door asked.

use uuid::Uuid;

use crate::base::ErrorKind;
use crate::cluster::{DrainError, TopicError};
use crate::fetch::FetchError;
use crate::partition::LogError;
use crate::protocol::batch::BatchError;

/// One error for all operations of the façade; front doors map it to their own codes in one table.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BrokerError {
    /// No topic of that name.
    #[error("there is no topic '{0}'")]
    UnknownTopic(String),
    /// No topic of that id (it may have been deleted).
    #[error("there is no topic with id {0}")]
    UnknownTopicId(Uuid),
    /// The topic has no such partition.
    #[error("topic '{topic}' has no partition {partition}")]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// The partition asked for.
        partition: i32,
    },
    /// The topic is the broker's own.
    #[error("topic '{0}' is internal: only the broker writes to it")]
    InternalTopic(String),
    /// The caller's leader epoch is older than the partition's.
    #[error("leader epoch {got} is older than {current}")]
    FencedLeaderEpoch {
        /// Epoch in the request.
        got: i32,
        /// The partition's.
        current: i32,
    },
    /// The caller's leader epoch is newer than the partition's.
    #[error("leader epoch {got} is newer than {current}")]
    UnknownLeaderEpoch {
        /// Epoch in the request.
        got: i32,
        /// The partition's.
        current: i32,
    },
    /// What was asked did not finish in the time that the caller gives; it may still happen.
    #[error("it did not finish in the time that the request gave; it may still happen")]
    TimedOut,
    /// Transactions are not served.
    #[error("transactions are not supported by this broker")]
    Transactions,
    /// Something that the answer needs is not to be had at the moment.
    #[error("{0}")]
    NotReady(String),
    /// The request contradicts itself.
    #[error("{0}")]
    InvalidRequest(String),
    /// A topic's policy forbids it.
    #[error("{0}")]
    Policy(String),
    /// A produced batch breaks a rule.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The catalogue.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// A broker does not drain.
    #[error(transparent)]
    Drain(#[from] DrainError),
    /// Stored data could not be read.
    #[error(transparent)]
    Read(#[from] FetchError),
}

impl BrokerError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownTopic(_) | Self::UnknownTopicId(_) | Self::UnknownPartition { .. } => ErrorKind::NotFound,
            Self::FencedLeaderEpoch { .. } => ErrorKind::Conflict,
            Self::UnknownLeaderEpoch { .. } | Self::TimedOut | Self::NotReady(_) => ErrorKind::Retriable,
            Self::InternalTopic(_)
            | Self::Transactions
            | Self::InvalidRequest(_)
            | Self::Policy(_)
            | Self::Batch(_) => ErrorKind::Invalid,
            Self::Log(error) => error.kind(),
            Self::Topic(error) => error.kind(),
            Self::Drain(error) => error.kind(),
            Self::Read(error) => error.kind(),
        }
    }
}
