//! A log in memory that does what the real one promises: appends, commits as real segments in a store, forgets its memory.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::base::{ErrorKind, SessionId, TopicPartition};
use crate::cache::{self, MemoryPages, ObjectReader, ReadError, Source};
use crate::fetch::log_view::{LogView, Subscription};
use crate::fetch::{Fetches, Metrics, Reader, Settings};
use crate::format::entry::BatchFacts;
use crate::format::frame::{FrameKind, put_frame};
use crate::format::prelude::{ObjectKind, Prelude};
use crate::format::segment::{Footer, Indexed, Section};
use crate::partition::{AbortedTxn, Isolation, LogError, ObjectRef, PartitionView, ReadPlan, ReadSource, Run};
use crate::protocol::batch::{BatchBuilder, BatchHeader, Compression, NewRecord};

pub const SESSION: SessionId = SessionId { broker_id: 1, epoch: 1 };
pub const LEADER_EPOCH: i32 = 5;

pub fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new(Uuid::from_u128(7), partition)
}

/// Objects in memory; GETs counted, damaged and failed at will.
#[derive(Debug, Default)]
pub struct TestStore {
    pub objects: Mutex<BTreeMap<String, Bytes>>,
    pub gets: AtomicU64,
    pub get_bytes: AtomicU64,
    pub sizes: AtomicU64,
    /// GETs fail.
    pub down: AtomicBool,
    /// That many GETs return flipped bytes.
    pub flips: AtomicU64,
    pub local: AtomicBool,
}

#[async_trait]
impl Source for TestStore {
    async fn get_range(&self, object: &str, range: Range<u64>) -> Result<Bytes, ReadError> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        if self.down.load(Ordering::SeqCst) {
            return Err(ReadError::new(ErrorKind::Retriable, &format!("get of '{object}' timed out")));
        }
        let objects = self.objects.lock();
        let Some(bytes) = objects.get(object) else {
            return Err(ReadError::new(ErrorKind::NotFound, &format!("object '{object}' does not exist")));
        };
        let end = range.end.min(bytes.len() as u64) as usize;
        let start = (range.start as usize).min(end);
        self.get_bytes.fetch_add((end - start) as u64, Ordering::SeqCst);
        let flip = self.flips.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if flip {
            return Ok(bytes[start..end].iter().map(|byte| byte ^ 0xff).collect());
        }
        Ok(bytes.slice(start..end))
    }

    async fn size(&self, object: &str) -> Result<u64, ReadError> {
        self.sizes.fetch_add(1, Ordering::SeqCst);
        let objects = self.objects.lock();
        let bytes = objects.get(object);
        bytes.map(|bytes| bytes.len() as u64).ok_or_else(|| ReadError::new(ErrorKind::NotFound, "no such object"))
    }

    fn is_local(&self) -> bool {
        self.local.load(Ordering::SeqCst)
    }
}

#[derive(Debug, Default, Clone)]
pub struct Part {
    pub log_start: i64,
    pub high_watermark: i64,
    pub last_stable: Option<i64>,
    /// Everything appended, committed or not.
    pub batches: Vec<Bytes>,
    /// Batches from this offset on are in memory.
    pub memory_from: i64,
    pub runs: Vec<Run>,
    pub aborted: Vec<AbortedTxn>,
    pub leader_epoch: i32,
    pub lost: bool,
}

impl Part {
    pub fn end(&self) -> i64 {
        self.batches.last().map_or(0, |batch| header(batch).last_offset() + 1)
    }

    pub fn limit(&self, isolation: Isolation) -> i64 {
        match isolation {
            Isolation::ReadUncommitted => self.high_watermark,
            Isolation::ReadCommitted => self.last_stable.unwrap_or(self.high_watermark),
        }
    }

