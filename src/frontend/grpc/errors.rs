//! Errors of the broker as gRPC statuses.

use tonic::{Code, Status};

use crate::base::ErrorKind;
use crate::broker::BrokerError;

/// The status of an error: its kind gives the code, its text the message.
pub fn status(error: &BrokerError) -> Status {
    let code = match error.kind() {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::Conflict => Code::FailedPrecondition,
        ErrorKind::Retriable | ErrorKind::Fenced => Code::Unavailable,
        ErrorKind::Overloaded => Code::ResourceExhausted,
        ErrorKind::Corrupt => Code::DataLoss,
        _ => Code::Internal,
    };
    Status::new(code, error.to_string())
}
