//! One session of a broker: its log and what runs over it, from its first partition to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::base::{Clock, SessionId, Tasks};
use crate::broker::{Broker, Partitions};
use crate::cluster::{Catalogue, ClusterError, ClusterImage, Controller, Registration};
use crate::format::metadata::BrokerRecord;
use crate::partition::{Log, Progress};

/// Longest wait of a start for its partitions, in milliseconds; the rest opens while the broker serves.
const OPEN_WAIT_MS: u64 = 30_000;
/// How often commits are looked at, in milliseconds.
const COMMIT_LOOK_MS: u64 = 1_000;
/// For how long a broker that gave everything away still tells clients where it is, in milliseconds: one that finds the door
/// closed has to ask somebody else.
const FAREWELL_MS: u64 = 500;
/// How long the end of a session that lost its lease waits for its last commits, in milliseconds.
const LAST_COMMIT_MS: u64 = 2_000;

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Its stream was sealed by another.
    Sealed,
    /// Its lease ended, or its broker id was taken away.
    LeaseLost,
    /// A task of it failed: the process stops.
    Failed,
}

/// What a session is made of, beside the broker over it.
pub struct LifeParts {
    pub registration: Registration,
    pub controller: Controller,
    pub record: BrokerRecord,
    pub log: Log,
    pub catalogue: Catalogue,
    pub tasks: Tasks,
    /// Operators want this process to lead nothing; kept up to date for the sessions after this one.
    pub draining: Arc<AtomicBool>,
}

/// See the module.
pub struct Life {
    broker: Arc<Broker>,
    partitions: Partitions,
    parts: LifeParts,
}

impl Life {
    pub fn new(broker: Arc<Broker>, partitions: Partitions, parts: LifeParts) -> Self {
        Self { broker, partitions, parts }
    }

    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    pub fn log(&self) -> &Log {
        &self.parts.log
    }

    /// Partitions that it leads now.
    pub fn led(&self) -> usize {
        self.partitions.status().borrow().led
    }

    fn session(&self) -> SessionId {
        self.parts.registration.session()
    }

    /// Watches its stream and its commits in tasks of its own.
    pub fn watch(&self, clock: &Clock, lease_ttl_ms: u64, stalled_ms: &Arc<AtomicU64>) {
        let tasks = &self.parts.tasks;
        tasks.spawn("stream probe", confirm(self.log().clone(), tasks.clone(), lease_ttl_ms));
        let commits = watch_commits(self.log().clone(), tasks.clone(), clock.clone(), stalled_ms.clone());
        tasks.spawn("commit watch", commits);
        let (catalogue, draining) = (self.parts.catalogue.clone(), self.parts.draining.clone());
        tasks.spawn("drain watch", watch_wish(self.session(), catalogue, draining, tasks.clone()));
    }

    /// Makes the broker known, which makes it lead partitions, and waits until it leads what it is to lead, as far as is
    /// known; at most half a minute.
    pub async fn open(&self) -> Result<(), ClusterError> {
        let LifeParts { registration, controller, record, tasks, .. } = &self.parts;
        registration.announce(record).await?;
        controller.clone().start(tasks);
        self.opened().await;
        tracing::info!(session = %self.session(), partitions = self.led(), "session started");
        Ok(())
    }

    async fn opened(&self) {
        let (mut versions, mut status) = (self.parts.catalogue.subscribe(), self.partitions.status());
        let opened = async {
            loop {
                versions.borrow_and_update();
                let image = self.parts.catalogue.image();
                let now = *status.borrow_and_update();
                let follows = image.controller.is_some() && now.version >= image.version && now.opening == 0;
                if follows && !self.has_orphans(&image) {
                    return;
                }
                tokio::select! {
                    biased;
                    changed = versions.changed() => if changed.is_err() { return },
                    changed = status.changed() => if changed.is_err() { return },
                }
            }
        };
        if tokio::time::timeout(Duration::from_millis(OPEN_WAIT_MS), opened).await.is_err() {
            tracing::warn!("not every partition is open yet; the rest follows");
        }
    }

    /// Partitions that an earlier session of this broker led and nobody leads now.
    fn has_orphans(&self, image: &ClusterImage) -> bool {
        let own = self.session();
        let dead = |leader: SessionId| leader.broker_id == own.broker_id && leader != own;
        image.topics().any(|topic| topic.partitions.iter().any(|assignment| dead(assignment.session)))
    }

    /// Resolves when the session is over.
    pub async fn over(&self) -> Over {
        let (mut progress, mut ended) = (self.log().progress(), self.parts.registration.ended());
        let failing = self.parts.tasks.stopping();
        tokio::select! {
            biased;
            () = failing.cancelled() => Over::Failed,
            _ = progress.wait_for(|progress| progress.fenced) => Over::Sealed,
            _ = ended.wait_for(|ended| *ended) => Over::LeaseLost,
        }
    }

