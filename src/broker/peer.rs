//! What this broker tells the others of its cluster, and what operators ask of it.

use super::traffic::MAX_RATES;
use super::{Broker, BrokerError};
use crate::base::{SessionId, TopicPartition};
use crate::format::state::PartitionState;

/// Most states that one question may ask for.
pub const MAX_RELEASED_ASKED: usize = 10_000;

impl Broker {
    /// The states in which `session` gave partitions away, each under its leader epoch, as far as it is this broker's own
    /// session and still has them. A state is told only after the assignment names the other leader, so it is committed.
    pub fn released(
        &self,
        session: SessionId,
        wanted: &[(TopicPartition, i32)],
    ) -> Vec<(TopicPartition, i32, PartitionState)> {
        if self.log.session() != session {
            return Vec::new();
        }
        let image = self.image();
        let gone = |partition: &TopicPartition, epoch: i32| {
            image.leader(*partition).is_some_and(|assignment| assignment.leader_epoch > epoch)
        };
        let wanted = wanted.iter().take(MAX_RELEASED_ASKED).filter(|(partition, epoch)| gone(partition, *epoch));
        let known = wanted
            .filter_map(|(partition, epoch)| Some((*partition, *epoch, self.log.given_state(*partition, *epoch)?)));
        known.collect()
    }

    /// Bytes per second of the busiest partitions, at most [`MAX_RATES`].
    pub fn traffic(&self) -> Vec<(TopicPartition, u64)> {
        let rates = self.traffic.lock().rates(self.clock.boot_ms());
        debug_assert!(rates.len() <= MAX_RATES);
        rates
    }

    /// Has a broker give its partitions to the others and take none, or (with `draining` false) take them again.
    pub async fn set_draining(&self, broker_id: i32, draining: bool) -> Result<(), BrokerError> {
        Ok(self.catalogue.set_draining(broker_id, draining).await?)
    }
}
