//! What a controller decides.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::picture::{Picture, leaving, led, partition, session};
use crate::base::SessionId;
use crate::cluster::ClusterImage;
use crate::cluster::limits::MAX_MOVES_IN_FLIGHT;
use crate::cluster::placement::{Decision, Spread, decide};
use crate::format::metadata::AssignmentRecord;

fn decided(picture: &Picture) -> Decision {
    decide(&picture.image, &BTreeSet::new(), &BTreeMap::new())
}

/// The picture after the decision was carried out and every broker did what it was asked to.
fn carried_out(mut picture: Picture, decision: &Decision) -> Picture {
    for session in &decision.seal {
        picture = picture.sealed(*session, 5);
    }
    let topics: Vec<_> = picture.image.topics().cloned().collect();
    for topic in topics {
        let next = |(index, assignment): (i32, &AssignmentRecord)| {
            let partition = topic.partition(index);
            let new = decision.take_over.get(&partition).copied();
            let target = decision.targets.get(&partition).copied().unwrap_or(assignment.target);
            match new.or(target) {
                Some(leader) => led(leader, assignment.leader_epoch + 1),
                None => AssignmentRecord { target: None, ..assignment.clone() },
            }
        };
        let partitions = (0..).zip(&topic.partitions).map(next).collect();
        picture = picture.topic(topic.id.as_u128(), partitions);
    }
    picture
}

fn counts(image: &ClusterImage) -> BTreeMap<SessionId, usize> {
    let mut counts: BTreeMap<SessionId, usize> = image.candidates().map(|broker| (broker.session, 0)).collect();
    for assignment in image.topics().flat_map(|topic| topic.partitions.clone()) {
        *counts.entry(assignment.session).or_default() += 1;
    }
    counts
}

#[test]
fn an_even_cluster_is_left_alone() {
    let (a, b) = (session(1, 1), session(2, 2));
    let picture = Picture::of(2).topic(1, vec![led(a, 0), led(b, 0), led(a, 0)]);
    assert_eq!(decided(&picture), Decision::default());
}

#[test]
fn the_dead_are_sealed_first_and_only_then_succeeded() {
    let (a, b) = (session(1, 1), session(2, 2));
    let picture = Picture::of(2).dead(b).topic(1, vec![led(a, 0), led(b, 4)]);
    let first = decided(&picture);
    assert_eq!((first.seal.clone(), first.take_over.len(), first.targets.len()), (vec![b], 0, 0));
    let second = decided(&carried_out(picture, &first));
    assert_eq!(second.take_over, [(partition(1, 1), a)].into());
    assert_eq!(second.seal, []);
}

#[test]
fn a_suspect_is_sealed_although_its_lease_has_not_ended() {
    let b = session(2, 2);
    let picture = Picture::of(2).topic(1, vec![led(b, 0)]);
    assert_eq!(decide(&picture.image, &[b].into(), &BTreeMap::new()).seal, [b]);
}

#[test]
fn without_brokers_nothing_is_given_to_anybody() {
    let a = session(1, 1);
    let picture = Picture::of(1).sealed(a, 9).topic(1, vec![led(a, 0)]);
    assert_eq!(decided(&picture), Decision::default());
}

#[test]
fn a_broker_that_joins_gets_its_share_and_one_that_drains_gives_all_away() {
    let (a, b) = (session(1, 1), session(2, 2));
    let picture = Picture::of(2).topic(1, vec![led(a, 0); 10]);
    let decision = decided(&picture);
    assert_eq!(decision.targets.len(), 5, "few moves");
    assert!(decision.targets.values().all(|target| *target == Some(b)));
    let picture = carried_out(picture, &decision).broker(a, None, true);
    let decision = decided(&picture);
    assert_eq!(decision.targets.len(), 5);
    assert_eq!(counts(&carried_out(picture, &decision).image)[&b], 10);
}

#[test]
fn a_move_to_a_broker_that_is_gone_is_called_off() {
    let (a, b, c) = (session(1, 1), session(2, 2), session(3, 3));
    let picture = Picture::of(2).sealed(c, 0).topic(1, vec![leaving(a, 0, c), led(b, 0)]);
    assert_eq!(decided(&picture).targets, [(partition(1, 0), None)].into());
    // Its leader drains: it goes to another one instead.
    let picture = picture.broker(a, None, true);
    assert_eq!(decided(&picture).targets, [(partition(1, 0), Some(b))].into());
}

