//! What went wrong, and whether asking again helps.

use tonic::{Code, Status};

use crate::protocol::grpc::detail;
use crate::protocol::grpc::v1;

pub use crate::protocol::grpc::v1::Reason;

/// Why a call did not succeed.
///
/// Its text is a sentence for people. Programs look at [`Error::reason`] and [`Error::is_retriable`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    reason: Reason,
    message: String,
    retriable: bool,
    code: Code,
    may_have_happened: bool,
    leader: Option<String>,
}

impl Error {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        let retriable =
            matches!(reason, Reason::NotLeader | Reason::TimedOut | Reason::Overloaded | Reason::Unavailable);
        let code = Code::Unknown;
        Self { reason, message: message.into(), retriable, code, may_have_happened: false, leader: None }
    }

    /// No broker could be asked.
    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Reason::Unavailable, message)
    }

    /// The caller asked for something that cannot be.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Reason::Invalid, message)
    }

    pub(super) fn possibly_done(mut self) -> Self {
        self.may_have_happened = true;
        self
    }

    /// What a broker answered.
    pub(super) fn of_answer(error: v1::Error) -> Self {
        let reason = error.reason();
        Self {
            reason,
            message: error.message,
            retriable: error.retriable,
            code: Code::Unknown,
            may_have_happened: false,
            leader: error.leader.map(|leader| leader.grpc_endpoint),
        }
    }

    /// What a call ended with. A status without a detail comes from the connection, or from something between.
    pub(super) fn of_status(status: &Status) -> Self {
        let code = status.code();
        if let Some(error) = detail(status) {
            return Self { code, ..Self::of_answer(error) };
        }
        let (reason, retriable) = match code {
            Code::Unavailable | Code::Cancelled | Code::Aborted | Code::Unknown => (Reason::Unavailable, true),
            Code::DeadlineExceeded => (Reason::TimedOut, true),
            Code::ResourceExhausted => (Reason::Overloaded, true),
            Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition => (Reason::Conflict, false),
            Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => (Reason::Invalid, false),
            Code::DataLoss => (Reason::Corrupt, false),
            _ => (Reason::Internal, false),
        };
        let message = match code {
            Code::Unimplemented => "the broker does not know this call: it is of another version".to_owned(),
            _ => root_cause(status),
        };
        Self { reason, message, retriable, code, may_have_happened: false, leader: None }
    }

    /// What kind of failure it is.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The same call may succeed if it is repeated later. The client has repeated it already for as long as it was told to.
    pub fn is_retriable(&self) -> bool {
        self.retriable
    }

    /// Of a record that was sent: it may have been written all the same, or be written still. `false`: it was not.
    pub fn may_have_happened(&self) -> bool {
        self.may_have_happened
    }

    /// What was to be created is there already.
    pub fn is_already_exists(&self) -> bool {
        self.code == Code::AlreadyExists
    }

    /// What was asked for is not there: a topic, a partition, a group, a broker.
    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound || matches!(self.reason, Reason::UnknownTopic | Reason::UnknownPartition)
    }

    /// gRPC address of the broker that could have done it.
    pub(super) fn leader(&self) -> Option<&str> {
        self.leader.as_deref()
    }

    /// Nobody was reached: another broker may answer.
    pub(super) fn is_transport(status: &Status) -> bool {
        detail(status).is_none() && matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
    }
}

/// The innermost reason: the outer ones only say that something failed.
pub(super) fn root_cause(status: &Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    match cause.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => cause.to_string(),
    }
}
