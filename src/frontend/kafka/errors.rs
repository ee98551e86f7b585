//! The one table from typed errors to Kafka's error codes.

use kafka_protocol::error::ResponseError as Kafka;
use kafka_protocol::protocol::StrBytes;

use crate::broker::BrokerError;
use crate::fetch::FetchError;
use crate::partition::LogError;
use crate::protocol::batch::BatchError;

/// The version of the request is not served.
pub const UNSUPPORTED_VERSION: i16 = Kafka::UnsupportedVersion.code();
/// The request contradicts itself.
pub const INVALID_REQUEST: i16 = Kafka::InvalidRequest.code();

/// Kafka's error for one of ours.
pub fn kafka_error(error: &BrokerError) -> Kafka {
    match error {
        BrokerError::UnknownTopic(_) | BrokerError::UnknownPartition { .. } => Kafka::UnknownTopicOrPartition,
        BrokerError::UnknownTopicId(_) => Kafka::UnknownTopicId,
        BrokerError::InternalTopic(_) => Kafka::InvalidTopicException,
        BrokerError::FencedLeaderEpoch { .. } => Kafka::FencedLeaderEpoch,
        BrokerError::UnknownLeaderEpoch { .. } => Kafka::UnknownLeaderEpoch,
        BrokerError::TimedOut => Kafka::RequestTimedOut,
        // The one code that every client takes as fatal wherever a transactional id is sent.
        BrokerError::Transactions => Kafka::TransactionalIdAuthorizationFailed,
        BrokerError::InvalidRequest(_) => Kafka::InvalidRequest,
        BrokerError::NotReady(_) => Kafka::CoordinatorLoadInProgress,
        BrokerError::Policy(_) => Kafka::PolicyViolation,
        BrokerError::Batch(error) => batch_error(error),
        BrokerError::Log(error) => log_error(error),
        BrokerError::Topic(error) => Kafka::try_from_code(error.code()).unwrap_or(Kafka::UnknownServerError),
        // No Kafka request asks for it.
        BrokerError::Drain(_) => Kafka::UnknownServerError,
        BrokerError::Read(error) => read_error(error),
    }
}

fn batch_error(error: &BatchError) -> Kafka {
    match error {
        BatchError::Length { .. } | BatchError::Crc { .. } => Kafka::CorruptMessage,
        BatchError::Magic { .. } => Kafka::UnsupportedForMessageFormat,
        BatchError::TooLarge { .. } => Kafka::MessageTooLarge,
        BatchError::UnknownCompression(_) => Kafka::UnsupportedCompressionType,
        BatchError::Timestamp { .. } => Kafka::InvalidTimestamp,
        BatchError::Empty
        | BatchError::MoreThanOne
        | BatchError::KeyMissing { .. }
        | BatchError::Invalid(_)
        | BatchError::Records(_) => Kafka::InvalidRecord,
    }
}

fn log_error(error: &LogError) -> Kafka {
    match error {
        // Retriable, and makes the client look for the leader again.
        LogError::NotLeader(_) | LogError::Fenced => Kafka::NotLeaderOrFollower,
        LogError::OffsetOutOfRange { .. } => Kafka::OffsetOutOfRange,
        LogError::OutOfOrderSequence { .. } => Kafka::OutOfOrderSequenceNumber,
        LogError::DuplicateSequence { .. } => Kafka::DuplicateSequenceNumber,
        LogError::InvalidProducerEpoch { .. } => Kafka::InvalidProducerEpoch,
        LogError::InvalidTxnState { .. } => Kafka::InvalidTxnState,
        // Retriable, and says nothing about whether the batch was written.
        LogError::Retriable(_) | LogError::Overloaded { .. } => Kafka::RequestTimedOut,
        LogError::Environment(_) => Kafka::KafkaStorageError,
    }
}

fn read_error(error: &FetchError) -> Kafka {
    match error {
        FetchError::Log(error) => log_error(error),
        FetchError::FencedLeaderEpoch { .. } => Kafka::FencedLeaderEpoch,
        FetchError::UnknownLeaderEpoch { .. } => Kafka::UnknownLeaderEpoch,
        // Retriable: the store may answer, or an object be restored; consumers neither skip nor die.
        FetchError::Corrupt { .. } | FetchError::Missing { .. } | FetchError::Store { .. } => Kafka::KafkaStorageError,
        FetchError::Seam { .. } => Kafka::UnknownServerError,
    }
}

/// The code on the wire.
pub fn code(error: &BrokerError) -> i16 {
    kafka_error(error).code()
}

/// The message beside a code.
pub fn message(error: &BrokerError) -> Option<StrBytes> {
    Some(StrBytes::from_string(error.to_string()))
}
