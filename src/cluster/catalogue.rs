//! The catalogue: the newest [`ClusterImage`], and the operations that change it.
//!
//! A task follows the metadata store's watch and swaps images in; readers never wait. An operation plans against an image,
//! writes with compares on every record it read and on the controller's key, and plans again when somebody was faster. It
//! returns once the image shows what it did.
//!
//! A crash leaves each transaction done or not done. A dropped future of an operation leaves the same, for each of the
//! transactions that it would have made. While the metadata store is down the last image stays; it is never wrong about
//! the past, only late.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;
use uuid::Uuid;

use super::batch::{Piece, join, pack};
use super::error::{ClusterError, TopicError};
use super::fold::Fold;
use super::image::{ClusterImage, Topic};
use super::keys::{Key, KeySpace};
use super::limits::{MAX_EVENTS_PER_IMAGE, MAX_PARTITIONS_PER_TOPIC, MAX_TOPICS_PER_REQUEST};
use super::metrics::Metrics;
use super::placement::Spread;
use super::topics::{
    ConfigChange, Creation, NewPartitions, NewTopic, TopicRules, first_chunks, plan_configs, plan_partitions,
};
use crate::base::{Clock, Rng, SessionId, Tasks};
use crate::config::topic::{DescribedConfig, describe_topic};
use crate::format::metadata::{DeletionRecord, MetadataValue, TopicRecord};
use crate::meta::{Compare, Event, MetaError, MetaStore, TxnOutcome};

/// Plans of one operation before it gives up because others are always faster.
const MAX_TRIES: usize = 8;
/// Longest wait for the image to show a change that has happened, in milliseconds.
const IMAGE_WAIT_MS: u64 = 10_000;
/// Pause before the watch is opened again after an error, in milliseconds.
const FOLLOW_RETRY_MS: u64 = 250;

/// The catalogue. Clones share one.
#[derive(Clone, Debug)]
pub struct Catalogue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Arc<dyn MetaStore>,
    pub(super) keys: KeySpace,
    rules: TopicRules,
    clock: Clock,
    rng: Rng,
    metrics: Metrics,
    image: ArcSwap<ClusterImage>,
    version: watch::Sender<u64>,
    /// The local session.
    local: ArcSwapOption<SessionId>,
}

/// What a transaction depends on beside the records that it replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    /// Nothing.
    Records,
    /// The controller is still the one that the image shows, whoever it is: topics are created and changed by any broker,
    /// under its reign.
    Reign,
    /// This session is the controller.
    Controller(SessionId),
}

/// A topic by name or by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicRef {
    /// By name.
    Name(String),
    /// By id.
    Id(Uuid),
}

/// A topic that was created (or would be).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: Uuid,
    /// Number of partitions.
    pub partitions: i32,
    /// Replication factor as it is shown.
    pub replication_factor: i16,
    /// Its configs in force.
    pub configs: Vec<DescribedConfig>,
}

impl Catalogue {
    /// Reads the cluster and follows its changes in a task of `tasks`.
    pub async fn open(
        store: Arc<dyn MetaStore>,
        keys: KeySpace,
        rules: TopicRules,
        clock: Clock,
        rng: Rng,
        metrics: Metrics,
        tasks: &Tasks,
    ) -> Result<Self, ClusterError> {
        let mut fold = Fold::new(keys.clone(), rules.defaults.clone());
        let snapshot = store.range(keys.root()).await?;
        fold.load(&snapshot.entries, snapshot.revision)?;
        let image = fold.image();
        let version = watch::Sender::new(image.version);
        let image = ArcSwap::from_pointee(image);
        let local = ArcSwapOption::empty();
        let shared = Arc::new(Shared { store, keys, rules, clock, rng, metrics, image, version, local });
        shared.measure();
        tasks.spawn("catalogue", follow(shared.clone(), fold, snapshot.revision, tasks.clone()));
        Ok(Self { shared })
    }

    /// The newest image.
    pub fn image(&self) -> Arc<ClusterImage> {
        self.shared.image.load_full()
    }

