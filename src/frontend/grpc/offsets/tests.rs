use tonic::Status;

use super::{by_partition, lost, settled};
use crate::frontend::grpc::errors::to_status;
use crate::protocol::grpc::v1::{Error, PartitionOffset, Reason};

fn error(reason: Reason) -> Error {
    Error { reason: reason.into(), ..Error::default() }
}

fn told(partition: i32, error: Option<Error>) -> PartitionOffset {
    PartitionOffset { topic: "t".to_owned(), partition, offset: 7, leader_epoch: 0, error }
}

#[test]
fn a_leader_that_has_not_heard_of_a_topic_is_asked_again() {
    let unknown = to_status(&error(Reason::UnknownTopic));
    for answer in by_partition(Err(lost(&unknown)), &[0, 1]) {
        assert_eq!(answer.as_ref().unwrap_err().reason(), Reason::UnknownTopic);
        assert!(!settled(Some(&answer)));
    }
    let answers =
        vec![told(1, None), told(0, Some(error(Reason::UnknownPartition))), told(2, Some(error(Reason::Invalid)))];
    let answers = by_partition(Ok(answers), &[0, 1, 2, 3]);
    assert!(!settled(Some(&answers[0])), "it knows of fewer partitions");
    assert_eq!(answers[1].as_ref().unwrap().offset, 7);
    assert!(settled(Some(&answers[2])), "what is wrong stays wrong");
    assert!(!settled(Some(&answers[3])), "it says nothing of the last one");
    assert!(!settled(Some(&by_partition(Err(lost(&Status::unavailable("gone"))), &[0])[0])));
}
