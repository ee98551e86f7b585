//! Offsets by time, exact to the record (Kafka's ListOffsets; KIP-79, KIP-734).
//!
//! Runs and batches that cannot hold the answer are passed over by their largest timestamp; the records of the one batch
//! that can are decompressed and looked at.

use bytes::Bytes;

use super::error::FetchError;
use super::reader::{Reader, corrupt};
use super::spans::BatchSpan;
use crate::base::TopicPartition;
use crate::partition::{Isolation, LogError, PartitionView, Run};
use crate::protocol::batch::BatchHeader;
use crate::protocol::batch::records::{Record, RecordError, records};

/// A record found by its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampHit {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// Epoch of the leader that appended it.
    pub leader_epoch: i32,
}

/// Times a lookup starts anew because the log moved under it.
const RETRIES: usize = 3;

impl Reader {
    /// The first record at or after log start whose timestamp is at least `timestamp` (inclusive) and whose offset the
    /// reader may see; `None` if there is none.
    pub async fn first_at_or_after(
        &self,
        partition: TopicPartition,
        timestamp: i64,
        isolation: Isolation,
    ) -> Result<Option<TimestampHit>, FetchError> {
        self.search(partition, isolation, Wanted::AtLeast(timestamp)).await
    }

    /// The first of the records with the largest timestamp (KIP-734); `None` if the partition is empty.
    pub async fn max_timestamp(
        &self,
        partition: TopicPartition,
        isolation: Isolation,
    ) -> Result<Option<TimestampHit>, FetchError> {
        self.search(partition, isolation, Wanted::Largest).await
    }

    /// The first offset that can be read.
    pub fn earliest(&self, partition: TopicPartition) -> Result<PartitionView, FetchError> {
        Ok(self.log().view(partition)?)
    }

    /// The end (exclusive) of what the reader may see, and the leader epoch of this broker.
    pub fn latest(&self, partition: TopicPartition, isolation: Isolation) -> Result<(i64, i32), FetchError> {
        let view = self.log().view(partition)?;
        Ok((end_of(&view, isolation), view.leader_epoch))
    }

    async fn search(
        &self,
        partition: TopicPartition,
        isolation: Isolation,
        wanted: Wanted,
    ) -> Result<Option<TimestampHit>, FetchError> {
        let mut tries = 0;
        loop {
            let (view, runs) = self.log().runs_from(partition, self.log().view(partition)?.log_start)?;
            let found = match wanted {
                Wanted::AtLeast(timestamp) => self.first_in(partition, &view, isolation, &runs, timestamp).await,
                Wanted::Largest => self.largest_in(partition, &view, isolation, &runs).await,
            };
            tries += 1;
            match found {
                // Retention took away what was being looked at.
                Err(FetchError::Missing { .. } | FetchError::Log(LogError::OffsetOutOfRange { .. }))
                    if tries < RETRIES => {}
                Err(error) => {
                    self.count(&error);
                    return Err(error);
                }
                found => return found,
            }
        }
    }

    async fn first_in(
        &self,
        partition: TopicPartition,
        view: &PartitionView,
        isolation: Isolation,
        runs: &[Run],
        timestamp: i64,
    ) -> Result<Option<TimestampHit>, FetchError> {
        let end = end_of(view, isolation);
        for run in runs.iter().filter(|run| run.max_timestamp >= timestamp) {
            if run.first_offset >= end {
                break;
            }
            let (_, spans) = self.batches_of(partition, *run).await?;
            let candidates = spans.iter().filter(|span| {
                span.max_timestamp >= timestamp && span.last_offset >= view.log_start && span.base_offset < end
            });
            for span in candidates {
                let batch = self.batch_at(partition, span).await?;
                let matches = |record: &Record| record.offset >= view.log_start && record.timestamp >= timestamp;
                if let Some(hit) =
                    record_in(partition, run, &batch, |mut records| Iterator::find(&mut records, matches))?
                {
                    return Ok((hit.offset < end).then_some(hit));
                }
            }
        }
        Ok(None)
    }

    async fn largest_in(
        &self,
        partition: TopicPartition,
        view: &PartitionView,
        isolation: Isolation,
        runs: &[Run],
    ) -> Result<Option<TimestampHit>, FetchError> {
        let end = end_of(view, isolation);
        // Runs by their largest timestamp, the earlier first where equal; those that reach across a limit are only a bound.
        let mut runs: Vec<&Run> = runs.iter().filter(|run| run.first_offset < end).collect();
        runs.sort_by_key(|run| (std::cmp::Reverse(run.max_timestamp), run.first_offset));
        let mut best: Option<TimestampHit> = None;
        for run in runs {
            if best.is_some_and(|best| best.timestamp > run.max_timestamp) {
                break;
            }
            let (_, spans) = self.batches_of(partition, *run).await?;
            let mut spans: Vec<&BatchSpan> =
                spans.iter().filter(|span| span.last_offset >= view.log_start && span.base_offset < end).collect();
            spans.sort_by_key(|span| (std::cmp::Reverse(span.max_timestamp), span.base_offset));
            for span in spans {
                if best.is_some_and(|best| best.timestamp > span.max_timestamp) {
                    break;
                }
                let batch = self.batch_at(partition, span).await?;
                let visible = |record: &Record| record.offset >= view.log_start && record.offset < end;
                let largest = |records: &mut dyn Iterator<Item = Record>| {
                    records
                        .filter(visible)
                        .reduce(|best, next| if next.timestamp > best.timestamp { next } else { best })
                };
                if let Some(hit) = record_in(partition, run, &batch, largest)?
                    && best.is_none_or(|best| (hit.timestamp, best.offset) > (best.timestamp, hit.offset))
                {
                    best = Some(hit);
                }
            }
        }
        Ok(best)
    }

    /// The batch at `span`, from memory if it is still there.
    async fn batch_at(&self, partition: TopicPartition, span: &BatchSpan) -> Result<Bytes, FetchError> {
        // What is found below the isolation's end is checked by the caller.
        let read = self.read(
            partition,
            span.base_offset.max(self.log().view(partition)?.log_start),
            1,
            Isolation::ReadUncommitted,
            true,
        );
        let offset = span.base_offset;
        let nothing = FetchError::Seam { partition, expected: offset, found: span.last_offset + 1 };
        read.await?.batches.into_iter().next().ok_or(nothing)
    }
}

/// Applies `pick` to the batch's records; damage among them is an error.
fn record_in(
    partition: TopicPartition,
    run: &Run,
    batch: &Bytes,
    pick: impl FnOnce(&mut dyn Iterator<Item = Record>) -> Option<Record>,
) -> Result<Option<TimestampHit>, FetchError> {
    let Some(header) = BatchHeader::decode(batch) else { return Ok(None) };
    let corrupt = |error: RecordError| corrupt(&run.object.key(), partition, header.base_offset, &error.to_string());
    let mut bad = None;
    let mut good = records(batch).map_err(corrupt)?.map_while(|record| record.map_err(|error| bad = Some(error)).ok());
    let picked = pick(&mut good);
    drop(good);
    if let Some(error) = bad {
        return Err(corrupt(error));
    }
    Ok(picked.map(|record| TimestampHit {
        offset: record.offset,
        timestamp: record.timestamp,
        leader_epoch: header.partition_leader_epoch,
    }))
}

#[derive(Clone, Copy)]
enum Wanted {
    AtLeast(i64),
    Largest,
}

fn end_of(view: &PartitionView, isolation: Isolation) -> i64 {
    match isolation {
        Isolation::ReadUncommitted => view.high_watermark,
        Isolation::ReadCommitted => view.last_stable,
    }
}
