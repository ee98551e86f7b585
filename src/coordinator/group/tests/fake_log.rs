//! A log in memory whose commits happen when the test says so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::base::ErrorKind;
use crate::coordinator::runtime::{Commit, CoordinatorLog, LogChunk, LogFailure};
use crate::protocol::batch::{BatchHeader, header};

/// See the module. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct FakeLog(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    partitions: BTreeMap<i32, Partition>,
    /// Commits wait for [`FakeLog::release`].
    hold: bool,
    /// Reads fail.
    unreadable: bool,
    appends: usize,
}

type Pending = (i64, Bytes, oneshot::Sender<Result<i64, LogFailure>>);

#[derive(Default)]
struct Partition {
    log_start: i64,
    next: i64,
    committed: Vec<(i64, Bytes)>,
    pending: VecDeque<Pending>,
}

fn failure(kind: ErrorKind) -> LogFailure {
    LogFailure { kind, message: format!("made up: {kind:?}") }
}

impl Partition {
    fn end(&self) -> i64 {
        self.committed.last().map_or(self.log_start, |(offset, batch)| offset + count(batch))
    }
}

fn count(batch: &Bytes) -> i64 {
    i64::from(BatchHeader::decode(batch).unwrap().records_count)
}

impl FakeLog {
    pub(super) fn hold(&self, hold: bool) {
        self.0.lock().hold = hold;
    }

    pub(super) fn make_unreadable(&self, unreadable: bool) {
        self.0.lock().unreadable = unreadable;
    }

    /// Commits what is pending.
    pub(super) fn release(&self, partition: i32) {
        let mut state = self.0.lock();
        let partition = state.partitions.entry(partition).or_default();
        while let Some((offset, batch, done)) = partition.pending.pop_front() {
            partition.committed.push((offset, batch));
            let _ = done.send(Ok(offset));
        }
    }

    /// Loses what is pending.
    pub(super) fn lose(&self, partition: i32) {
        let mut state = self.0.lock();
        let partition = state.partitions.entry(partition).or_default();
        while let Some((_, _, done)) = partition.pending.pop_front() {
            let _ = done.send(Err(failure(ErrorKind::Fenced)));
        }
        partition.next = partition.end();
    }

    pub(super) fn pending(&self, partition: i32) -> usize {
        self.0.lock().partitions.get(&partition).map_or(0, |partition| partition.pending.len())
    }

    pub(super) fn appends(&self) -> usize {
        self.0.lock().appends
    }

    pub(super) fn log_start(&self, partition: i32) -> i64 {
        self.0.lock().partitions.get(&partition).map_or(0, |partition| partition.log_start)
    }

    pub(super) fn bytes(&self, partition: i32) -> usize {
        let state = self.0.lock();
        state.partitions.get(&partition).map_or(0, |p| p.committed.iter().map(|(_, batch)| batch.len()).sum())
    }
}

#[async_trait::async_trait]
impl CoordinatorLog for FakeLog {
    async fn append(&self, partition: i32, batch: Bytes) -> Result<Commit, LogFailure> {
        let mut state = self.0.lock();
        state.appends += 1;
        let hold = state.hold;
        let partition = state.partitions.entry(partition).or_default();
        let offset = partition.next;
        partition.next += count(&batch);
        let mut placed = batch.to_vec();
        header::assign(&mut placed, offset, 3);
        let placed = Bytes::from(placed);
        if hold || !partition.pending.is_empty() {
            let (done, commit) = oneshot::channel();
            partition.pending.push_back((offset, placed, done));
            Ok(async move { commit.await.unwrap_or_else(|_| Err(failure(ErrorKind::Fenced))) }.boxed())
        } else {
            partition.committed.push((offset, placed));
            Ok(async move { Ok(offset) }.boxed())
        }
    }

    async fn read_from(&self, partition: i32, offset: i64) -> Result<LogChunk, LogFailure> {
        let mut state = self.0.lock();
        if state.unreadable {
            return Err(failure(ErrorKind::Retriable));
        }
        let partition = state.partitions.entry(partition).or_default();
        let from = offset.max(partition.log_start);
        // A few batches at a time, two of them glued together.
        let found: Vec<&(i64, Bytes)> =
            partition.committed.iter().filter(|(at, batch)| at + count(batch) > from).take(3).collect();
        let next_offset = found.last().map_or(from, |(at, batch)| at + count(batch));
        let mut batches: Vec<Bytes> = found.iter().map(|(_, batch)| batch.clone()).collect();
        if batches.len() > 1 {
            let glued = [batches.remove(0), batches.remove(0)].concat();
            batches.insert(0, glued.into());
        }
        Ok(LogChunk { batches, next_offset, end: next_offset >= partition.end() })
    }

    async fn move_log_start(&self, partition: i32, offset: i64) -> Result<(), LogFailure> {
        let mut state = self.0.lock();
        let partition = state.partitions.entry(partition).or_default();
        partition.log_start = partition.log_start.max(offset);
        partition.committed.retain(|(at, batch)| at + count(batch) > offset);
        Ok(())
    }
}
