//! When a deleted topic is forgotten.

use std::collections::{BTreeMap, HashSet};

use uuid::Uuid;

use super::{checkpoint, segment, session};
use crate::format::keys;
use crate::objstore::ObjectMeta;
use crate::upkeep::collect::{Collector, Covered, Listing, LiveSet};
use crate::upkeep::deletions::{Deletions, Traces};

const TOPIC: Uuid = Uuid::from_u128(1);
const GRACE_MS: u64 = 1_000;

/// A controller's looks at one stream of a living broker, whose segments hold nothing but the deleted topic.
struct Looks {
    collector: Collector,
    deletions: Deletions,
    store: BTreeMap<String, ObjectMeta>,
}

impl Looks {
    fn of(segments: u64) -> Self {
        let mut looks =
            Self { collector: Collector::new(GRACE_MS), deletions: Deletions::default(), store: BTreeMap::new() };
        (0..segments).for_each(|seq| looks.add(segment(1, seq, 900)));
        looks
    }

    fn add(&mut self, meta: ObjectMeta) {
        self.store.insert(meta.key.clone(), meta);
    }

    /// One look; `held` is whether the stream still holds the topic, `fails` whether the store deletes nothing.
    fn look(&mut self, held: bool, end: u64, boot_ms: u64, fails: bool) -> Vec<Uuid> {
        let live = LiveSet { streams: HashSet::from([session(1)]), ended_before: 2, ..LiveSet::default() };
        let (checkpoints, segments): (Vec<ObjectMeta>, Vec<ObjectMeta>) =
            self.store.values().cloned().partition(|meta| keys::parse_checkpoint(&meta.key).is_some());
        let listing = Listing { segments, checkpoints, runs: Vec::new() };
        for key in self.collector.pass(&live, &listing, boot_ms, 0) {
            if !fails {
                self.store.remove(&key);
            }
        }
        let topics = if held { HashSet::from([TOPIC]) } else { HashSet::new() };
        let traces = Traces { topics, ends: [(session(1), end)].into() };
        let covered = Covered::new(&live, &listing.checkpoints);
        self.deletions.pass(&HashSet::from([TOPIC]), &traces, &covered, &self.collector, boot_ms)
    }
}

#[test]
fn a_topic_is_forgotten_after_its_last_segment_is_gone_and_not_before() {
    let mut looks = Looks::of(5);
    assert!(looks.look(true, 5, 0, false).is_empty(), "a broker still holds it");
    // Its broker has dropped it, in segment 5; no checkpoint stands behind that yet.
    looks.add(segment(1, 5, 900));
    for boot_ms in [GRACE_MS, 3 * GRACE_MS] {
        assert!(looks.look(false, 6, boot_ms, false).is_empty());
    }
    assert_eq!(looks.store.len(), 6, "a recovery would read them");
    // The broker goes on with other topics; two checkpoints cover the drop.
    looks.add(segment(1, 6, 900));
    looks.add(checkpoint(1, 5));
    looks.add(checkpoint(1, 6));
    assert!(looks.look(false, 7, 4 * GRACE_MS, false).is_empty(), "garbage now, and waits for the grace period");
    assert!(looks.look(false, 7, 5 * GRACE_MS, true).is_empty(), "the store does not delete");
    assert!(looks.look(false, 7, 6 * GRACE_MS, false).is_empty(), "deleted; whether that is so the next look shows");
    assert_eq!(looks.store.len(), 3);
    assert_eq!(looks.look(false, 7, 7 * GRACE_MS, false), [TOPIC]);
    assert_eq!(looks.look(false, 7, 8 * GRACE_MS, false), [TOPIC], "until its record is gone");
}

#[test]
fn a_topic_that_never_had_data_is_forgotten_at_once_and_one_that_shows_up_again_is_not() {
    let mut looks = Looks::of(0);
    assert_eq!(looks.look(false, 0, 0, false), [TOPIC]);
    // A broker with an old image.
    assert!(looks.look(true, 1, 1, false).is_empty());
    looks.add(segment(1, 0, 900));
    assert!(looks.look(false, 1, 2, false).is_empty(), "everything is looked at anew");
    looks.deletions.forget();
    let live = LiveSet { ended_before: 2, ..LiveSet::default() };
    let traces = Traces { topics: HashSet::new(), ends: [(session(1), 1)].into() };
    let pass = |looks: &mut Looks, collector: &Collector| {
        let covered = Covered::new(&live, &[]);
        looks.deletions.pass(&HashSet::from([TOPIC]), &traces, &covered, collector, 3)
    };
    assert_eq!(pass(&mut looks, &Collector::new(0)), [TOPIC], "the stream has ended: all of it is garbage");
    let mut marked = Collector::new(GRACE_MS);
    marked.pass(&live, &Listing { segments: vec![segment(1, 0, 900)], ..Listing::default() }, 3, 0);
    looks.deletions.forget();
    assert!(pass(&mut looks, &marked).is_empty(), "and waits to be deleted");
    let covered = Covered::new(&live, &[]);
    assert!(looks.deletions.pass(&HashSet::new(), &traces, &covered, &marked, 3).is_empty(), "it is forgotten already");
}
