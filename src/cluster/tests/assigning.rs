//! Taking over the partitions of ended sessions.

use std::collections::{BTreeMap, HashMap};

use super::*;
use crate::cluster::placement::take_over;
use crate::format::metadata::{AssignmentRecord, FromStream};

fn session(epoch: u64) -> SessionId {
    SessionId { broker_id: 1, epoch }
}

#[test]
fn streams_are_named_newest_first_and_empty_ones_never() {
    let first =
        AssignmentRecord { session: session(1), leader_epoch: 0, from: Vec::new(), target: None, acquired: false };
    let sealed = HashMap::from([(session(1), 10), (session(2), 0), (session(3), 4)]);
    let take = |assignment: &AssignmentRecord, by| take_over(assignment, session(by), &sealed).expect("room");
    let second = take(&first, 2).expect("sealed");
    let stream = |epoch, leader_epoch, sealed_seq| FromStream { session: session(epoch), leader_epoch, sealed_seq };
    assert_eq!(
        second,
        AssignmentRecord {
            session: session(2),
            leader_epoch: 1,
            from: vec![stream(1, 0, 10)],
            target: None,
            acquired: false
        }
    );
    // Session 2 died before it wrote anything.
    let third = take(&second, 3).expect("sealed");
    assert_eq!(
        third,
        AssignmentRecord {
            session: session(3),
            leader_epoch: 2,
            from: vec![stream(1, 0, 10)],
            target: None,
            acquired: false
        }
    );
    let fourth = take(&third, 4).expect("sealed");
    assert_eq!(fourth.from, [stream(3, 2, 4), stream(1, 0, 10)]);
    assert_eq!(take(&fourth, 4), None, "already there");
    assert_eq!(take(&fourth, 5), None, "session 4 is not sealed");
}

#[test]
fn the_list_of_streams_and_the_epochs_have_an_end() {
    let sealed = HashMap::from([(session(1), 1)]);
    let stream = FromStream { session: session(0), leader_epoch: 0, sealed_seq: 1 };
    let full = AssignmentRecord {
        session: session(1),
        leader_epoch: 9,
        from: vec![stream; limits::MAX_FROM_STREAMS],
        target: None,
        acquired: false,
    };
    assert!(matches!(take_over(&full, session(2), &sealed), Err(TopicError::LimitReached(_))));
    let last = AssignmentRecord {
        session: session(1),
        leader_epoch: i32::MAX,
        from: Vec::new(),
        target: None,
        acquired: false,
    };
    assert!(matches!(take_over(&last, session(2), &sealed), Err(TopicError::Broken(_))));
}

#[tokio::test]
async fn a_restart_takes_over_everything_in_few_transactions() {
    let bench = bench(TopicRules::default()).await;
    let old = bench.registration.session();
    let topics = (0..500).map(|n| topic(&format!("topic-{n}"), 4)).chain([topic("large", 1050)]).collect();
    assert!(bench.catalogue.create_topics(topics, false).await.iter().all(Result::is_ok));
    let next = bench_on(bench.store.clone(), bench.time.clone(), TopicRules::default()).await;
    let new = next.registration.session();
    let before = next.catalogue.image().version;
    next.succeed(old, 3).await;
    let image = next.catalogue.image();
    assert!(image.version - before <= 7, "{} transactions", image.version - before);
    assert_eq!(image.led_by(new).count(), 3050);
    let from = FromStream { session: old, leader_epoch: 0, sealed_seq: 3 };
    assert!(image.led_by(new).all(|(_, assignment)| assignment.leader_epoch == 1 && assignment.from == [from]));
    next.succeed(old, 3).await;
    assert_eq!(next.catalogue.image().version, image.version);

    let some: BTreeMap<_, _> = image.led_by(new).map(|(partition, _)| (partition, 1)).take(2000).collect();
    next.catalogue.clear_from(new, &some).await.expect("cleared");
    let image = next.catalogue.image();
    assert_eq!(image.led_by(new).filter(|(_, assignment)| assignment.from.is_empty()).count(), 2000);
    // That a stream held their states is never forgotten again.
    assert!(image.led_by(new).all(|(_, assignment)| assignment.acquired == assignment.from.is_empty()));
    let stale: BTreeMap<_, _> = image.led_by(new).map(|(partition, _)| (partition, 0)).collect();
    next.catalogue.clear_from(new, &stale).await.expect("of another epoch");
    assert_eq!(next.catalogue.image().version, image.version, "an older epoch clears nothing");

    let last = bench_on(bench.store.clone(), bench.time.clone(), TopicRules::default()).await;
    last.succeed(new, 9).await;
    let image = last.catalogue.image();
    let taken = image.led_by(last.registration.session());
    assert_eq!(taken.filter(|(_, assignment)| assignment.acquired).count(), 2000);
}
