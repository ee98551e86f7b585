//! The task that makes the log follow the catalogue.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;

use super::loader::Loader;
use super::machine::{Load, Machine, Work};
use super::moving::Moving;
use crate::base::{ErrorKind, SessionId, Tasks, TopicPartition, crash};
use crate::broker::metrics::Metrics;
use crate::cluster::{Catalogue, Handover};
use crate::format::state::PartitionState;
use crate::partition::{Log, LogError, PendingChange};

/// Partitions opened by one call.
const OPEN_AT_ONCE: usize = 1_000;
/// Longest wait of an operation for the partitions that it made, in milliseconds.
const SETTLE_MS: u64 = 10_000;
/// Pause after something failed, in milliseconds.
const RETRY_MS: u64 = 500;
/// Assignments are cleared this long after the first of a batch is ready, in milliseconds: nobody waits for it.
const CLEAR_DELAY_MS: u64 = 200;

/// How far the log follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// Version of the catalogue's image that was compared last.
    pub version: u64,
    /// Partitions that this session is to lead and does not yet.
    pub opening: usize,
    /// Partitions that it leads.
    pub led: usize,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Partitions {
    status: watch::Receiver<Status>,
    moving: Arc<Moving>,
    log: Log,
}

impl Partitions {
    /// Starts following.
    pub fn follow(loader: Loader, metrics: Metrics, tasks: &Tasks) -> Self {
        let (status_to, status) = watch::channel(Status::default());
        let stop = tasks.stopping();
        let (log, catalogue) = (loader.log.clone(), loader.catalogue.clone());
        let own = log.session();
        let (machine, work) = (Machine::new(own), FuturesUnordered::new());
        let moving = Arc::<Moving>::default();
        let partitions = Self { status, moving: moving.clone(), log: log.clone() };
        let keeper = Keeper { own, loader, catalogue, log, metrics, machine, work, probing: false, moving };
        tasks.spawn("partitions", async move {
            stop.run_until_cancelled(keeper.run(status_to)).await;
        });
        partitions
    }

    /// How far the log follows, as it comes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits until the log follows the image of `version` (at most ten seconds: the work goes on regardless).
    pub async fn settled(&self, version: u64) {
        let mut status = self.status.clone();
        let reached = status.wait_for(|status| status.version >= version);
        if tokio::time::timeout(Duration::from_millis(SETTLE_MS), reached).await.is_err() {
            tracing::warn!(version, "partitions are late to open");
        }
    }
}

