use std::collections::BTreeSet;

use super::{ProbeOutcome, Suspicion};
use crate::base::SessionId;

fn session(broker_id: i32, epoch: u64) -> SessionId {
    SessionId { broker_id, epoch }
}

/// A broker that answered once, and then did as told.
fn after(misses: u32, outcomes: &[ProbeOutcome]) -> Suspicion {
    let mut suspicion = Suspicion::new(misses);
    suspicion.observe(session(1, 1), ProbeOutcome::Answered, 0);
    for outcome in outcomes {
        suspicion.observe(session(1, 1), *outcome, 0);
    }
    suspicion
}

#[test]
fn two_refusals_make_a_suspect_and_one_makes_haste() {
    let one = after(3, &[ProbeOutcome::Refused]);
    assert!(one.suspects().is_empty() && one.is_urgent());
    let two = after(3, &[ProbeOutcome::Refused, ProbeOutcome::Refused]);
    assert_eq!(two.suspects(), BTreeSet::from([session(1, 1)]));
    assert!(!two.is_urgent());
    let again = after(3, &[ProbeOutcome::Refused, ProbeOutcome::Answered]);
    assert!(again.suspects().is_empty() && !again.is_urgent());
}

#[test]
fn who_never_answered_is_not_suspected() {
    let mut suspicion = Suspicion::new(1);
    for outcome in [ProbeOutcome::Refused, ProbeOutcome::Refused, ProbeOutcome::Silent, ProbeOutcome::Silent] {
        suspicion.observe(session(1, 1), outcome, 0);
    }
    assert!(suspicion.suspects().is_empty() && !suspicion.is_urgent());
}

#[test]
fn silence_is_borne_twice_as_long_after_a_mistake() {
    let silent = [ProbeOutcome::Silent; 3];
    let mut suspicion = after(3, &silent);
    assert_eq!(suspicion.suspects(), BTreeSet::from([session(1, 1)]));
    // It lives after all, in a new session.
    suspicion.probed(&BTreeSet::from([session(1, 2)]), 1_000);
    suspicion.observe(session(1, 2), ProbeOutcome::Answered, 1_000);
    for _ in 0..5 {
        suspicion.observe(session(1, 2), ProbeOutcome::Silent, 1_000);
        assert!(suspicion.suspects().is_empty());
    }
    suspicion.observe(session(1, 2), ProbeOutcome::Silent, 1_000);
    assert_eq!(suspicion.suspects(), BTreeSet::from([session(1, 2)]));
}
