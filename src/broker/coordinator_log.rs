//! `__consumer_offsets` as the group coordinator sees it: this broker's log and reader.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;

use super::BrokerLog;
use crate::base::{ErrorKind, TopicPartition};
use crate::cluster::{CONSUMER_OFFSETS, Catalogue};
use crate::coordinator::runtime::{Commit, CoordinatorLog, LogChunk, LogFailure};
use crate::fetch::{FetchError, Fetches};
use crate::partition::{Acks, Isolation, LogError};
use crate::protocol::batch::BatchHeader;

/// Bytes of one read while a shard is loaded.
const READ_BYTES: usize = 4 << 20;
/// Longest wait for room in the log, in milliseconds; the shard then tries again.
const ADMIT_WAIT_MS: u64 = 5_000;

/// See the module.
#[derive(Debug)]
pub struct OffsetsLog {
    catalogue: Catalogue,
    log: Arc<dyn BrokerLog>,
    fetches: Fetches,
}

fn failure(kind: ErrorKind, message: &impl ToString) -> LogFailure {
    LogFailure { kind, message: message.to_string() }
}

fn log_failure(error: &LogError) -> LogFailure {
    failure(error.kind(), error)
}

impl OffsetsLog {
    /// Over `log` and `fetches`, where `catalogue` knows the topic.
    pub fn new(catalogue: Catalogue, log: Arc<dyn BrokerLog>, fetches: Fetches) -> Self {
        Self { catalogue, log, fetches }
    }

    fn partition(&self, partition: i32) -> Result<TopicPartition, LogFailure> {
        let image = self.catalogue.image();
        let topic = image.topic(CONSUMER_OFFSETS).filter(|topic| topic.assignment(partition).is_some());
        let missing = || failure(ErrorKind::NotFound, &format!("{CONSUMER_OFFSETS} has no partition {partition}"));
        Ok(topic.ok_or_else(missing)?.partition(partition))
    }
}

#[async_trait]
impl CoordinatorLog for OffsetsLog {
    async fn append(&self, partition: i32, batch: Bytes) -> Result<Commit, LogFailure> {
        let partition = self.partition(partition)?;
        let header = BatchHeader::decode(&batch)
            .ok_or_else(|| failure(ErrorKind::Internal, &"the coordinator built a batch without a header"))?;
        let room = self.log.admit(batch.len(), ADMIT_WAIT_MS).await.map_err(|error| log_failure(&error))?;
        let append = self.log.append(partition, &header, &batch, Acks::All, room);
        Ok(append
            .map(|appended| appended.map(|appended| appended.base_offset).map_err(|error| log_failure(&error)))
            .boxed())
    }

    async fn read_from(&self, partition: i32, offset: i64) -> Result<LogChunk, LogFailure> {
        let partition = self.partition(partition)?;
        let reader = self.fetches.reader();
        let view = reader.log().view(partition).map_err(|error| log_failure(&error))?;
        let offset = offset.max(view.log_start);
        let read = reader.read(partition, offset, READ_BYTES, Isolation::ReadUncommitted, true).await;
        let read = read.map_err(|error: FetchError| failure(error.kind(), &error))?;
        // Nothing read is the end, whatever the view says: it has to be asked again only when something is committed.
        let end = read.batches.is_empty() || read.next_offset >= read.view.high_watermark;
        Ok(LogChunk { batches: read.batches, next_offset: read.next_offset, end })
    }

    async fn move_log_start(&self, partition: i32, offset: i64) -> Result<(), LogFailure> {
        let partition = self.partition(partition)?;
        self.log.move_log_start(partition, offset).await.map(drop).map_err(|error| log_failure(&error))
    }
}
