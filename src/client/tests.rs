use super::error::Error;
use super::{Client, Reason};
use crate::protocol::grpc::{v1, with_detail};

#[test]
fn a_status_with_a_detail_says_what_the_broker_says() {
    let leader = v1::Leader { broker_id: 2, grpc_endpoint: "b:1".to_owned() };
    let told = v1::Error {
        reason: Reason::NotLeader.into(),
        message: "not here".to_owned(),
        retriable: true,
        leader: Some(leader),
    };
    let status = with_detail(tonic::Code::Unavailable, &told);
    let error = Error::of_status(&status);
    assert_eq!((error.reason(), error.is_retriable(), error.leader()), (Reason::NotLeader, true, Some("b:1")));
    assert_eq!(error.to_string(), "not here");
    assert!(!Error::is_transport(&status));
    assert!(Error::of_status(&with_detail(tonic::Code::AlreadyExists, &told)).is_already_exists());
}

#[test]
fn a_status_without_one_comes_from_the_connection() {
    let error = Error::of_status(&tonic::Status::unavailable("connection refused"));
    assert_eq!((error.reason(), error.is_retriable()), (Reason::Unavailable, true));
    assert!(Error::is_transport(&tonic::Status::unavailable("connection refused")));
    assert!(!Error::of_status(&tonic::Status::unimplemented("")).is_retriable());
    assert!(Error::of_status(&tonic::Status::not_found("")).is_not_found());
}

#[test]
fn addresses_are_looked_at_before_anything_is_asked() {
    assert!(Client::connect("a:1, b:2").is_ok());
    for wrong in ["", ",", "nowhere", "a:1,b", "a:port", ":9094", "a:99999"] {
        assert_eq!(Client::connect(wrong).unwrap_err().reason(), Reason::Invalid, "{wrong}");
    }
}
