//! Tests of retention and garbage collection.

mod deletions;
mod references;

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::collect::{CHECKPOINTS_KEPT, Collector, Listing, LiveSet, SEAL_KEPT_MS};
use super::retention::{RetentionRule, new_log_start};
use crate::base::SessionId;
use crate::format::keys;
use crate::format::state::{ObjectRef, PartitionState, Run};
use crate::objstore::ObjectMeta;

fn session(epoch: u64) -> SessionId {
    SessionId { broker_id: 1, epoch }
}

fn state(sizes_and_times: &[(u32, i64)]) -> PartitionState {
    let mut state = PartitionState::default();
    for (seq, (batch_bytes, max_timestamp)) in sizes_and_times.iter().enumerate() {
        state.runs.push_back(Run {
            first_offset: state.next_offset,
            next_offset: state.next_offset + 10,
            max_timestamp: *max_timestamp,
            object: ObjectRef::Segment { session: session(1), seq: seq as u64 },
            position: 64,
            length: *batch_bytes,
            batch_bytes: *batch_bytes,
        });
        state.next_offset += 10;
    }
    state
}

#[test]
fn retention_takes_whole_runs_that_are_too_old_or_too_much() {
    let state = state(&[(100, 1_000), (100, 2_000), (100, 3_000)]);
    let rule = |retention_ms, retention_bytes| RetentionRule { retention_ms, retention_bytes };
    assert_eq!(new_log_start(&state, rule(None, None), 1 << 40), None);
    assert_eq!(new_log_start(&state, rule(Some(500), None), 1_400), None);
    assert_eq!(new_log_start(&state, rule(Some(500), None), 1_501), Some(10));
    assert_eq!(new_log_start(&state, rule(Some(500), None), 9_000), Some(30));
    assert_eq!(new_log_start(&state, rule(None, Some(300)), 0), None);
    assert_eq!(new_log_start(&state, rule(None, Some(200)), 0), Some(10));
    assert_eq!(new_log_start(&state, rule(None, Some(0)), 0), Some(30));
}

fn segment(epoch: u64, seq: u64, size_bytes: u64) -> ObjectMeta {
    ObjectMeta { key: keys::segment(session(epoch), seq), size_bytes, modified_ms: 0 }
}

fn checkpoint(epoch: u64, seq: u64) -> ObjectMeta {
    ObjectMeta { key: keys::checkpoint(session(epoch), seq), size_bytes: 500, modified_ms: 0 }
}

#[test]
fn an_object_goes_only_after_two_marks_a_grace_period_apart() {
    let mut collector = Collector::new(1_000);
    let live = LiveSet { ended_before: 2, ..LiveSet::default() };
    let segments = [segment(1, 0, 900)];
    let listing = Listing { segments: segments.to_vec(), ..Listing::default() };
    assert!(collector.pass(&live, &listing, 5_000, 0).is_empty());
    assert!(collector.pass(&live, &listing, 5_999, 0).is_empty());
    // Referenced for a moment in between: the mark is gone.
    let object = ObjectRef::Segment { session: session(1), seq: 0 };
    let referenced = LiveSet { objects: HashSet::from([object]), ..live.clone() };
    assert!(collector.pass(&referenced, &listing, 6_000, 0).is_empty());
    assert!(collector.pass(&live, &listing, 7_000, 0).is_empty());
    assert_eq!(collector.pass(&live, &listing, 8_000, 0), vec![segments[0].key.clone()]);
}

#[test]
fn a_compacted_run_goes_once_its_stream_has_passed_it_without_a_word() {
    let key = |epoch, number, before| keys::run(session(epoch), number, before);
    let meta = |key: String| ObjectMeta { key, size_bytes: 900, modified_ms: 0 };
    let keys = [key(1, 0, 10), key(1, 1, 11), key(1, 2, 10), key(2, 0, 10), key(3, 0, 10)];
    let listing = Listing { runs: keys.iter().cloned().map(meta).collect(), ..Listing::default() };
    let named = ObjectRef::Run { session: session(1), number: 2, commit_before: 10 };
    let live = LiveSet {
        objects: HashSet::from([named]),
        streams: HashSet::from([session(1), session(3)]),
        ended_before: 3,
        // How far the stream of epoch 3 has come is not known.
        ends: [(session(1), 10)].into(),
    };
    let mut collector = Collector::new(0);
    collector.pass(&live, &listing, 0, 0);
    // Number 2 is referred to, so numbers 0 and 1 are decided; epoch 2 has ended.
    assert_eq!(collector.pass(&live, &listing, 1, 0), [keys[0].clone(), keys[1].clone(), keys[3].clone()]);
    // Once something referred to a run nothing new will.
    let nothing = LiveSet { objects: HashSet::new(), ends: HashMap::new(), ..live };
    let only = Listing { runs: vec![listing.runs[2].clone(), listing.runs[4].clone()], ..Listing::default() };
    collector.pass(&nothing, &only, 2, 0);
    assert_eq!(collector.pass(&nothing, &only, 3, 0), [keys[2].clone()]);
}

#[test]
fn seals_stay_a_week_and_unknown_streams_for_ever() {
    let mut collector = Collector::new(0);
    let live = LiveSet { ended_before: 2, ..LiveSet::default() };
    let objects = [segment(1, 3, 64), segment(2, 0, 900)];
    let listing = Listing { segments: objects.to_vec(), ..Listing::default() };
    for now_ms in [1, 2, SEAL_KEPT_MS - 1] {
        assert!(collector.pass(&live, &listing, now_ms as u64, now_ms).is_empty());
    }
    collector.pass(&live, &listing, 1, SEAL_KEPT_MS);
    assert_eq!(collector.pass(&live, &listing, 2, SEAL_KEPT_MS), vec![objects[0].key.clone()]);
}

proptest! {
    /// Whatever is listed, a live stream keeps its newest checkpoints, everything after the oldest of them, and what is
    /// referenced.
    #[test]
    fn a_live_stream_stays_recoverable(
        segments in 0_u64..40,
        checkpoints in proptest::collection::btree_set(0_u64..40, 0..6),
        referenced in proptest::collection::hash_set(0_u64..40, 0..10),
    ) {
        let segments: Vec<ObjectMeta> = (0..segments).map(|seq| segment(1, seq, 900)).collect();
        let listed: Vec<ObjectMeta> = checkpoints.iter().map(|seq| checkpoint(1, *seq)).collect();
        let objects = referenced.iter().map(|seq| ObjectRef::Segment { session: session(1), seq: *seq }).collect();
        let live = LiveSet { objects, streams: HashSet::from([session(1)]), ..LiveSet::default() };
        let mut collector = Collector::new(0);
        let listing = Listing { segments, checkpoints: listed, runs: Vec::new() };
        collector.pass(&live, &listing, 0, 0);
        let deleted: HashSet<String> = collector.pass(&live, &listing, 1, 0).into_iter().collect();
        let kept: Vec<u64> = checkpoints.iter().rev().take(CHECKPOINTS_KEPT).copied().collect();
        for seq in &kept {
            prop_assert!(!deleted.contains(&keys::checkpoint(session(1), *seq)));
        }
        let needed_after = if kept.len() == CHECKPOINTS_KEPT { kept.last().copied() } else { None };
        for seq in 0..40 {
            let needed = needed_after.is_none_or(|kept| seq > kept) || referenced.contains(&seq);
            let key = keys::segment(session(1), seq);
            prop_assert!(!(needed && deleted.contains(&key)));
        }
    }
}