    /// Versions of images, as they come; the image itself is read with [`Catalogue::image`].
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    /// Waits until the image shows the store's `revision`; gives up silently after ten seconds (the change has happened,
    /// only this broker is late to see it).
    pub async fn wait_for(&self, revision: u64) {
        let mut versions = self.subscribe();
        let seen = versions.wait_for(|version| *version >= revision);
        if tokio::time::timeout(Duration::from_millis(IMAGE_WAIT_MS), seen).await.is_err() {
            tracing::warn!(revision, "the catalogue is late to see a change of its own");
        }
    }

    /// From now on `session` is the local one: it takes new partitions even before others can see it.
    pub fn lead_as(&self, session: SessionId) {
        self.shared.local.store(Some(Arc::new(session)));
    }

    /// What is added to the store's revisions to make session epochs.
    pub fn epoch_base(&self) -> u64 {
        self.shared.keys.epoch_base()
    }

    /// Broker-level defaults and limits of topics.
    pub fn rules(&self) -> &TopicRules {
        &self.shared.rules
    }

    /// Creates topics; the answers are in the order of the requests. `validate_only` only judges.
    pub async fn create_topics(
        &self,
        new: Vec<NewTopic>,
        validate_only: bool,
    ) -> Vec<Result<CreatedTopic, TopicError>> {
        if new.len() > MAX_TOPICS_PER_REQUEST {
            let error =
                TopicError::InvalidRequest(format!("More than {MAX_TOPICS_PER_REQUEST} topics in one request."));
            return vec![Err(error); new.len()];
        }
        let mut answers: Vec<Option<Result<CreatedTopic, TopicError>>> = duplicates(&new);
        for _ in 0..MAX_TRIES {
            let open: Vec<usize> = (0..new.len()).filter(|at| answers[*at].is_none()).collect();
            if open.is_empty() {
                break;
            }
            let image = self.image();
            let mut creation = Creation::new(&image, &self.shared.rules);
            let mut planned = Vec::new();
            for at in open {
                match creation.plan(&new[at], self.shared.rng.uuid(), self.shared.clock.wall_ms()) {
                    Ok(record) if validate_only => answers[at] = Some(Ok(self.created(&record))),
                    Ok(record) => planned.push((at, record)),
                    Err(error) => answers[at] = Some(Err(error)),
                }
            }
            self.write_topics(&image, planned, &mut answers).await;
        }
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(contended()))).collect()
    }

    async fn write_topics(
        &self,
        image: &ClusterImage,
        planned: Vec<(usize, TopicRecord)>,
        answers: &mut [Option<Result<CreatedTopic, TopicError>>],
    ) {
        if planned.is_empty() {
            return;
        }
        let mut spread = self.spread(image);
        let pieces: Option<Vec<Piece>> =
            planned.iter().map(|(_, record)| self.creation_piece(record, &mut spread)).collect();
        let Some(pieces) = pieces else {
            for (at, _) in &planned {
                answers[*at] = Some(Err(no_broker()));
            }
            return;
        };
        let mut newest = 0;
        for group in pack(&pieces) {
            let outcome = self.commit(image, Guard::Reign, &pieces[group.clone()]).await;
            for (at, record) in &planned[group] {
                match &outcome {
                    Ok(Some(revision)) => {
                        newest = newest.max(*revision);
                        answers[*at] = Some(Ok(self.created(record)));
                    }
                    // Somebody was faster with one of the group: planned again against a newer image.
                    Ok(None) => {}
                    Err(error) => answers[*at] = Some(Err(error.clone())),
                }
            }
        }
        self.wait_for(newest).await;
    }

    /// `None` if no broker can take partitions.
    fn creation_piece(&self, record: &TopicRecord, spread: &mut Spread) -> Option<Piece> {
        let leaders: Option<Vec<SessionId>> = (0..record.partitions).map(|_| spread.place(record.id)).collect();
        let mut piece = Piece::default();
        let key = self.shared.keys.key(&Key::Topic(record.name.clone()));
        piece.compare(key.clone(), 0);
        piece.put(key, record.encode());
        for (chunk, number) in first_chunks(&leaders?).iter().zip(0..) {
            let key = self.shared.keys.key(&Key::Assignments(record.id, number));
            // An id is never used twice, not even by a weak random generator.
            piece.compare(key.clone(), 0);
            piece.put(key, chunk.encode());
        }
        Some(piece)
    }

    fn created(&self, record: &TopicRecord) -> CreatedTopic {
        CreatedTopic {
            name: record.name.clone(),
            id: record.id,
            partitions: record.partitions as i32,
            replication_factor: record.replication_factor,
            configs: describe_topic(&record.configs, &self.shared.rules.defaults),
        }
    }

    /// Deletes topics; the answers (name and id) are in the order of the requests.
    pub async fn delete_topics(&self, topics: Vec<TopicRef>) -> Vec<Result<(String, Uuid), TopicError>> {
        let mut answers = Vec::with_capacity(topics.len());
        for topic in topics {
            answers.push(self.delete_topic(&topic).await);
        }
        answers
    }

    async fn delete_topic(&self, topic: &TopicRef) -> Result<(String, Uuid), TopicError> {
        self.change(|image| {
            let topic = find(image, topic)?;
            let mut piece = Piece::default();
            let key = self.shared.keys.key(&Key::Topic(topic.name.clone()));
            piece.compare(key.clone(), topic.mod_revision);
            piece.delete(key);
            for number in 0..topic.chunk_revisions.len() as u32 {
                piece.delete(self.shared.keys.key(&Key::Assignments(topic.id, number)));
            }
            let (partitions, deleted_ms) = (topic.partitions.len() as u32, self.shared.clock.wall_ms());
            let deletion = DeletionRecord { name: topic.name.clone(), partitions, deleted_ms };
            piece.put(self.shared.keys.key(&Key::Deletion(topic.id)), deletion.encode());
            Ok((Some(piece), (topic.name.clone(), topic.id)))
        })
        .await
    }

    /// As the controller `own`: the objects of these deleted topics are gone, they are forgotten. Those that are not on
    /// record any more, and those that somebody else changes at the same time, are left alone.
    pub async fn finish_deletions(&self, own: SessionId, topics: &[Uuid]) -> Result<(), TopicError> {
        let image = self.image();
        let known = topics.iter().filter(|topic| image.deletions.contains_key(topic));
        let pieces: Vec<Piece> = known
            .map(|topic| {
                let mut piece = Piece::default();
                piece.delete(self.shared.keys.key(&Key::Deletion(*topic)));
                piece
            })
            .collect();
        let mut newest = 0;
        for group in pack(&pieces) {
            newest = self.commit(&image, Guard::Controller(own), &pieces[group]).await?.unwrap_or(newest);
        }
        self.wait_for(newest).await;
        Ok(())
    }

    /// Adds partitions to a topic.
    pub async fn create_partitions(&self, new: &NewPartitions, validate_only: bool) -> Result<(), TopicError> {
        self.change(|image| {
            let topic = find(image, &TopicRef::Name(new.name.clone()))?;
            let mut spread = self.spread(image);
            let added = (new.total as usize).saturating_sub(topic.partitions.len()).min(MAX_PARTITIONS_PER_TOPIC);
            let leaders: Option<Vec<SessionId>> = (0..added).map(|_| spread.place(topic.id)).collect();
            let leaders = leaders.ok_or_else(no_broker)?;
            let (record, chunks) = plan_partitions(image, &self.shared.rules, new, &leaders)?;
            let mut piece = Piece::default();
            let key = self.shared.keys.key(&Key::Topic(record.name.clone()));
            piece.compare(key.clone(), topic.mod_revision);
            piece.put(key, record.encode());
            for (number, chunk) in chunks {
                let key = self.shared.keys.key(&Key::Assignments(record.id, number));
                piece.compare(key.clone(), topic.chunk_revisions.get(number as usize).copied().unwrap_or(0));
                piece.put(key, chunk.encode());
            }
            Ok(((!validate_only).then_some(piece), ()))
        })
        .await
    }

    /// Changes a topic's configs.
    pub async fn alter_configs(
        &self,
        name: &str,
        change: &ConfigChange,
        validate_only: bool,
    ) -> Result<(), TopicError> {
        self.change(|image| {
            let topic = find(image, &TopicRef::Name(name.to_owned()))?;
            let record = plan_configs(topic, &self.shared.rules, change)?;
            let piece = record.filter(|_| !validate_only).map(|record| {
                let mut piece = Piece::default();
                let key = self.shared.keys.key(&Key::Topic(record.name.clone()));
                piece.compare(key.clone(), topic.mod_revision);
                piece.put(key, record.encode());
                piece
            });
            Ok((piece, ()))
        })
        .await
    }

    /// A topic's configs with the values in force, by name; all of them, or the ones asked for.
    pub fn describe_configs(&self, name: &str, only: Option<&[String]>) -> Result<Vec<DescribedConfig>, TopicError> {
        let image = self.image();
        let topic = find(&image, &TopicRef::Name(name.to_owned()))?;
        let mut configs = describe_topic(&topic.configs, &self.shared.rules.defaults);
        if let Some(only) = only {
            configs.retain(|config| only.contains(&config.name));
        }
        Ok(configs)
    }

    /// Plans, writes, and plans again if somebody was faster. A plan without a piece writes nothing.
    pub(super) async fn change<T>(
        &self,
        plan: impl Fn(&ClusterImage) -> Result<(Option<Piece>, T), TopicError>,
    ) -> Result<T, TopicError> {
        for _ in 0..MAX_TRIES {
            let image = self.image();
            let (piece, answer) = plan(&image)?;
            let Some(piece) = piece else { return Ok(answer) };
            if let Some(revision) = self.commit(&image, Guard::Reign, std::slice::from_ref(&piece)).await? {
                self.wait_for(revision).await;
                return Ok(answer);
            }
        }
        Err(contended())
    }

    /// One guarded transaction. `None`: a compare failed; by then the image is newer than the one given.
    pub(super) async fn commit(
        &self,
        image: &ClusterImage,
        guard: Guard,
        pieces: &[Piece],
    ) -> Result<Option<u64>, TopicError> {
        let reign = Compare { key: self.shared.keys.key(&Key::Controller), mod_revision: image.controller_revision };
        let reign = match guard {
            Guard::Records => None,
            Guard::Reign if image.controller.is_none() => {
                let why = "The cluster has no controller at the moment; it elects one.";
                return Err(TopicError::Unavailable(why.to_owned()));
            }
            Guard::Controller(own) if image.controller != Some(own) => return Err(TopicError::NotController),
            Guard::Reign | Guard::Controller(_) => Some(reign),
        };
        let (compares, writes) = join(reign, pieces);
        match self.shared.store.txn(compares, writes).await? {
            TxnOutcome::Committed { revision } => Ok(Some(revision)),
            TxnOutcome::Conflict => {
                self.shared.metrics.conflicts.inc();
                // The record that made the conflict is newer than the image: wait for it rather than spin.
                let mut versions = self.subscribe();
                let newer = versions.wait_for(|version| *version > image.version);
                match tokio::time::timeout(Duration::from_millis(IMAGE_WAIT_MS), newer).await {
                    Ok(_) => Ok(None),
                    Err(_) => Err(TopicError::Unavailable("The broker's view of the cluster is behind.".to_owned())),
                }
            }
        }
    }

    /// Gives partitions to the brokers with the fewest.
    fn spread(&self, image: &ClusterImage) -> Spread {
        Spread::of(image, self.shared.local.load().as_deref().copied())
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }
}

