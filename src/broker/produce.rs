//! Producing: check, admit, append, wait.
//!
//! The append is synchronous once there is room, so the order of calls is the order in the log; only the wait for what
//! `acks` promises is separate. Dropping the wait drops the answer, never the data.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{Broker, BrokerError, Topic};
use crate::config::topic::TimestampType;
use crate::partition::{Acks, Appended, LogError};
use crate::protocol::batch::{BatchRules, check_batch};

/// An append whose reply is not due yet.
#[must_use]
pub struct PendingProduce {
    append: BoxFuture<'static, Result<Appended, LogError>>,
    log_append_time_ms: i64,
}

impl PendingProduce {
    /// Waits for what the append's `acks` promises, at most `timeout_ms`. After `TimedOut` the batch may still be
    /// committed; an idempotent producer's retry is then answered as a duplicate.
    pub async fn wait(self, timeout_ms: u64) -> Result<Appended, BrokerError> {
        match tokio::time::timeout(Duration::from_millis(timeout_ms), self.append).await {
            Ok(Ok(appended)) => Ok(Appended { log_append_time_ms: self.log_append_time_ms, ..appended }),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(BrokerError::TimedOut),
        }
    }
}

impl PendingProduce {
    /// Why the batch was refused, if that is known already. For `acks=0`, where nobody waits: whether this broker leads the
    /// partition, and what the batch itself has wrong, is known at once.
    pub fn refusal(self) -> Option<BrokerError> {
        self.append.now_or_never()?.err().map(BrokerError::from)
    }
}

impl Broker {
    /// Appends one client's batch to a partition. Waits for room at most `timeout_ms`; on return the batch has its place
    /// in the log (or was judged), and only durability is outstanding.
    ///
    /// A batch for a partition that is just coming or going waits until that is over, at most for a second: then it is
    /// appended, or refused with a leader that can be told. Refused at once, a client would ask in vain, and wait longer
    /// after each time.
    pub async fn produce(
        &self,
        topic: &Topic,
        partition: i32,
        records: &Bytes,
        acks: Acks,
        timeout_ms: u64,
    ) -> Result<PendingProduce, BrokerError> {
        if topic.internal {
            return Err(BrokerError::InternalTopic(topic.name.clone()));
        }
        let partition = self.led_here(topic, partition)?;
        let asked_ms = self.clock.boot_ms();
        self.partitions.moved(partition, self.image().version, timeout_ms).await;
        let settings = &topic.settings;
        let rules = BatchRules {
            max_message_bytes: settings.max_message_bytes,
            log_append_time: settings.timestamp_type == TimestampType::LogAppendTime,
            timestamp_before_max_ms: settings.timestamp_before_max_ms,
            timestamp_after_max_ms: settings.timestamp_after_max_ms,
            compacted: settings.cleanup_compact,
        };
        let checked = check_batch(records, &rules, self.clock.wall_ms()).inspect_err(|_| {
            self.metrics.refused_batches.inc();
        })?;
        if checked.header.is_transactional() {
            return Err(BrokerError::Transactions);
        }
        let waited_ms = self.clock.boot_ms().saturating_sub(asked_ms);
        let permit = self.log.admit(checked.bytes.len(), timeout_ms.saturating_sub(waited_ms)).await?;
        let append = self.log.append(partition, &checked.header, &checked.bytes, acks, permit);
        self.traffic.lock().note(partition, checked.bytes.len() as u64);
        self.metrics.produced_batches.inc();
        self.metrics.produced_records.inc_by(checked.header.records_count as u64);
        self.metrics.produced_bytes.inc_by(checked.bytes.len() as u64);
        Ok(PendingProduce { append, log_append_time_ms: checked.log_append_time_ms })
    }
}
