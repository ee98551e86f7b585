//! The load itself: workers, each with a connection of its own, that send what is due and take the answers.
//!
//! Invariant: a writer has at most `depth` batches under way. Dropping a run closes its connections; what was sent may be
//! written.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::schedule::Schedule;
use super::stats::Stats;
use super::{BenchCommand, Door, grpc, kafka};
use crate::base::{Clock, Rng};
use crate::protocol::batch::{BatchBuilder, Compression};
use crate::protocol::grpc::v1;

/// A partition and where its leader is.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its number.
    pub partition: i32,
    /// `host:port` of its leader's door.
    pub leader: String,
}

/// What has been measured so far; workers share it.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Mutex<Stats>>);

impl Progress {
    /// One more batch.
    pub fn add(&self, records: u64, bytes: u64, latency_us: u64) {
        self.0.lock().add(records, bytes, latency_us);
    }

    /// Records and bytes.
    pub fn so_far(&self) -> (u64, u64) {
        let stats = self.0.lock();
        (stats.records, stats.bytes)
    }

    /// All of it.
    pub fn taken(&self) -> Stats {
        self.0.lock().clone()
    }
}

/// A batch as it is sent again and again.
#[derive(Debug, Clone)]
pub struct Prebuilt {
    /// As Kafka's clients make it.
    pub batch: Bytes,
    /// The same records, for a door that takes those.
    pub records: Vec<v1::Record>,
    /// Their number.
    pub count: u64,
}

/// Records of letters: compressible, as text is.
pub fn prebuild(record_bytes: usize, batch_bytes: usize, compression: Compression, now_ms: i64, rng: &Rng) -> Prebuilt {
    let count = (batch_bytes / record_bytes).max(1);
    let mut builder = BatchBuilder::new().compression(compression);
    let mut records = Vec::with_capacity(count);
    for _ in 0..count {
        let value: Bytes = (0..record_bytes).map(|_| b'a' + (rng.below(16)) as u8).collect();
        builder = builder.record(crate::protocol::batch::NewRecord {
            timestamp: now_ms,
            key: None,
            value: Some(value.clone()),
            headers: Vec::new(),
        });
        records.push(v1::Record { value: Some(value), timestamp_ms: Some(now_ms), ..v1::Record::default() });
    }
    Prebuilt { batch: builder.build(), records, count: count as u64 }
}

/// What one worker is made with.
#[derive(Debug)]
pub struct Worker {
    /// What was typed.
    pub command: Arc<BenchCommand>,
    /// What is sent.
    pub prebuilt: Arc<Prebuilt>,
    /// When.
    pub schedule: Schedule,
    /// Its partitions; a writer uses the first.
    pub places: Vec<Place>,
    /// Records that a reader may still take; shared by all of them.
    pub left: Arc<Mutex<Option<u64>>>,
    /// Time.
    pub clock: Clock,
    /// When the load began, by `clock`.
    pub began_us: u64,
    /// Where the measured goes.
    pub progress: Progress,
    /// Send no more.
    pub stop: CancellationToken,
}

/// The sender's end of the batches under way.
#[derive(Debug)]
pub struct Sending {
    room: Arc<Semaphore>,
    /// From when each counts. There is always room for as many as `room` lets through.
    since_us: mpsc::Sender<u64>,
}

/// The other end: batches that wait for their answers, in their order.
#[derive(Debug)]
pub struct Waiting {
    room: Arc<Semaphore>,
    since_us: mpsc::Receiver<u64>,
}

/// Both ends, for at most `depth` batches at a time.
pub fn under_way(depth: usize) -> (Sending, Waiting) {
    let room = Arc::new(Semaphore::new(depth));
    let (sender, receiver) = mpsc::channel(depth);
    (Sending { room: room.clone(), since_us: sender }, Waiting { room, since_us: receiver })
}