#[test]
fn moves_are_made_some_at_a_time() {
    let a = session(1, 1);
    let picture = Picture::of(2).topic(1, vec![led(a, 0); 3 * MAX_MOVES_IN_FLIGHT]);
    let decision = decided(&picture);
    assert_eq!(decision.targets.len(), MAX_MOVES_IN_FLIGHT);
    let drained = picture.broker(a, None, true);
    assert_eq!(decided(&drained).targets.len(), MAX_MOVES_IN_FLIGHT);
}

#[test]
fn a_topic_is_spread_over_zones() {
    let (a, b, c) = (session(1, 1), session(2, 2), session(3, 3));
    let picture = Picture::default().broker(a, Some("x"), false).broker(b, Some("x"), false);
    let picture = picture.broker(c, Some("y"), false).topic(1, vec![led(a, 0)]).topic(2, vec![led(b, 0), led(c, 0)]);
    // All have one. Of topic 1, zone x has one already, so the broker in zone y is next.
    let mut spread = Spread::of(&picture.image, None);
    assert_eq!(spread.place(uuid::Uuid::from_u128(1)), Some(c));
}

#[test]
fn what_the_dead_led_goes_to_those_who_drain_if_there_is_nobody_else() {
    let (dead, one, two) = (session(3, 3), session(1, 1), session(2, 2));
    let picture = Picture::of(0).broker(one, None, true).broker(two, None, true).sealed(dead, 5);
    let picture = picture.topic(1, vec![led(dead, 0), led(one, 0), led(dead, 0), led(two, 0)]);
    let decision = decided(&picture);
    assert_eq!(decision.take_over, [(partition(1, 0), one), (partition(1, 2), two)].into());
    assert_eq!(decision.targets, BTreeMap::new(), "they do not give to each other");
}

#[test]
fn traffic_moves_a_partition_when_the_numbers_are_even() {
    let (a, b) = (session(1, 1), session(2, 2));
    let picture = Picture::of(2).topic(1, vec![led(a, 0), led(a, 0), led(b, 0), led(b, 0)]);
    let mb = 1_000_000;
    let rates = [(partition(1, 0), 40 * mb), (partition(1, 1), 30 * mb)].into();
    let decision = decide(&picture.image, &BTreeSet::new(), &rates);
    assert_eq!(decision.targets.get(&partition(1, 1)), Some(&Some(b)), "{decision:?}");
    assert_eq!(decision.targets.len(), 2, "a quiet one comes back");
    let little = [(partition(1, 0), 2000)].into();
    assert_eq!(decide(&picture.image, &BTreeSet::new(), &little), Decision::default());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// From any state of a cluster, decisions end: everybody has his share, the dead and the draining have nothing, and a
    /// cluster that has come to rest is not touched again.
    #[test]
    fn decisions_come_to_rest(
        brokers in 1..6i32,
        dead in prop::collection::btree_set(1..6i32, 0..3),
        draining in prop::collection::btree_set(1..6i32, 0..2),
        topics in prop::collection::vec(prop::collection::vec(1..6i32, 1..40), 1..8),
    ) {
        let mut picture = Picture::of(brokers);
        for (number, leaders) in (1..).zip(&topics) {
            let leader = |id: &i32| { let id = (id - 1) % brokers + 1; session(id, id as u64) };
            picture = picture.topic(number, leaders.iter().map(|id| led(leader(id), 0)).collect());
        }
        for id in dead.iter().filter(|id| **id <= brokers) {
            picture = picture.dead(session(*id, *id as u64));
        }
        for id in draining.iter().filter(|id| **id <= brokers && !dead.contains(id)) {
            picture = picture.broker(session(*id, *id as u64), None, true);
        }
        let mut rounds = 0;
        loop {
            let decision = decided(&picture);
            if decision == Decision::default() {
                break;
            }
            picture = carried_out(picture, &decision);
            rounds += 1;
            prop_assert!(rounds < 10, "no rest: {:?}", decision);
        }
        let candidates: BTreeSet<SessionId> = picture.image.candidates().map(|broker| broker.session).collect();
        if !candidates.is_empty() {
            let counts = counts(&picture.image);
            prop_assert!(counts.keys().all(|leader| candidates.contains(leader)), "{counts:?}");
            let (most, least) = (counts.values().max().unwrap(), counts.values().min().unwrap());
            prop_assert!(most - least <= 1, "{counts:?}");
        }
    }
}
