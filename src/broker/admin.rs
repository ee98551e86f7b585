//! DeleteRecords, producer ids, producers.

use std::time::Duration;

use super::{Broker, BrokerError, Topic, partition_of};
use crate::partition::{LogError, PartitionView, ProducerView};

impl Broker {
    /// A producer id for an idempotent producer. A transactional id is refused: transactions are not served.
    pub async fn init_producer_id(&self, transactional_id: Option<&str>) -> Result<i64, BrokerError> {
        match transactional_id {
            Some("") => Err(BrokerError::InvalidRequest("the transactional id is empty".to_owned())),
            Some(_) => Err(BrokerError::Transactions),
            None => {
                let id = self.producer_ids.next().await.map_err(|error| BrokerError::NotReady(error.to_string()))?;
                self.metrics.producer_ids.inc();
                Ok(id)
            }
        }
    }

    /// Deletes the records before `offset` (exclusive; -1 is the high watermark). Returns the new log start once it is
    /// committed; `TimedOut` after `timeout_ms`, in which case it may still happen.
    pub async fn delete_records(
        &self,
        topic: &Topic,
        partition: i32,
        offset: i64,
        timeout_ms: u64,
    ) -> Result<i64, BrokerError> {
        if topic.internal {
            return Err(BrokerError::InternalTopic(topic.name.clone()));
        }
        let id = self.led_here(topic, partition)?;
        if !topic.settings.cleanup_delete {
            return Err(BrokerError::Policy(format!(
                "records of {}-{partition} cannot be deleted: its cleanup.policy is not delete",
                topic.name
            )));
        }
        let view = self.view(topic, partition)?;
        let to = if offset == -1 { view.high_watermark } else { offset };
        if to < 0 || to > view.high_watermark {
            let PartitionView { log_start, high_watermark, .. } = view;
            return Err(LogError::OffsetOutOfRange { partition: id, offset: to, log_start, high_watermark }.into());
        }
        if to <= view.log_start {
            return Ok(view.log_start);
        }
        match tokio::time::timeout(Duration::from_millis(timeout_ms), self.log.move_log_start(id, to)).await {
            Ok(moved) => Ok(moved?),
            Err(_) => Err(BrokerError::TimedOut),
        }
    }

    /// Producers that wrote to a partition and are remembered.
    pub fn producers(&self, topic: &Topic, partition: i32) -> Result<Vec<ProducerView>, BrokerError> {
        Ok(self.log.producers(partition_of(topic, partition)?)?)
    }
}
