//! One broker, from the stores it is given to its front door, through as many sessions as it takes.
//!
//! `serve` gives it real stores, a data directory and sockets; the simulator (`tests/sim`) gives it simulated ones. What
//! is made here is the same for both.
//!
//! A session ends when its stream is sealed by another or when it has lost its lease. Then everything of it is thrown away
//! and a new one begins in the same process ([`Node::serve`]); clients meanwhile are told that this broker leads nothing.
//! Nothing that was acknowledged with acks=all is lost by it; what the old write-ahead files still hold is committed if the
//! old stream allows, else kept in `lost/`.
//!
//! A start that fails or is dropped half-way leaves what a crash would leave: the next start's work.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::bail;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::home::Home;
use super::identity::OtherLife;
use super::life::{Life, Over};
use super::options::Doors;
use crate::base::{Clock, ErrorKind, Rng, Tasks};
use crate::broker::{BrokerSlot, Peers};
use crate::cache::PageCache;
use crate::cluster::{ClusterError, Identity, KeySpace, Reach};
use crate::config::Settings;
use crate::frontend::kafka::Front;
use crate::meta::MetaStore;
use crate::objstore::ObjectStore;
use crate::partition::Log;
use crate::wal::Disk;

/// Pause between two tries to begin a session, in milliseconds.
const REJOIN_PAUSE_MS: u64 = 500;

/// What a broker is made over. The cluster's identity is settled and the data directory is locked.
pub struct NodeParts<'a> {
    /// All settings.
    pub settings: &'a Settings,
    /// Time.
    pub clock: &'a Clock,
    /// Randomness.
    pub rng: &'a Rng,
    /// Where background tasks go that outlive a session.
    pub tasks: &'a Tasks,
    /// The metadata store.
    pub meta: Arc<dyn MetaStore>,
    /// Its keys.
    pub keys: KeySpace,
    /// The object store.
    pub store: Arc<dyn ObjectStore>,
    /// How other brokers are reached.
    pub reach: Arc<dyn Reach>,
    /// What other brokers tell.
    pub peers: Arc<dyn Peers>,
    /// The read cache.
    pub pages: Arc<dyn PageCache>,
    /// The disk of the data directory.
    pub disk: Arc<dyn Disk>,
    /// Where local files go.
    pub data_dir: &'a Path,
    /// Who this broker is, at first: one whose id was given to another while it was away takes another id.
    pub identity: Identity,
    /// What clients and other brokers are told.
    pub doors: Doors,
}

/// What a node tells while it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its session has ended; a new one begins.
    Rejoining,
    /// A session has begun.
    Serving,
}

/// A broker that serves.
pub struct Node {
    home: Home,
    life: Life,
    slot: BrokerSlot,
    front: Arc<Front>,
}

impl Node {
    /// Builds the broker from the bottom floor up; `phase` hears what is going on. It leads nothing yet: open its front doors,
    /// then [`Node::open`] it.
    pub async fn start(parts: NodeParts<'_>, metrics: &mut Registry, phase: impl Fn(&str)) -> anyhow::Result<Self> {
        let (clock, rng, kafka) = (parts.clock.clone(), parts.rng.clone(), parts.settings.kafka.clone());
        let home = Home::open(parts, metrics, &phase).await?;
        let life = home.live(&phase).await?;
        let slot = BrokerSlot::new(life.broker().clone());
        let front = Front::new(slot.clone(), kafka, metrics, clock, rng);
        Ok(Self { home, life, slot, front })
    }

    /// Makes the broker known to the others and to clients, and waits until it leads what it is to lead.
    ///
    /// A session that has ended already is no error: [`Node::serve`] begins the next one.
    ///
    /// Errors: the metadata store cannot be reached; try again.
    pub async fn open(&self) -> Result<(), ClusterError> {
        match self.life.open().await {
            Err(error) if error.kind() == ErrorKind::Fenced => {
                tracing::warn!(%error, "the first session has ended before it was open");
                Ok(())
            }
            opened => opened,
        }
    }

    /// The log of the session that goes on now.
    pub fn log(&self) -> &Log {
        self.life.log()
    }

    /// The door for Kafka clients, of all sessions.
    pub fn front(&self) -> &Arc<Front> {
        &self.front
    }

    /// The broker that serves now, through all sessions.
    pub fn slot(&self) -> &BrokerSlot {
        &self.slot
    }

    /// Milliseconds for which segments have waited without a commit, as it changes.
    pub fn stalled_ms(&self) -> Arc<AtomicU64> {
        self.home.stalled_ms.clone()
    }

    /// Serves, through as many sessions as it takes, until `stop` or a failure; `heard` is told what it is at.
    ///
    /// Errors: a task failed, the metadata store is of another life of the cluster, or `stop` came while no session was open;
    /// then the node can only be dropped.
    pub async fn serve(&mut self, stop: &CancellationToken, heard: impl Fn(Stage, &Self)) -> anyhow::Result<()> {
        loop {
            let over = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                over = self.life.over() => over,
            };
            if over == Over::Failed {
                bail!(self.life.failure().unwrap_or_else(|| "a task has failed".to_owned()));
            }
            tracing::warn!(session = %self.log().session(), ?over, "this broker's session is over; a new one begins");
            heard(Stage::Rejoining, self);
            self.life.abandon(over).await;
            self.life = tokio::select! {
                biased;
                () = stop.cancelled() => bail!("stopped while no session was open; the next start goes on"),
                life = self.home.live_again() => life?,
            };
            self.slot.replace(self.life.broker().clone());
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                opened = self.life.open() => match opened {
                    Ok(()) => heard(Stage::Serving, self),
                    // It is over before it began, or nobody could be told of it: the next one tries again.
                    Err(error) => {
                        tracing::warn!(%error, "a session could not be opened");
                        self.life.end_early();
                    }
                },
            }
        }
    }

    /// Gives its partitions to other brokers, if there are any; for `cluster.drain_timeout` at most. The front doors stay
    /// open: clients are told where to go.
    pub async fn drain(&self) {
        self.life.drain(self.home.settings.cluster.drain_timeout_ms).await;
    }

    /// Commits what is open and gives the broker id back. The front doors are closed before.
    pub async fn stop(self, tasks: &Tasks) {
        self.life.end().await;
        tasks.stop().await;
    }
}

impl Home {
    /// A session, however many tries it takes.
    ///
    /// Errors: `OtherLife`.
    async fn live_again(&self) -> anyhow::Result<Life> {
        loop {
            match self.live(&|what| tracing::info!(what, "beginning a session")).await {
                Ok(life) => return Ok(life),
                Err(error) if error.is::<OtherLife>() => return Err(error),
                Err(error) => {
                    tracing::warn!("cannot begin a session; trying again: {error:#}");
                    tokio::time::sleep(Duration::from_millis(REJOIN_PAUSE_MS)).await;
                }
            }
        }
    }
}

/// Why the broker is not ready although it serves: nothing was committed for `limit_ms`.
pub fn stall(stalled_ms: &AtomicU64, limit_ms: u64) -> Option<String> {
    let stalled_ms = stalled_ms.load(Ordering::Relaxed);
    (stalled_ms >= limit_ms)
        .then(|| format!("nothing was committed for {} s: the object store does not take segments", stalled_ms / 1000))
}
