//! Fetching many partitions at once, and waiting for more.
//!
//! A fetch is made of passes. A pass goes through the partitions in the request's order: what is in memory is taken at
//! once, what is stored is read concurrently, each partition within what the request's limit leaves it. What was found is
//! kept; when it is less than the request's least, the fetch subscribes to its partitions, passes once more (so that
//! nothing that came in between is missed) and then sleeps until the log calls or the deadline passes. There is no
//! polling: an idle fetch costs a subscription and a timer.
//!
//! Dropping the future at any point leaves nothing behind but loads of pages, which end by themselves.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use tokio::sync::{Notify, Semaphore};
use tokio::time::sleep;

use super::error::FetchError;
use super::metrics::Metrics;
use super::reader::{ReadResult, Reader, Reading};
use super::spans::Budget;
use crate::base::TopicPartition;
use crate::partition::Isolation;

/// Partitions of one fetch that are read from stored objects at once.
const PARTITIONS_AT_ONCE: usize = 16;
/// A leader epoch that says nothing.
pub const NO_LEADER_EPOCH: i32 = -1;

/// What is asked of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionRequest {
    /// The partition.
    pub partition: TopicPartition,
    /// Offset of the first record that is wanted.
    pub offset: i64,
    /// Most bytes of this partition.
    pub max_bytes: usize,
    /// The leader epoch that the reader believes in (KIP-320), or [`NO_LEADER_EPOCH`].
    pub current_leader_epoch: i32,
}

/// A fetch of several partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchRequest {
    /// The partitions, the most urgent first: those behind may go empty when `max_bytes` is used up.
    pub partitions: Vec<PartitionRequest>,
    /// Answer as soon as this many bytes are there.
    pub min_bytes: usize,
    /// Most bytes of all partitions together (the first batch is given whatever its size).
    pub max_bytes: usize,
    /// Answer with what there is after this long, in milliseconds; 0 does not wait.
    pub max_wait_ms: u64,
    /// How far the reader may see.
    pub isolation: Isolation,
}

/// The answer for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionFetch {
    /// The partition.
    pub partition: TopicPartition,
    /// What was read, or why nothing could be.
    pub result: Result<ReadResult, FetchError>,
}

/// Answers fetches. Clones share the limit on waiters.
#[derive(Debug, Clone)]
pub struct Fetches {
    reader: Reader,
    waiters: Arc<Semaphore>,
    metrics: Metrics,
}

impl Fetches {
    /// At most `fetch_waiters` fetches wait at once; more are answered with what there is.
    pub fn new(reader: Reader, fetch_waiters: usize) -> Self {
        let metrics = reader.metrics().clone();
        Self { reader, waiters: Arc::new(Semaphore::new(fetch_waiters.min(Semaphore::MAX_PERMITS))), metrics }
    }

    /// The reader of single partitions underneath.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// One answer a partition, in the request's order. Returns when `min_bytes` are there, a partition has an error, or
    /// the wait is over. An error of one partition leaves the others' answers as they are.
    pub async fn fetch(&self, request: &FetchRequest) -> Vec<PartitionFetch> {
        let mut fetch = Fetch::new(&self.reader, request);
        fetch.pass().await;
        if fetch.wants_more() && request.max_wait_ms > 0 {
            self.wait(&mut fetch).await;
        }
        fetch.answers()
    }

    async fn wait(&self, fetch: &mut Fetch<'_>) {
        let Ok(_place) = self.waiters.try_acquire() else {
            self.metrics.waiters_refused.inc();
            return;
        };
        let _waiting = Waiting::new(&self.metrics);
        let mut deadline = pin!(sleep(Duration::from_millis(fetch.request.max_wait_ms)));
        let call = Arc::new(Notify::new());
        let partitions: Vec<_> = fetch.request.partitions.iter().map(|asked| asked.partition).collect();
        let _subscription = self.reader.log().subscribe(&partitions, call.clone());
        loop {
            fetch.pass().await;
            if !fetch.wants_more() {
                self.metrics.wakes.inc();
                return;
            }
            tokio::select! {
                biased;
                () = call.notified() => {}
                () = &mut deadline => {
                    self.metrics.timeouts.inc();
                    return;
                }
            }
        }
    }
}

/// Counts a waiting fetch for as long as it lives.
struct Waiting<'a>(&'a Metrics);

impl<'a> Waiting<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.waiters.inc();
        Self(metrics)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiters.dec();
    }
}

/// A fetch under way.
struct Fetch<'a> {
    reader: &'a Reader,
    request: &'a FetchRequest,
    /// By position in the request; `None` before the first pass.
    answers: Vec<Option<Result<ReadResult, FetchError>>>,
    found_bytes: usize,
    failed: bool,
}

/// How a partition came out of a round.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// There may be more for it in this pass.
    Open,
    /// Not before the log moves on.
    Over,
}

struct Job {
    at: usize,
    reading: Reading,
    budget: Budget,
    /// Whether only the partition's own limit bounds it.
    own_limit: bool,
}

impl<'a> Fetch<'a> {
    fn new(reader: &'a Reader, request: &'a FetchRequest) -> Self {
        let answers = request.partitions.iter().map(|_| None).collect();
        Self { reader, request, answers, found_bytes: 0, failed: false }
    }

    fn wants_more(&self) -> bool {
        !self.failed
            && !self.answers.is_empty()
            && self.found_bytes < self.request.min_bytes
            && (self.found_bytes == 0 || self.found_bytes < self.request.max_bytes)
    }

