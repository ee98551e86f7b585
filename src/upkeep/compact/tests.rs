//! Compaction: what is chosen, what is written, and that readers and a restart see the same batches as before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use prometheus_client::registry::Registry;
use proptest::prelude::*;
use uuid::Uuid;

use super::build::{BuildError, Builder};
use super::plan::{self, Policy, Window};
use super::service::{Compaction, CompactionSettings, Waits};
use crate::base::{Clock, Rng, SessionId, Tasks, TopicPartition};
use crate::cache::{self, MemoryPages, ObjectReader};
use crate::cluster::{Catalogue, KeySpace, Metrics as ClusterMetrics, TopicRules};
use crate::fetch::{Metrics as FetchMetrics, Reader, Settings as ReadSettings, StoreSource};
use crate::format::frame::read_frame;
use crate::format::keys;
use crate::format::prelude::{ObjectKind, Prelude};
use crate::format::segment::read_footer;
use crate::format::state::{ObjectRef, PartitionState, Run};
use crate::meta::MemoryMeta;
use crate::objstore::{MemoryStore, ObjectMeta, ObjectStore};
use crate::partition::stream::load_stream;
use crate::partition::{Acks, Isolation, Log, LogLimits, LogMetrics, LogOptions, WalFsync};
use crate::protocol::batch::{BatchHeader, build_batch};
use crate::upkeep::UpkeepMetrics;

const TOPIC: Uuid = Uuid::from_u128(7);
const SESSION: SessionId = SessionId { broker_id: 1, epoch: 1 };
const MIB: u64 = 1 << 20;

fn partition(index: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, index)
}

/// A run of ten records behind the others; `None` in a segment, otherwise compacted.
fn push(runs: &mut VecDeque<Run>, compacted: bool, batch_bytes: u64, max_timestamp: i64) {
    let first_offset = runs.back().map_or(0, |run| run.next_offset);
    let number = runs.len() as u64;
    let object = if compacted {
        ObjectRef::Run { session: SESSION, number, commit_before: 1 << 20 }
    } else {
        ObjectRef::Segment { session: SESSION, seq: number }
    };
    let batch_bytes = batch_bytes as u32;
    runs.push_back(Run {
        first_offset,
        next_offset: first_offset + 10,
        max_timestamp,
        object,
        position: 64,
        length: batch_bytes,
        batch_bytes,
    });
}

const POLICY: Policy = Policy { run_bytes: 64 * MIB, segments: 4, max_wait_ms: 1_000 };

fn chosen(runs: &VecDeque<Run>, log_start: i64, span_ms: Option<u64>, waited_ms: u64) -> Vec<(i64, i64)> {
    let windows = plan::windows(partition(0), runs, log_start, &POLICY, span_ms, waited_ms);
    windows.into_iter().map(|window| (window.first_offset, window.next_offset)).collect()
}

#[test]
fn what_is_small_goes_with_what_is_as_small() {
    let mut runs = VecDeque::new();
    push(&mut runs, true, 60 * MIB, 0);
    push(&mut runs, true, 8 * MIB, 0);
    push(&mut runs, true, 2 * MIB, 0);
    for _ in 0..3 {
        push(&mut runs, false, MIB, 0);
    }
    assert_eq!(chosen(&runs, 0, None, 0), [], "too few segments, and they have not waited");
    assert_eq!(chosen(&runs, 0, None, 1_000), [(20, 60)], "the 2 MiB go along, the 8 MiB do not");
    push(&mut runs, false, 4 * MIB, 0);
    assert_eq!(chosen(&runs, 0, None, 0), [(10, 70)], "now they do");
    for _ in 0..6 {
        push(&mut runs, false, 8 * MIB, 0);
    }
    assert_eq!(chosen(&runs, 0, None, 0), [(10, 130)], "a whole object");
    push(&mut runs, false, MIB, 0);
    assert_eq!(chosen(&runs, 0, None, 0), [(10, 130)], "what follows it waits");
}

