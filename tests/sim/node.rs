//! One machine: a disk that stays, and the broker process that lives and dies on it.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use esker::app::node::{Node, NodeParts, Stage as NodeStage};
use esker::app::options::Doors;
use esker::base::clock::Source;
use esker::base::{Clock, Rng, SessionId, Tasks, TopicPartition};
use esker::broker::{BrokerSlot, Peers, Told};
use esker::cache::MemoryPages;
use esker::cluster::identity::{Place as Member, settle_cluster_id};
use esker::cluster::{GRPC_ENDPOINT, IdWish, KeySpace, ProbeOutcome, Reach, Sessions};
use esker::config::{ObjectStoreSetting, Settings};
use esker::format::metadata::BrokerRecord;
use esker::frontend::grpc;
use esker::meta::MetaStore;
use esker::objstore::hedge::{HedgePolicy, HedgeStore};
use esker::objstore::retry::{RetryPolicy, RetryStore};
use esker::objstore::{Metrics, ObjectStore};
use esker::partition::Log;
use esker::partition::seal::seal_stream;
use futures::StreamExt as _;
use parking_lot::Mutex;
use prometheus_client::registry::Registry as Counters;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::caller::dial;
use crate::disk::SimDisk;
use crate::meta::Registry;
use crate::net::Net;
use crate::store::Bucket;
use crate::world::{Host, Place, WALL_START_MS, World};

/// A process that ended by itself is started again after this many milliseconds.
const SUPERVISOR_MS: u64 = 500;
/// Pause before a start goes on after a failure, in milliseconds.
const RETRY_MS: u64 = 500;
/// How long gRPC calls may hold up a stop.
const GRPC_STOP: Duration = Duration::from_millis(500);
/// One request to the store is given up after this many milliseconds.
const REQUEST_TIMEOUT_MS: u64 = 3_000;

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
    /// What the data directory remembers: its id, and the broker id.
    directory: Directory,
    /// How long it is away after it has ended by itself, in milliseconds.
    pub away_ms: u64,
}

#[derive(Clone)]
struct Directory {
    id: Uuid,
    broker_id: Arc<Mutex<Option<i32>>>,
}

struct Process {
    host: Host,
    tasks: Tasks,
    state: Arc<Mutex<Stage>>,
    stop: CancellationToken,
}

/// What a process is at.
#[derive(Clone)]
enum Stage {
    /// No session is open.
    Starting,
    Serving(Log),
    Ended(String),
}

impl Machine {
    pub fn new(id: i32, surroundings: &Surroundings, mut settings: Settings) -> Self {
        settings.broker.object_store = ObjectStoreSetting::S3 { bucket: "sim".to_owned(), prefix: String::new() };
        let world = &surroundings.world;
        let directory = Directory { id: Uuid::from_u128(world.rng().u64().into()), broker_id: Arc::default() };
        Self {
            id,
            disk: SimDisk::new(Rng::seeded(world.rng().u64())),
            clock: NodeClock::new(world, 1_000_000_000 * (1 + id as u64)),
            surroundings: surroundings.clone(),
            settings,
            process: None,
            lives: 0,
            directory,
            away_ms: SUPERVISOR_MS,
        }
    }

    pub fn place(&self) -> Place {
        Place::Broker(self.id)
    }

    pub fn name(&self) -> String {
        format!("machine {}", self.id)
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
        let host = Host::new(&world, self.place());
        let (tasks, state) = (Tasks::new(), Arc::new(Mutex::new(Stage::Starting)));
        let stop = CancellationToken::new();
        self.away_ms = SUPERVISOR_MS;
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
            directory: self.directory.clone(),
            stop: stop.clone(),
        };
        let staged = state.clone();
        host.handle().spawn(async move {
            let why = match Box::pin(life.run(&staged)).await {
                Ok(()) => "stopped as it was told".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            *staged.lock() = Stage::Ended(why);
        });
        self.surroundings.net.open_door(self.id, host.handle().clone());
        self.process = Some(Process { host, tasks, state, stop });
    }

    /// Ends the process at once. With the power gone, what was not synced is lost too.
    pub fn kill(&mut self, power: bool) {
        let Some(process) = self.process.take() else { return };
        let how = if power { "loses its power" } else { "is killed" };
        self.surroundings.world.trace(&self.name(), format_args!("{how}"));
        self.surroundings.net.close_door(self.id, power);
        drop(process);
        if power {
            self.disk.lose_power();
        }
    }

