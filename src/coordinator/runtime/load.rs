//! Reading a partition from its start to its end into a machine.

use bytes::Bytes;

use super::log::{CoordinatorLog, LogFailure};
use super::machine::Machine;
use super::metrics::RuntimeMetrics;
use crate::protocol::batch::{BatchHeader, records};

/// What a load found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Loaded {
    /// The offset after the last record.
    pub next_offset: i64,
    /// Bytes of the batches from log start.
    pub log_bytes: u64,
}

/// Replays everything that is committed.
///
/// An unreadable batch is skipped, counted and logged: the log has checked every batch before it let it in, so this is
/// damage, and the other groups of the shard should not go down with it.
pub(super) async fn load<M: Machine>(
    log: &dyn CoordinatorLog,
    partition: i32,
    machine: &mut M,
    metrics: &RuntimeMetrics,
) -> Result<Loaded, LogFailure> {
    let mut loaded = Loaded::default();
    loop {
        let chunk = log.read_from(partition, loaded.next_offset).await?;
        for batches in chunk.batches {
            replay(batches, loaded.next_offset, partition, machine, metrics, &mut loaded.log_bytes);
        }
        let stuck = chunk.next_offset <= loaded.next_offset;
        loaded.next_offset = loaded.next_offset.max(chunk.next_offset);
        if chunk.end || stuck {
            return Ok(loaded);
        }
        // A long log must not keep the thread from others.
        tokio::task::yield_now().await;
    }
}

fn replay<M: Machine>(
    mut batches: Bytes,
    from_offset: i64,
    partition: i32,
    machine: &mut M,
    metrics: &RuntimeMetrics,
    log_bytes: &mut u64,
) {
    while let Some(header) = BatchHeader::decode(&batches) {
        let bytes = header.total_bytes();
        if bytes > batches.len() || header.batch_length <= 0 {
            metrics.unreadable_batches.inc();
            tracing::error!(partition, offset = header.base_offset, "a batch of the coordinator's log is cut short");
            return;
        }
        let batch = batches.split_to(bytes);
        if header.is_control() {
            continue;
        }
        *log_bytes += bytes as u64;
        if let Err(error) = replay_batch(&batch, from_offset, machine, metrics) {
            metrics.unreadable_batches.inc();
            tracing::error!(partition, offset = header.base_offset, %error, "a batch of the coordinator's log is unreadable");
        }
    }
}

fn replay_batch<M: Machine>(
    batch: &Bytes,
    from_offset: i64,
    machine: &mut M,
    metrics: &RuntimeMetrics,
) -> Result<(), crate::protocol::batch::RecordError> {
    for record in records(batch)? {
        let record = record?;
        if record.offset < from_offset {
            continue;
        }
        metrics.loaded_records.inc();
        if let Some(key) = &record.key {
            machine.replay(key, record.value.as_deref());
        }
    }
    Ok(())
}