#[test]
fn what_log_start_has_cut_into_stays_and_no_window_spans_too_much_time() {
    let mut runs = VecDeque::new();
    for hour in 0..6 {
        push(&mut runs, false, MIB, hour * 3_600_000);
    }
    assert_eq!(chosen(&runs, 15, None, 0), [(20, 60)]);
    assert_eq!(chosen(&runs, 0, Some(2 * 3_600_000), 0), [(0, 20), (20, 40)], "two segments are left, which wait");
    assert_eq!(chosen(&runs, 0, Some(2 * 3_600_000), 1_000), [(0, 20), (20, 40), (40, 60)]);
    // Old records among new ones cut nothing.
    for (run, hour) in runs.iter_mut().zip([5, 0, 5, 0, 5, 0]) {
        run.max_timestamp = hour * 3_600_000;
    }
    assert_eq!(chosen(&runs, 0, Some(3_600_000), 0), [(0, 60)]);
}

#[test]
fn an_object_holds_one_topic() {
    let window = |topic, index, bytes| Window {
        partition: TopicPartition::new(Uuid::from_u128(topic), index),
        first_offset: 0,
        next_offset: 10,
        bytes,
        runs: 2,
    };
    let windows = vec![window(2, 0, 10), window(1, 2, 10), window(1, 0, 50 * MIB), window(1, 1, 20 * MIB)];
    let jobs = plan::jobs(windows, 64 * MIB);
    let found: Vec<Vec<(u128, i32)>> = jobs
        .iter()
        .map(|job| job.windows.iter().map(|w| (w.partition.topic_id.as_u128(), w.partition.partition)).collect())
        .collect();
    assert_eq!(found, [vec![(1, 0)], vec![(1, 1), (1, 2)], vec![(2, 0)]]);
}

proptest! {
    /// Whatever comes: windows are whole runs in order without overlap, nothing of full size is copied again, and when all
    /// is done over and over, few runs are left and few bytes were copied.
    #[test]
    fn a_partition_has_few_runs_and_is_copied_a_few_times(
        sizes in proptest::collection::vec((1..2_000_u64, 0..50_i64), 1..400),
        span_ms in proptest::option::of(1..40_u64),
    ) {
        let policy = Policy { run_bytes: 8_000, segments: 4, max_wait_ms: 1_000 };
        let (mut runs, mut copied, mut written) = (VecDeque::new(), 0, 0);
        let (mut newest_ms, mut spans) = (0, BTreeSet::new());
        for (bytes, time_ms) in sizes {
            push(&mut runs, false, bytes, time_ms);
            newest_ms = time_ms.max(newest_ms);
            spans.insert(span_ms.map(|span_ms| newest_ms / span_ms as i64));
            written += bytes;
            let windows = plan::windows(partition(0), &runs, 0, &policy, span_ms, 0);
            let mut end = i64::MIN;
            for window in windows {
                prop_assert!(window.first_offset >= end);
                end = window.next_offset;
                let from = runs.iter().position(|run| run.first_offset == window.first_offset).unwrap();
                let to = runs.iter().position(|run| run.next_offset == window.next_offset).unwrap() + 1;
                prop_assert_eq!(to - from, window.runs);
                let bytes: u64 = runs.range(from..to).map(|run| u64::from(run.batch_bytes)).sum();
                prop_assert_eq!(bytes, window.bytes);
                let compacted = |run: &Run| matches!(run.object, ObjectRef::Run { .. });
                for run in runs.range(from..to) {
                    prop_assert!(!compacted(run) || u64::from(run.batch_bytes) < policy.run_bytes / 2);
                }
                copied += bytes;
                let behind_newest = runs.range(from..to).map(|run| run.max_timestamp).max().unwrap();
                let mut behind = runs.split_off(to);
                runs.truncate(from);
                let number = runs.len() as u64;
                runs.push_back(Run {
                    first_offset: window.first_offset,
                    next_offset: window.next_offset,
                    max_timestamp: behind_newest,
                    object: ObjectRef::Run { session: SESSION, number, commit_before: 1 },
                    position: 64,
                    length: bytes as u32,
                    batch_bytes: bytes as u32,
                });
                runs.append(&mut behind);
            }
        }
        // Objects of at least half the size, and less than log2(8000) + 4 behind them in each span of time.
        let most = written / (policy.run_bytes / 2) + 17 * spans.len() as u64;
        prop_assert!(runs.len() as u64 <= most, "{} runs", runs.len());
        prop_assert!(copied <= written * 14, "{copied} bytes copied of {written}");
    }
}