    /// Tells the process to end in order (SIGTERM); it comes back `away_ms` after that.
    pub fn stop(&mut self, away_ms: u64) {
        let Some(process) = &self.process else { return };
        self.away_ms = away_ms;
        self.surroundings.world.trace(&self.name(), format_args!("is told to stop"));
        process.stop.cancel();
    }

    /// A new, empty disk. The process is not there.
    pub fn replace_disk(&mut self) {
        let world = &self.surroundings.world;
        self.surroundings.world.trace(&self.name(), format_args!("has a new disk"));
        self.disk = SimDisk::new(Rng::seeded(world.rng().u64()));
        self.directory = Directory { id: Uuid::from_u128(world.rng().u64().into()), broker_id: Arc::default() };
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
            self.surroundings.net.close_door(self.id, false);
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
    directory: Directory,
    stop: CancellationToken,
}

/// The address of a machine.
pub fn address(machine: i32) -> IpAddr {
    IpAddr::from([10, 0, 1, machine as u8])
}

/// The machine that has this address.
pub fn machine_at(host: &str) -> Option<i32> {
    match host.parse().ok()? {
        IpAddr::V4(address) => Some(i32::from(address.octets()[3])),
        IpAddr::V6(_) => None,
    }
}

/// How one machine reaches the others.
#[derive(Clone)]
struct SimReach {
    surroundings: Surroundings,
    place: Place,
    store: Arc<dyn ObjectStore>,
    rng: Rng,
}

impl fmt::Debug for SimReach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimReach")
    }
}

#[async_trait]
impl Reach for SimReach {
    async fn seal(&self, session: SessionId) -> Result<u64, String> {
        seal_stream(&self.store, &self.rng, session).await.map_err(|error| error.to_string())
    }

    async fn probe(&self, endpoint: &str, timeout_ms: u64) -> ProbeOutcome {
        match self.ask(endpoint, timeout_ms, |_| Ok(())).await {
            Ok(()) => ProbeOutcome::Answered,
            Err(io::ErrorKind::ConnectionRefused) => ProbeOutcome::Refused,
            Err(_) => ProbeOutcome::Silent,
        }
    }

    async fn traffic(&self, endpoint: &str, timeout_ms: u64) -> Result<Vec<(TopicPartition, u64)>, String> {
        let tell = |slot: Option<BrokerSlot>| Ok(slot.ok_or(io::ErrorKind::ConnectionRefused)?.current().traffic());
        self.ask(endpoint, timeout_ms, tell).await.map_err(|kind| kind.to_string())
    }
}

#[async_trait]
impl Peers for SimReach {
    async fn released(
        &self,
        broker: &BrokerRecord,
        wanted: &[(TopicPartition, i32)],
        timeout_ms: u64,
    ) -> Result<Told, String> {
        let endpoint = broker.endpoints.get(GRPC_ENDPOINT).ok_or("it has no gRPC endpoint")?;
        let (session, wanted) = (broker.session, wanted.to_vec());
        let tell = move |slot: Option<BrokerSlot>| {
            Ok(slot.ok_or(io::ErrorKind::ConnectionRefused)?.current().released(session, &wanted))
        };
        self.ask(endpoint, timeout_ms, tell).await.map_err(|kind| kind.to_string())
    }
}

impl SimReach {
    async fn ask<T: Send + 'static>(
        &self,
        endpoint: &str,
        timeout_ms: u64,
        tell: impl FnOnce(Option<BrokerSlot>) -> io::Result<T> + Send + 'static,
    ) -> Result<T, io::ErrorKind> {
        let host = endpoint.split(':').next().unwrap_or(endpoint);
        let machine = machine_at(host).expect("a machine was given its address here");
        let asked = self.surroundings.net.ask(&self.surroundings.world, self.place, machine, tell);
        let answer = tokio::time::timeout(Duration::from_millis(timeout_ms), asked).await;
        answer.map_err(|_| io::ErrorKind::TimedOut)?.map_err(|error| error.kind())
    }
}

impl Life {
    /// The gRPC door, as `serve` opens it.
    fn open_grpc(&self, slot: &BrokerSlot, stop: &CancellationToken) -> JoinHandle<()> {
        let Surroundings { world, net, .. } = &self.surroundings;
        let connections = UnboundedReceiverStream::new(net.listen_to_callers(self.id)).map(Ok);
        let dial = dial(world, net, Place::Broker(self.id));
        let (settings, slot, clock, stop) =
            (self.settings.grpc.clone(), slot.clone(), self.clock.clone(), stop.clone());
        self.runtime.spawn(async move {
            let served = grpc::serve_connections(connections, &settings, slot, clock, dial, stop).await;
            served.expect("the gRPC door serves until it is told to stop");
        })
    }

