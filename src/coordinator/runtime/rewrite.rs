//! Keeping a log that nobody compacts from growing for ever (`docs/adr/0003-coordinator-logs-rewrite-themselves.md`).
//!
//! When the log is much larger than the live state, the live state is appended again, slice by slice, as ordinary
//! records; when the last slice is committed, log start moves to the first slice. A slice holds the values of its own
//! moment, and whatever was appended between two slices lies in the log behind the first, so the fold from the new log
//! start gives the same state. A crash before log start has moved leaves the old log with some values written twice.

use super::limits::{BATCH_BYTES, REWRITE_FACTOR, REWRITE_MIN_BYTES};
use super::machine::{Machine, RawRecord};

/// How far a shard's rewriting has come.
#[derive(Debug, Default)]
pub(super) struct Rewriter {
    /// Bytes of the log from its start.
    log_bytes: u64,
    under_way: Option<UnderWay>,
}

#[derive(Debug, Default)]
struct UnderWay {
    /// Offset of the first slice, once it is committed.
    first_offset: Option<i64>,
    /// Bytes of the log before the first slice.
    bytes_before: u64,
    /// The last key of the newest slice; `None` when that slice was the last.
    cursor: Option<String>,
}

/// What comes after a committed slice.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Append these records.
    Slice(Vec<RawRecord>),
    /// Everything is rewritten: move log start here (inclusive).
    MoveLogStart(i64),
    /// Nothing.
    Idle,
}

impl Rewriter {
    /// A log that holds `log_bytes`.
    pub(super) fn new(log_bytes: u64) -> Self {
        Self { log_bytes, under_way: None }
    }

    /// A batch was handed to the log.
    pub(super) fn appended(&mut self, bytes: usize) {
        self.log_bytes += bytes as u64;
    }

    /// The first slice, if it is time for one. `end_offset` is where the log ends if nothing is in flight.
    pub(super) fn begin<M: Machine>(&mut self, machine: &M, end_offset: Option<i64>) -> Next {
        let worth = self.log_bytes >= REWRITE_MIN_BYTES && self.log_bytes / REWRITE_FACTOR >= machine.live_bytes();
        if self.under_way.is_some() || !worth {
            return Next::Idle;
        }
        let (slice, cursor) = machine.snapshot(None, BATCH_BYTES);
        if slice.is_empty() {
            // Nothing is alive: the whole log can go, once it has settled.
            let Some(end_offset) = end_offset else { return Next::Idle };
            self.log_bytes = 0;
            return Next::MoveLogStart(end_offset);
        }
        self.under_way = Some(UnderWay { first_offset: None, bytes_before: self.log_bytes, cursor });
        Next::Slice(slice)
    }

    /// A slice is committed; its first record is at `offset`.
    pub(super) fn committed<M: Machine>(&mut self, machine: &M, offset: i64) -> Next {
        let Some(under_way) = &mut self.under_way else { return Next::Idle };
        let first_offset = *under_way.first_offset.get_or_insert(offset);
        if let Some(after) = under_way.cursor.take() {
            let (slice, cursor) = machine.snapshot(Some(&after), BATCH_BYTES);
            under_way.cursor = cursor;
            if !slice.is_empty() {
                return Next::Slice(slice);
            }
        }
        self.log_bytes = self.log_bytes.saturating_sub(under_way.bytes_before);
        self.under_way = None;
        Next::MoveLogStart(first_offset)
    }
}
