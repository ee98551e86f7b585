//! Every durable byte: round trips, damage, and the fixtures of `tests/golden/log`, which are never edited.

use std::fmt::Write;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use uuid::Uuid;

use super::checkpoint;
use super::codec::{Cursor, put_signed, put_varint};
use super::entry::{BatchFacts, Entry, Marker};
use super::frame::{FrameKind, put_frame, read_frame};
use super::keys;
use super::prelude::{ObjectKind, PRELUDE_BYTES, Prelude, encode_seal};
use super::segment::{ControlFacts, Footer, Indexed, Section, read_footer};
use super::state::{AbortedTxn, EpochStart, ObjectRef, PartitionState, ProducerBatch, ProducerState, Run};
use crate::base::{SessionId, TopicPartition};
use crate::protocol::batch::BatchHeader;
use crate::protocol::batch::builder::BatchBuilder;
use crate::wal::{scan, scan_bytes};

fn session() -> impl Strategy<Value = SessionId> {
    (0..5_i32, 1..1000_u64).prop_map(|(broker_id, epoch)| SessionId { broker_id, epoch })
}

fn facts() -> impl Strategy<Value = BatchFacts> {
    let place = (64..1_000_000_u32, 61..100_000_u32, 0..1_i64 << 40, 0..1000_i64);
    let producer = proptest::option::of((0..1_i64 << 40, 0..100_i16, 0..i32::MAX));
    let marker = proptest::option::of((any::<bool>(), 0..50_i32));
    (place, any::<i64>(), any::<i16>(), 0..90_i32, producer, any::<i64>(), marker).prop_map(
        |(
            (position, batch_bytes, base_offset, records),
            max_timestamp,
            attributes,
            leader_epoch,
            producer,
            append_ms,
            marker,
        )| {
            let (producer_id, producer_epoch, base_sequence) = producer.unwrap_or((-1, -1, -1));
            BatchFacts {
                position,
                batch_bytes,
                base_offset,
                last_offset: base_offset + records,
                max_timestamp,
                attributes,
                leader_epoch,
                producer_id,
                producer_epoch,
                base_sequence,
                append_ms,
                marker: marker.map(|(commit, coordinator_epoch)| Marker { commit, coordinator_epoch }),
            }
        },
    )
}

fn footer() -> impl Strategy<Value = Footer> {
    let control = (64..1_000_000_u32, 40..90_000_u32).prop_map(|(position, frame_bytes)| {
        Indexed::Control(ControlFacts { kind: FrameKind::Acquired, position, frame_bytes })
    });
    let entry = prop_oneof![4 => facts().prop_map(Indexed::Batch), 1 => control];
    let entries = proptest::collection::vec(entry, 0..8);
    proptest::collection::btree_map((any::<u128>(), 0..100_i32), entries, 0..6).prop_map(|sections| Footer {
        sections: sections
            .into_iter()
            .map(|((topic, partition), mut entries)| {
                entries.sort_by_key(Indexed::position);
                Section { partition: TopicPartition::new(Uuid::from_u128(topic), partition), entries }
            })
            .collect(),
    })
}

fn object() -> impl Strategy<Value = ObjectRef> {
    (session(), 0..1_u64 << 40, proptest::option::of(0..1_u64 << 40)).prop_map(|(session, number, commit_before)| {
        match commit_before {
            None => ObjectRef::Segment { session, seq: number },
            Some(commit_before) => ObjectRef::Run { session, number, commit_before },
        }
    })
}

fn run() -> impl Strategy<Value = Run> {
    (0..1_i64 << 40, 1..1000_i64, any::<i64>(), object(), any::<u32>(), any::<u32>(), any::<u32>()).prop_map(
        |(first_offset, records, max_timestamp, object, position, length, batch_bytes)| Run {
            first_offset,
            next_offset: first_offset + records,
            max_timestamp,
            object,
            position,
            length,
            batch_bytes,
        },
    )
}

fn producer() -> impl Strategy<Value = ProducerState> {
    let batch = (0..i32::MAX, 0..i32::MAX, 0..1_i64 << 40, any::<i64>()).prop_map(
        |(first_sequence, last_sequence, last_offset, timestamp)| ProducerBatch {
            first_sequence,
            last_sequence,
            last_offset,
            timestamp,
        },
    );
    (
        0..100_i16,
        -1..9_i32,
        proptest::option::of(0..1_i64 << 40),
        any::<i64>(),
        proptest::collection::vec_deque(batch, 0..=5),
    )
        .prop_map(|(epoch, coordinator_epoch, txn_first_offset, last_append_ms, batches)| ProducerState {
            epoch,
            coordinator_epoch,
            txn_first_offset,
            last_append_ms,
            batches,
        })
}