    async fn run(self, state: &Mutex<Stage>) -> anyhow::Result<()> {
        let Self { clock, rng, .. } = &self;
        let Surroundings { world, net, bucket, registry } = &self.surroundings;
        let place = Place::Broker(self.id);
        let name = format!("machine {}", self.id);
        let meta: Arc<dyn MetaStore> = Arc::new(registry.seen_from(place));
        let keys = KeySpace::of_cluster("sim");
        // As `objstore::open` wraps a bucket.
        let store: Arc<dyn ObjectStore> = Arc::new(bucket.seen_from(place, REQUEST_TIMEOUT_MS));
        let store = Arc::new(HedgeStore::new(store, HedgePolicy::default(), clock.clone(), Metrics::detached()));
        let retry = RetryPolicy::default();
        let store = Arc::new(RetryStore::new(store, retry, clock.clone(), rng.clone(), Metrics::detached()));
        settle_cluster_id(&meta, &keys, &Vec::<Member>::new(), clock, rng).await?;
        let doors = Doors {
            kafka: SocketAddr::from((address(self.id), 9092)),
            http: SocketAddr::from((address(self.id), 9096)),
            grpc: SocketAddr::from((address(self.id), 9094)),
        };
        let sessions = Sessions { store: meta.clone(), keys: keys.clone(), clock: clock.clone() };
        let wish = IdWish {
            asked: None,
            remembered: *self.directory.broker_id.lock(),
            directory_id: self.directory.id,
            host: name.clone(),
            pid: self.number as u32,
        };
        let identity = sessions.take_id(&wish, self.settings.cluster.lease_ttl_ms).await?;
        *self.directory.broker_id.lock() = Some(identity.broker_id);
        let reach = SimReach { surroundings: self.surroundings.clone(), place, store: store.clone(), rng: rng.clone() };
        let data_dir = PathBuf::from(format!("/data/{}", self.id));
        let parts = NodeParts {
            settings: &self.settings,
            clock,
            rng,
            tasks: &self.tasks,
            meta,
            keys,
            store,
            pages: Arc::new(MemoryPages::new(self.settings.cache.memory_bytes)),
            disk: Arc::new(self.disk.clone()),
            data_dir: Path::new(&data_dir),
            identity,
            reach: Arc::new(reach.clone()),
            peers: Arc::new(reach),
            doors,
        };
        let mut counters = Counters::default();
        let mut node =
            Node::start(parts, &mut counters, |phase| world.trace(&name, format_args!("phase: {phase}"))).await?;
        net.listen_to_peers(self.id, node.slot().clone());
        let grpc_stop = CancellationToken::new();
        let grpc = self.open_grpc(node.slot(), &grpc_stop);
        net.listen(self.id, self.runtime.clone(), node.front().clone());
        while let Err(error) = node.open().await {
            world.trace(&name, format_args!("cannot open: {error}"));
            tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
        }
        let serves = |node: &Node| {
            *state.lock() = Stage::Serving(node.log().clone());
            world.trace(&name, format_args!("serves as session {}", node.log().session()));
        };
        serves(&node);
        let heard = |told, node: &Node| match told {
            NodeStage::Rejoining => {
                *state.lock() = Stage::Starting;
                world.trace(&name, format_args!("its session is over"));
            }
            NodeStage::Serving => serves(node),
        };
        node.serve(&self.stop, heard).await?;
        // As `serve` stops on a signal.
        let Settings { broker, cluster, .. } = &self.settings;
        let stopped = async {
            node.drain().await;
            world.trace(&name, format_args!("has drained"));
            let limit = Duration::from_millis(broker.stop_timeout_ms / 2);
            let _ = tokio::time::timeout(limit, net.stop_listening(self.id)).await;
            net.refuse_callers(self.id);
            grpc_stop.cancel();
            let _ = tokio::time::timeout(GRPC_STOP, grpc).await;
            *state.lock() = Stage::Starting;
            node.stop(&self.tasks).await;
        };
        let limit = Duration::from_millis(broker.stop_timeout_ms + cluster.drain_timeout_ms);
        tokio::time::timeout(limit, stopped).await.map_err(|_| anyhow::anyhow!("the stop took too long"))
    }
}