/// The topic, or Kafka's error.
pub(super) fn find<'a>(image: &'a ClusterImage, topic: &TopicRef) -> Result<&'a Arc<Topic>, TopicError> {
    match topic {
        TopicRef::Name(name) => image.topic(name).ok_or_else(|| TopicError::UnknownTopic(name.clone())),
        TopicRef::Id(id) => image.topic_by_id(*id).ok_or(TopicError::UnknownTopicId(*id)),
    }
}

fn no_broker() -> TopicError {
    TopicError::Unavailable("No broker can take partitions at the moment.".to_owned())
}

fn contended() -> TopicError {
    TopicError::Contended("Other changes of the cluster were always faster; try again.".to_owned())
}

/// A name that comes more than once in a request is refused each time.
fn duplicates(new: &[NewTopic]) -> Vec<Option<Result<CreatedTopic, TopicError>>> {
    let mut counts = std::collections::HashMap::new();
    for topic in new {
        *counts.entry(topic.name.as_str()).or_insert(0) += 1;
    }
    let duplicate = || Err(TopicError::InvalidRequest("Duplicate topic name.".to_owned()));
    new.iter().map(|topic| (counts[topic.name.as_str()] > 1).then(duplicate)).collect()
}

impl Shared {
    fn measure(&self) {
        let image = self.image.load();
        self.metrics.topics.set(image.topic_count() as i64);
        self.metrics.partitions.set(image.partition_count as i64);
        self.metrics.brokers.set(image.brokers.len() as i64);
        self.metrics.images.inc();
    }
}

