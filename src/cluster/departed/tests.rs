use super::{Brokers, Departed, KEPT_MS};
use crate::cluster::picture::{Picture, session};

/// Brokers, each with the epoch of its session.
fn brokers(living: &[(i32, u64)]) -> Brokers {
    let add = |picture: Picture, (id, epoch): &(i32, u64)| picture.broker(session(*id, *epoch), None, false);
    living.iter().fold(Picture::default(), add).image.brokers
}

fn listed(departed: &Departed, living: &[(i32, u64)], now_ms: u64) -> Vec<(i32, u64)> {
    departed.with(&brokers(living), now_ms).iter().map(|(id, broker)| (*id, broker.session.epoch)).collect()
}

#[test]
fn who_has_left_is_told_of_for_a_while_and_no_longer() {
    // Nobody asked before it left: what counts is when it left.
    let departed = Departed::default().next(&brokers(&[(1, 1), (2, 2)]), &brokers(&[(2, 2)]), 50_000);
    assert_eq!(listed(&departed, &[(2, 2)], 50_000), [(1, 1), (2, 2)]);
    assert_eq!(listed(&departed, &[(2, 2)], 50_000 + KEPT_MS - 1), [(1, 1), (2, 2)]);
    assert_eq!(listed(&departed, &[(2, 2)], 50_000 + KEPT_MS), [(2, 2)]);
    // Other changes of the cluster do not begin its time anew, and it is forgotten with the next one after that.
    let again = departed.next(&brokers(&[(2, 2)]), &brokers(&[(2, 2)]), 55_000);
    assert_eq!(again, departed);
    assert_eq!(again.next(&brokers(&[(2, 2)]), &brokers(&[(2, 2)]), 50_000 + KEPT_MS), Departed::default());
}

#[test]
fn who_is_back_is_told_of_as_it_is_now() {
    let departed = Departed::default().next(&brokers(&[(1, 1), (2, 2)]), &brokers(&[(2, 2)]), 0);
    let back = departed.next(&brokers(&[(2, 2)]), &brokers(&[(1, 7), (2, 2)]), 1_000);
    assert_eq!(back, Departed::default());
    assert_eq!(listed(&departed, &[(1, 7), (2, 2)], 1_000), [(1, 7), (2, 2)]);
    // It leaves again: its time begins anew.
    let gone = back.next(&brokers(&[(1, 7), (2, 2)]), &brokers(&[(2, 2)]), 8_000);
    assert_eq!(listed(&gone, &[(2, 2)], 8_000 + KEPT_MS - 1), [(1, 7), (2, 2)]);
}

#[test]
fn while_nobody_lives_those_who_lived_last_are_told_of() {
    let departed = Departed::default().next(&brokers(&[(1, 1), (2, 2)]), &brokers(&[]), 0);
    let later = departed.next(&brokers(&[]), &brokers(&[]), 10 * KEPT_MS);
    assert_eq!(listed(&later, &[], 20 * KEPT_MS), [(1, 1), (2, 2)]);
    // One is back: the other one has been away for too long.
    let back = later.next(&brokers(&[]), &brokers(&[(2, 9)]), 20 * KEPT_MS);
    assert_eq!(listed(&back, &[(2, 9)], 20 * KEPT_MS), [(2, 9)]);
}
