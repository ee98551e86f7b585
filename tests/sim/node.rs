//! One machine: a disk that stays, and the broker process that lives and dies on it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use esker::app::options::Doors;
use esker::app::{
    self,
    node::{Node, NodeParts},
};
use esker::base::clock::Source;
use esker::base::{Clock, Rng, SessionId, Tasks};
use esker::cache::MemoryPages;
use esker::cluster::identity::{Place as Member, settle_cluster_id};
use esker::cluster::{Identity, KeySpace, ProbeOutcome, Reach};
use esker::config::{ObjectStoreSetting, Settings};
use esker::meta::MetaStore;
use esker::objstore::hedge::{HedgePolicy, HedgeStore};
use esker::objstore::retry::{RetryPolicy, RetryStore};
use esker::objstore::{Metrics, ObjectStore};
use esker::partition::Log;
use parking_lot::Mutex;
use prometheus_client::registry::Registry as Counters;
use uuid::Uuid;

use crate::disk::SimDisk;
use crate::meta::Registry;
use crate::net::Net;
use crate::store::Bucket;
use crate::world::{Host, Place, WALL_START_MS, World};

/// One request to the store is given up after this many milliseconds.
const REQUEST_TIMEOUT_MS: u64 = 3_000;

/// Pause before a start goes on after a failure, in milliseconds.
const RETRY_MS: u64 = 500;

/// There are no other brokers yet.
#[derive(Debug)]
struct Alone;

#[async_trait::async_trait]
impl Reach for Alone {
    async fn seal(&self, session: SessionId) -> Result<u64, String> {
        Err(format!("{session} is no other broker's"))
    }

    async fn probe(&self, _: &str, _: u64) -> ProbeOutcome {
        ProbeOutcome::Silent
    }
}

/// The clocks of one machine: the wall clock may be wrong, the boot clock only differs from others by when it began.
#[derive(Clone)]
pub struct NodeClock {
    world: World,
    boot_us: u64,
    skew_ms: Arc<AtomicI64>,
}

impl Source for NodeClock {
    fn wall_ms(&self) -> i64 {
        WALL_START_MS + self.world.now_ms() as i64 + self.skew_ms.load(Ordering::Relaxed)
    }

    fn boot_us(&self) -> u64 {
        self.boot_us + self.world.now_us()
    }
}

impl NodeClock {
    pub fn new(world: &World, boot_us: u64) -> Self {
        Self { world: world.clone(), boot_us, skew_ms: Arc::default() }
    }

    /// Puts the wall clock so far off.
    pub fn set_skew_ms(&self, skew_ms: i64) {
        self.skew_ms.store(skew_ms, Ordering::Relaxed);
    }

    pub fn clock(&self) -> Clock {
        Clock::of(self.clone())
    }
}

/// What all machines share.
#[derive(Clone)]
pub struct Surroundings {
    pub world: World,
    pub net: Net,
    pub bucket: Bucket,
    pub registry: Registry,
}

/// See the module.
pub struct Machine {
    pub id: i32,
    pub disk: SimDisk,
    pub clock: NodeClock,
    surroundings: Surroundings,
    settings: Settings,
    process: Option<Process>,
    lives: u64,
}

struct Process {
    host: Host,
    tasks: Tasks,
    state: Arc<Mutex<Stage>>,
}

/// What a process is at.
#[derive(Clone)]
enum Stage {
    Starting,
    Serving(Log),
    Ended(String),
}

impl Machine {
    pub fn new(id: i32, surroundings: &Surroundings, mut settings: Settings) -> Self {
        settings.broker.object_store = ObjectStoreSetting::S3 { bucket: "sim".to_owned(), prefix: String::new() };
        settings.broker.broker_id = Some(id);
        let world = &surroundings.world;
        Self {
            id,
            disk: SimDisk::new(Rng::seeded(world.rng().u64())),
            clock: NodeClock::new(world, 1_000_000_000 * (1 + id as u64)),
            surroundings: surroundings.clone(),
            settings,
            process: None,
            lives: 0,
        }
    }

    pub fn place(&self) -> Place {
        Place::Broker(self.id)
    }

    pub fn name(&self) -> String {
        format!("broker {}", self.id)
    }

    /// The log of the process that serves.
    pub fn log(&self) -> Option<Log> {
        match &*self.process.as_ref()?.state.lock() {
            Stage::Serving(log) => Some(log.clone()),
            _ => None,
        }
    }

    /// Starts a process, if none is there.
    pub fn start(&mut self) {
        if self.process.is_some() {
            return;
        }
        self.lives += 1;
        let world = self.surroundings.world.clone();
        world.trace(&self.name(), format_args!("starts, life {}", self.lives));
        let host = Host::new(&world);
        let (tasks, state) = (Tasks::new(), Arc::new(Mutex::new(Stage::Starting)));
        let life = Life {
            id: self.id,
            number: self.lives,
            surroundings: self.surroundings.clone(),
            settings: self.settings.clone(),
            disk: self.disk.clone(),
            clock: self.clock.clock(),
            rng: Rng::seeded(world.rng().u64()),
            tasks: tasks.clone(),
            runtime: host.handle().clone(),
        };
        let staged = state.clone();
        host.handle().spawn(async move {
            if let Err(error) = life.run(&staged).await {
                *staged.lock() = Stage::Ended(format!("{error:#}"));
            }
        });
        self.process = Some(Process { host, tasks, state });
    }