/// Follows the store's watch for as long as the broker lives.
async fn follow(shared: Arc<Shared>, mut fold: Fold, mut revision: u64, tasks: Tasks) {
    let stop = tasks.stopping();
    loop {
        let followed = stop.run_until_cancelled(follow_once(&shared, &mut fold, &mut revision)).await;
        match followed {
            None => return,
            Some(Ok(())) => {}
            Some(Err(error @ (ClusterError::Value(_) | ClusterError::WrongCluster(_)))) => {
                tasks.fail(error.to_string());
                return;
            }
            Some(Err(error)) => {
                shared.metrics.watch_errors.inc();
                tracing::warn!(%error, "the catalogue does not follow the metadata store; trying again");
            }
        }
        let pause = tokio::time::sleep(Duration::from_millis(FOLLOW_RETRY_MS));
        if stop.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

/// One watch, from `revision + 1` until it ends. After lost events everything is read again.
async fn follow_once(shared: &Shared, fold: &mut Fold, revision: &mut u64) -> Result<(), ClusterError> {
    let mut watch = shared.store.watch(shared.keys.root(), *revision + 1).await?;
    loop {
        let mut events = Vec::new();
        let Some(first) = watch.recv().await else {
            return Err(MetaError::Unavailable { operation: "watch", reason: "the watch ended".to_owned() }.into());
        };
        events.extend(first);
        while events.len() < MAX_EVENTS_PER_IMAGE {
            let Ok(more) = watch.try_recv() else { break };
            events.extend(more);
        }
        if events.contains(&Event::Resync) {
            shared.metrics.resyncs.inc();
            let snapshot = shared.store.range(shared.keys.root()).await?;
            check_emptied(shared, !snapshot.entries.iter().any(|entry| entry.key == shared.keys.key(&Key::Cluster)))?;
            fold.load(&snapshot.entries, snapshot.revision)?;
            *revision = snapshot.revision;
            publish(shared, fold);
            watch = shared.store.watch(shared.keys.root(), *revision + 1).await?;
            continue;
        }
        let cluster = shared.keys.key(&Key::Cluster);
        check_emptied(
            shared,
            events.iter().any(|event| matches!(event, Event::Delete { key, .. } if *key == cluster)),
        )?;
        for event in &events {
            fold.apply(event)?;
        }
        publish(shared, fold);
        *revision = (*revision).max(shared.image.load().version);
    }
}

/// A metadata store that was emptied is no cluster whose topics were all deleted: nothing of it may be followed.
fn check_emptied(shared: &Shared, without_cluster: bool) -> Result<(), ClusterError> {
    if !without_cluster || shared.image.load().cluster_id.is_empty() {
        return Ok(());
    }
    let root = shared.keys.root();
    Err(ClusterError::WrongCluster(format!(
        "the metadata store was emptied under a running broker: the cluster's record under '{root}' is gone"
    )))
}

fn publish(shared: &Shared, fold: &mut Fold) {
    let mut image = fold.image();
    let old = shared.image.load();
    image.departed = old.departed.next(&old.brokers, &image.brokers, shared.clock.boot_ms());
    let version = image.version;
    shared.image.store(Arc::new(image));
    shared.measure();
    shared.version.send_replace(version);
}
