//! Faults that were planted are found, each kind; nothing is found where nothing is wrong.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use uuid::Uuid;

use super::{Examiner, Fault, FaultKind, Report, remove};
use crate::base::{Clock, ManualClock, SessionId, TopicPartition};
use crate::cluster::{Identity, Key, KeySpace, Sessions};
use crate::format::entry::Entry;
use crate::format::frame::{FrameKind, put_frame};
use crate::format::metadata::{AssignmentChunk, AssignmentRecord, FromStream, MetadataValue};
use crate::format::prelude::{ObjectKind, Prelude};
use crate::format::state::{ObjectRef, PartitionState, Run};
use crate::format::{checkpoint, keys};
use crate::meta::{MemoryMeta, Write};
use crate::objstore::{MemoryStore, ObjectStore, Payload};
use crate::partition::stream::load_stream;
use crate::protocol::batch::{build_batch, header};
use crate::wal;

const TOPIC: Uuid = Uuid::from_u128(7);
const NOW_MS: i64 = 1_800_000_000_000;

fn partition() -> TopicPartition {
    TopicPartition::new(TOPIC, 0)
}

/// A batch of three records at `base_offset`.
fn batch(base_offset: i64) -> (FrameKind, Bytes) {
    let record = |n: i64| (None, Some(Bytes::from(format!("record {}", base_offset + n))));
    let mut bytes = build_batch(&[record(0), record(1), record(2)], NOW_MS).to_vec();
    header::assign(&mut bytes, base_offset, 1);
    (FrameKind::Batch, bytes.into())
}

fn acquired() -> (FrameKind, Bytes) {
    let state = PartitionState { leader_epoch: 1, ..PartitionState::default() };
    (FrameKind::Acquired, Entry::Acquired(Box::new(state)).encode_control().freeze())
}

/// One stream whose session leads one partition: segments of one batch of three records each, a checkpoint behind the first
/// two of them.
struct World {
    clock: ManualClock,
    sessions: Sessions,
    store: Arc<dyn ObjectStore>,
    session: SessionId,
}

impl World {
    async fn empty() -> Self {
        let clock = ManualClock::starting_at(NOW_MS);
        let time: Clock = clock.clock();
        let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new(time.clone()));
        let meta = Arc::new(MemoryMeta::new(time.clone()));
        let sessions = Sessions { store: meta, keys: KeySpace::of_cluster("test"), clock: time };
        let identity = Identity { broker_id: 1, directory_id: Uuid::from_u128(1), host: String::new(), pid: 1 };
        // Another one before, so that there are epochs of sessions that have ended.
        sessions
            .store
            .txn(Vec::new(), vec![Write::Put { key: "/x".into(), value: Bytes::new(), lease: 0 }])
            .await
            .unwrap();
        let session = sessions.register(&identity, 60_000).await.unwrap().session();
        let world = Self { clock, sessions, store, session };
        world
            .assign(AssignmentRecord { session, leader_epoch: 1, from: Vec::new(), target: None, acquired: true })
            .await;
        world
    }

    /// Segments 0 to 3; the checkpoint is after 1.
    async fn whole() -> Self {
        let world = Self::empty().await;
        world.segment(0, &[acquired(), batch(0)]).await;
        world.segment(1, &[batch(3)]).await;
        let state = load_stream(&world.store, world.session).await.unwrap().partitions.remove(&partition()).unwrap();
        world.checkpoint(1, &state).await;
        world.segment(2, &[batch(6)]).await;
        world.segment(3, &[batch(9)]).await;
        world
    }

    async fn assign(&self, record: AssignmentRecord) {
        let key = self.sessions.keys.key(&Key::Assignments(TOPIC, 0));
        let value = AssignmentChunk { partitions: vec![record] }.encode();
        self.sessions.store.txn(Vec::new(), vec![Write::Put { key, value, lease: 0 }]).await.unwrap();
    }

    async fn segment(&self, seq: u64, frames: &[(FrameKind, Bytes)]) {
        self.put(&keys::segment(self.session, seq), segment(self.session, seq, frames)).await;
    }

    async fn checkpoint(&self, seq: u64, state: &PartitionState) {
        let prelude =
            Prelude { kind: ObjectKind::Checkpoint, object_id: Uuid::from_u128(9), session: self.session, seq };
        self.put(&keys::checkpoint(self.session, seq), checkpoint::encode(&prelude, [(partition(), state)])).await;
    }

    async fn put(&self, key: &str, bytes: Bytes) {
        self.store.put(key, Payload::from(bytes)).await.unwrap();
    }

    async fn change(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.store.get(key).await.unwrap().to_vec();
        change(&mut bytes);
        self.put(key, bytes.into()).await;
    }

    fn key(&self, seq: u64) -> String {
        keys::segment(self.session, seq)
    }

    async fn report(&self, quick: bool) -> Report {
        let examiner = Examiner { store: self.store.clone(), sessions: self.sessions.clone(), quick };
        examiner.examine(|progress| assert!(progress.done_bytes <= progress.all_bytes)).await.unwrap()
    }

    /// Kind and object of each fault.
    async fn faults(&self) -> Vec<(FaultKind, Option<String>)> {
        let report = self.report(false).await;
        report.faults.into_iter().map(|Fault { kind, key, .. }| (kind, key)).collect()
    }
}

