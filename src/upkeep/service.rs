//! The tasks: retention and garbage collection at an interval, expiry of idle producers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use crate::base::{Clock, ErrorKind, Tasks, TopicPartition, crash};
use crate::cluster::{Catalogue, Sessions};
use crate::format::keys;
use crate::objstore::{ObjectStore, StoreError};
use crate::partition::Log;

use super::collect::{Collector, Covered, Listing, SEAL_KEPT_MS};
use super::deletions::Deletions;
use super::metrics::UpkeepMetrics;
use super::references::{Known, Unknown, known};
use super::retention::{RetentionRule, new_log_start};

/// Deletes under way at a time.
const PARALLEL_DELETES: usize = 16;

/// Paces of upkeep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpkeepSettings {
    /// Milliseconds between two looks.
    pub interval_ms: u64,
    /// Milliseconds between an object's first and second mark, at least.
    pub grace_ms: u64,
    /// Milliseconds after its last write that an idempotent producer is forgotten (`producer.id.expiration.ms`).
    pub producer_expiration_ms: u64,
}

/// What upkeep works on.
#[derive(Debug, Clone)]
pub struct Upkeep {
    /// The log of this session.
    pub log: Log,
    /// Topics, their settings, and `from` lists.
    pub catalogue: Catalogue,
    /// Which sessions have ended.
    pub sessions: Arc<Sessions>,
    /// Paces.
    pub settings: UpkeepSettings,
    /// Time.
    pub clock: Clock,
    /// Counters.
    pub metrics: UpkeepMetrics,
}

/// What is remembered from one look to the next.
#[derive(Debug)]
pub struct Memory {
    collector: Collector,
    deletions: Deletions,
}

impl Memory {
    /// Nothing was looked at. Objects go `grace_ms` after they were first found unreferenced, if they still are.
    pub fn new(grace_ms: u64) -> Self {
        Self { collector: Collector::new(grace_ms), deletions: Deletions::default() }
    }

    fn forget(&mut self) {
        self.collector.forget();
        self.deletions.forget();
    }
}

/// Lists, and only then finds out what must stay: a segment that lands between the two is judged by the next look.
pub(super) async fn look<E: From<StoreError>>(
    store: &Arc<dyn ObjectStore>,
    known: impl Future<Output = Result<Option<Known>, E>>,
) -> Result<Option<(Listing, Known)>, E> {
    let segments = store.list(keys::LOG_PREFIX, None).try_collect().await?;
    let checkpoints = store.list(keys::CHECKPOINT_PREFIX, None).try_collect().await?;
    let runs = store.list(keys::RUNS_PREFIX, None).try_collect().await?;
    Ok(known.await?.map(|known| (Listing { segments, checkpoints, runs }, known)))
}