    fn view(&self) -> PartitionView {
        PartitionView {
            leader_epoch: self.leader_epoch,
            log_start: self.log_start,
            high_watermark: self.high_watermark,
            last_stable: self.limit(Isolation::ReadCommitted),
            log_end: self.end(),
            size_bytes: 0,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    parts: BTreeMap<TopicPartition, Part>,
    open: Vec<(TopicPartition, Bytes)>,
    next_seq: u64,
    subscribers: BTreeMap<u64, (Vec<TopicPartition>, Arc<Notify>)>,
    next_subscriber: u64,
}

#[derive(Debug, Default)]
pub struct ModelLog {
    state: Mutex<State>,
    pub store: Arc<TestStore>,
    /// Plans give at most this many runs; 0 for all.
    pub runs_at_once: AtomicU64,
    pub plans: AtomicU64,
}

pub fn header(batch: &Bytes) -> BatchHeader {
    BatchHeader::decode(batch).unwrap()
}

/// A batch of `timestamps.len()` records with values of `value_bytes` bytes.
pub fn batch(timestamps: &[i64], value_bytes: usize, compression: Compression) -> BatchBuilder {
    timestamps.iter().enumerate().fold(BatchBuilder::new().compression(compression), |builder, (at, timestamp)| {
        let value = Bytes::from(vec![b'a' + (at % 26) as u8; value_bytes]);
        builder.record(NewRecord { timestamp: *timestamp, key: None, value: Some(value), headers: Vec::new() })
    })
}

impl ModelLog {
    pub fn with_partitions(count: i32) -> Arc<Self> {
        let log = Self::default();
        for partition in 0..count {
            log.state.lock().parts.insert(tp(partition), Part { leader_epoch: LEADER_EPOCH, ..Part::default() });
        }
        Arc::new(log)
    }

    pub fn part(&self, partition: TopicPartition) -> Part {
        self.state.lock().parts[&partition].clone()
    }

    pub fn change(&self, partition: TopicPartition, change: impl FnOnce(&mut Part)) {
        change(self.state.lock().parts.get_mut(&partition).unwrap());
    }

    pub fn subscribers(&self) -> usize {
        self.state.lock().subscribers.len()
    }

    pub fn append(&self, partition: TopicPartition, builder: BatchBuilder) -> i64 {
        let mut state = self.state.lock();
        let part = state.parts.get_mut(&partition).unwrap();
        let base = part.end();
        let batch = builder.base_offset(base).leader_epoch(part.leader_epoch).build();
        part.batches.push(batch.clone());
        state.open.push((partition, batch));
        base
    }

    /// Everything appended becomes one segment.
    pub fn commit(&self) {
        let mut state = self.state.lock();
        let open = std::mem::take(&mut state.open);
        if open.is_empty() {
            return;
        }
        let seq = state.next_seq;
        state.next_seq += 1;
        let object = ObjectRef::Segment { session: SESSION, seq };
        let prelude =
            Prelude { kind: ObjectKind::Segment, object_id: Uuid::from_u128(u128::from(seq)), session: SESSION, seq };
        let mut bytes = BytesMut::from(&prelude.encode()[..]);
        let mut sections: BTreeMap<TopicPartition, Vec<Indexed>> = BTreeMap::new();
        for (partition, batch) in &open {
            let facts = BatchFacts::of(&header(batch), batch, bytes.len() as u32, 0);
            put_frame(&mut bytes, FrameKind::Batch, *partition, 0, batch);
            sections.entry(*partition).or_default().push(Indexed::Batch(facts));
        }
        let mut wake = Vec::new();
        for (partition, entries) in &sections {
            let facts: Vec<_> = entries
                .iter()
                .map(|entry| match entry {
                    Indexed::Batch(facts) => *facts,
                    Indexed::Control(_) => unreachable!(),
                })
                .collect();
            let (first, last) = (facts[0], facts[facts.len() - 1]);
            let part = state.parts.get_mut(partition).unwrap();
            part.runs.push(Run {
                first_offset: first.base_offset,
                next_offset: last.last_offset + 1,
                max_timestamp: facts.iter().map(|facts| facts.max_timestamp).max().unwrap(),
                object,
                position: first.position,
                length: last.position + last.frame_bytes() - first.position,
                batch_bytes: facts.iter().map(|facts| facts.batch_bytes).sum(),
            });
            part.high_watermark = last.last_offset + 1;
            wake.push(*partition);
        }
        let sections = sections.into_iter().map(|(partition, entries)| Section { partition, entries }).collect();
        let footer = Footer { sections }.encode(bytes.len() as u32);
        bytes.extend_from_slice(&footer);
        self.store.objects.lock().insert(object.key(), bytes.freeze());
        wake_up(&state, &wake);
    }

    /// Memory forgets all batches that are committed and end at or before `offset`.
    pub fn evict(&self, partition: TopicPartition, offset: i64) {
        self.change(partition, |part| {
            let upto = offset.min(part.high_watermark);
            let from =
                part.batches.iter().map(|batch| header(batch).last_offset() + 1).filter(|end| *end <= upto).max();
            part.memory_from = part.memory_from.max(from.unwrap_or(0));
        });
    }

    pub fn move_log_start(&self, partition: TopicPartition, offset: i64) {
        self.change(partition, |part| {
            part.log_start = offset.clamp(part.log_start, part.high_watermark);
            let start = part.log_start;
            part.runs.retain(|run| run.next_offset > start);
        });
    }

    pub fn lose(&self, partition: TopicPartition) {
        self.change(partition, |part| part.lost = true);
        wake_up(&self.state.lock(), &[partition]);
    }

    fn with<T>(&self, partition: TopicPartition, look: impl FnOnce(&Part) -> T) -> Result<T, LogError> {
        match self.state.lock().parts.get(&partition) {
            Some(part) if !part.lost => Ok(look(part)),
            _ => Err(LogError::NotLeader(partition)),
        }
    }
}

fn wake_up(state: &State, partitions: &[TopicPartition]) {
    for (subscribed, notify) in state.subscribers.values() {
        if subscribed.iter().any(|partition| partitions.contains(partition)) {
            notify.notify_one();
        }
    }
}

struct Guard(Arc<ModelLogRef>, u64);
type ModelLogRef = Shared;

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.0.state.lock().subscribers.remove(&self.1);
    }
}