fn segment(session: SessionId, seq: u64, frames: &[(FrameKind, Bytes)]) -> Bytes {
    object(ObjectKind::Segment, session, seq, frames)
}

fn object(kind: ObjectKind, session: SessionId, seq: u64, frames: &[(FrameKind, Bytes)]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.extend_from_slice(&Prelude { kind, object_id: Uuid::from_u128(seq.into()), session, seq }.encode());
    for (kind, payload) in frames {
        put_frame(&mut bytes, *kind, partition(), NOW_MS, payload);
    }
    let scan = wal::scan_object(&bytes).unwrap();
    let footer = scan.footer().encode(scan.frames_end);
    bytes.extend_from_slice(&footer);
    bytes.freeze()
}

#[tokio::test]
async fn nothing_is_found_where_nothing_is_wrong() {
    let world = World::whole().await;
    let report = world.report(false).await;
    assert_eq!(report.faults, []);
    assert_eq!(report.orphans, Some(Vec::new()));
    assert_eq!((report.partitions, report.offsets, report.objects), (1, 12, 5));
    assert_eq!(report.checked_bytes, report.bytes);
    assert_eq!(report.streams, [world.session]);
    let empty = World::empty().await.report(false).await;
    // The assignment says that some stream holds it.
    assert_eq!(empty.faults[0].detail, "no stream that its assignment names holds its state");
}

#[tokio::test]
async fn a_missing_object_is_found() {
    let world = World::whole().await;
    // Behind the checkpoint nobody but a reader of these records would notice.
    world.store.delete(&world.key(1)).await.unwrap();
    for quick in [false, true] {
        let [fault] = &world.report(quick).await.faults[..] else { panic!() };
        assert_eq!((fault.kind, &fault.key), (FaultKind::Missing, &Some(world.key(1))));
        assert_eq!((fault.partition, fault.detail.as_str()), (Some(partition()), "it holds offsets 3..6"));
    }
    // One that others stand behind: first they may be faster uploads, later not.
    let world = World::whole().await;
    world.store.delete(&world.key(2)).await.unwrap();
    assert_eq!(world.faults().await, []);
    world.clock.advance_ms(3_600_000);
    assert_eq!(world.faults().await, [(FaultKind::Missing, Some(world.key(2)))]);
    // A stream that is on record as longer than it is.
    let world = World::whole().await;
    world.sessions.mark_sealed(world.session, 7).await.unwrap();
    assert_eq!(world.faults().await, [(FaultKind::Missing, Some(world.key(4)))]);
}

#[tokio::test]
async fn a_truncated_object_is_found() {
    for seq in [1, 3] {
        let world = World::whole().await;
        world.change(&world.key(seq), |bytes| bytes.truncate(bytes.len() / 2)).await;
        assert_eq!(world.faults().await, [(FaultKind::Truncated, Some(world.key(seq)))]);
    }
    let world = World::whole().await;
    world.change(&world.key(1), |bytes| bytes.truncate(70)).await;
    let quick = world.report(true).await.faults;
    assert_eq!((quick[0].kind, &quick[0].key), (FaultKind::Truncated, &Some(world.key(1))));
    let world = World::whole().await;
    let key = keys::checkpoint(world.session, 1);
    world.change(&key, |bytes| bytes.truncate(bytes.len() - 5)).await;
    assert!(world.faults().await.contains(&(FaultKind::Truncated, Some(key))));
}

