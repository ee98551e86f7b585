//! What is done so that the log follows the catalogue.

use std::collections::{BTreeMap, BTreeSet};

use super::loader::state_or_empty;
use super::machine::{Load, Machine, Work};
use super::moving::Moving;
use crate::base::SessionId;
use crate::cluster::Handover;
use crate::cluster::picture::{Picture, acquired, leaving, led, led_from, partition, session};
use crate::format::metadata::FromStream;
use crate::format::state::PartitionState;
use crate::partition::stream::StreamError;

const OWN: SessionId = SessionId { broker_id: 1, epoch: 1 };
const OTHER: SessionId = SessionId { broker_id: 2, epoch: 2 };

fn from(session: SessionId, leader_epoch: i32, sealed_seq: u64) -> FromStream {
    FromStream { session, leader_epoch, sealed_seq }
}

fn nothing() -> Work {
    Work::default()
}

#[test]
fn a_new_partition_is_led_at_once() {
    let mut machine = Machine::new(OWN);
    let picture = Picture::of(2).topic(1, vec![led(OWN, 0), led(OTHER, 0)]);
    let work = machine.plan(&picture.image, &[]);
    assert_eq!(work, Work { create: vec![(partition(1, 0), 0)], ..nothing() });
    assert_eq!((machine.led(), machine.opening()), (1, 0));
    assert_eq!(machine.plan(&picture.image, &[]), nothing(), "nothing is done twice");
}

#[test]
fn that_the_stream_holds_a_new_partition_is_written_down_once_it_does() {
    let tp = partition(1, 0);
    let mut machine = Machine::new(OWN);
    let picture = Picture::of(2).topic(1, vec![led(OWN, 0)]);
    machine.plan(&picture.image, &[]);
    machine.acquired(tp, 7);
    assert_eq!(machine.plan(&picture.image, &[]), nothing(), "news of another epoch");
    machine.acquired(tp, 0);
    assert_eq!(machine.plan(&picture.image, &[]), Work { clear: [(tp, 0)].into(), ..nothing() });
    machine.clear_ended(tp, 0);
    let written = Picture::of(2).topic(1, vec![acquired(led(OWN, 0))]);
    assert_eq!(machine.plan(&written.image, &[]), nothing());
}

#[test]
fn one_that_some_stream_must_hold_is_never_begun_anew() {
    let picture = Picture::of(2).topic(1, vec![acquired(led(OWN, 3))]);
    let load = Load { partition: partition(1, 0), epoch: 3, from: Vec::new(), acquired: true };
    assert_eq!(Machine::new(OWN).plan(&picture.image, &[]), Work { load: vec![load], ..nothing() });
}

#[test]
fn an_empty_state_is_taken_only_where_no_stream_ever_held_one() {
    let tp = partition(1, 0);
    let found = PartitionState { next_offset: 7, ..PartitionState::default() };
    assert_eq!(state_or_empty(tp, false, None).expect("new"), PartitionState::default());
    for acquired in [false, true] {
        assert_eq!(state_or_empty(tp, acquired, Some(found.clone())).expect("found"), found);
    }
    let refused = state_or_empty(tp, true, None).expect_err("a state is missing");
    assert!(matches!(refused, StreamError::Lost { partition } if partition == tp), "{refused}");
}

#[test]
fn one_that_was_another_s_is_loaded_led_and_cleared_in_that_order() {
    let old = session(3, 1);
    let picture = Picture::of(2).sealed(old, 7).topic(1, vec![led_from(OWN, 4, old, 7)]);
    let mut machine = Machine::new(OWN);
    let load = Load { partition: partition(1, 0), epoch: 4, from: vec![from(old, 3, 7)], acquired: false };
    assert_eq!(machine.plan(&picture.image, &[]), Work { load: vec![load.clone()], ..nothing() });
    assert_eq!(machine.opening(), 1);
    // The store did not answer: it is read again.
    machine.load_failed(partition(1, 0), 4);
    assert_eq!(machine.plan(&picture.image, &[]), Work { load: vec![load], ..nothing() });
    assert!(machine.loaded(partition(1, 0), 4));
    assert!(!machine.loaded(partition(1, 0), 4), "once");
    assert_eq!(machine.plan(&picture.image, &[]), nothing(), "`from` stays until the stream says that it is ours");
    machine.acquired(partition(1, 0), 4);
    let clear = BTreeMap::from([(partition(1, 0), 4)]);
    assert_eq!(machine.plan(&picture.image, &[]), Work { clear: clear.clone(), ..nothing() });
    assert_eq!(machine.plan(&picture.image, &[]), nothing());
    machine.clear_ended(partition(1, 0), 4);
    assert_eq!(machine.plan(&picture.image, &[]), Work { clear, ..nothing() }, "it had failed");
}

#[test]
fn one_that_goes_is_released_before_it_is_handed_over_and_forgotten_after() {
    let tp = partition(1, 0);
    let mut machine = Machine::new(OWN);
    machine.plan(&Picture::of(2).topic(1, vec![led(OWN, 0)]).image, &[]);
    let going = Picture::of(2).topic(1, vec![leaving(OWN, 0, OTHER)]);
    assert_eq!(machine.plan(&going.image, &[]), Work { give_away: vec![(tp, 0)], ..nothing() });
    assert_eq!(machine.plan(&going.image, &[]), nothing(), "not before the entry is committed");
    machine.released(tp, 0, 12);
    let handover = Handover { leader_epoch: 0, target: OTHER, released_seq: 12 };
    assert_eq!(machine.plan(&going.image, &[]), Work { hand_over: [(tp, handover)].into(), ..nothing() });
    assert_eq!(machine.plan(&going.image, &[]), nothing());
    machine.hand_over_ended(tp);
    assert_eq!(machine.plan(&going.image, &[]).hand_over.len(), 1, "it had failed");
    // The state stays in the stream for as long as the assignment names it.
    let gone = Picture::of(2).topic(1, vec![led_from(OTHER, 1, OWN, 13)]);
    assert_eq!(machine.plan(&gone.image, &[(tp, 0)]), Work { forget: vec![tp], ..nothing() });
    let cleared = Picture::of(2).topic(1, vec![led(OTHER, 1)]);
    assert_eq!(machine.plan(&cleared.image, &[(tp, 0)]), Work { drop_given: vec![tp], ..nothing() });
}