impl Upkeep {
    /// Runs until the tasks are stopped.
    pub fn start(self, tasks: &Tasks) {
        let stopping = tasks.stopping();
        tasks.spawn("upkeep", async move {
            let mut memory = Memory::new(self.settings.grace_ms);
            loop {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(Duration::from_millis(self.settings.interval_ms)) => {}
                    () = stopping.cancelled() => return,
                }
                tokio::select! {
                    biased;
                    () = self.round(&mut memory) => {}
                    () = stopping.cancelled() => return,
                }
            }
        });
    }

    /// One look at everything.
    pub async fn round(&self, memory: &mut Memory) {
        let now_ms = self.clock.wall_ms();
        self.log.expire_producers(now_ms.saturating_sub_unsigned(self.settings.producer_expiration_ms));
        self.retain(now_ms).await;
        match self.collect(memory).await {
            Ok(()) => {}
            Err(error @ Unknown::Store(_)) => {
                tracing::warn!(%error, "garbage collection goes on with the next round");
            }
            Err(error) => tracing::warn!(%error, "garbage collection waits for the next round"),
        }
        match self.sessions.forget_old(&self.catalogue.image(), SEAL_KEPT_MS).await {
            Ok(0) => {}
            Ok(forgotten) => tracing::info!(forgotten, "forgot sessions that ended long ago"),
            Err(error) => tracing::warn!(%error, "old sessions stay on record for now"),
        }
    }

    async fn retain(&self, now_ms: i64) {
        let image = self.catalogue.image();
        let mut rules: HashMap<Uuid, RetentionRule> = HashMap::new();
        for topic in image.topics().filter(|topic| topic.settings.cleanup_delete) {
            let (retention_ms, retention_bytes) = (topic.settings.retention_ms, topic.settings.retention_bytes);
            rules.insert(topic.id, RetentionRule { retention_ms, retention_bytes });
        }
        let mut moves: Vec<(TopicPartition, i64)> = Vec::new();
        self.log.each_state(|partition, state| {
            let rule = rules.get(&partition.topic_id);
            if let Some(start) = rule.and_then(|rule| new_log_start(state, *rule, now_ms)) {
                moves.push((partition, start));
            }
        });
        for (partition, start) in moves {
            match self.log.move_log_start(partition, start).await {
                Ok(_) => {
                    self.metrics.retention_moves.inc();
                    tracing::debug!(%partition, start, "retention moved log start");
                }
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => tracing::warn!(%partition, %error, "retention could not move log start"),
            }
        }
    }

    async fn collect(&self, memory: &mut Memory) -> Result<(), Unknown> {
        // The image may be late, but a broker that is not the controller by its own view need not pay for a listing.
        let image = self.catalogue.image();
        let store = self.log.store();
        let seen = if image.controller == Some(self.log.session()) {
            look(store, self.known(!image.deletions.is_empty())).await?
        } else {
            None
        };
        let Some((listing, known)) = seen else {
            memory.forget();
            return Ok(());
        };
        let sizes: HashMap<&str, u64> = listing.all().map(|meta| (meta.key.as_str(), meta.size_bytes)).collect();
        self.metrics.stored_objects.set(sizes.len() as i64);
        self.metrics.stored_bytes.set(sizes.values().sum::<u64>() as i64);
        let boot_ms = self.clock.boot_ms();
        let collector = &mut memory.collector;
        let delete = collector.pass(&known.live, &listing, boot_ms, self.clock.wall_ms());
        self.metrics.marked_objects.set(collector.marked() as i64);
        let deletes = delete.iter().map(|key| delete_one(store.clone(), key.clone()));
        let mut deletes = stream::iter(deletes.collect::<Vec<_>>()).buffer_unordered(PARALLEL_DELETES);
        while let Some(deleted) = deletes.next().await {
            let key = deleted?;
            self.metrics.deleted_objects.inc();
            self.metrics.deleted_bytes.inc_by(sizes.get(key.as_str()).copied().unwrap_or(0));
        }
        let on_record: HashSet<Uuid> = image.deletions.keys().copied().collect();
        let covered = Covered::new(&known.live, &listing.checkpoints);
        let gone = memory.deletions.pass(&on_record, &known.traces, &covered, &memory.collector, boot_ms);
        self.metrics.deleted_topics.set(on_record.len() as i64 - gone.len() as i64);
        match self.catalogue.finish_deletions(self.log.session(), &gone).await {
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, topics = gone.len(), "deleted topics stay on record for now"),
        }
        Ok(())
    }

    /// `None` while this broker is not the controller.
    async fn known(&self, trace: bool) -> Result<Option<Known>, Unknown> {
        let own_state = || {
            let end = self.log.progress().borrow().committed;
            let mut objects = HashSet::new();
            self.log.each_state(|_, state| objects.extend(state.runs.iter().map(|run| run.object)));
            (end, objects)
        };
        let known = known(&self.sessions, self.log.store(), self.log.session(), trace, own_state).await?;
        // A log that was fenced does not know its partitions any more.
        Ok(known.filter(|_| !self.log.progress().borrow().fenced))
    }
}

async fn delete_one(store: Arc<dyn ObjectStore>, key: String) -> Result<String, StoreError> {
    crash::point("collect-before-delete");
    store.delete(&key).await?;
    Ok(key)
}
