//! The log, as far as the broker needs it beyond what readers ask ([`crate::fetch::LogView`]).

use std::any::Any;
use std::fmt;

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::base::{SessionId, TopicPartition};
use crate::format::state::PartitionState;
use crate::objstore::StoreError;
use crate::partition::{Acks, Appended, Log, LogError, Permit, ProducerView};
use crate::protocol::batch::BatchHeader;

/// Room for one batch; given back to the log with the append, or by dropping it.
pub type Room = Box<dyn Any + Send>;

/// What the broker asks of the log.
#[async_trait]
pub trait BrokerLog: fmt::Debug + Send + Sync + 'static {
    /// Waits for room for `bytes`, at most `wait_ms`; `Overloaded` after that.
    async fn admit(&self, bytes: usize, wait_ms: u64) -> Result<Room, LogError>;

    /// Appends one checked batch. On return it has its place in the log, or was judged; the future resolves when `acks`
    /// is fulfilled. Dropping the future drops the answer, not the batch.
    fn append(
        &self,
        partition: TopicPartition,
        header: &BatchHeader,
        batch: &[u8],
        acks: Acks,
        room: Room,
    ) -> BoxFuture<'static, Result<Appended, LogError>>;

    /// The largest leader epoch at or below the one asked for, and the offset where it ends (exclusive); `(-1, -1)` if
    /// there is none (KIP-320).
    fn epoch_end(&self, partition: TopicPartition, leader_epoch: i32) -> Result<(i32, i64), LogError>;

    /// Producers that wrote to a partition and are remembered.
    fn producers(&self, partition: TopicPartition) -> Result<Vec<ProducerView>, LogError>;

    /// Moves log start up; resolves when that is committed, with the new log start.
    async fn move_log_start(&self, partition: TopicPartition, offset: i64) -> Result<i64, LogError>;

    /// Whether nobody had sealed this session's stream when it was asked: what was known until then was all there was.
    async fn is_current(&self) -> Result<bool, StoreError>;

    /// The session whose stream this is.
    fn session(&self) -> SessionId;

    /// The state in which a partition was given away under `leader_epoch`, if this session still has it.
    fn given_state(&self, partition: TopicPartition, leader_epoch: i32) -> Option<PartitionState>;
}

#[async_trait]
impl BrokerLog for Log {
    async fn admit(&self, bytes: usize, wait_ms: u64) -> Result<Room, LogError> {
        Ok(Box::new(Self::admit(self, bytes, wait_ms).await?))
    }

    fn append(
        &self,
        partition: TopicPartition,
        header: &BatchHeader,
        batch: &[u8],
        acks: Acks,
        room: Room,
    ) -> BoxFuture<'static, Result<Appended, LogError>> {
        let Ok(permit) = room.downcast::<Permit>() else {
            let why = "room of another log was given".to_owned();
            return Box::pin(std::future::ready(Err(LogError::Environment(why))));
        };
        Box::pin(Self::append(self, partition, header, batch, acks, *permit).wait())
    }

    fn epoch_end(&self, partition: TopicPartition, leader_epoch: i32) -> Result<(i32, i64), LogError> {
        Self::epoch_end(self, partition, leader_epoch)
    }

    fn producers(&self, partition: TopicPartition) -> Result<Vec<ProducerView>, LogError> {
        Self::producers(self, partition)
    }

    async fn move_log_start(&self, partition: TopicPartition, offset: i64) -> Result<i64, LogError> {
        Self::move_log_start(self, partition, offset).await
    }

    async fn is_current(&self) -> Result<bool, StoreError> {
        Self::is_current(self).await
    }

    fn session(&self) -> SessionId {
        Self::session(self)
    }

    fn given_state(&self, partition: TopicPartition, leader_epoch: i32) -> Option<PartitionState> {
        Self::given_state(self, partition, leader_epoch)
    }
}
