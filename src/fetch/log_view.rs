//! The log, as far as readers need it.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::base::TopicPartition;
use crate::partition::{Isolation, Log, LogError, PartitionView, ReadPlan, Run};

/// Drop it to end the subscription.
pub type Subscription = Box<dyn Any + Send>;

/// What readers ask of the log. Calls are quick and never wait.
pub trait LogView: fmt::Debug + Send + Sync + 'static {
    /// Offsets of a partition now.
    fn view(&self, partition: TopicPartition) -> Result<PartitionView, LogError>;

    /// Where the bytes from `offset` (inclusive) on are. `max_bytes` bounds memory sources; at least one batch is given.
    /// An offset before log start or past the end is `OffsetOutOfRange`.
    fn plan_read(
        &self,
        partition: TopicPartition,
        offset: i64,
        max_bytes: usize,
        isolation: Isolation,
    ) -> Result<ReadPlan, LogError>;

    /// All committed runs that end after `offset`, in order.
    fn runs_from(&self, partition: TopicPartition, offset: i64) -> Result<(PartitionView, Vec<Run>), LogError>;

    /// `waiter.notify_one()` is called at each commit in, or loss of, any of the partitions, until the guard is dropped.
    fn subscribe(&self, partitions: &[TopicPartition], waiter: Arc<Notify>) -> Subscription;
}

impl LogView for Log {
    fn view(&self, partition: TopicPartition) -> Result<PartitionView, LogError> {
        Self::view(self, partition)
    }

    fn plan_read(
        &self,
        partition: TopicPartition,
        offset: i64,
        max_bytes: usize,
        isolation: Isolation,
    ) -> Result<ReadPlan, LogError> {
        Self::plan_read(self, partition, offset, max_bytes, isolation)
    }

    fn runs_from(&self, partition: TopicPartition, offset: i64) -> Result<(PartitionView, Vec<Run>), LogError> {
        Self::runs_from(self, partition, offset)
    }

    fn subscribe(&self, partitions: &[TopicPartition], waiter: Arc<Notify>) -> Subscription {
        Box::new(Self::subscribe(self, partitions, &waiter))
    }
}
