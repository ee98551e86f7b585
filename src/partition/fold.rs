//! The fold: partition state = fold over the entries of the streams that owned it.
//!
//! Pure: no clock, no IO, no randomness. Live commits, recovery, takeover and the simulator all run this code.
//!
//! Invariant: after `fold`, `log_start <= next_offset`, runs are in offset order without overlap, and `next_offset` has not
//! moved back. An entry that would break this is refused and leaves the state as it was.

use crate::format::entry::{BatchFacts, Entry};
use crate::format::state::{AbortedTxn, EpochStart, ObjectRef, PartitionState, Run};

use super::producers;

/// An entry does not fit the state before it: the stream is damaged, or there is a bug.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// The batch does not begin where the log ends.
    #[error("a batch begins at offset {found} where {expected} follows")]
    NotNext {
        /// End of the log.
        expected: i64,
        /// The batch's base offset.
        found: i64,
    },
    /// The runs that would take the place of others do not begin and end where those do.
    #[error("runs from offset {first_offset} to {next_offset} replace no whole runs")]
    NotTheSameRuns {
        /// First offset of the new runs.
        first_offset: i64,
        /// End (exclusive) of the new runs.
        next_offset: i64,
    },
    /// Log start would move past the end of the log.
    #[error("log start {log_start} lies past the end of the log {next_offset}")]
    StartPastEnd {
        /// The asked-for log start.
        log_start: i64,
        /// End of the log.
        next_offset: i64,
    },
}

/// Applies one entry that stands in `object`. `Dropped` and `Released` leave the state alone: whether the partition is
/// still in the stream is the stream's business.
pub fn fold(state: &mut PartitionState, object: ObjectRef, entry: &Entry) -> Result<(), FoldError> {
    match entry {
        Entry::Batch(batch) => append(state, object, batch),
        Entry::Acquired(acquired) => {
            state.clone_from(acquired);
            Ok(())
        }
        Entry::LogStartMoved { log_start } => move_log_start(state, *log_start),
        Entry::ProducersExpired { up_to_ms } => {
            producers::expire(&mut state.producers, *up_to_ms);
            Ok(())
        }
        Entry::RunsReplaced(runs) => replace_runs(state, runs),
        Entry::Released(_) | Entry::Dropped => Ok(()),
    }
}

/// The same batches lie somewhere else. What log start has passed since the runs were made is gone all the same.
fn replace_runs(state: &mut PartitionState, runs: &[Run]) -> Result<(), FoldError> {
    let Some((from, to)) = replaced(state, runs)? else { return Ok(()) };
    let log_start = state.log_start;
    let mut behind = state.runs.split_off(to);
    state.runs.truncate(from);
    state.runs.extend(runs.iter().filter(|run| run.next_offset > log_start));
    state.runs.append(&mut behind);
    Ok(())
}

/// Which runs of the state (by place, the second exclusive) lie where `runs` do; `None` if log start has passed all of them.
pub fn replaced(state: &PartitionState, runs: &[Run]) -> Result<Option<(usize, usize)>, FoldError> {
    let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return Ok(None) };
    let (first_offset, next_offset) = (first.first_offset, last.next_offset);
    if next_offset <= state.log_start {
        return Ok(None);
    }
    let from = state.runs.partition_point(|run| run.next_offset <= first_offset);
    let to = state.runs.partition_point(|run| run.next_offset <= next_offset);
    let begins = state.runs.get(from).is_some_and(|run| {
        // Those before log start may have been dropped since.
        run.first_offset == first_offset
            || (from == 0 && run.first_offset > first_offset && state.log_start > first_offset)
    });
    let ends =
        to.checked_sub(1).and_then(|last| state.runs.get(last)).is_some_and(|run| run.next_offset == next_offset);
    if begins && ends && from < to {
        Ok(Some((from, to)))
    } else {
        Err(FoldError::NotTheSameRuns { first_offset, next_offset })
    }
}

fn append(state: &mut PartitionState, object: ObjectRef, batch: &BatchFacts) -> Result<(), FoldError> {
    if batch.base_offset != state.next_offset {
        return Err(FoldError::NotNext { expected: state.next_offset, found: batch.base_offset });
    }
    if state.epochs.last().is_none_or(|last| batch.leader_epoch > last.epoch) {
        state.epochs.push(EpochStart { epoch: batch.leader_epoch, start_offset: batch.base_offset });
    }
    extend_runs(state, object, batch);
    if let Some(ended) = producers::append(&mut state.producers, batch) {
        state.aborted.push_back(AbortedTxn {
            producer_id: batch.producer_id,
            first_offset: ended,
            last_offset: batch.last_offset,
        });
    }
    state.next_offset = batch.last_offset + 1;
    Ok(())
}

fn extend_runs(state: &mut PartitionState, object: ObjectRef, batch: &BatchFacts) {
    match state.runs.back_mut() {
        Some(run) if run.object == object => {
            run.next_offset = batch.last_offset + 1;
            run.max_timestamp = run.max_timestamp.max(batch.max_timestamp);
            run.length = batch.position + batch.frame_bytes() - run.position;
            run.batch_bytes += batch.batch_bytes;
        }
        _ => state.runs.push_back(Run {
            first_offset: batch.base_offset,
            next_offset: batch.last_offset + 1,
            max_timestamp: batch.max_timestamp,
            object,
            position: batch.position,
            length: batch.frame_bytes(),
            batch_bytes: batch.batch_bytes,
        }),
    }
}

/// Log start only moves up; a smaller one (an entry judged before another was committed) changes nothing.
fn move_log_start(state: &mut PartitionState, log_start: i64) -> Result<(), FoldError> {
    if log_start > state.next_offset {
        return Err(FoldError::StartPastEnd { log_start, next_offset: state.next_offset });
    }
    if log_start <= state.log_start {
        return Ok(());
    }
    state.log_start = log_start;
    while state.runs.front().is_some_and(|run| run.next_offset <= log_start) {
        state.runs.pop_front();
    }
    state.aborted.retain(|txn| txn.last_offset >= log_start);
    // Epochs that ended before log start are forgotten; the one that log start lies in now starts there.
    let current = state.epochs.iter().rposition(|epoch| epoch.start_offset <= log_start);
    if let Some(current) = current {
        state.epochs.drain(..current);
        state.epochs[0].start_offset = log_start;
    }
    Ok(())
}
