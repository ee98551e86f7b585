use uuid::Uuid;

use super::{Place, Read, settle};
use crate::base::SessionId;
use crate::broker::ListedOffset;
use crate::cluster::picture::{Picture, led};
use crate::protocol::grpc::v1::{Error, Reason};

type Told = ((usize, bool), Result<ListedOffset, Error>);

fn places() -> Vec<Place> {
    let session = SessionId { broker_id: 1, epoch: 1 };
    let image = Picture::of(1).topic(9, vec![led(session, 0); 3]).image;
    let topic = image.topic_by_id(Uuid::from_u128(9)).unwrap();
    (0..3).map(|index| Place::new(topic, index, -1)).collect()
}

fn found(number: usize, start: bool, offset: i64) -> Told {
    ((number, start), Ok(ListedOffset { offset, timestamp: -1, leader_epoch: 0 }))
}

fn refused(number: usize, reason: Reason, retriable: bool) -> Told {
    ((number, true), Err(Error { reason: reason.into(), retriable, ..Error::default() }))
}

#[test]
fn a_partition_without_an_offset_does_not_end_the_others() {
    let (mut places, mut failed) = (places(), Vec::new());
    let told = [found(0, true, 5), refused(1, Reason::UnknownTopic, false), found(2, true, 7), found(2, false, 9)];
    settle(&mut places, &mut failed, told.into_iter()).unwrap();
    let read: Vec<_> = places.iter().map(|place| (place.index, place.offset, place.until)).collect();
    assert_eq!(read, [(0, 5, None), (2, 7, Some(9))]);
    let [Read::Failure(failure)] = &failed[..] else { panic!("{failed:?}") };
    assert_eq!((failure.partition, failure.error.as_ref().unwrap().reason()), (1, Reason::UnknownTopic));
}

#[test]
fn what_passes_is_waited_for() {
    let (mut places, mut failed) = (places(), Vec::new());
    let told = [found(0, true, 5), refused(1, Reason::Unavailable, true)];
    let error = settle(&mut places, &mut failed, told.into_iter()).unwrap_err();
    assert_eq!((error.reason(), failed.len()), (Reason::Unavailable, 0));
}