impl Partitions {
    /// Waits while `partition` has just begun to come to this broker or to leave it, or the log is behind `version` of the
    /// catalogue: who asks again at once would be refused again. At most until it has been moving for a second, and for
    /// `timeout_ms`: one whose state cannot be read does not hold up what else is on the connection.
    pub async fn moved(&self, partition: TopicPartition, version: u64, timeout_ms: u64) {
        let mut status = self.status.clone();
        let Some(left_ms) = self.hold_ms(partition, version, status.borrow_and_update().version) else { return };
        let moved = async {
            while status.changed().await.is_ok() {
                let reached = status.borrow_and_update().version;
                if self.hold_ms(partition, version, reached).is_none() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(left_ms.min(timeout_ms)), moved).await;
    }

    /// For how much longer whoever writes to `partition` is to be held; `None` if it is not.
    fn hold_ms(&self, partition: TopicPartition, version: u64, reached: u64) -> Option<u64> {
        let behind = || reached < version && self.log.view(partition).is_err();
        self.moving.hold_ms(partition, self.log.clock().boot_ms(), behind)
    }
}

/// Partitions, each with the epoch under which it is led.
type Led = Vec<(TopicPartition, i32)>;

/// What became of work.
enum Event {
    /// What was read, and what could not be.
    Loaded(Vec<(Load, PartitionState)>, Led),
    /// It is time to read them again.
    LoadFailed(Led),
    Acquired(Led),
    Created(Led),
    Released(Led, u64),
    HandedOver(Vec<TopicPartition>),
    Cleared(Led),
    /// The own stream was looked at.
    Probed,
    /// Nothing that concerns the machine.
    Nothing,
}

struct Keeper {
    own: SessionId,
    loader: Loader,
    catalogue: Catalogue,
    log: Log,
    metrics: Metrics,
    machine: Machine,
    work: FuturesUnordered<BoxFuture<'static, Event>>,
    /// The own stream is being looked at.
    probing: bool,
    moving: Arc<Moving>,
}

impl Keeper {
    async fn run(mut self, status: watch::Sender<Status>) {
        let mut versions = self.catalogue.subscribe();
        loop {
            versions.borrow_and_update();
            let version = self.settle().await;
            let (opening, led) = (self.machine.opening(), self.machine.led());
            let now = Status { version, opening, led };
            self.metrics.partitions.set(led as i64);
            self.metrics.opening_partitions.set(opening as i64);
            self.moving.are(&self.machine.moving().collect(), self.log.clock().boot_ms());
            status.send_replace(now);
            tokio::select! {
                biased;
                Some(event) = self.work.next() => self.take(event),
                changed = versions.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn settle(&mut self) -> u64 {
        let image = self.catalogue.image();
        let given_away = self.log.given_away();
        let work = self.machine.plan(&image, &given_away);
        self.metrics.topics.set(image.topic_count() as i64);
        self.start(work).await;
        image.version
    }

    async fn start(&mut self, work: Work) {
        let Work { forget, drop, drop_given, create, load, give_away, hand_over, clear, taken } = work;
        if !forget.is_empty() {
            self.log.forget_led(&forget);
        }
        if !drop.is_empty() {
            self.drop_partitions(drop);
        }
        if !drop_given.is_empty() {
            self.log.drop_given(&drop_given);
        }
        for some in create.chunks(OPEN_AT_ONCE) {
            self.creating(some);
            tokio::task::yield_now().await;
        }
        if !load.is_empty() {
            tracing::info!(partitions = load.len(), "loading partitions");
            self.load(load);
        }
        if !give_away.is_empty() {
            self.give_away(give_away);
        }
        if !hand_over.is_empty() {
            self.hand_over(hand_over);
        }
        if !clear.is_empty() {
            self.clear(clear);
        }
        if taken && !self.probing {
            self.probing = true;
            let log = self.log.clone();
            self.work.push(Box::pin(async move {
                if let Err(error) = log.probe_own_stream().await {
                    tracing::warn!(%error, "cannot see whether this broker's stream was sealed");
                }
                // The partitions stay taken until the session has ended: without a pause this would go round and round.
                tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
                Event::Probed
            }));
        }
    }

    fn drop_partitions(&self, gone: Vec<TopicPartition>) {
        // Not waited for: new partitions open even while the store is down.
        let log = self.log.clone();
        self.work.push(Box::pin(async move {
            match log.drop_partitions(&gone).await {
                Ok(()) | Err(LogError::Fenced) => {}
                Err(error) => {
                    tracing::warn!(%error, partitions = gone.len(), "deleted partitions stay in the log for now");
                }
            }
            Event::Nothing
        }));
    }

    fn load(&self, wanted: Vec<Load>) {
        // One batch per newest stream: a stream is read once, and a slow one does not hold up the others.
        let mut batches: BTreeMap<SessionId, Vec<Load>> = BTreeMap::new();
        for load in wanted {
            let newest = load.from.first().map_or(self.own, |from| from.session);
            batches.entry(newest).or_default().push(load);
        }
        for (_, batch) in batches {
            let loader = self.loader.clone();
            self.work.push(Box::pin(async move {
                // One that cannot be loaded does not hold up its neighbours.
                let (mut states, mut failed) = (Vec::new(), Led::new());
                for (load, state) in loader.load(batch).await {
                    match state {
                        Ok(state) => states.push((load, state)),
                        Err(error) => {
                            if failed.is_empty() {
                                let retriable = error.kind() == ErrorKind::Retriable;
                                tracing::warn!(partition = %load.partition, %error, retriable, "cannot load a partition; trying again");
                            }
                            failed.push((load.partition, load.epoch));
                        }
                    }
                }
                Event::Loaded(states, failed)
            }));
        }
    }

    /// New partitions are led at once. That the stream knows them is written down later, when it does.
    fn creating(&self, partitions: &[(TopicPartition, i32)]) {
        let Some(change) = self.log.create_partitions(partitions) else { return };
        let partitions = partitions.to_vec();
        self.work.push(Box::pin(async move {
            match change.wait().await {
                Ok(()) => Event::Created(partitions),
                Err(_) => Event::Nothing,
            }
        }));
    }

    fn acquiring(&self, change: PendingChange, partitions: Led) {
        self.work.push(Box::pin(async move {
            match change.wait().await {
                Ok(()) => Event::Acquired(partitions),
                Err(_) => Event::Nothing,
            }
        }));
    }

    fn give_away(&self, partitions: Led) {
        let Some(change) = self.log.give_away(&names(&partitions)) else { return };
        self.work.push(Box::pin(async move {
            let seq = change.seq();
            match change.wait().await {
                Ok(()) => Event::Released(partitions, seq),
                Err(_) => Event::Nothing,
            }
        }));
    }

    fn hand_over(&self, given: BTreeMap<TopicPartition, Handover>) {
        let (catalogue, own) = (self.catalogue.clone(), self.own);
        self.work.push(Box::pin(async move {
            if let Err(error) = catalogue.hand_over(own, &given).await {
                tracing::warn!(%error, partitions = given.len(), "cannot hand partitions over; trying again");
                tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
            }
            Event::HandedOver(given.into_keys().collect())
        }));
    }

    fn clear(&self, done: BTreeMap<TopicPartition, i32>) {
        let (catalogue, own) = (self.catalogue.clone(), self.own);
        self.work.push(Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(CLEAR_DELAY_MS)).await;
            if let Err(error) = catalogue.clear_from(own, &done).await {
                tracing::warn!(%error, partitions = done.len(), "earlier streams stay named for now");
                tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
            }
            Event::Cleared(done.into_iter().collect())
        }));
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Loaded(mut loaded, failed) => {
                loaded.retain(|(load, _)| self.machine.loaded(load.partition, load.epoch));
                let partitions = loaded.iter().map(|(load, _)| (load.partition, load.epoch)).collect();
                let states = loaded.into_iter().map(|(load, state)| (load.partition, load.epoch, state)).collect();
                if let Some(change) = self.log.acquire(states) {
                    self.acquiring(change, partitions);
                }
                if !failed.is_empty() {
                    self.work.push(Box::pin(async move {
                        tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
                        Event::LoadFailed(failed)
                    }));
                }
            }
            Event::LoadFailed(partitions) => {
                for (partition, epoch) in partitions {
                    self.machine.load_failed(partition, epoch);
                }
            }
            Event::Acquired(partitions) => {
                crash::point("takeover-after-acquired");
                for (partition, epoch) in partitions {
                    self.machine.acquired(partition, epoch);
                }
            }
            Event::Created(partitions) => {
                for (partition, epoch) in partitions {
                    self.machine.acquired(partition, epoch);
                }
            }
            Event::Released(partitions, seq) => {
                for (partition, epoch) in partitions {
                    self.machine.released(partition, epoch, seq);
                }
            }
            Event::HandedOver(partitions) => {
                for partition in partitions {
                    self.machine.hand_over_ended(partition);
                }
            }
            Event::Cleared(partitions) => {
                for (partition, epoch) in partitions {
                    self.machine.clear_ended(partition, epoch);
                }
            }
            Event::Probed => self.probing = false,
            Event::Nothing => {}
        }
    }
}

fn names(partitions: &[(TopicPartition, i32)]) -> Vec<TopicPartition> {
    partitions.iter().map(|(partition, _)| *partition).collect()
}
