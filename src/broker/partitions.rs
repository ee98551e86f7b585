//! Keeps the log's partitions as the catalogue says: what this session leads is open, what it does not is dropped.
//!
//! One task owns the difference and settles it after every change of the catalogue, so a crash leaves nothing but work to
//! repeat.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::log::BrokerLog;
use super::metrics::Metrics;
use crate::base::{SessionId, Tasks, TopicPartition};
use crate::cluster::Catalogue;

/// Partitions opened by one call.
const OPEN_AT_ONCE: usize = 1_000;
/// Longest wait of an operation for the partitions that it made, in milliseconds.
const SETTLE_MS: u64 = 10_000;

/// The version of the catalogue's image that the log follows.
#[derive(Debug, Clone)]
pub struct Partitions {
    applied: watch::Receiver<u64>,
}

impl Partitions {
    /// Starts following.
    pub fn follow(
        catalogue: Catalogue,
        log: Arc<dyn BrokerLog>,
        session: SessionId,
        metrics: Metrics,
        tasks: &Tasks,
    ) -> Self {
        let (applied_to, applied) = watch::channel(0);
        let stop = tasks.stopping();
        let tasks_of_keeper = tasks.clone();
        tasks.spawn("partitions", async move {
            let mut keeper = Keeper { catalogue, log, session, metrics, tasks: tasks_of_keeper, open: HashMap::new() };
            let mut versions = keeper.catalogue.subscribe();
            loop {
                versions.borrow_and_update();
                applied_to.send_replace(keeper.settle().await);
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = versions.changed() => if changed.is_err() { return },
                }
            }
        });
        Self { applied }
    }

    /// Versions of the catalogue's image that the log follows, as they come.
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.applied.clone()
    }

    /// Waits until the log follows the image of `version` (at most ten seconds: the work goes on regardless).
    pub async fn settled(&self, version: u64) {
        let mut applied = self.applied.clone();
        let reached = applied.wait_for(|applied| *applied >= version);
        if tokio::time::timeout(Duration::from_millis(SETTLE_MS), reached).await.is_err() {
            tracing::warn!(version, "partitions are late to open");
        }
    }
}

struct Keeper {
    catalogue: Catalogue,
    log: Arc<dyn BrokerLog>,
    session: SessionId,
    metrics: Metrics,
    tasks: Tasks,
    open: HashMap<TopicPartition, i32>,
}

impl Keeper {
    async fn settle(&mut self) -> u64 {
        let image = self.catalogue.image();
        let wanted: HashMap<TopicPartition, i32> =
            image.led_by(self.session).map(|(partition, assignment)| (partition, assignment.leader_epoch)).collect();
        let gone: Vec<TopicPartition> =
            self.open.keys().filter(|partition| !wanted.contains_key(partition)).copied().collect();
        if !gone.is_empty() {
            self.open.retain(|partition, _| wanted.contains_key(partition));
            // Not waited for: new partitions open even while the store is down.
            let log = self.log.clone();
            self.tasks.spawn("drop partitions", async move {
                if let Err(error) = log.drop_partitions(&gone).await {
                    tracing::warn!(%error, partitions = gone.len(), "deleted partitions stay in the log until the next start");
                }
            });
        }
        let mut new: Vec<(TopicPartition, i32)> =
            wanted.into_iter().filter(|(partition, epoch)| self.open.get(partition) != Some(epoch)).collect();
        new.sort_unstable();
        for some in new.chunks(OPEN_AT_ONCE) {
            self.log.create_partitions(some);
            tokio::task::yield_now().await;
            self.open.extend(some.iter().copied());
        }
        self.metrics.topics.set(image.topic_count() as i64);
        self.metrics.partitions.set(self.open.len() as i64);
        image.version
    }
}