#[tokio::test]
async fn a_flipped_bit_is_found() {
    let world = World::whole().await;
    // In a record, which no recovery reads.
    let at = world.store.get(&world.key(1)).await.unwrap().windows(8).position(|window| window == b"record 4").unwrap();
    world.change(&world.key(1), |bytes| bytes[at] ^= 0x10).await;
    let report = world.report(false).await;
    let [fault] = &report.faults[..] else { panic!("{:?}", report.faults) };
    assert_eq!((fault.kind, &fault.key, fault.partition), (FaultKind::Damaged, &Some(world.key(1)), Some(partition())));
    assert!(fault.detail.contains("checksum"), "{}", fault.detail);
    assert_eq!(report.orphans, Some(Vec::new()), "the stream can be read, so orphans are known");
}

#[tokio::test]
async fn an_orphan_is_found_and_is_no_fault() {
    let world = World::whole().await;
    let ended = SessionId { broker_id: 4, epoch: 1 };
    let orphans = [keys::checkpoint(ended, 3), keys::segment(ended, 3), "probe/5f/race-0".to_owned()];
    for key in &orphans {
        world.put(key, segment(ended, 3, &[batch(0)])).await;
    }
    world.put("thesis.txt", Bytes::from_static(b"precious")).await;
    let report = world.report(false).await;
    assert_eq!(report.faults, []);
    let mut found: Vec<String> = report.orphans.iter().flatten().map(|orphan| orphan.key.clone()).collect();
    found.sort();
    assert_eq!(found, orphans);
    assert_eq!(report.unknown, ["thesis.txt"]);

    // Only those that are old enough go, and nothing else.
    let orphans = report.orphans.unwrap();
    assert_eq!(remove(&world.store, &orphans, NOW_MS).await.unwrap(), []);
    assert_eq!(remove(&world.store, &orphans, NOW_MS + 1).await.unwrap(), orphans);
    let report = world.report(false).await;
    assert_eq!((report.objects, report.faults, report.orphans), (6, Vec::new(), Some(Vec::new())));
}

#[tokio::test]
async fn gaps_and_overlaps_are_found() {
    for (base_offset, kind) in [(7, FaultKind::Gap), (5, FaultKind::Overlap)] {
        // Between segments: the stream itself does not fit.
        let world = World::whole().await;
        world.segment(2, &[batch(base_offset)]).await;
        let report = world.report(false).await;
        assert_eq!((report.faults[0].kind, &report.faults[0].key), (kind, &Some(world.key(2))));
        assert_eq!(report.orphans, None, "what an unreadable stream refers to is not known");
        // In an object that the index says something else of.
        let world = World::whole().await;
        world.segment(1, &[batch(base_offset - 3)]).await;
        assert!(world.faults().await.contains(&(kind, Some(world.key(1)))));
    }
}

#[tokio::test]
async fn an_index_with_a_hole_or_a_fold_is_found() {
    let saved = async |change: fn(&mut PartitionState)| {
        let world = World::whole().await;
        let stream = load_stream(&world.store, world.session).await.unwrap();
        let mut state = stream.partitions[&partition()].clone();
        change(&mut state);
        world.checkpoint(3, &state).await;
        let report = world.report(false).await;
        report
            .faults
            .into_iter()
            .filter(|fault| fault.partition.is_some())
            .map(|fault| (fault.kind, fault.detail))
            .collect::<Vec<_>>()
    };
    assert_eq!(saved(|_| ()).await, []);
    let gap = |detail: &str| (FaultKind::Gap, detail.to_owned());
    let hole = saved(|state| {
        state.runs.remove(1);
    })
    .await;
    assert!(hole.contains(&gap("offsets 3..6 are in no object")), "{hole:?}");
    let head = saved(|state| {
        state.runs.pop_front();
    })
    .await;
    assert!(head.contains(&gap("offsets 0..3 are in no object: the index begins behind log start")), "{head:?}");
    let tail = saved(|state| state.next_offset += 5).await;
    assert!(tail.contains(&gap("offsets 12..17 are in no object: the index ends too early")), "{tail:?}");
    let fold = saved(|state| state.runs[2].first_offset -= 2).await;
    assert!(fold.contains(&(FaultKind::Overlap, "offsets 4..6 are also in the object before".to_owned())), "{fold:?}");
}