fn state() -> impl Strategy<Value = PartitionState> {
    let epoch = (0..1000_i32, 0..1_i64 << 40).prop_map(|(epoch, start_offset)| EpochStart { epoch, start_offset });
    let aborted = (0..1_i64 << 40, 0..1_i64 << 40, 0..1000_i64).prop_map(|(producer_id, first_offset, length)| {
        AbortedTxn { producer_id, first_offset, last_offset: first_offset + length }
    });
    (
        (0..1000_i32, 0..1_i64 << 40, 0..1_i64 << 40),
        proptest::collection::vec(epoch, 0..5),
        proptest::collection::vec_deque(run(), 0..20),
        proptest::collection::btree_map(0..1_i64 << 40, producer(), 0..6),
        proptest::collection::vec_deque(aborted, 0..5),
    )
        .prop_map(|((leader_epoch, log_start, length), epochs, runs, producers, aborted)| PartitionState {
            leader_epoch,
            log_start,
            next_offset: log_start + length,
            epochs,
            runs,
            producers,
            aborted,
        })
}

proptest! {
    #[test]
    fn varints_round_trip(unsigned: u64, signed: i64) {
        let mut bytes = BytesMut::new();
        put_varint(&mut bytes, unsigned);
        put_signed(&mut bytes, signed);
        let mut cursor = Cursor::new(&bytes, "test");
        prop_assert_eq!(cursor.varint(), Ok(unsigned));
        prop_assert_eq!(cursor.signed(), Ok(signed));
        prop_assert_eq!(cursor.finish(), Ok(()));
    }

    #[test]
    fn states_round_trip_and_equal_states_have_equal_bytes(state in state()) {
        let mut bytes = BytesMut::new();
        state.encode(&mut bytes);
        let read = PartitionState::decode(&mut Cursor::new(&bytes, "test")).unwrap();
        prop_assert_eq!(&read, &state);
        let mut again = BytesMut::new();
        read.encode(&mut again);
        prop_assert_eq!(again, bytes);
    }

    #[test]
    fn footers_round_trip(footer in footer(), padding in 0..100_usize) {
        let mut segment = BytesMut::from(&vec![7_u8; PRELUDE_BYTES + padding][..]);
        segment.extend_from_slice(&footer.encode((PRELUDE_BYTES + padding) as u32));
        let (trailer, read) = read_footer(&segment).unwrap();
        prop_assert_eq!(trailer.footer_position as usize, PRELUDE_BYTES + padding);
        prop_assert_eq!(read, footer);
    }

    #[test]
    fn checkpoints_round_trip_and_damage_is_noticed(
        states in proptest::collection::btree_map((any::<u128>(), 0..50_i32), state(), 0..6),
        flip in any::<proptest::sample::Index>(),
    ) {
        let prelude = Prelude {
            kind: ObjectKind::Checkpoint,
            object_id: Uuid::from_u128(1),
            session: SessionId { broker_id: 1, epoch: 2 },
            seq: 3,
        };
        let states: Vec<(TopicPartition, PartitionState)> =
            states.into_iter().map(|((t, p), s)| (TopicPartition::new(Uuid::from_u128(t), p), s)).collect();
        let bytes = checkpoint::encode(&prelude, states.iter().map(|(partition, state)| (*partition, state)));
        let (read, decoded) = checkpoint::decode(&bytes).unwrap();
        prop_assert_eq!(read, prelude);
        prop_assert_eq!(&decoded, &states);
        let mut damaged = bytes.to_vec();
        let at = flip.index(damaged.len());
        damaged[at] ^= 0x10;
        prop_assert!(checkpoint::decode(&damaged).is_err(), "byte {} is under no checksum", at);
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Prelude::decode(&bytes);
        let _ = read_frame(&bytes);
        let _ = read_footer(&bytes);
        let _ = Footer::decode(&bytes);
        let _ = checkpoint::decode(&bytes);
        let _ = PartitionState::decode(&mut Cursor::new(&bytes, "test"));
        let _ = scan_bytes(&bytes);
    }

    /// A write-ahead file may end anywhere or be damaged anywhere: what is read is a prefix of what was written.
    #[test]
    fn a_torn_file_gives_a_prefix_of_its_frames(
        batches in proptest::collection::vec((0..3_i32, 1..4_u8), 1..12),
        finished: bool,
        cut in any::<proptest::sample::Index>(),
        flip in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let file = segment(&batches, finished);
        let whole = scan_bytes(&file).unwrap();
        prop_assert_eq!(whole.entries.len(), batches.len());
        prop_assert_eq!(whole.complete, finished);
        let mut torn = file[..=cut.index(file.len())].to_vec();
        if let Some(flip) = flip {
            let at = flip.index(torn.len());
            torn[at] ^= 0x04;
        }
        if let Ok((scan, chunks)) = scan(Bytes::from(torn)) {
            prop_assert!(scan.entries.len() <= whole.entries.len());
            prop_assert_eq!(&scan.entries[..], &whole.entries[..scan.entries.len()]);
            if let Some(chunks) = chunks {
                let rebuilt: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.to_vec()).collect();
                let again = scan_bytes(&rebuilt).unwrap();
                prop_assert!(again.complete);
                prop_assert_eq!(again.entries, scan.entries);
            }
        }
    }
}