    /// Ends the process at once. With the power gone, what was not synced is lost too.
    pub fn kill(&mut self, power: bool) {
        let Some(process) = self.process.take() else { return };
        let how = if power { "loses its power" } else { "is killed" };
        self.surroundings.world.trace(&self.name(), format_args!("{how}"));
        self.surroundings.net.close(self.id);
        drop(process);
        if power {
            self.disk.lose_power();
        }
    }

    /// Stops or continues the process without its knowledge.
    pub fn set_paused(&mut self, paused: bool) {
        let name = self.name();
        if let Some(process) = &mut self.process {
            self.surroundings.world.trace(&name, format_args!("{}", if paused { "pauses" } else { "goes on" }));
            process.host.paused = paused;
        }
    }

    /// Runs the process up to this time. Returns why it ended, if it did.
    pub fn turn(&mut self, end_us: u64) -> Option<String> {
        let process = self.process.as_mut()?;
        process.host.turn(end_us);
        let ended = match &*process.state.lock() {
            Stage::Ended(why) => Some(why.clone()),
            _ => process.tasks.failure(),
        };
        if let Some(why) = &ended {
            let name = self.name();
            self.surroundings.world.trace(&name, format_args!("ended: {why}"));
            self.surroundings.net.close(self.id);
            self.process = None;
        }
        ended
    }

    /// Where tasks of its process run.
    pub fn runtime(&self) -> Option<tokio::runtime::Handle> {
        Some(self.process.as_ref()?.host.handle().clone())
    }
}

/// One life of a process.
struct Life {
    id: i32,
    number: u64,
    surroundings: Surroundings,
    settings: Settings,
    disk: SimDisk,
    clock: Clock,
    rng: Rng,
    tasks: Tasks,
    runtime: tokio::runtime::Handle,
}

impl Life {
    async fn run(self, state: &Mutex<Stage>) -> anyhow::Result<()> {
        let Self { clock, rng, .. } = &self;
        let Surroundings { world, net, bucket, registry } = &self.surroundings;
        let place = Place::Broker(self.id);
        let name = format!("broker {}", self.id);
        let meta: Arc<dyn MetaStore> = Arc::new(registry.seen_from(place));
        let keys = KeySpace::of_cluster("sim");
        // As `objstore::open` wraps a bucket.
        let store: Arc<dyn ObjectStore> = Arc::new(bucket.seen_from(place, REQUEST_TIMEOUT_MS));
        let store = Arc::new(HedgeStore::new(store, HedgePolicy::default(), clock.clone(), Metrics::detached()));
        let retry = RetryPolicy::default();
        let store = Arc::new(RetryStore::new(store, retry, clock.clone(), rng.clone(), Metrics::detached()));
        settle_cluster_id(&meta, &keys, &Vec::<Member>::new(), clock, rng).await?;
        let doors = Doors {
            kafka: SocketAddr::from(([10, 0, 1, self.id as u8], 9092)),
            http: SocketAddr::from(([10, 0, 1, self.id as u8], 9096)),
        };
        let data_dir = PathBuf::from(format!("/data/{}", self.id));
        let parts = NodeParts {
            settings: &self.settings,
            clock,
            rng,
            tasks: &self.tasks,
            meta,
            keys,
            reach: Arc::new(Alone),
            store,
            pages: Arc::new(MemoryPages::new(self.settings.cache.memory_bytes)),
            disk: Arc::new(self.disk.clone()),
            data_dir: Path::new(&data_dir),
            identity: Identity {
                broker_id: self.id,
                directory_id: Uuid::from_u128(self.id as u128 + 1),
                host: name.clone(),
                pid: self.number as u32,
            },
            doors,
        };
        let mut counters = Counters::default();
        let mut node =
            Node::start(parts, &mut counters, |phase| world.trace(&name, format_args!("phase: {phase}"))).await?;
        net.listen(self.id, self.runtime.clone(), node.front().clone());
        while let Err(error) = node.open().await {
            world.trace(&name, format_args!("cannot open: {error}"));
            tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
        }
        let heard = |stage: app::node::Stage, node: &Node| match stage {
            app::node::Stage::Rejoining => world.trace(&name, format_args!("rejoins")),
            app::node::Stage::Serving => {
                *state.lock() = Stage::Serving(node.log().clone());
                world.trace(&name, format_args!("serves as session {}", node.log().session()));
            }
        };
        heard(app::node::Stage::Serving, &node);
        node.serve(&self.tasks.stopping(), heard).await?;
        // Dropped with the runtime, as a killed process is.
        std::future::pending::<()>().await;
        drop(node);
        Ok(())
    }
}