#[test]
fn a_release_whose_target_is_gone_comes_back_under_a_new_epoch() {
    let tp = partition(1, 0);
    let mut machine = Machine::new(OWN);
    machine.plan(&Picture::of(2).topic(1, vec![led(OWN, 3)]).image, &[]);
    machine.plan(&Picture::of(2).topic(1, vec![leaving(OWN, 3, OTHER)]).image, &[]);
    machine.released(tp, 3, 8);
    let alone = Picture::of(1).sealed(OTHER, 2).topic(1, vec![leaving(OWN, 3, OTHER)]);
    let back = Handover { leader_epoch: 3, target: OWN, released_seq: 8 };
    assert_eq!(machine.plan(&alone.image, &[]).hand_over, [(tp, back)].into());
    let returned = Picture::of(1).topic(1, vec![led_from(OWN, 4, OWN, 9)]);
    let work = machine.plan(&returned.image, &[(tp, 3)]);
    let load = Load { partition: tp, epoch: 4, from: vec![from(OWN, 3, 9)], acquired: false };
    assert_eq!(work, Work { forget: vec![tp], load: vec![load], ..nothing() });
}

#[test]
fn what_is_taken_away_without_a_release_means_that_the_stream_was_sealed() {
    let mut machine = Machine::new(OWN);
    machine.plan(&Picture::of(2).topic(1, vec![led(OWN, 0)]).image, &[]);
    let taken = Picture::of(2).topic(1, vec![led_from(OTHER, 1, OWN, 30)]);
    assert_eq!(machine.plan(&taken.image, &[]), Work { taken: true, ..nothing() });
}

#[test]
fn a_deleted_topic_is_dropped_and_one_that_was_still_loading_only_forgotten() {
    let old = session(3, 1);
    let mut machine = Machine::new(OWN);
    let both = Picture::of(2).sealed(old, 7).topic(1, vec![led(OWN, 0), led_from(OWN, 1, old, 7)]);
    machine.plan(&both.image, &[]);
    let none = Picture::of(2).sealed(old, 7);
    assert_eq!(machine.plan(&none.image, &[]), Work { drop: vec![partition(1, 0)], ..nothing() });
    assert!(!machine.loaded(partition(1, 1), 1), "nobody wants it any more");
    assert_eq!((machine.led(), machine.opening()), (0, 0));
}

#[test]
fn a_partition_moves_while_it_is_read_and_from_its_release_until_another_leads_it() {
    let (tp, old) = (partition(1, 0), session(3, 1));
    let mut machine = Machine::new(OWN);
    let moving = |machine: &Machine| machine.moving().collect::<Vec<_>>();
    let coming = Picture::of(2).sealed(old, 7).topic(1, vec![led_from(OWN, 4, old, 7)]);
    machine.plan(&coming.image, &[]);
    assert_eq!(moving(&machine), [tp], "its state is being read");
    machine.loaded(tp, 4);
    assert!(moving(&machine).is_empty(), "it is written, although the stream does not say so yet");
    machine.acquired(tp, 4);
    machine.plan(&Picture::of(2).topic(1, vec![leaving(OWN, 4, OTHER)]).image, &[]);
    assert_eq!(moving(&machine), [tp], "it is written no more");
    machine.released(tp, 4, 9);
    machine.plan(&Picture::of(2).topic(1, vec![leaving(OWN, 4, OTHER)]).image, &[]);
    assert_eq!(moving(&machine), [tp], "nobody else leads it yet");
    machine.plan(&Picture::of(2).topic(1, vec![led_from(OTHER, 5, OWN, 10)]).image, &[]);
    assert!(moving(&machine).is_empty(), "who asks can be told of its new leader");
}

#[test]
fn writes_are_held_for_a_moment_and_not_for_one_that_does_not_come() {
    let (tp, moving) = (partition(1, 0), Moving::default());
    let (behind, up_to_date) = (|| true, || false);
    assert_eq!(moving.hold_ms(tp, 5_000, up_to_date), None);
    assert_eq!(
        moving.hold_ms(tp, 5_000, behind),
        Some(1_000),
        "the cluster has changed: what it means for it comes next"
    );
    moving.are(&BTreeSet::from([tp]), 5_000);
    assert_eq!(moving.hold_ms(tp, 5_400, up_to_date), Some(600));
    moving.are(&BTreeSet::from([tp, partition(1, 1)]), 5_900);
    assert_eq!(moving.hold_ms(tp, 5_900, up_to_date), Some(100), "its time does not begin anew");
    assert_eq!(moving.hold_ms(tp, 6_000, behind), None, "it takes too long: others are not to wait for it");
    moving.are(&BTreeSet::from([partition(1, 1)]), 6_100);
    assert_eq!(moving.hold_ms(tp, 6_100, up_to_date), None, "it has come, or gone");
}