/// A segment of batches of fixed content, one for each `(partition, records)`.
fn segment(batches: &[(i32, u8)], finished: bool) -> Vec<u8> {
    let session = SessionId { broker_id: 1, epoch: 7 };
    let prelude = Prelude { kind: ObjectKind::Segment, object_id: Uuid::from_u128(99), session, seq: 4 };
    let mut file = BytesMut::from(&prelude.encode()[..]);
    let mut next = [0_i64; 3];
    for (partition, records) in batches {
        let offset = &mut next[*partition as usize];
        let mut builder = BatchBuilder::new().base_offset(*offset).leader_epoch(2).producer(10, 0, *offset as i32);
        for record in 0..*records {
            builder = builder.key_value(1_000 + i64::from(record), "key", "value");
        }
        *offset += i64::from(*records);
        let topic_partition = TopicPartition::new(Uuid::from_u128(5), *partition);
        put_frame(&mut file, FrameKind::Batch, topic_partition, 12_345, &builder.build());
    }
    if finished {
        let scan = scan_bytes(&file).unwrap();
        file.extend_from_slice(&scan.footer().encode(scan.frames_end));
    }
    file.to_vec()
}

fn golden_state() -> PartitionState {
    let session = SessionId { broker_id: 1, epoch: 7 };
    let run = |first_offset, seq| Run {
        first_offset,
        next_offset: first_offset + 10,
        max_timestamp: 1_700_000_000_000 + first_offset,
        object: ObjectRef::Segment { session, seq },
        position: 64,
        length: 500,
        batch_bytes: 460,
    };
    let batch = ProducerBatch { first_sequence: 0, last_sequence: 9, last_offset: 29, timestamp: 1_700_000_000_029 };
    let producer = ProducerState {
        epoch: 1,
        coordinator_epoch: -1,
        txn_first_offset: Some(20),
        last_append_ms: 1_700_000_000_030,
        batches: [batch].into(),
    };
    PartitionState {
        leader_epoch: 3,
        log_start: 5,
        next_offset: 30,
        epochs: vec![EpochStart { epoch: 1, start_offset: 5 }, EpochStart { epoch: 3, start_offset: 20 }],
        runs: [run(0, 1), run(10, 2), run(20, 5)].into(),
        producers: [(77, producer)].into(),
        aborted: [AbortedTxn { producer_id: 76, first_offset: 6, last_offset: 9 }].into(),
    }
}

fn golden(name: &str, bytes: &[u8]) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/log").join(name);
    let mut hex = String::new();
    for line in bytes.chunks(32) {
        for byte in line {
            write!(hex, "{byte:02x}").expect("a string takes everything");
        }
        hex.push('\n');
    }
    if std::env::var_os("ESKER_GOLDEN_NEW").is_some() && !path.exists() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &hex).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(hex, stored, "{name}: the bytes of a released format version have changed");
}

