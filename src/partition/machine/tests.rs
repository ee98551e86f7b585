//! The machine against a model: what was acknowledged is where it was said to be, and replay gives the live state.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::format::segment::read_footer;
use crate::format::state::{ObjectRef, PRODUCER_BATCHES, PartitionState, Run};
use crate::partition::api::{Isolation, ReadSource};
use crate::partition::stream::StreamState;
use crate::protocol::batch::builder::BatchBuilder;
use crate::wal::scan_bytes;

const TOPIC: Uuid = Uuid::from_u128(42);

#[derive(Debug, Clone)]
enum Step {
    /// Append as plain producer (`None`) or as an idempotent one, with this many records.
    Append {
        partition: i32,
        producer: Option<i64>,
        records: u8,
        acks_all: bool,
    },
    /// Send an idempotent producer's last batch again.
    Retry {
        partition: i32,
        producer: i64,
    },
    /// Send a batch with a hole before it.
    Skip {
        partition: i32,
        producer: i64,
    },
    Cut,
    /// Let the write-ahead writer catch up.
    WriteAhead,
    /// Start every upload that may start.
    Start,
    /// Finish the n-th running upload.
    Finish {
        nth: usize,
    },
    MoveLogStart {
        partition: i32,
        back: i64,
    },
    ExpireProducers {
        partition: i32,
    },
    /// Copy some consecutive runs into one object, which is told to the machine that many steps later.
    Compact {
        partition: i32,
        skip: usize,
        runs: usize,
    },
    /// Tell the machine of the oldest object that was copied.
    Replace,
    Tick {
        us: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let partition = 0..3_i32;
    prop_oneof![
        8 => (partition.clone(), proptest::option::of(0..3_i64), 1..5_u8, any::<bool>()).prop_map(
            |(partition, producer, records, acks_all)| Step::Append { partition, producer, records, acks_all }
        ),
        3 => (partition.clone(), 0..3_i64).prop_map(|(partition, producer)| Step::Retry { partition, producer }),
        1 => (partition.clone(), 0..3_i64).prop_map(|(partition, producer)| Step::Skip { partition, producer }),
        2 => Just(Step::Cut),
        3 => Just(Step::WriteAhead),
        3 => Just(Step::Start),
        4 => (0..4_usize).prop_map(|nth| Step::Finish { nth }),
        1 => (partition.clone(), 0..6_i64).prop_map(|(partition, back)| Step::MoveLogStart { partition, back }),
        1 => partition.clone().prop_map(|partition| Step::ExpireProducers { partition }),
        2 => (partition, 0..4_usize, 1..6_usize).prop_map(|(partition, skip, runs)| Step::Compact { partition, skip, runs }),
        2 => Just(Step::Replace),
        2 => (0..20_000_u64).prop_map(|us| Step::Tick { us }),
    ]
}

/// What a producer sent last to a partition, and what it was told.
#[derive(Debug, Clone)]
struct Sent {
    next_sequence: i32,
    last: Bytes,
    base_offset: i64,
    /// Its state may have expired: a retry may be taken for new.
    forgotten: bool,
}

struct World {
    machine: Machine,
    now: Now,
    wal: BTreeMap<u64, BytesMut>,
    store: BTreeMap<u64, Bytes>,
    uploading: Vec<(u64, Bytes)>,
    log: HashMap<i32, Vec<(i64, Bytes)>>,
    sent: HashMap<(i32, i64), Sent>,
    acked: Vec<(Wait, i32, i64, Bytes)>,
    serial: u32,
    copied: VecDeque<(i32, Run)>,
}

fn partition(index: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, index)
}

impl World {
    fn new(wal_mode: WalMode) -> Self {
        let session = SessionId { broker_id: 1, epoch: 3 };
        let limits = LogLimits {
            flush_bytes: 1500,
            uploads: 3,
            memory_tail_bytes: 2000,
            chunk_bytes: 512,
            ..LogLimits::default()
        };
        let mut machine = Machine::new(session, limits, wal_mode, Uuid::from_u128(0xabc << 64), 0);
        let now = Now { boot_us: 0, wall_ms: 1_000_000 };
        for index in 0..3 {
            machine.acquire(now, partition(index), 5, PartitionState::default());
        }
        Self {
            machine,
            now,
            wal: BTreeMap::new(),
            store: BTreeMap::new(),
            uploading: Vec::new(),
            log: HashMap::new(),
            sent: HashMap::new(),
            acked: Vec::new(),
            serial: 0,
            copied: VecDeque::new(),
        }
    }