#[tokio::test]
async fn compacted_runs_are_checked_like_segments() {
    let world = World::whole().await;
    let place = |number, commit_before| ObjectRef::Run { session: world.session, number, commit_before };
    let (used, passed, waiting) = (place(0, 5), place(1, 3), place(2, 9));
    let frames = [batch(0), batch(3)];
    let written = object(ObjectKind::Run, world.session, 0, &frames);
    for object in [used, passed, waiting] {
        world.put(&object.key(), written.clone()).await;
    }
    let run = Run {
        first_offset: 0,
        next_offset: 6,
        max_timestamp: NOW_MS,
        object: used,
        position: 64,
        length: frames.iter().map(|(_, payload)| payload.len() as u32 + 40).sum(),
        batch_bytes: frames.iter().map(|(_, payload)| payload.len() as u32).sum(),
    };
    let replaced = Entry::RunsReplaced(vec![run]).encode_control().freeze();
    world.segment(4, &[(FrameKind::RunsReplaced, replaced)]).await;
    let report = world.report(false).await;
    // The one that the stream has passed is an orphan; the last may still be committed, and says another number.
    assert_eq!(report.orphans.unwrap().iter().map(|orphan| orphan.key.clone()).collect::<Vec<_>>(), [passed.key()]);
    assert_eq!(world.faults().await, [(FaultKind::Damaged, Some(waiting.key()))]);
    world.put(&waiting.key(), object(ObjectKind::Run, world.session, 2, &frames)).await;
    assert_eq!(world.faults().await, []);

    world.put(&used.key(), object(ObjectKind::Run, world.session, 0, &[batch(0), batch(4)])).await;
    assert!(world.faults().await.contains(&(FaultKind::Gap, Some(used.key()))));
    world.put(&used.key(), segment(world.session, 0, &frames)).await;
    assert_eq!(world.faults().await, [(FaultKind::Damaged, Some(used.key()))]);
    world.store.delete(&used.key()).await.unwrap();
    assert_eq!(world.faults().await, [(FaultKind::Missing, Some(used.key()))]);
}

#[tokio::test]
async fn a_partition_on_its_way_is_looked_up_where_it_comes_from() {
    let world = World::whole().await;
    let next = SessionId { broker_id: 2, epoch: world.session.epoch + 1 };
    let from = |leader_epoch| vec![FromStream { session: world.session, leader_epoch, sealed_seq: 4 }];
    let assign = |leader_epoch| AssignmentRecord {
        session: next,
        leader_epoch: 2,
        from: from(leader_epoch),
        target: None,
        acquired: true,
    };
    world.assign(assign(1)).await;
    let report = world.report(false).await;
    assert_eq!((report.faults, report.offsets), (Vec::new(), 12));
    // A state of another epoch is not the one.
    world.assign(assign(0)).await;
    let [fault] = &world.report(false).await.faults[..] else { panic!() };
    assert_eq!((fault.kind, fault.partition), (FaultKind::Missing, Some(partition())));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any flipped bit of anything that must stay is found, and so is any cut.
    #[test]
    fn no_damage_is_overlooked(which in 0..5_usize, at in any::<prop::sample::Index>(), bit in 0..8_u8, cut in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let world = World::whole().await;
            let key = if which == 4 { keys::checkpoint(world.session, 1) } else { world.key(which as u64) };
            let change = |bytes: &mut Vec<u8>| {
                let at = at.index(bytes.len());
                if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
            };
            world.change(&key, change).await;
            let faults = world.faults().await;
            assert!(faults.iter().any(|(_, found)| *found == Some(key.clone())), "{faults:?}");
        });
    }
}
