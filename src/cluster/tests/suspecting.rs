//! Who looks dead.

use super::picture::session;
use crate::cluster::suspicion::{ProbeOutcome, Suspicion};

#[test]
fn silence_and_refusal_make_a_suspect_and_an_answer_clears_it() {
    let (a, b) = (session(1, 10), session(2, 11));
    let mut suspicion = Suspicion::new(3);
    suspicion.probed(&[a, b].into(), 0);
    for session in [a, b] {
        suspicion.observe(session, ProbeOutcome::Answered, 0);
    }
    suspicion.observe(a, ProbeOutcome::Refused, 1);
    suspicion.observe(b, ProbeOutcome::Silent, 1);
    suspicion.observe(b, ProbeOutcome::Silent, 2);
    assert_eq!(suspicion.suspects(), [].into());
    suspicion.observe(a, ProbeOutcome::Refused, 2);
    suspicion.observe(b, ProbeOutcome::Silent, 3);
    assert_eq!(suspicion.suspects(), [a, b].into());
    suspicion.observe(b, ProbeOutcome::Answered, 4);
    assert_eq!(suspicion.suspects(), [a].into());
    suspicion.probed(&[b].into(), 5);
    assert_eq!(suspicion.suspects(), [].into(), "it is gone");
}

#[test]
fn a_broker_that_never_answered_is_not_suspected() {
    let a = session(1, 10);
    let mut suspicion = Suspicion::new(1);
    for at_ms in 0..10 {
        suspicion.observe(a, ProbeOutcome::Refused, at_ms);
        suspicion.observe(a, ProbeOutcome::Silent, at_ms);
    }
    assert_eq!(suspicion.suspects(), [].into());
}

#[test]
fn who_was_suspected_by_mistake_is_given_twice_as_long() {
    let mut suspicion = Suspicion::new(2);
    let mut misses = Vec::new();
    for epoch in 0..4 {
        let now = session(1, epoch);
        suspicion.probed(&[now].into(), epoch);
        suspicion.observe(now, ProbeOutcome::Answered, epoch);
        let mut count = 0;
        while suspicion.suspects().is_empty() {
            suspicion.observe(now, ProbeOutcome::Silent, epoch);
            count += 1;
        }
        misses.push(count);
    }
    assert_eq!(misses, [2, 4, 8, 16]);
    // Long after, it is forgotten.
    let later = session(1, 9);
    suspicion.probed(&[later].into(), 10_000_000);
    suspicion.observe(later, ProbeOutcome::Answered, 10_000_000);
    suspicion.observe(later, ProbeOutcome::Silent, 10_000_000);
    suspicion.observe(later, ProbeOutcome::Silent, 10_000_000);
    assert_eq!(suspicion.suspects(), [later].into());
}