impl Worker {
    /// Sends what is due, each by `send`, until the end or until it is told to stop; at most `depth` are under way.
    pub async fn send_all<F: Future<Output = anyhow::Result<()>>>(
        &self,
        under_way: Sending,
        mut send: impl FnMut(u64) -> F,
    ) -> anyhow::Result<()> {
        let mut number = 0;
        while let Some(due_us) = self.schedule.due_us(number) {
            let due_us = self.began_us + due_us;
            let ahead_us = due_us.saturating_sub(self.clock.boot_us());
            let room = async {
                tokio::time::sleep(Duration::from_micros(ahead_us)).await;
                under_way.room.acquire().await
            };
            let permit = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                permit = room => permit?,
            };
            permit.forget();
            let since_us = self.schedule.counts_from_us(due_us, self.clock.boot_us());
            under_way.since_us.send(since_us).await?;
            send(number).await?;
            number += 1;
        }
        Ok(())
    }

    /// A batch that counts from `since_us` is acknowledged.
    pub fn acknowledged(&self, since_us: u64, waiting: &Waiting) {
        let latency_us = self.clock.boot_us().saturating_sub(since_us);
        self.progress.add(self.prebuilt.count, self.prebuilt.batch.len() as u64, latency_us);
        waiting.room.add_permits(1);
    }

    /// Takes up to `records` of what may still be read; whether reading goes on.
    pub fn may_read_on(&self, records: u64) -> bool {
        let mut left = self.left.lock();
        let Some(left) = left.as_mut() else { return !self.stop.is_cancelled() };
        *left = left.saturating_sub(records);
        *left > 0 && !self.stop.is_cancelled()
    }
}

impl Waiting {
    /// From when the next batch under way counts; `None` when all are sent and answered.
    pub async fn next(&mut self) -> Option<u64> {
        self.since_us.recv().await
    }
}

/// Runs all workers to their end.
///
/// Errors: the first that one of them meets; the others are dropped.
pub async fn run(
    command: &BenchCommand,
    places: Vec<Place>,
    clock: &Clock,
    rng: &Rng,
    progress: &Progress,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let BenchCommand { record_bytes, batch_bytes, compression, .. } = *command;
    let prebuilt = Arc::new(prebuild(record_bytes, batch_bytes, compression, clock.wall_ms(), rng));
    // Readers share the partitions out; writers beyond their number share partitions.
    let workers = if command.consume { command.workers.min(places.len()) } else { command.workers };
    let left = Arc::new(Mutex::new(command.records));
    let shared = Arc::new(command.clone());
    let began_us = clock.boot_us();
    let (failures, mut failed) = mpsc::channel::<anyhow::Error>(1);
    let tasks = (0..workers).map(|number| {
        let own = |(at, place): (usize, &Place)| {
            let mine = if command.consume { at % workers == number } else { at == number % places.len() };
            mine.then(|| place.clone())
        };
        let worker = Worker {
            command: shared.clone(),
            prebuilt: prebuilt.clone(),
            schedule: Schedule::new(command.rate, command.records, prebuilt.count, workers as u64, number as u64),
            places: places.iter().enumerate().filter_map(own).collect(),
            left: left.clone(),
            clock: clock.clone(),
            began_us,
            progress: progress.clone(),
            stop: stop.clone(),
        };
        let failures = failures.clone();
        tokio::spawn(async move {
            let done = match (worker.command.door, worker.command.consume) {
                (Door::Kafka, false) => kafka::write(&worker).await,
                (Door::Kafka, true) => kafka::read(&worker).await,
                (Door::Grpc, false) => grpc::write(&worker).await,
                (Door::Grpc, true) => grpc::read(&worker).await,
            };
            if let Err(error) = done {
                // The first one is told.
                let _ = failures.try_send(error);
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    drop(failures);
    let all = try_join_all(tasks);
    tokio::pin!(all);
    tokio::select! {
        biased;
        Some(error) = failed.recv() => {
            stop.cancel();
            Err(error)
        }
        done = &mut all => {
            done?;
            failed.try_recv().map_or(Ok(()), Err)
        }
    }
}
