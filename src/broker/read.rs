//! Reading: fetch, offsets by time, leader epochs.

use super::standing::Standing;
use super::{Broker, BrokerError, Topic, check_leader_epoch, partition_of, readable_end};
use crate::base::{ErrorKind, TopicPartition};
use crate::fetch::{FetchError, FetchRequest, PartitionFetch, ReadResult, Reader, TimestampHit};
use crate::partition::{Isolation, LogError};

/// Which offset is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The first that can be read.
    Earliest,
    /// The end (exclusive) of what the reader may see.
    Latest,
    /// The record with the largest timestamp (KIP-734).
    MaxTimestamp,
    /// The end of what lies only in a second tier (KIP-1005): nothing does.
    LatestTiered,
    /// The first record at or after this time, in milliseconds since the Unix epoch.
    Timestamp(i64),
}

/// An offset that was asked for; all -1 if there is no such record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedOffset {
    /// The offset.
    pub offset: i64,
    /// The record's timestamp in milliseconds since the Unix epoch, or -1 where no record was asked for.
    pub timestamp: i64,
    /// Epoch of the leader that appended it, or of this leader.
    pub leader_epoch: i32,
}

impl ListedOffset {
    const NONE: Self = Self { offset: -1, timestamp: -1, leader_epoch: -1 };

    fn found(hit: Option<TimestampHit>) -> Self {
        hit.map_or(Self::NONE, |hit| Self {
            offset: hit.offset,
            timestamp: hit.timestamp,
            leader_epoch: hit.leader_epoch,
        })
    }
}

impl Broker {
    /// Reads several partitions, waiting for more where the request says so. Dropping the future stops the wait.
    ///
    /// Only a session that nobody has fenced says that an offset lies past the end: one that was and does not know it yet
    /// has an old end.
    pub async fn fetch(&self, request: &FetchRequest) -> Vec<PartitionFetch> {
        let mut fetched = self.fetches.fetch(request).await;
        if fetched.iter().any(|one| past_the_end(&one.result).is_some()) {
            let standing = self.confirm.confirm(self.log.as_ref()).await;
            for one in &mut fetched {
                if let Some(offset) = past_the_end(&one.result) {
                    one.result = unless_current(&standing, one, offset);
                }
            }
        }
        let mut traffic = self.traffic.lock();
        for one in &fetched {
            if let Ok(read) = &one.result {
                traffic.note(one.partition, read.bytes() as u64);
            }
        }
        drop(traffic);
        fetched
    }

    /// Reads single partitions of the log, for what is not a client.
    pub fn reader(&self) -> &Reader {
        self.fetches.reader()
    }

    /// One offset of a partition.
    pub async fn list_offset(
        &self,
        topic: &Topic,
        partition: i32,
        leader_epoch: i32,
        spec: OffsetSpec,
        isolation: Isolation,
    ) -> Result<ListedOffset, BrokerError> {
        let id = partition_of(topic, partition)?;
        let reader = self.fetches.reader();
        let view = reader.log().view(id)?;
        check_leader_epoch(&view, leader_epoch)?;
        let plain = |offset| ListedOffset { offset, timestamp: -1, leader_epoch: view.leader_epoch };
        Ok(match spec {
            OffsetSpec::Earliest => {
                // Clients compare the epoch with the one that they read at that offset.
                let (leader_epoch, _) = self.epoch_at(id, view.log_start)?;
                ListedOffset { leader_epoch, ..plain(view.log_start) }
            }
            OffsetSpec::Latest => plain(readable_end(&view, isolation)),
            OffsetSpec::LatestTiered => ListedOffset::NONE,
            OffsetSpec::MaxTimestamp => ListedOffset::found(reader.max_timestamp(id, isolation).await?),
            OffsetSpec::Timestamp(at) => ListedOffset::found(reader.first_at_or_after(id, at, isolation).await?),
        })
    }

    /// Where a leader epoch ended: the largest epoch at or below `asked` and its end offset (exclusive); `(-1, -1)` if
    /// there is none (KIP-320).
    pub fn epoch_end(
        &self,
        topic: &Topic,
        partition: i32,
        current_leader_epoch: i32,
        asked: i32,
    ) -> Result<(i32, i64), BrokerError> {
        let id = partition_of(topic, partition)?;
        let view = self.fetches.reader().log().view(id)?;
        check_leader_epoch(&view, current_leader_epoch)?;
        Ok(self.log.epoch_end(id, asked)?)
    }

    /// The epoch under which `offset` was (or will be) written, as far as it is known.
    fn epoch_at(&self, id: TopicPartition, offset: i64) -> Result<(i32, i64), BrokerError> {
        let view = self.fetches.reader().log().view(id)?;
        if view.log_start == view.log_end || view.leader_epoch == 0 {
            return Ok((view.leader_epoch, view.log_end));
        }
        // The first epoch that ends after the offset; epochs are few (one per change of leader).
        let mut epoch = view.leader_epoch;
        while epoch > 0 {
            let (known, end) = self.log.epoch_end(id, epoch - 1)?;
            if known < 0 || end <= offset {
                break;
            }
            epoch = known;
        }
        Ok((epoch, view.log_end))
    }
}

/// The offset that was asked for, if the answer is that the partition ends before it.
fn past_the_end(result: &Result<ReadResult, FetchError>) -> Option<i64> {
    match result {
        Err(FetchError::Log(LogError::OffsetOutOfRange { offset, high_watermark, .. })) if offset > high_watermark => {
            Some(*offset)
        }
        _ => None,
    }
}

/// The answer as it is, from a session that stands; otherwise one after which the client looks for the leader again.
fn unless_current(standing: &Standing, one: &PartitionFetch, offset: i64) -> Result<ReadResult, FetchError> {
    let partition = one.partition;
    match standing {
        Standing::Current => one.result.clone(),
        Standing::Over => Err(LogError::NotLeader(partition).into()),
        Standing::Unknown(reason) => {
            let reason =
                format!("it lies past the end, and whether that is the end still cannot be confirmed: {reason}");
            Err(FetchError::Store { kind: ErrorKind::Retriable, partition, offset, reason: reason.into() })
        }
    }
}
