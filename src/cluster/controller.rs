//! The controller: elected in the metadata store, it seals streams of the dead, gives their partitions to the living, and
//! keeps the load even. What it does is decided in [`super::placement`] and [`super::suspicion`]; this is the shell.
//!
//! Every broker runs it. Those that are not the controller watch the controller, and take its place when it looks dead or
//! its lease has ended. Each step may be repeated by the next controller, so a crash anywhere leaves nothing but work.
//! While the metadata store is down nothing is decided and no partition moves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::catalogue::Catalogue;
use super::error::ClusterError;
use super::image::{ClusterImage, GRPC_ENDPOINT};
use super::metrics::Metrics;
use super::placement::{Decision, decide};
use super::registration::{Registration, Sessions};
use super::suspicion::{ProbeOutcome, Suspicion};
use crate::base::{Clock, SessionId, Tasks, TopicPartition, crash};

/// Pause after something failed, in milliseconds.
const RETRY_MS: u64 = 500;
/// Pause before a broker that has refused a probe is asked again, in milliseconds.
const DOUBT_MS: u64 = 50;
/// Those who would replace a dead controller wait for this many milliseconds per living broker with a smaller id.
const SUCCESSION_MS: u64 = 200;

/// What the controller does to other brokers' streams, and how it looks whether they live. The log implements it.
#[async_trait]
pub trait Reach: fmt::Debug + Send + Sync + 'static {
    /// Seals the stream of a session; gives the seal's seq. Repeating it is fine.
    async fn seal(&self, session: SessionId) -> Result<u64, String>;

    /// Asks the broker at an HTTP endpoint (`host:port`) whether it lives; at most for `timeout_ms`.
    async fn probe(&self, endpoint: &str, timeout_ms: u64) -> ProbeOutcome;

    /// Asks the broker at a gRPC endpoint (`host:port`) how busy the partitions are that it leads, in bytes per second; at
    /// most for `timeout_ms`.
    async fn traffic(&self, endpoint: &str, timeout_ms: u64) -> Result<Vec<(TopicPartition, u64)>, String>;
}

/// Paces of the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControllerSettings {
    /// Milliseconds between two probes of a broker.
    pub probe_interval_ms: u64,
    /// Longest wait for a probe's answer, in milliseconds.
    pub probe_timeout_ms: u64,
    /// Probes without an answer in a row that make a suspect.
    pub probe_misses: u32,
    /// Milliseconds between two looks at the load when nothing else happens.
    pub balance_interval_ms: u64,
}

impl Default for ControllerSettings {
    fn default() -> Self {
        Self { probe_interval_ms: 250, probe_timeout_ms: 1_000, probe_misses: 3, balance_interval_ms: 5_000 }
    }
}

/// What a controller works with. Clones share it.
#[derive(Debug, Clone)]
pub struct Controller {
    /// Topics, brokers, assignments.
    pub catalogue: Catalogue,
    /// Sessions on record.
    pub sessions: Sessions,
    /// This broker's session.
    pub registration: Registration,
    /// Other brokers' streams and doors.
    pub reach: Arc<dyn Reach>,
    /// Paces.
    pub settings: ControllerSettings,
    /// Time.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
}