    fn batch(&mut self, producer: Option<(i64, i32)>, records: u8) -> Bytes {
        let mut builder = BatchBuilder::new();
        if let Some((id, sequence)) = producer {
            builder = builder.producer(id, 0, sequence);
        }
        for _ in 0..records {
            self.serial += 1;
            builder = builder.key_value(i64::from(self.serial), "k", format!("value {}", self.serial));
        }
        builder.build()
    }

    fn send(&mut self, index: i32, batch: &Bytes, acks: Acks) -> Outcome {
        let header = BatchHeader::decode(batch).unwrap();
        self.machine.append(self.now, partition(index), &header, batch, acks)
    }

    fn run(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Append { partition: index, producer, records, acks_all } => {
                let next = |id| self.sent.get(&(index, id)).map_or(0, |sent| sent.next_sequence);
                let identity = producer.map(|id| (id, next(id)));
                let batch = self.batch(identity, records);
                let acks = if acks_all { Acks::All } else { Acks::Leader };
                let outcome = self.send(index, &batch, acks);
                let appended = outcome.result.clone().map_err(|e| TestCaseError::fail(e.to_string()))?;
                let log = self.log.entry(index).or_default();
                prop_assert_eq!(appended.base_offset, log.last().map_or(0, |(next, _)| *next));
                log.push((appended.base_offset + i64::from(records), batch.clone()));
                if let Some((id, sequence)) = identity {
                    let next_sequence = sequence + i32::from(records);
                    let sent = Sent {
                        next_sequence,
                        last: batch.clone(),
                        base_offset: appended.base_offset,
                        forgotten: false,
                    };
                    self.sent.insert((index, id), sent);
                }
                self.acked.push((outcome.wait, index, appended.base_offset, batch));
            }
            Step::Retry { partition: index, producer } => {
                let known = self.sent.get(&(index, producer)).filter(|sent| !sent.forgotten);
                let Some(sent) = known.cloned() else { return Ok(()) };
                let end = self.machine.partition(partition(index)).unwrap().log_end;
                let outcome = self.send(index, &sent.last, Acks::All);
                prop_assert_eq!(outcome.result.clone().map(|a| a.base_offset), Ok(sent.base_offset));
                prop_assert_eq!(self.machine.partition(partition(index)).unwrap().log_end, end, "written twice");
                self.acked.push((outcome.wait, index, sent.base_offset, sent.last));
            }
            Step::Skip { partition: index, producer } => {
                let known = self.sent.get(&(index, producer)).filter(|sent| !sent.forgotten);
                let Some(sent) = known else { return Ok(()) };
                let batch = {
                    let next = sent.next_sequence + 1;
                    self.batch(Some((producer, next)), 1)
                };
                let outcome = self.send(index, &batch, Acks::All);
                let refused = matches!(outcome.result, Err(LogError::OutOfOrderSequence { .. }));
                prop_assert!(refused, "{:?}", outcome);
            }
            Step::Cut => {
                self.machine.cut_now();
            }
            Step::WriteAhead => self.write_ahead(),
            Step::Start => self.start(),
            Step::Finish { nth } => {
                if !self.uploading.is_empty() {
                    let (seq, bytes) = self.uploading.remove(nth % self.uploading.len());
                    self.store.insert(seq, bytes);
                    self.machine.uploaded(seq).map_err(|e| TestCaseError::fail(e.to_string()))?;
                }
            }
            Step::MoveLogStart { partition: index, back } => {
                let end = self.machine.partition(partition(index)).unwrap().state.next_offset;
                self.machine.move_log_start(self.now, partition(index), (end - back).max(0)).unwrap();
            }
            Step::ExpireProducers { partition: index } => {
                let expires = self.machine.expire_producers(self.now, partition(index), self.now.wall_ms);
                if expires.is_some() {
                    let owned = self.sent.iter_mut().filter(|((owner, _), _)| *owner == index);
                    owned.for_each(|(_, sent)| sent.forgotten = true);
                }
            }
            Step::Compact { partition: index, skip, runs } => {
                let state = &self.machine.partition(partition(index)).unwrap().state;
                let chosen: Vec<Run> = state.runs.iter().skip(skip).take(runs).copied().collect();
                let (Some(first), Some(last)) = (chosen.first(), chosen.last()) else { return Ok(()) };
                let run = Run {
                    first_offset: first.first_offset,
                    next_offset: last.next_offset,
                    max_timestamp: chosen.iter().map(|run| run.max_timestamp).max().unwrap(),
                    object: self.machine.allot_run(),
                    position: 64,
                    length: chosen.iter().map(|run| run.length).sum(),
                    batch_bytes: chosen.iter().map(|run| run.batch_bytes).sum(),
                };
                self.copied.push_back((index, run));
            }
            Step::Replace => {
                let Some((index, run)) = self.copied.pop_front() else { return Ok(()) };
                // Refused if another compaction was quicker, or if log start cut into the runs; never half done.
                let replaced = self.machine.replace_runs(self.now, partition(index), vec![run]);
                prop_assert!(matches!(replaced, Ok(_) | Err(LogError::Retriable(_))), "{:?}", replaced);
            }
            Step::Tick { us } => {
                self.now.boot_us += us;
                self.machine.cut_if_due(self.now.boot_us);
            }
        }
        Ok(())
    }

    fn write_ahead(&mut self) {
        while let Some(work) = self.machine.wal_work() {
            let file = self.wal.entry(work.seq).or_default();
            for block in &work.blocks {
                assert_eq!(file.len(), block.position as usize, "write-ahead blocks follow one another");
                file.extend_from_slice(&block.bytes);
            }
            assert_eq!(file.len(), work.end as usize);
            if work.finish {
                self.machine.wal_done(work.seq);
            }
        }
    }

    fn start(&mut self) {
        while let Some(work) = self.machine.upload_work() {
            let mut bytes = BytesMut::new();
            for block in &work.blocks {
                bytes.extend_from_slice(&block.bytes);
            }
            if bytes.is_empty() {
                bytes.extend_from_slice(&self.wal[&work.seq]);
            }
            assert_eq!(bytes.len() as u64, work.object_bytes);
            self.uploading.push((work.seq, bytes.freeze()));
        }
    }

    /// A crash at this moment: what a new process finds in the store and the write-ahead files.
    fn recover(&self) -> StreamState {
        let session = self.machine.session();
        let mut stream = StreamState { session, next_seq: 0, sealed: false, partitions: BTreeMap::new() };
        loop {
            let seq = stream.next_seq;
            let bytes = match (self.store.get(&seq), self.wal.get(&seq)) {
                (Some(object), _) => object.clone(),
                (None, Some(file)) => file.clone().freeze(),
                (None, None) => return stream,
            };
            let scan = scan_bytes(&bytes).expect("whole frames were written");
            assert!(scan.torn.is_none());
            if scan.complete {
                let (_, footer) = read_footer(&bytes).unwrap();
                assert_eq!(footer, scan.footer(), "the footer says what the frames say");
            }
            stream.apply(seq, scan.entries.iter().map(|e| (e.partition, &e.entry))).expect("the stream is whole");
            if !scan.complete {
                return stream;
            }
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let recovered = self.recover();
        for index in 0..3 {
            let live = self.machine.partition(partition(index)).unwrap();
            let view = live.view();
            prop_assert!(view.log_start <= view.last_stable && view.last_stable <= view.high_watermark);
            prop_assert!(view.high_watermark <= view.log_end);
            if recovered.next_seq == self.machine.committed() && self.machine.committed() > 0 {
                let state = &recovered.partitions[&partition(index)];
                prop_assert_eq!(state, &live.state, "replay gives the live state");
            }
            self.check_reads(index)?;
        }
        // Nothing acknowledged is lost by a crash: acks=all when its segment is committed, acks=1 when it is written ahead.
        for (wait, index, base_offset, batch) in &self.acked {
            let told = match wait {
                Wait::Commit(seq) => self.machine.committed() > *seq,
                Wait::Wal(ticket) => self.wal.get(&ticket.seq).is_some_and(|file| file.len() >= ticket.end as usize),
                // Without write-ahead files acks=1 promises nothing past the process.
                Wait::Nothing => self.machine.wal_mode != WalMode::None,
            };
            let end = recovered.partitions.get(&partition(*index)).map_or(0, |state| state.next_offset);
            let header = BatchHeader::decode(batch).unwrap();
            prop_assert!(!told || base_offset + i64::from(header.last_offset_delta) < end, "acknowledged and lost");
        }
        let ids: BTreeSet<Uuid> = self.store.values().map(|o| scan_bytes(o).unwrap().prelude.object_id).collect();
        prop_assert_eq!(ids.len(), self.store.len());
        Ok(())
    }

    fn check_reads(&self, index: i32) -> Result<(), TestCaseError> {
        let live = self.machine.partition(partition(index)).unwrap();
        let view = live.view();
        let mut offset = view.log_start;
        while offset < view.high_watermark {
            let plan = live.plan_read(partition(index), offset, 300, Isolation::ReadUncommitted).unwrap();
            let expected = |at: i64| self.log[&index].iter().find(|(next, _)| *next > at).unwrap();
            match plan.source {
                ReadSource::End => prop_assert!(false, "nothing at {} before {}", offset, view.high_watermark),
                ReadSource::Memory(batches) => {
                    for batch in batches {
                        let header = BatchHeader::decode(&batch).unwrap();
                        let (next, original) = expected(offset);
                        prop_assert_eq!(header.last_offset() + 1, *next);
                        prop_assert_eq!(&batch[16..], &original[16..]);
                        offset = *next;
                    }
                }
                ReadSource::Runs(runs) => {
                    for run in runs {
                        prop_assert!(run.first_offset <= offset && offset < run.next_offset, "{:?} at {}", run, offset);
                        offset = run.next_offset;
                    }
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn nothing_acknowledged_is_lost_moved_or_doubled(
        mode in prop_oneof![Just(WalMode::Mirror), Just(WalMode::BecomesObject), Just(WalMode::None)],
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(mode);
        for step in &steps {
            world.run(step)?;
            world.check()?;
        }
    }
}

#[test]
fn a_later_segment_waits_for_the_write_ahead_file_of_the_one_before() {
    let mut world = World::new(WalMode::Mirror);
    world.machine.cut_now();
    world.run(&Step::Append { partition: 0, producer: None, records: 1, acks_all: true }).unwrap();
    world.machine.cut_now();
    world.start();
    assert_eq!(world.uploading.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), vec![0]);
    world.write_ahead();
    world.start();
    assert_eq!(world.uploading.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), vec![0, 1]);
}

#[test]
fn a_verdict_on_uncommitted_state_waits_for_its_commit() {
    let mut world = World::new(WalMode::Mirror);
    world.run(&Step::Append { partition: 0, producer: Some(1), records: 2, acks_all: true }).unwrap();
    let gap = world.batch(Some((1, 7)), 1);
    let outcome = world.send(0, &gap, Acks::All);
    assert!(matches!(outcome.result, Err(LogError::OutOfOrderSequence { expected: 2, got: 7, .. })), "{outcome:?}");
    assert_eq!(outcome.wait, Wait::Commit(0));
}

#[test]
fn a_batch_from_before_those_that_are_remembered_is_not_called_written() {
    let mut world = World::new(WalMode::Mirror);
    for sequence in 0..=PRODUCER_BATCHES as i32 {
        let batch = world.batch(Some((1, sequence)), 1);
        world.send(0, &batch, Acks::All).result.unwrap();
    }
    let first = world.batch(Some((1, 0)), 1);
    let outcome = world.send(0, &first, Acks::All);
    assert!(matches!(outcome.result, Err(LogError::OutOfOrderSequence { got: 0, .. })), "{outcome:?}");
    let second = world.batch(Some((1, 1)), 1);
    assert_eq!(world.send(0, &second, Acks::All).result.unwrap().base_offset, 1, "this one is remembered");
}

#[test]
fn limits_hold_producers_back_and_spilling_makes_room() {
    let mut world = World::new(WalMode::Mirror);
    world.machine.limits.unflushed_bytes = 4000;
    world.machine.limits.wal_disk_bytes = 6000;
    let mut appended = 0;
    let limit = loop {
        if let Err(limit) = world.machine.reserve(200) {
            break limit;
        }
        world.machine.release(200);
        world.run(&Step::Append { partition: 0, producer: None, records: 4, acks_all: false }).unwrap();
        world.machine.cut_if_due(u64::MAX / 2);
        world.write_ahead();
        appended += 1;
        assert!(appended < 1000, "no limit");
    };
    assert!(["unflushed_bytes", "wal_disk_bytes"].contains(&limit));
    assert!(world.machine.memory_bytes() <= 4000);
    world.start();
    while !world.uploading.is_empty() {
        world.run(&Step::Finish { nth: 0 }).unwrap();
        world.start();
    }
    world.check().unwrap();
    assert_eq!(world.machine.reserve(200), Ok(()));
}

#[test]
fn who_takes_a_written_partition_over_does_not_let_its_producers_wait_for_the_bucket() {
    let mut world = World::new(WalMode::Mirror);
    world.machine.cut_now();
    world.machine.limits.flush_linger_us = 60_000_000;
    let limits = world.machine.limits.clone();
    // One record after another uses the bucket up: the next one waits for a token.
    let late = |world: &mut World| {
        let batch = world.batch(None, 1);
        assert!(world.send(0, &batch, Acks::All).result.is_ok());
        let now_us = world.now.boot_us;
        let due_us = world.machine.cut_due_us(now_us).unwrap();
        world.now.boot_us = due_us;
        assert!(world.machine.cut_if_due(due_us).is_some());
        world.start();
        for (seq, _) in std::mem::take(&mut world.uploading) {
            world.machine.uploaded(seq).unwrap();
        }
        due_us - now_us > limits.flush_idle_us
    };
    while !late(&mut world) {}
    assert!(late(&mut world));
    world.machine.acquire(world.now, partition(7), 2, PartitionState::default());
    assert!(late(&mut world), "nobody has waited for a new partition");
    let written = PartitionState { next_offset: 9, ..PartitionState::default() };
    world.machine.acquire(world.now, partition(8), 2, written);
    assert!(!late(&mut world));
}

#[test]
fn a_run_that_comes_too_late_is_refused() {
    let mut world = World::new(WalMode::None);
    world.run(&Step::Append { partition: 0, producer: None, records: 2, acks_all: true }).unwrap();
    let commit = |world: &mut World| {
        world.machine.cut_now();
        world.start();
        while !world.uploading.is_empty() {
            world.run(&Step::Finish { nth: 0 }).unwrap();
        }
    };
    commit(&mut world);
    world.run(&Step::Compact { partition: 0, skip: 0, runs: 1 }).unwrap();
    let (_, mut run) = world.copied[0];
    let ObjectRef::Run { session, number, .. } = run.object else { panic!("{run:?}") };
    run.object = ObjectRef::Run { session, number, commit_before: world.machine.committed() };
    let refused = world.machine.replace_runs(world.now, partition(0), vec![run]);
    assert!(matches!(refused, Err(LogError::Retriable(_))), "{refused:?}");
    let (_, run) = world.copied[0];
    world.run(&Step::Replace).unwrap();
    let again = world.machine.replace_runs(world.now, partition(0), vec![run]);
    assert!(matches!(again, Err(LogError::Retriable(_))), "one change at a time: {again:?}");
    commit(&mut world);
    let runs = &world.machine.partition(partition(0)).unwrap().state.runs;
    assert!(matches!(runs.iter().collect::<Vec<_>>()[..], [Run { object: ObjectRef::Run { .. }, .. }]), "{runs:?}");
    world.check().unwrap();
}