    fn answers(self) -> Vec<PartitionFetch> {
        let partitions = self.request.partitions.iter().map(|asked| asked.partition);
        partitions
            .zip(self.answers)
            .filter_map(|(partition, answer)| answer.map(|result| PartitionFetch { partition, result }))
            .collect()
    }

    /// Takes all that is there now, as far as the limits go.
    async fn pass(&mut self) {
        let mut turns: Vec<Turn> = vec![Turn::Open; self.answers.len()];
        loop {
            let before = (self.found_bytes, turns.iter().filter(|turn| **turn == Turn::Open).count());
            self.round(&mut turns).await;
            let open = turns.iter().filter(|turn| **turn == Turn::Open).count();
            let full = self.found_bytes > 0 && self.found_bytes >= self.request.max_bytes;
            if open == 0 || full || (self.found_bytes, open) == before {
                return;
            }
        }
    }

    /// One go through the open partitions.
    async fn round(&mut self, turns: &mut [Turn]) {
        let mut left = self.request.max_bytes.saturating_sub(self.found_bytes);
        // Kafka's rule: whoever comes first with a batch may return it, however large.
        let mut first = self.found_bytes == 0;
        let mut jobs = Vec::new();
        for at in 0..self.answers.len() {
            if turns[at] == Turn::Over {
                continue;
            }
            let Some(mut job) = self.begin(at, left, first) else {
                turns[at] = Turn::Over;
                continue;
            };
            let taken = self.reader.take_memory(&mut job.reading, &mut job.budget);
            if taken.is_ok() && job.reading.is_stored() && !job.budget.is_spent() {
                // What it may need is set aside while the others are looked at; a first batch may be as large as its run.
                let own = job.budget.left_bytes() + job.reading.found_bytes();
                left = left.saturating_sub(if first { own.max(job.reading.first_run_bytes()) } else { own });
                first = false;
                jobs.push(job);
            } else {
                let bytes = self.settle(job, taken, turns);
                left = left.saturating_sub(bytes);
                first &= bytes == 0;
            }
        }
        let reader = self.reader;
        let mut reads = stream::iter(jobs)
            .map(|mut job: Job| async move {
                let read = reader.advance(&mut job.reading, &mut job.budget).await;
                (job, read)
            })
            .buffer_unordered(PARTITIONS_AT_ONCE);
        while let Some((job, read)) = reads.next().await {
            self.settle(job, read, turns);
        }
    }

    /// Plans what is next for a partition; `None` if it has an error.
    fn begin(&mut self, at: usize, left: usize, first: bool) -> Option<Job> {
        let asked = &self.request.partitions[at];
        let (offset, had) = match &self.answers[at] {
            None => (asked.offset, 0),
            Some(Ok(had)) => (had.next_offset, had.bytes()),
            Some(Err(_)) => return None,
        };
        let own = asked.max_bytes.saturating_sub(had);
        let budget = Budget::new(own.min(left), first);
        let begun = self.reader.begin(asked.partition, offset, budget, self.request.isolation);
        match begun.and_then(|reading| check_epoch(asked, reading)) {
            Ok(reading) => Some(Job { at, reading, budget, own_limit: own <= left }),
            Err(error) => {
                self.fail(at, error);
                None
            }
        }
    }

    /// Keeps what was read. Returns how many bytes.
    fn settle(&mut self, job: Job, read: Result<(), FetchError>, turns: &mut [Turn]) -> usize {
        let Job { at, reading, budget, own_limit } = job;
        if let Err(error) = read {
            turns[at] = Turn::Over;
            self.fail(at, error);
            return 0;
        }
        let refused_only = budget.is_spent() && reading.found_bytes() == 0;
        // A batch that was too large gets another chance as the first of the answer.
        if !budget.is_spent() || (own_limit && (!refused_only || self.found_bytes > 0)) {
            turns[at] = Turn::Over;
        }
        let found = reading.done();
        let bytes = found.bytes();
        self.found_bytes += bytes;
        self.answers[at] = Some(Ok(match self.answers[at].take() {
            Some(Ok(had)) => join(had, found),
            _ => found,
        }));
        bytes
    }

    /// An error is the partition's answer unless it has bytes already; then it is met again by the next fetch.
    fn fail(&mut self, at: usize, error: FetchError) {
        if !matches!(&self.answers[at], Some(Ok(had)) if !had.batches.is_empty()) {
            self.answers[at] = Some(Err(error));
        }
        self.failed = true;
    }
}

fn check_epoch(asked: &PartitionRequest, reading: Reading) -> Result<Reading, FetchError> {
    let (partition, asked, current) = (asked.partition, asked.current_leader_epoch, reading.view().leader_epoch);
    if asked == NO_LEADER_EPOCH || asked == current {
        Ok(reading)
    } else if asked < current {
        Err(FetchError::FencedLeaderEpoch { partition, asked, current })
    } else {
        Err(FetchError::UnknownLeaderEpoch { partition, asked, current })
    }
}

/// Puts a later read of the same partition behind an earlier one.
fn join(mut had: ReadResult, found: ReadResult) -> ReadResult {
    had.batches.extend(found.batches);
    for txn in found.aborted {
        if !had.aborted.contains(&txn) {
            had.aborted.push(txn);
        }
    }
    ReadResult { view: found.view, limit: found.limit, next_offset: found.next_offset, ..had }
}