fn batch(base_offset: i64, text: &str) -> Bytes {
    let mut batch = build_batch(&[(None, Some(text.to_owned().into()))], 1_000).to_vec();
    crate::protocol::batch::header::assign(&mut batch, base_offset, 3);
    batch.into()
}

#[test]
fn the_object_is_read_as_a_segment_is() {
    let object = ObjectRef::Run { session: SESSION, number: 4, commit_before: 9 };
    let prelude = Prelude { kind: ObjectKind::Run, object_id: Uuid::from_u128(8), session: SESSION, seq: 4 };
    let mut builder = Builder::new(object, &prelude, 1_000, 77);
    let window = |index, first_offset, next_offset| Window {
        partition: partition(index),
        first_offset,
        next_offset,
        bytes: 0,
        runs: 1,
    };
    let mut first = builder.begin(window(0, 5, 7));
    builder.push(&mut first, &batch(5, "five")).unwrap();
    assert!(!first.is_full());
    assert_eq!(builder.push(&mut first, &batch(5, "again")), Err(BuildError::Seam { expected: 6, found: 5 }));
    builder.push(&mut first, &batch(6, "six")).unwrap();
    builder.push(&mut first, &batch(7, "behind the end")).unwrap();
    assert!(first.is_full());
    builder.finish_window(first);
    let mut given_up = builder.begin(window(1, 0, 2));
    builder.push(&mut given_up, &batch(0, "nothing follows")).unwrap();
    builder.give_up(&given_up);
    let mut last = builder.begin(window(2, 0, 1));
    builder.push(&mut last, &batch(0, "zero")).unwrap();
    builder.finish_window(last);
    let built = builder.finish();
    assert_eq!(Prelude::decode(&built.bytes), Ok(prelude));
    let (_, footer) = read_footer(&built.bytes).unwrap();
    assert_eq!(footer.sections.iter().map(|s| s.partition).collect::<Vec<_>>(), [partition(0), partition(2)]);
    for ((at, runs), section) in built.runs.iter().zip(&footer.sections) {
        assert_eq!((runs.len(), *at), (1, section.partition));
        let facts: Vec<_> = section.batches().collect();
        assert_eq!(runs[0].position, facts[0].position);
        assert_eq!(runs[0].position + runs[0].length, facts.last().map(|f| f.position + f.frame_bytes()).unwrap());
        for facts in facts {
            let (header, payload) = read_frame(&built.bytes[facts.position as usize..]).unwrap();
            assert_eq!((header.partition, header.append_ms), (section.partition, 77));
            assert_eq!(BatchHeader::decode(payload).unwrap().base_offset, facts.base_offset);
        }
    }
}

struct House {
    store: Arc<dyn ObjectStore>,
    log: Log,
    reader: Reader,
    compaction: Compaction,
}

/// A log whose every batch is a segment, and its compaction.
async fn house(store: &Arc<dyn ObjectStore>, epoch: u64, states: Vec<(TopicPartition, i32, PartitionState)>) -> House {
    let (clock, rng, mut registry) = (Clock::system(), Rng::seeded(epoch), Registry::default());
    let (meta, keys) = (Arc::new(MemoryMeta::new(clock.clone())), KeySpace::of_cluster("test"));
    let (rules, counters) = (TopicRules::default(), ClusterMetrics::default());
    let opened = Catalogue::open(meta, keys, rules, clock.clone(), rng.clone(), counters, &Tasks::new()).await;
    let catalogue = opened.unwrap();
    let options = LogOptions {
        session: SessionId { broker_id: 1, epoch },
        limits: LogLimits {
            flush_idle_us: 0,
            idle_cuts_per_s: 0,
            flush_linger_us: 1_000,
            memory_tail_bytes: 0,
            ..LogLimits::default()
        },
        wal_root: None,
        disk: crate::wal::LocalDisk::shared(),
        wal_fsync: WalFsync::Never,
        hedge_after_ms: None,
        store: store.clone(),
        clock: clock.clone(),
        rng: rng.clone(),
        tasks: Tasks::new(),
    };
    let log = Log::start(options, states, LogMetrics::new(&mut registry)).await.unwrap();
    let source = Arc::new(StoreSource::new(store.clone()));
    let pages = Arc::new(MemoryPages::new(1 << 20));
    let objects = ObjectReader::new(source, pages, cache::Settings::default(), cache::Metrics::default());
    let metrics = FetchMetrics::register(&mut registry);
    let reader = Reader::new(Arc::new(log.clone()), objects, ReadSettings::default(), metrics);
    let compaction = Compaction {
        log: log.clone(),
        reader: reader.clone(),
        catalogue,
        store: store.clone(),
        settings: CompactionSettings {
            interval_ms: 1,
            policy: Policy { run_bytes: 1_500, segments: 3, max_wait_ms: 1 << 40 },
            bytes_per_s: u64::MAX,
        },
        clock,
        rng,
        metrics: UpkeepMetrics::default(),
    };
    House { store: store.clone(), log, reader, compaction }
}

