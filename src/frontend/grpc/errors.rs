//! Errors of the broker as `esker.v1.Error`, and as gRPC statuses that carry one.

use kafka_protocol::error::ResponseError as Kafka;
use tonic::{Code, Status};

use crate::base::{ErrorKind, TopicPartition};
use crate::broker::BrokerError;
use crate::cluster::{ClusterImage, GRPC_ENDPOINT, TopicError};
use crate::fetch::FetchError;
use crate::partition::LogError;
use crate::protocol::batch::BatchError;
use crate::protocol::grpc::v1::{Error, Leader, Reason};

pub use crate::protocol::grpc::{detail, with_detail};

/// The error as clients read it. `image` knows who leads what this broker does not.
pub fn explain(error: &BrokerError, image: &ClusterImage) -> Error {
    let reason = reason(error);
    let led_elsewhere = match error {
        BrokerError::Log(LogError::NotLeader(partition))
        | BrokerError::Read(FetchError::Log(LogError::NotLeader(partition))) => leader(image, *partition),
        _ => None,
    };
    let retriable = match reason {
        Reason::NotLeader | Reason::TimedOut | Reason::Overloaded | Reason::Unavailable => true,
        _ => matches!(error.kind(), ErrorKind::Retriable | ErrorKind::Overloaded | ErrorKind::Fenced),
    };
    Error { reason: reason.into(), message: error.to_string(), retriable, leader: led_elsewhere }
}

/// The error of another broker as it counts here: what this broker knows and the other one does not, it will.
pub fn passing(error: Error) -> Error {
    let retriable = error.retriable || matches!(error.reason(), Reason::UnknownTopic | Reason::UnknownPartition);
    Error { retriable, ..error }
}

/// Who leads a partition, if it is alive and has a gRPC door.
pub fn leader(image: &ClusterImage, partition: TopicPartition) -> Option<Leader> {
    let broker = image.leading_broker(image.leader(partition)?)?;
    let grpc_endpoint = broker.endpoints.get(GRPC_ENDPOINT)?.clone();
    Some(Leader { broker_id: broker.session.broker_id, grpc_endpoint })
}

fn reason(error: &BrokerError) -> Reason {
    match error {
        BrokerError::UnknownTopic(_)
        | BrokerError::UnknownTopicId(_)
        | BrokerError::Topic(TopicError::UnknownTopic(_) | TopicError::UnknownTopicId(_)) => Reason::UnknownTopic,
        BrokerError::UnknownPartition { .. } => Reason::UnknownPartition,
        BrokerError::TimedOut => Reason::TimedOut,
        BrokerError::Batch(BatchError::TooLarge { .. }) => Reason::TooLarge,
        BrokerError::Log(error) | BrokerError::Read(FetchError::Log(error)) => log_reason(error),
        _ => match error.kind() {
            ErrorKind::Invalid => Reason::Invalid,
            ErrorKind::NotFound | ErrorKind::Conflict => Reason::Conflict,
            ErrorKind::Retriable | ErrorKind::Fenced => Reason::Unavailable,
            ErrorKind::Overloaded => Reason::Overloaded,
            ErrorKind::Corrupt => Reason::Corrupt,
            ErrorKind::Environment | ErrorKind::Internal => Reason::Internal,
        },
    }
}

fn log_reason(error: &LogError) -> Reason {
    match error {
        LogError::NotLeader(_) => Reason::NotLeader,
        LogError::OffsetOutOfRange { .. } => Reason::OffsetOutOfRange,
        LogError::OutOfOrderSequence { .. } => Reason::OutOfOrderSequence,
        LogError::DuplicateSequence { .. } => Reason::DuplicateSequence,
        LogError::InvalidProducerEpoch { .. } => Reason::ProducerFenced,
        LogError::InvalidTxnState { .. } => Reason::Invalid,
        LogError::Retriable(_) | LogError::Fenced => Reason::Unavailable,
        LogError::Overloaded { .. } => Reason::Overloaded,
        LogError::Environment(_) => Reason::Internal,
    }
}

/// An error of Kafka's protocol; `what` it happened to.
pub fn explain_kafka(error: Kafka, what: &str) -> Error {
    let reason = match error {
        Kafka::GroupIdNotFound => Reason::UnknownGroup,
        Kafka::UnknownTopicOrPartition => Reason::UnknownPartition,
        Kafka::NotCoordinator | Kafka::CoordinatorNotAvailable | Kafka::CoordinatorLoadInProgress => {
            Reason::Unavailable
        }
        Kafka::RequestTimedOut => Reason::TimedOut,
        Kafka::GroupMaxSizeReached | Kafka::ThrottlingQuotaExceeded => Reason::Overloaded,
        Kafka::NonEmptyGroup
        | Kafka::GroupSubscribedToTopic
        | Kafka::UnknownMemberId
        | Kafka::IllegalGeneration
        | Kafka::RebalanceInProgress
        | Kafka::FencedInstanceId
        | Kafka::InconsistentGroupProtocol => Reason::Conflict,
        Kafka::InvalidGroupId
        | Kafka::InvalidRequest
        | Kafka::InvalidSessionTimeout
        | Kafka::OffsetMetadataTooLarge
        | Kafka::InvalidTopicException => Reason::Invalid,
        _ => Reason::Internal,
    };
    let retriable = matches!(reason, Reason::Unavailable | Reason::TimedOut | Reason::Overloaded);
    Error { reason: reason.into(), message: format!("{what}: {error}"), retriable, leader: None }
}

/// A request that contradicts itself.
pub fn invalid(why: impl Into<String>) -> Status {
    let error = Error { reason: Reason::Invalid.into(), message: why.into(), retriable: false, leader: None };
    to_status(&error)
}

/// The status of an error.
pub fn status(error: &BrokerError, image: &ClusterImage) -> Status {
    let code = match error {
        BrokerError::Topic(TopicError::AlreadyExists(_)) => Some(Code::AlreadyExists),
        BrokerError::Drain(error) if error.kind() == ErrorKind::NotFound => Some(Code::NotFound),
        _ => None,
    };
    let explained = explain(error, image);
    match code {
        Some(code) => with_detail(code, &explained),
        None => to_status(&explained),
    }
}

/// The status that carries `error`.
pub fn to_status(error: &Error) -> Status {
    let code = match error.reason() {
        Reason::UnknownTopic | Reason::UnknownPartition | Reason::UnknownGroup => Code::NotFound,
        Reason::NotLeader | Reason::Unavailable => Code::Unavailable,
        Reason::OffsetOutOfRange => Code::OutOfRange,
        Reason::TimedOut => Code::DeadlineExceeded,
        Reason::Overloaded => Code::ResourceExhausted,
        Reason::Invalid | Reason::TooLarge => Code::InvalidArgument,
        Reason::OutOfOrderSequence | Reason::DuplicateSequence | Reason::ProducerFenced | Reason::Conflict => {
            Code::FailedPrecondition
        }
        Reason::Corrupt => Code::DataLoss,
        Reason::Internal | Reason::Unspecified => Code::Internal,
    };
    with_detail(code, error)
}
