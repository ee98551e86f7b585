//! One partition as its leader holds it: the committed state, the end of the log, and the newest batches in memory.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::base::TopicPartition;
use crate::format::entry::Entry;
use crate::format::state::{ObjectRef, PartitionState, Run};

use super::api::{Isolation, LogError, PartitionView, ProducerView, ReadPlan, ReadSource};
use super::fold::{FoldError, fold};
use super::segment_buffer::CutSegment;

/// Most runs that one read plan names.
pub const PLAN_RUNS: usize = 64;

#[derive(Debug)]
struct TailBatch {
    next_offset: i64,
    seq: u64,
    bytes: Bytes,
}

/// How far the `Released` entry of a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// There is none.
    No,
    /// It is on its way.
    Pending,
    /// It is committed.
    Committed,
}

/// See the module.
#[derive(Debug)]
pub struct Live {
    /// The fold of what is committed.
    pub state: PartitionState,
    /// Offset that the next append gets.
    pub log_end: i64,
    /// A `Dropped` entry is on its way.
    pub dropping: bool,
    /// Whether it is being given away: then nothing is appended any more.
    pub release: Release,
    /// The `Acquired` entry is committed: the stream owns the partition.
    pub owned: bool,
    /// Committed batches in memory: the newest ones, without gaps up to the high watermark.
    tail: VecDeque<TailBatch>,
    size_bytes: u64,
    last_stable: i64,
}

impl Live {
    /// Starts from an acquired state.
    pub fn new(state: PartitionState) -> Self {
        let mut live = Self {
            log_end: state.next_offset,
            dropping: false,
            release: Release::No,
            owned: false,
            tail: VecDeque::new(),
            size_bytes: 0,
            last_stable: 0,
            state,
        };
        live.refresh();
        live
    }

    /// Itself, unless it is being given away.
    pub fn writable(&self) -> Option<&Self> {
        (self.release == Release::No).then_some(self)
    }

    fn refresh(&mut self) {
        self.size_bytes = self.state.runs.iter().map(|run| u64::from(run.batch_bytes)).sum();
        self.last_stable = self.state.last_stable();
    }

    /// Folds a committed entry in.
    pub fn commit(&mut self, object: ObjectRef, entry: &Entry, segment: &CutSegment) -> Result<(), FoldError> {
        if let Entry::Acquired(_) = entry {
            // The state was installed when the entry was written; nothing else can have been committed in between.
            self.owned = true;
            return Ok(());
        }
        if let Entry::Released(_) = entry {
            self.release = Release::Committed;
            return Ok(());
        }
        fold(&mut self.state, object, entry)?;
        match entry {
            Entry::Batch(facts) => {
                self.size_bytes += u64::from(facts.batch_bytes);
                self.last_stable = if facts.is_transactional() || facts.marker.is_some() {
                    self.state.last_stable()
                } else if self.last_stable == facts.base_offset {
                    self.state.next_offset
                } else {
                    self.last_stable
                };
                match segment.batch(facts) {
                    Some(bytes) => {
                        let next_offset = facts.last_offset + 1;
                        self.tail.push_back(TailBatch { next_offset, seq: segment.seq, bytes });
                    }
                    None => self.tail.clear(),
                }
            }
            _ => self.refresh(),
        }
        Ok(())
    }

    /// Forgets batches of segments up to `seq`.
    pub fn evict_tail(&mut self, seq: u64) {
        while self.tail.front().is_some_and(|batch| batch.seq <= seq) {
            self.tail.pop_front();
        }
        if self.tail.is_empty() {
            self.tail.shrink_to_fit();
        }
    }

    /// Its offsets.
    pub fn view(&self) -> PartitionView {
        PartitionView {
            leader_epoch: self.state.leader_epoch,
            log_start: self.state.log_start,
            high_watermark: self.state.next_offset,
            last_stable: self.last_stable,
            log_end: self.log_end,
            size_bytes: self.size_bytes,
        }
    }