impl Controller {
    /// Probes, campaigns and controls in tasks of `tasks`.
    pub fn start(self, tasks: &Tasks) {
        let (suspects, seen) = watch::channel(BTreeSet::new());
        let stop = tasks.stopping();
        let prober = self.clone();
        let stopping = stop.clone();
        tasks.spawn("broker probes", async move {
            let mut suspicion = Suspicion::new(prober.settings.probe_misses);
            let interval_ms = prober.settings.probe_interval_ms.max(1);
            let mut pause_ms = interval_ms;
            while stopping.run_until_cancelled(tokio::time::sleep(Duration::from_millis(pause_ms))).await.is_some() {
                prober.probe(&mut suspicion, &suspects).await;
                pause_ms = if suspicion.is_urgent() { interval_ms.min(DOUBT_MS) } else { interval_ms };
            }
        });
        let rates = Rates::default();
        let (asker, asking, known) = (self.clone(), stop.clone(), rates.clone());
        tasks.spawn("traffic", async move {
            let pause = Duration::from_millis(asker.settings.balance_interval_ms.max(1));
            while asking.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
                asking.run_until_cancelled(asker.measure(&known)).await;
            }
        });
        let sealing = Sealing { under_way: Arc::default(), done: Arc::default(), tasks: tasks.clone() };
        tasks.spawn("controller", async move {
            stop.run_until_cancelled(self.run(seen, sealing, rates)).await;
        });
    }

    fn own(&self) -> SessionId {
        self.registration.session()
    }

    /// One round of probes: the controller looks at everybody, everybody else at the controller.
    async fn probe(&self, suspicion: &mut Suspicion, suspects: &watch::Sender<BTreeSet<SessionId>>) {
        let image = self.catalogue.image();
        let own = self.own();
        let controls = image.controller == Some(own);
        let others = image
            .brokers
            .values()
            .filter(|broker| broker.session != own && (controls || image.controller == Some(broker.session)));
        let endpoints: Vec<(SessionId, &str)> =
            others.filter_map(|broker| Some((broker.session, broker.endpoints.get("http")?.as_str()))).collect();
        suspicion.probed(&endpoints.iter().map(|(session, _)| *session).collect(), self.clock.boot_ms());
        let probes = endpoints.iter().map(async |(session, endpoint)| {
            (*session, self.reach.probe(endpoint, self.settings.probe_timeout_ms).await)
        });
        for (session, outcome) in join_all(probes).await {
            suspicion.observe(session, outcome, self.clock.boot_ms());
        }
        let now = suspicion.suspects();
        suspects.send_if_modified(|before| {
            let changed = *before != now;
            for session in now.difference(before) {
                tracing::warn!(%session, "a broker looks dead: it does not answer");
            }
            *before = now;
            changed
        });
    }

    /// As the controller, asks everybody how busy their partitions are; one that does not answer counts as idle.
    async fn measure(&self, known: &Rates) {
        let image = self.catalogue.image();
        let mut rates = BTreeMap::new();
        if image.controller == Some(self.own()) && image.brokers.len() > 1 {
            let endpoints = image.brokers.values().filter_map(|broker| broker.endpoints.get(GRPC_ENDPOINT));
            let answers = join_all(endpoints.map(|at| self.reach.traffic(at, self.settings.probe_timeout_ms))).await;
            for answer in answers {
                match answer {
                    Ok(of_broker) => rates.extend(of_broker),
                    Err(error) => tracing::debug!(error, "a broker does not say how busy it is"),
                }
            }
        }
        *known.lock() = rates;
    }

    async fn run(self, mut suspects: watch::Receiver<BTreeSet<SessionId>>, sealing: Sealing, rates: Rates) {
        let mut versions = self.catalogue.subscribe();
        loop {
            versions.borrow_and_update();
            let suspected = suspects.borrow_and_update().clone();
            let image = self.catalogue.image();
            let pause = match self.step(&image, &suspected, &sealing, &rates).await {
                Ok(()) => self.settings.balance_interval_ms,
                Err(error) => {
                    tracing::warn!(%error, "the controller's work goes on in a moment");
                    RETRY_MS
                }
            };
            tokio::select! {
                biased;
                changed = versions.changed() => if changed.is_err() { return },
                changed = suspects.changed() => if changed.is_err() { return },
                () = sealing.done.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(pause)) => {}
            }
        }
    }

    async fn step(
        &self,
        image: &ClusterImage,
        suspects: &BTreeSet<SessionId>,
        sealing: &Sealing,
        rates: &Rates,
    ) -> Result<(), ClusterError> {
        let own = self.own();
        if *self.registration.ended().borrow() {
            return Ok(());
        }
        match image.controller {
            // One that drains leaves it to the others, if there are any.
            None if image.drains(own) && image.candidates().next().is_some() => {}
            None => {
                if self.registration.campaign().await? {
                    tracing::info!(session = %own, "this broker is the controller");
                    self.metrics.elections.inc();
                }
            }
            Some(controller) if controller == own => self.reign(image, suspects, sealing, rates).await?,
            Some(controller) if suspects.contains(&controller) || !image.is_alive(controller) => {
                let before_us = image
                    .candidates()
                    .filter(|broker| broker.session.broker_id < own.broker_id && broker.session != controller);
                let rank = before_us.count() as u64;
                tokio::time::sleep(Duration::from_millis(rank * SUCCESSION_MS)).await;
                if self.registration.usurp(image.controller_revision).await? {
                    tracing::warn!(session = %own, dead = %controller, "this broker is the controller in place of one that looks dead");
                    self.metrics.elections.inc();
                }
            }
            Some(_) => {}
        }
        Ok(())
    }

    async fn reign(
        &self,
        image: &ClusterImage,
        suspects: &BTreeSet<SessionId>,
        sealing: &Sealing,
        rates: &Rates,
    ) -> Result<(), ClusterError> {
        let rates = rates.lock().clone();
        let Decision { seal, take_over, targets } = decide(image, suspects, &rates);
        for session in seal.into_iter().filter(|session| *session != self.own()) {
            self.seal(session, sealing);
        }
        let topic_error = |error| ClusterError::Contended(format!("{error}"));
        if !take_over.is_empty() {
            tracing::info!(partitions = take_over.len(), "partitions of sealed streams get new leaders");
            self.metrics.take_overs.inc_by(take_over.len() as u64);
            self.catalogue.take_over(self.own(), &take_over).await.map_err(topic_error)?;
            crash::point("takeover-after-assign");
        }
        if !targets.is_empty() {
            tracing::info!(partitions = targets.len(), "partitions are to move");
            self.metrics.moves.inc_by(targets.len() as u64);
            self.catalogue.set_targets(self.own(), &targets).await.map_err(topic_error)?;
        }
        Ok(())
    }

    /// Seals in the background: a slow object store must not hold up what concerns other brokers.
    fn seal(&self, session: SessionId, sealing: &Sealing) {
        if !sealing.under_way.lock().insert(session) {
            return;
        }
        let (controller, sealing_task) = (self.clone(), sealing.clone());
        let stop = sealing.tasks.stopping();
        sealing.tasks.spawn("seal", async move {
            let sealed = async {
                let seq = controller.reach.seal(session).await?;
                controller.sessions.retire(session, seq).await.map_err(|error| error.to_string())?;
                Ok::<u64, String>(seq)
            };
            match stop.run_until_cancelled(sealed).await {
                Some(Ok(seq)) => {
                    controller.metrics.seals.inc();
                    tracing::warn!(%session, seq, "the stream of a dead session is sealed");
                    // The image will show it; until then the session is not sealed again.
                    controller.sealed_is_shown(session).await;
                }
                Some(Err(error)) => {
                    tracing::warn!(%session, %error, "the stream of a dead session is not sealed yet");
                    stop.run_until_cancelled(tokio::time::sleep(Duration::from_millis(RETRY_MS))).await;
                }
                None => {}
            }
            sealing_task.under_way.lock().remove(&session);
            sealing_task.done.notify_one();
        });
    }

    async fn sealed_is_shown(&self, session: SessionId) {
        let mut versions = self.catalogue.subscribe();
        let shown = async { while !self.catalogue.image().is_sealed(session) && versions.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(Duration::from_secs(10), shown).await;
    }
}

/// Bytes per second of busy partitions, as they were asked last.
type Rates = Arc<Mutex<BTreeMap<TopicPartition, u64>>>;

/// Seals under way.
#[derive(Debug, Clone)]
struct Sealing {
    under_way: Arc<Mutex<BTreeSet<SessionId>>>,
    done: Arc<Notify>,
    tasks: Tasks,
}