/// The log as readers hold it.
#[derive(Debug)]
pub struct Shared(pub Arc<ModelLog>);

impl LogView for Shared {
    fn view(&self, partition: TopicPartition) -> Result<PartitionView, LogError> {
        self.0.with(partition, Part::view)
    }

    fn plan_read(
        &self,
        partition: TopicPartition,
        offset: i64,
        max_bytes: usize,
        isolation: Isolation,
    ) -> Result<ReadPlan, LogError> {
        self.0.plans.fetch_add(1, Ordering::SeqCst);
        let runs_at_once = self.0.runs_at_once.load(Ordering::SeqCst) as usize;
        self.0.with(partition, |part| {
            let view = part.view();
            if offset < view.log_start || offset > view.high_watermark {
                return Err(LogError::OffsetOutOfRange {
                    partition,
                    offset,
                    log_start: view.log_start,
                    high_watermark: view.high_watermark,
                });
            }
            let limit = part.limit(isolation);
            let source = if offset >= limit {
                ReadSource::End
            } else if offset >= part.memory_from {
                let mut left = max_bytes;
                let batches = part.batches.iter().filter(|batch| {
                    let header = header(batch);
                    header.last_offset() >= offset && header.last_offset() < limit
                });
                let batches = batches.enumerate().take_while(|(at, batch)| {
                    let fits = *at == 0 || batch.len() <= left;
                    left = left.saturating_sub(batch.len());
                    fits
                });
                ReadSource::Memory(batches.map(|(_, batch)| batch.clone()).collect())
            } else {
                let runs = part.runs.iter().filter(|run| run.next_offset > offset && run.first_offset < limit);
                let most = if runs_at_once == 0 { usize::MAX } else { runs_at_once };
                ReadSource::Runs(runs.take(most).copied().collect())
            };
            let aborted = match isolation {
                Isolation::ReadUncommitted => Vec::new(),
                Isolation::ReadCommitted => part
                    .aborted
                    .iter()
                    .filter(|txn| txn.first_offset < limit && txn.last_offset >= offset)
                    .copied()
                    .collect(),
            };
            Ok(ReadPlan { view, limit, aborted, source })
        })?
    }

    fn runs_from(&self, partition: TopicPartition, offset: i64) -> Result<(PartitionView, Vec<Run>), LogError> {
        self.0.with(partition, |part| {
            (part.view(), part.runs.iter().filter(|run| run.next_offset > offset).copied().collect())
        })
    }

    fn subscribe(&self, partitions: &[TopicPartition], waiter: Arc<Notify>) -> Subscription {
        let mut state = self.0.state.lock();
        let id = state.next_subscriber;
        state.next_subscriber += 1;
        state.subscribers.insert(id, (partitions.to_vec(), waiter));
        let guard: Box<dyn Any + Send> = Box::new(Guard(Arc::new(Shared(self.0.clone())), id));
        guard
    }
}

pub struct Setup {
    pub log: Arc<ModelLog>,
    pub objects: ObjectReader,
    pub reader: Reader,
    pub fetches: Fetches,
    pub metrics: Metrics,
}

pub fn cache_settings() -> cache::Settings {
    cache::Settings {
        page_bytes: 512,
        get_bytes: 2048,
        in_flight_bytes: 8192,
        read_ahead_bytes: 0,
        ..Default::default()
    }
}

pub fn setup(partitions: i32, pages: cache::Settings, settings: Settings) -> Setup {
    let log = ModelLog::with_partitions(partitions);
    let memory = Arc::new(MemoryPages::new(pages.memory_bytes));
    let objects = ObjectReader::new(log.store.clone(), memory, pages, cache::Metrics::default());
    let metrics = Metrics::default();
    let reader = Reader::new(Arc::new(Shared(log.clone())), objects.clone(), settings, metrics.clone());
    let fetches = Fetches::new(reader.clone(), 200);
    Setup { log, objects, reader, fetches, metrics }
}

pub fn simple(partitions: i32) -> Setup {
    setup(partitions, cache_settings(), Settings { objects_ahead: 0, ..Settings::default() })
}