    /// Where the bytes at `offset` are; see [`ReadPlan`].
    pub fn plan_read(
        &self,
        partition: TopicPartition,
        offset: i64,
        max_bytes: usize,
        isolation: Isolation,
    ) -> Result<ReadPlan, LogError> {
        let view = self.view();
        if offset < view.log_start || offset > view.high_watermark {
            return Err(LogError::OffsetOutOfRange {
                partition,
                offset,
                log_start: view.log_start,
                high_watermark: view.high_watermark,
            });
        }
        let limit = match isolation {
            Isolation::ReadUncommitted => view.high_watermark,
            Isolation::ReadCommitted => view.last_stable,
        };
        let aborted = match isolation {
            Isolation::ReadUncommitted => Vec::new(),
            Isolation::ReadCommitted => {
                let overlaps =
                    |txn: &&crate::format::state::AbortedTxn| txn.last_offset >= offset && txn.first_offset < limit;
                self.state.aborted.iter().filter(overlaps).copied().collect()
            }
        };
        let source = if offset >= limit { ReadSource::End } else { self.source(offset, limit, max_bytes) };
        Ok(ReadPlan { view, limit, aborted, source })
    }

    fn source(&self, offset: i64, limit: i64, max_bytes: usize) -> ReadSource {
        let tail_start = self.tail_start();
        if offset >= tail_start {
            let first = self.tail.partition_point(|batch| batch.next_offset <= offset);
            let mut batches = Vec::new();
            let mut bytes = 0;
            for batch in self.tail.range(first..) {
                if batch.next_offset > limit || (!batches.is_empty() && bytes + batch.bytes.len() > max_bytes) {
                    break;
                }
                bytes += batch.bytes.len();
                batches.push(batch.bytes.clone());
            }
            if !batches.is_empty() {
                return ReadSource::Memory(batches);
            }
        }
        let first = self.state.runs.partition_point(|run| run.next_offset <= offset);
        let mut runs: Vec<Run> = Vec::new();
        let mut bytes = 0_usize;
        for run in self.state.runs.range(first..) {
            let enough = !runs.is_empty() && (bytes >= max_bytes || run.first_offset >= tail_start);
            if enough || runs.len() == PLAN_RUNS || run.first_offset >= limit {
                break;
            }
            bytes += run.batch_bytes as usize;
            runs.push(*run);
        }
        if runs.is_empty() { ReadSource::End } else { ReadSource::Runs(runs) }
    }

    /// First offset that the memory tail holds; the high watermark when it holds nothing.
    fn tail_start(&self) -> i64 {
        self.tail.front().map_or(self.state.next_offset, |front| {
            crate::protocol::batch::BatchHeader::decode(&front.bytes)
                .map_or(self.state.next_offset, |header| header.base_offset)
        })
    }

    /// Runs that hold or follow `offset`.
    pub fn runs_from(&self, offset: i64) -> Vec<Run> {
        let first = self.state.runs.partition_point(|run| run.next_offset <= offset);
        self.state.runs.range(first..).copied().collect()
    }

    /// The largest known epoch that is not above `leader_epoch`, and where it ended (Kafka's `endOffsetFor`, KIP-101 and
    /// KIP-279). `(-1, -1)` when there is none.
    pub fn epoch_end(&self, leader_epoch: i32) -> (i32, i64) {
        let state = &self.state;
        if leader_epoch == state.leader_epoch {
            return (leader_epoch, state.next_offset);
        }
        if leader_epoch < 0 || leader_epoch > state.leader_epoch {
            return (-1, -1);
        }
        let after = state.epochs.partition_point(|epoch| epoch.epoch <= leader_epoch);
        let end = state.epochs.get(after).map_or(state.next_offset, |next| next.start_offset);
        match after.checked_sub(1).and_then(|at| state.epochs.get(at)) {
            Some(epoch) => (epoch.epoch, end),
            None if state.epochs.is_empty() => (-1, -1),
            None => (leader_epoch, end),
        }
    }

    /// The producers that are known.
    pub fn producers(&self) -> Vec<ProducerView> {
        let view = |(id, producer): (&i64, &crate::format::state::ProducerState)| ProducerView {
            producer_id: *id,
            producer_epoch: producer.epoch,
            last_sequence: producer.batches.back().map_or(-1, |batch| batch.last_sequence),
            last_timestamp: producer.batches.back().map_or(producer.last_append_ms, |batch| batch.timestamp),
            coordinator_epoch: producer.coordinator_epoch,
            current_txn_start_offset: producer.txn_first_offset.unwrap_or(-1),
        };
        self.state.producers.iter().map(view).collect()
    }
}
