//! What can go wrong with the cluster's metadata.

use crate::base::{ErrorKind, SessionId};
use crate::config::topic::ConfigError;
use crate::format::metadata::MetadataError;
use crate::meta::MetaError;

/// Why an operation on topics did not happen. Each maps on one Kafka error ([`TopicError::code`]).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// No such topic (by name).
    #[error("This server does not host topic '{0}'.")]
    UnknownTopic(String),
    /// No such topic (by id).
    #[error("This server does not host topic id {0}.")]
    UnknownTopicId(uuid::Uuid),
    /// The name is taken.
    #[error("Topic '{0}' already exists.")]
    AlreadyExists(String),
    /// The name breaks a rule.
    #[error("{0}")]
    InvalidName(String),
    /// A partition count breaks a rule.
    #[error("{0}")]
    InvalidPartitions(String),
    /// A replication factor breaks a rule.
    #[error("{0}")]
    InvalidReplicationFactor(String),
    /// A replica assignment breaks a rule.
    #[error("{0}")]
    InvalidAssignment(String),
    /// A config breaks a rule.
    #[error("{0}")]
    InvalidConfig(String),
    /// The request contradicts itself.
    #[error("{0}")]
    InvalidRequest(String),
    /// A limit of the cluster was reached.
    #[error("{0}")]
    LimitReached(String),
    /// The topic may not be changed this way.
    #[error("{0}")]
    NotAllowed(String),
    /// This broker is not the controller (any more).
    #[error("This is not the correct controller for this cluster.")]
    NotController,
    /// The metadata store did not answer; what was asked may or may not have happened.
    #[error("{0}")]
    Unavailable(String),
    /// Another change of the same topic got in between, several times.
    #[error("{0}")]
    Contended(String),
    /// Damaged metadata, a full disk, a bug.
    #[error("{0}")]
    Broken(String),
}

impl TopicError {
    /// Kafka's error code.
    pub fn code(&self) -> i16 {
        match self {
            Self::UnknownTopic(_) => 3,
            Self::Unavailable(_) | Self::Contended(_) => 7,
            Self::InvalidName(_) => 17,
            Self::AlreadyExists(_) => 36,
            Self::InvalidPartitions(_) => 37,
            Self::InvalidReplicationFactor(_) => 38,
            Self::InvalidAssignment(_) => 39,
            Self::InvalidConfig(_) => 40,
            Self::NotController => 41,
            Self::InvalidRequest(_) | Self::NotAllowed(_) => 42,
            Self::LimitReached(_) => 44,
            Self::UnknownTopicId(_) => 100,
            Self::Broken(_) => -1,
        }
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownTopic(_) | Self::UnknownTopicId(_) => ErrorKind::NotFound,
            Self::AlreadyExists(_) | Self::NotController => ErrorKind::Conflict,
            Self::Unavailable(_) | Self::Contended(_) => ErrorKind::Retriable,
            Self::Broken(_) => ErrorKind::Internal,
            _ => ErrorKind::Invalid,
        }
    }
}

impl From<ConfigError> for TopicError {
    fn from(error: ConfigError) -> Self {
        Self::InvalidConfig(error.to_string())
    }
}

impl From<MetaError> for TopicError {
    fn from(error: MetaError) -> Self {
        match error {
            MetaError::Unavailable { .. } => Self::Unavailable(error.to_string()),
            MetaError::LeaseExpired { .. } => Self::NotController,
            MetaError::TooLarge(_) => Self::LimitReached(error.to_string()),
            MetaError::Corrupt(_) | MetaError::Environment(_) => Self::Broken(error.to_string()),
        }
    }
}

/// What went wrong with sessions, identities or the catalogue.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The metadata store failed.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// A stored value cannot be read.
    #[error(transparent)]
    Value(#[from] MetadataError),
    /// Another live process has this broker id.
    #[error(
        "broker id {broker_id} is in use by process {pid} on host '{host}'; give this broker another --broker-id, or stop \
         that one (its claim ends {ttl_ms} ms after its last sign of life)"
    )]
    BrokerIdInUse {
        /// The id.
        broker_id: i32,
        /// Host of the other process.
        host: String,
        /// Its process id there.
        pid: u32,
        /// How long a dead process's claim lasts, in milliseconds.
        ttl_ms: u64,
    },
    /// This session is not alive any more: register again.
    #[error("session {0} has ended: its lease expired or another process took its broker id")]
    SessionEnded(SessionId),
    /// Two places say that they belong to different clusters.
    #[error("{0}")]
    WrongCluster(String),
    /// Another change got in between, several times.
    #[error("{0}")]
    Contended(String),
    /// A limit was reached.
    #[error("{0}")]
    Limit(String),
}

impl ClusterError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Meta(error) => error.kind(),
            Self::Value(_) => ErrorKind::Corrupt,
            Self::BrokerIdInUse { .. } | Self::Contended(_) => ErrorKind::Conflict,
            Self::SessionEnded(_) => ErrorKind::Fenced,
            Self::WrongCluster(_) => ErrorKind::Environment,
            Self::Limit(_) => ErrorKind::Overloaded,
        }
    }
}
