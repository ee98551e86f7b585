use tonic::{Code, Status};

use crate::base::ErrorKind;
use crate::meta::MetaError;
use crate::meta::etcd::status::{Verdict, hung_up, judge};

fn verdict(code: Code, message: &str) -> Verdict {
    judge(&Status::new(code, message), Some("esker"))
}

#[test]
fn a_transaction_that_may_have_happened_is_told_from_one_that_has_not() {
    for (code, message, maybe) in [
        (Code::Unavailable, "etcdserver: request timed out", true),
        (Code::Unavailable, "etcdserver: request timed out, possibly due to previous leader failure", true),
        (Code::Unavailable, "etcdserver: leader changed", true),
        (Code::Unavailable, "etcdserver: server stopped", true),
        (Code::Unknown, "transport error", true),
        (Code::DeadlineExceeded, "context deadline exceeded", true),
        (Code::Cancelled, "h2 protocol error", true),
        (Code::Internal, "anything", true),
        (Code::Unavailable, "etcdserver: no leader", false),
        (Code::ResourceExhausted, "etcdserver: too many requests", false),
    ] {
        let verdict = verdict(code, message);
        assert!(
            matches!(verdict, Verdict::Elsewhere { maybe_done, .. } if maybe_done == maybe),
            "{message}: {verdict:?}"
        );
    }
}

#[test]
fn what_a_person_must_do_is_said() {
    for (code, message, kind, part) in [
        (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", ErrorKind::Environment, "alarm disarm"),
        (Code::PermissionDenied, "etcdserver: permission denied", ErrorKind::Environment, "grant-permission"),
        (
            Code::InvalidArgument,
            "etcdserver: authentication failed, invalid user ID or password",
            ErrorKind::Environment,
            "user 'esker'",
        ),
        (Code::DataLoss, "etcdserver: corrupt cluster", ErrorKind::Environment, "CORRUPT"),
        (Code::Unimplemented, "unknown service etcdserverpb.KV", ErrorKind::Environment, "no etcd"),
        (Code::InvalidArgument, "etcdserver: request is too large", ErrorKind::Invalid, "--max-request-bytes"),
        (Code::InvalidArgument, "etcdserver: too many operations in txn request", ErrorKind::Invalid, "--max-txn-ops"),
        (
            Code::ResourceExhausted,
            "grpc: received message larger than max (2097153 vs. 2097152)",
            ErrorKind::Invalid,
            "limits",
        ),
        (Code::FailedPrecondition, "something new", ErrorKind::Environment, "something new"),
    ] {
        let Verdict::Fail(error) = verdict(code, message) else { panic!("{message}") };
        assert_eq!(error.kind(), kind, "{message}");
        assert!(error.to_string().contains(part), "{error}");
    }
    let Verdict::Fail(error) = judge(&Status::new(Code::InvalidArgument, "etcdserver: user name is empty"), None)
    else {
        panic!("a login is needed")
    };
    assert!(matches!(&error, MetaError::Environment(text) if text.contains("set etcd.user")), "{error}");
}

#[test]
fn the_rest_is_for_the_caller() {
    assert!(matches!(verdict(Code::NotFound, "etcdserver: requested lease not found"), Verdict::LeaseGone));
    assert!(matches!(verdict(Code::FailedPrecondition, "etcdserver: lease already exists"), Verdict::LeaseExists));
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    assert!(matches!(verdict(Code::OutOfRange, compacted), Verdict::Compacted));
    for message in
        ["etcdserver: invalid auth token", "etcdserver: user name is empty", "auth: revision in header is old"]
    {
        assert!(matches!(verdict(Code::Unauthenticated, message), Verdict::LogIn), "{message}");
    }
    let off = "etcdserver: authentication is not enabled";
    assert!(matches!(verdict(Code::FailedPrecondition, off), Verdict::NoLogins));
    let large = "Error, decoded message length too large: found 67108865 bytes, the limit is: 67108864 bytes";
    assert!(matches!(verdict(Code::OutOfRange, large), Verdict::AnswerTooLarge));
}

#[test]
fn a_server_that_hangs_up_is_noticed_in_more_ways_than_one() {
    for reason in [
        "transport error: connection closed before message completed",
        "transport error: stream closed because of a broken pipe",
        "transport error: connection reset",
    ] {
        assert!(hung_up(reason), "{reason}");
    }
    assert!(!hung_up("no answer within 2000 ms"));
}
