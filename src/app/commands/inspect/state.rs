//! The state of a partition, for programs and in a line for people. Pure.

use serde::Serialize;

use super::super::words::count;
use crate::format::state::{self as format, PartitionState};

/// See [`PartitionState`].
#[derive(Debug, Serialize)]
pub struct State {
    /// Epoch under which the session leads it.
    pub leader_epoch: i32,
    /// First offset.
    pub log_start: i64,
    /// End offset (exclusive).
    pub next_offset: i64,
    /// First offset of the oldest open transaction, or the end.
    pub last_stable: i64,
    /// Starts of leader epochs.
    pub epochs: Vec<Epoch>,
    /// Where the batches are.
    pub runs: Vec<Run>,
    /// Idempotent producers.
    pub producers: Vec<Producer>,
    /// Aborted transactions.
    pub aborted: Vec<Aborted>,
}

/// The start of a leader epoch.
#[derive(Debug, Serialize)]
pub struct Epoch {
    epoch: i32,
    start_offset: i64,
}

/// Consecutive batches in one object.
#[derive(Debug, Serialize)]
pub struct Run {
    /// First offset.
    pub first_offset: i64,
    /// End offset (exclusive).
    pub next_offset: i64,
    /// Largest timestamp in milliseconds since the Unix epoch.
    pub max_timestamp: i64,
    /// The object.
    pub key: String,
    /// Where the first frame stands in it.
    pub position: u32,
    /// Bytes up to the end of the last frame.
    pub length: u32,
}

/// An idempotent producer.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "as Kafka calls them")]
pub struct Producer {
    producer_id: i64,
    epoch: i16,
    txn_first_offset: Option<i64>,
    last_append_ms: i64,
    last_sequence: Option<i32>,
    last_offset: Option<i64>,
}

/// An aborted transaction.
#[derive(Debug, Serialize)]
pub struct Aborted {
    producer_id: i64,
    first_offset: i64,
    last_offset: i64,
}

impl From<&format::Run> for Run {
    fn from(run: &format::Run) -> Self {
        Self {
            first_offset: run.first_offset,
            next_offset: run.next_offset,
            max_timestamp: run.max_timestamp,
            key: run.object.key(),
            position: run.position,
            length: run.length,
        }
    }
}

impl From<&PartitionState> for State {
    fn from(state: &PartitionState) -> Self {
        let runs = state.runs.iter().map(Run::from);
        let producers = state.producers.iter().map(|(id, producer)| Producer {
            producer_id: *id,
            epoch: producer.epoch,
            txn_first_offset: producer.txn_first_offset,
            last_append_ms: producer.last_append_ms,
            last_sequence: producer.batches.back().map(|batch| batch.last_sequence),
            last_offset: producer.batches.back().map(|batch| batch.last_offset),
        });
        let aborted = state.aborted.iter().map(|txn| Aborted {
            producer_id: txn.producer_id,
            first_offset: txn.first_offset,
            last_offset: txn.last_offset,
        });
        let epochs =
            state.epochs.iter().map(|start| Epoch { epoch: start.epoch, start_offset: start.start_offset }).collect();
        Self {
            leader_epoch: state.leader_epoch,
            log_start: state.log_start,
            next_offset: state.next_offset,
            last_stable: state.last_stable(),
            epochs,
            runs: runs.collect(),
            producers: producers.collect(),
            aborted: aborted.collect(),
        }
    }
}

impl State {
    /// For people.
    pub fn words(&self) -> String {
        let stable = if self.last_stable == self.next_offset {
            String::new()
        } else {
            format!(", a transaction open from {} on", self.last_stable)
        };
        format!(
            "leader epoch {}, offsets {}..{} in {}{stable}, {}, {}",
            self.leader_epoch,
            self.log_start,
            self.next_offset,
            count(self.runs.len(), "run"),
            count(self.producers.len(), "producer"),
            count(self.aborted.len(), "aborted transaction"),
        )
    }
}