#[test]
fn the_bytes_of_version_1_have_not_changed() {
    let session = SessionId { broker_id: 1, epoch: 7 };
    golden("v1-seal.hex", &encode_seal(Uuid::from_u128(0xfeed), session, 11));
    golden("v1-segment.hex", &segment(&[(0, 2), (1, 1), (0, 1)], true));
    let mut file = BytesMut::new();
    let partition = TopicPartition::new(Uuid::from_u128(5), 1);
    for entry in [
        Entry::Acquired(Box::new(golden_state())),
        Entry::Released(Box::new(golden_state())),
        Entry::LogStartMoved { log_start: 12 },
        Entry::ProducersExpired { up_to_ms: 1_700_000_000_000 },
        Entry::Dropped,
    ] {
        let start = file.len();
        put_frame(&mut file, entry.kind(), partition, 1_700_000_000_000, &entry.encode_control());
        let (header, payload) = read_frame(&file[start..]).unwrap();
        assert_eq!(Entry::decode(&header, payload, 0), Ok(entry));
    }
    golden("v1-control-frames.hex", &file);
    let prelude = Prelude { kind: ObjectKind::Checkpoint, object_id: Uuid::from_u128(0xbeef), session, seq: 5 };
    golden("v1-checkpoint.hex", &checkpoint::encode(&prelude, [(partition, &golden_state())]));
}

#[test]
fn the_bytes_of_compacted_runs_have_not_changed() {
    let session = SessionId { broker_id: 1, epoch: 7 };
    let prelude = Prelude { kind: ObjectKind::Run, object_id: Uuid::from_u128(0xcafe), session, seq: 4 };
    golden("v1-run-prelude.hex", &prelude.encode());
    let mut state = golden_state();
    state.runs[0].object = ObjectRef::Run { session, number: 4, commit_before: 65_540 };
    state.runs[1].object = ObjectRef::Run { session, number: 5, commit_before: 65_541 };
    let replaced = Entry::RunsReplaced(state.runs.iter().copied().take(2).collect());
    let mut file = BytesMut::new();
    for entry in [Entry::Acquired(Box::new(state)), replaced] {
        let start = file.len();
        let partition = TopicPartition::new(Uuid::from_u128(5), 1);
        put_frame(&mut file, entry.kind(), partition, 1_700_000_000_000, &entry.encode_control());
        let (header, payload) = read_frame(&file[start..]).unwrap();
        assert_eq!(Entry::decode(&header, payload, 0), Ok(entry));
    }
    golden("v1-compacted-control-frames.hex", &file);
    let key = keys::run(session, 4, 65_540);
    assert_eq!(key, "runs/1-00000000000000000007/00000000000000000004-00000000000000065540.run");
    assert_eq!(keys::parse_run(&key), Some((session, 4, 65_540)));
    assert_eq!(keys::parse_run(&key.replace("-0000000000000006", "-6")), None);
}

#[test]
fn a_batch_marker_is_read_from_a_control_batch() {
    let batch = BatchBuilder::new()
        .producer(9, 3, -1)
        .transactional()
        .control()
        .key_value(5, &[0_u8, 0, 0, 1][..], &[0_u8, 0, 0, 0, 0, 8][..])
        .build();
    let header = BatchHeader::decode(&batch).unwrap();
    let facts = BatchFacts::of(&header, &batch, 64, 1);
    assert_eq!(facts.marker, Some(Marker { commit: true, coordinator_epoch: 8 }));
}

/// Found by the fuzz target `write_ahead`: each of these passed its checksum and broke the segment made from it.
#[test]
fn frames_with_impossible_numbers_are_refused() {
    let partition = TopicPartition::new(Uuid::from_u128(7), 0);
    let batch = BatchBuilder::new().key_value(0, "key", "value");
    let read = |partition, batch: &[u8]| {
        let mut frame = BytesMut::new();
        put_frame(&mut frame, FrameKind::Batch, partition, 0, batch);
        read_frame(&frame).and_then(|(header, payload)| Entry::decode(&header, payload, 64))
    };
    assert!(read(partition, &batch.clone().build()).is_ok());
    assert!(read(TopicPartition { partition: -1, ..partition }, &batch.clone().build()).is_err());
    for refused in [
        batch.clone().base_offset(-1),
        batch.clone().base_offset(i64::MAX),
        batch.clone().last_offset_delta(-2),
        batch.clone().base_offset(5).last_offset_delta(-1),
    ] {
        assert!(read(partition, &refused.build()).is_err());
    }
    // Without a producer, what is in its fields is not indexed: the footer would not give it back.
    let odd = read(partition, &batch.producer(-7, 3, 9).build());
    let Ok(Entry::Batch(facts)) = odd else { panic!("{odd:?}") };
    assert_eq!((facts.producer_id, facts.producer_epoch, facts.base_sequence), (-1, -1, -1));
}