impl House {
    async fn append(&self, index: i32, text: &str) {
        let batch = build_batch(&[(None, Some(text.to_owned().into()))], 1_000);
        let header = BatchHeader::decode(&batch).unwrap();
        let permit = self.log.admit(batch.len(), 1_000).await.unwrap();
        self.log.append(partition(index), &header, &batch, Acks::All, permit).wait().await.unwrap();
    }

    async fn all(&self, index: i32) -> Vec<Bytes> {
        let (mut offset, mut found) = (0, Vec::new());
        loop {
            let read =
                self.reader.read(partition(index), offset, 10_000, Isolation::ReadUncommitted, true).await.unwrap();
            if read.batches.is_empty() {
                return found;
            }
            offset = read.next_offset;
            found.extend(read.batches);
        }
    }

    fn states(&self) -> BTreeMap<TopicPartition, PartitionState> {
        let mut states = BTreeMap::new();
        self.log.each_state(|partition, state| {
            states.insert(partition, state.clone());
        });
        states
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_and_the_next_life_find_the_same_batches() {
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new(Clock::system()));
    let new = (0..3).map(|index| (partition(index), 1, PartitionState::default())).collect();
    let house = house(&store, 1, new).await;
    let mut waits = Waits::default();
    for round in 0..40 {
        for index in 0..3 {
            house.append(index, &format!("record {round} of {index}")).await;
        }
        if round % 5 == 4 {
            let before = [house.all(0).await, house.all(1).await, house.all(2).await];
            house.compaction.round(&mut waits).await;
            for (index, before) in (0..3).zip(before) {
                assert_eq!(house.all(index).await, before, "round {round}");
            }
        }
    }
    let states = house.states();
    for (partition, state) in &states {
        assert!(state.runs.len() < 15, "{partition}: {} runs", state.runs.len());
        assert!(state.runs.iter().any(|run| matches!(run.object, ObjectRef::Run { .. })));
        let in_order = state.runs.iter().zip(state.runs.iter().skip(1)).all(|(a, b)| a.next_offset == b.first_offset);
        assert!(in_order, "{:?}", state.runs);
    }
    // Whoever takes over reads the same states from the stream, and the same batches from its objects.
    house.log.close().await.unwrap();
    let stream = load_stream(&store, house.log.session()).await.unwrap();
    assert_eq!(stream.partitions, states);
    let objects: Vec<ObjectMeta> = house.store.list(keys::RUNS_PREFIX, None).try_collect().await.unwrap();
    assert!(!objects.is_empty());
    let taken = stream.partitions.into_iter().map(|(partition, state)| (partition, 2, state)).collect();
    let next = self::house(&store, 2, taken).await;
    for index in 0..3 {
        let records = next.all(index).await;
        assert_eq!(records.len(), 40);
        assert_eq!(records, house_records(&records, index));
    }
    next.log.close().await.unwrap();
}

/// What was appended, as it must be read.
fn house_records(read: &[Bytes], index: i32) -> Vec<Bytes> {
    (0..)
        .zip(read)
        .map(|(round, batch)| {
            let mut expected =
                build_batch(&[(None, Some(format!("record {round} of {index}").into()))], 1_000).to_vec();
            crate::protocol::batch::header::assign(&mut expected, round, 1);
            assert_eq!(BatchHeader::decode(batch).unwrap().base_offset, round);
            expected.into()
        })
        .collect()
}