    /// Has [`Life::over`] resolve: the session is not to go on.
    pub fn end_early(&self) {
        self.parts.registration.end();
    }

    /// Why a task of it failed, if one did.
    pub fn failure(&self) -> Option<String> {
        self.parts.tasks.failure()
    }

    /// Ends everything of a session that is over. What is open is left to the next one.
    pub async fn abandon(&self, over: Over) {
        if over == Over::LeaseLost {
            // The stream still stands: what is open can be committed, if the store takes it soon.
            let _ = tokio::time::timeout(Duration::from_millis(LAST_COMMIT_MS), self.log().flush()).await;
        }
        self.log().abandon();
        self.parts.tasks.stop().await;
    }

    /// Gives every partition to other brokers, if there are any; at most for `timeout_ms`.
    pub async fn drain(&self, timeout_ms: u64) {
        let LifeParts { registration, record, catalogue, .. } = &self.parts;
        let session = self.session();
        let heirs = |image: &ClusterImage| image.candidates().any(|broker| broker.session != session);
        let image = catalogue.image();
        if image.controller.is_none() || !heirs(&image) || image.led_by(session).next().is_none() {
            return;
        }
        let record = BrokerRecord { draining: true, ..record.clone() };
        let mut versions = catalogue.subscribe();
        let drained = async {
            registration.announce(&record).await?;
            loop {
                versions.borrow_and_update();
                let image = catalogue.image();
                if image.led_by(session).next().is_none() || !heirs(&image) || versions.changed().await.is_err() {
                    return Ok::<(), ClusterError>(());
                }
            }
        };
        match tokio::time::timeout(Duration::from_millis(timeout_ms), drained).await {
            Ok(Ok(())) => {
                tracing::info!("every partition is with another broker");
                tokio::time::sleep(Duration::from_millis(FAREWELL_MS)).await;
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot say that this broker drains; its partitions move when its lease ends");
            }
            Err(_) => {
                tracing::warn!("not every partition was handed over in time; the rest moves when this broker is gone");
            }
        }
    }

    /// Commits what is open and gives the broker id back. The doors are closed before.
    pub async fn end(self) {
        if let Err(error) = self.log().close().await {
            tracing::warn!(%error, "what is open could not be committed; the next start finishes it");
        }
        self.parts.tasks.stop().await;
        if let Err(error) = self.parts.registration.release().await {
            tracing::warn!(%error, "the broker id could not be given back; the next start takes it over");
        }
    }
}

/// Looks once per lease whether the own stream was sealed: a session that cannot reach the metadata store, or has nothing to
/// write, would not notice otherwise.
async fn confirm(log: Log, tasks: Tasks, pause_ms: u64) {
    let stop = tasks.stopping();
    let pause = Duration::from_millis(pause_ms.max(1));
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        match stop.run_until_cancelled(log.probe_own_stream()).await {
            Some(Ok(true)) => {}
            Some(Ok(false)) | None => return,
            Some(Err(error)) => tracing::debug!(%error, "cannot look at the own stream"),
        }
    }
}

/// Remembers whether operators want this broker to lead nothing: its record, where they say so, ends with its session.
async fn watch_wish(session: SessionId, catalogue: Catalogue, draining: Arc<AtomicBool>, tasks: Tasks) {
    let stop = tasks.stopping();
    let mut versions = catalogue.subscribe();
    while let Some(Ok(())) = stop.run_until_cancelled(versions.changed()).await {
        let image = catalogue.image();
        if let Some(broker) = image.brokers.get(&session.broker_id).filter(|broker| broker.session == session) {
            draining.store(broker.draining, Ordering::Relaxed);
        }
    }
}

/// Measures for how long segments have waited without a commit: the object store does not take them.
async fn watch_commits(log: Log, tasks: Tasks, clock: Clock, stalled_ms: Arc<AtomicU64>) {
    let stop = tasks.stopping();
    let progress = log.progress();
    let (mut last, mut since_ms) = (0, clock.boot_ms());
    let pause = Duration::from_millis(COMMIT_LOOK_MS);
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        let Progress { committed, fenced, .. } = *progress.borrow();
        if committed != last || fenced || log.uncommitted_segments() == 0 {
            (last, since_ms) = (committed, clock.boot_ms());
        }
        stalled_ms.store(clock.boot_ms().saturating_sub(since_ms), Ordering::Relaxed);
    }
    stalled_ms.store(0, Ordering::Relaxed);
}
