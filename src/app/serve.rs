//! `esker serve`: one broker, from its settings to its end.
//!
//! Order of a start: data directory (lock, `VERSION`), ports, HTTP, metadata, object store, broker id, and then the node with
//! its first session ([`super::node`]). `/readyz` tells what the start is at. Nothing is written before the lock is held.
//!
//! A start that fails or is stopped half-way leaves what a crash would leave. A panic in a task stops the process with exit
//! code 1.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::anyhow;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::data_dir::DataDir;
use super::identity;
use super::listen::{self, Reserved};
use super::logging::{self, Progress};
use super::metadata_store::Metadata;
use super::node::{Node, NodeParts, Stage, stall};
use super::options::{self, Doors};
use super::patience::patiently;
use super::reach::Network;
use super::signals;
use crate::base::{Clock, Rng, Tasks};
use crate::broker::BrokerSlot;
use crate::cache::{HybridPages, PageCache};
use crate::cluster::{KeySpace, Sessions};
use crate::config::{GrpcSettings, Loaded, ObjectStoreSetting, Settings};
use crate::frontend::http::{self, Readiness};
use crate::frontend::{grpc, kafka};
use crate::objstore::{self, ProbeOptions, probe};
use crate::wal::LocalDisk;

/// Name of the cluster when `--cluster` does not say.
const DEFAULT_CLUSTER: &str = "esker";
/// Waiting segments without a commit for this long make the broker not ready, in ms.
const COMMIT_STALL_MS: u64 = 15_000;
/// How long gRPC calls may hold up the end, in ms.
const GRPC_STOP_MS: u64 = 500;
/// How long blocking work may hold up the end of the process, in ms.
const RUNTIME_STOP_MS: u64 = 1_000;
/// Longest wait for the page cache to be written to disk at a stop, in milliseconds.
const CACHE_CLOSE_MS: u64 = 5_000;

/// Runs a broker until a signal ends it.
pub fn run(loaded: &Loaded) -> anyhow::Result<()> {
    logging::start(&loaded.settings.tracing).map_err(|problem| anyhow!(problem))?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("esker").build()?;
    let result = runtime.block_on(serve(&loaded.settings));
    runtime.shutdown_timeout(Duration::from_millis(RUNTIME_STOP_MS));
    result
}

/// The name under which the cluster's keys are.
pub fn cluster_name(settings: &Settings) -> &str {
    settings.broker.cluster.as_deref().unwrap_or(DEFAULT_CLUSTER)
}

/// What every part is made with.
struct Base<'a> {
    settings: &'a Settings,
    clock: Clock,
    rng: Rng,
    tasks: Tasks,
    progress: Progress,
    readiness: Readiness,
}

impl Base<'_> {
    /// Says what the start is at, to people and to `/readyz`.
    fn phase(&self, what: &str) {
        self.progress.phase(what);
        self.readiness.not_ready(&format!("starting: {what}"));
    }

    /// A step that waits, and says so, while etcd or the object store is not there yet.
    async fn wait_for<T, E: Into<anyhow::Error>, F: Future<Output = Result<T, E>>>(
        &self,
        what: &str,
        step: impl FnMut() -> F,
    ) -> anyhow::Result<T> {
        patiently(what, &self.rng, |what| self.phase(what), step).await
    }
}

async fn serve(settings: &Settings) -> anyhow::Result<()> {
    let stop = signals::watch()?;
    let base = Base {
        settings,
        clock: Clock::system(),
        rng: Rng::system(),
        tasks: Tasks::new(),
        progress: Progress::start(),
        readiness: Readiness::starting("starting"),
    };
    let mut data_dir = DataDir::open(&settings.broker.data_dir, settings.broker.broker_id)?;
    let kafka_port = listen::reserve("kafka.listen", &settings.kafka.listen)?;
    let external_port = match &settings.kafka.external_listen {
        Some(address) => Some(listen::reserve("kafka.external_listen", address)?),
        None => None,
    };
    let grpc_port = listen::reserve("grpc.listen", &settings.grpc.listen)?;
    let http_port = listen::reserve("http.listen", &settings.http.listen)?;
    let (kafka_address, grpc_address) = (kafka_port.local_addr()?, grpc_port.local_addr()?);
    let registry = Arc::new(OnceLock::new());
    let http = HttpDoor::open(&base, http_port, registry.clone())?;
    let doors = Doors { kafka: kafka_address, http: http.address, grpc: grpc_address };
    let ports = Ports { kafka: kafka_port, external: external_port, grpc: grpc_port };

    let started = tokio::select! {
        started = start(&base, &mut data_dir, &registry, doors, ports) => Some(started),
        () = stop.cancelled() => None,
    };
    base.progress.finish();
    let result = match started {
        Some(Ok(mut running)) => {
            base.readiness.ready();
            say_ready(&data_dir, doors);
            let pages = running.pages.clone();
            let ended = match running.serve(&base, &stop).await {
                Ok(()) => {
                    base.readiness.not_ready("stopping");
                    let limit = settings.broker.stop_timeout_ms + settings.cluster.drain_timeout_ms;
                    let stopped = tokio::time::timeout(Duration::from_millis(limit), running.stop(&base)).await;
                    stopped.map_err(|_| {
                        anyhow!("the stop took longer than stop_timeout; the next start finishes what is open")
                    })
                }
                Err(error) => Err(error),
            };
            close_cache(&*pages).await;
            ended
        }
        Some(Err(error)) => Err(error),
        None => Ok(()),
    };
    http.stop().await;
    match base.tasks.failure() {
        Some(failure) => Err(anyhow!(failure)),
        None => result,
    }
}

/// Ports that are taken and not open yet.
struct Ports {
    kafka: Reserved,
    external: Option<Reserved>,
    grpc: Reserved,
}

/// The parts of a broker that serves.
struct Running {
    meta: Metadata,
    pages: Arc<HybridPages>,
    node: Node,
    kafka_stop: CancellationToken,
    kafka: JoinHandle<()>,
    grpc_stop: CancellationToken,
    grpc: JoinHandle<()>,
}

/// Opens what is outside of the process, then starts the broker over it.
async fn start(
    base: &Base<'_>,
    data_dir: &mut DataDir,
    registry: &OnceLock<Registry>,
    doors: Doors,
    taken: Ports,
) -> anyhow::Result<Running> {
    let Base { settings, clock, rng, .. } = base;
    let broker = &settings.broker;
    let mut metrics = Registry::default();
    http::register_process_metrics(&mut metrics);

    base.phase("opening the metadata store");
    let meta = Metadata::open(settings, data_dir.path(), clock, rng, &mut metrics).await?;
    let keys = KeySpace::of_cluster(cluster_name(settings));
    base.wait_for("opening the metadata store", || meta.store.get(keys.root())).await?;

    let url = options::store_url(&broker.object_store)?;
    let store_options = options::store(&settings.store, clock, rng, &mut metrics);
    let store = base.wait_for("opening the object store", || objstore::open(&url, store_options.clone())).await?;
    if broker.object_store.is_remote() {
        let marker = Some(data_dir.path().join("store-proof.json"));
        let probing = ProbeOptions { marker, clock: clock.clone(), rng: rng.clone() };
        let what = "proving that the object store lets one of several creates win";
        let report = base.wait_for(what, || probe(&store, &probing)).await?;
        tracing::info!(
            store = url,
            remembered = report.remembered,
            took_ms = report.took_ms,
            "the object store may be used"
        );
    }
    let in_memory = broker.object_store == ObjectStoreSetting::Memory;
    let directory = (!in_memory).then_some(&*data_dir);
    let settle = || identity::settle(&meta.store, &keys, &*store, &url, directory, clock, rng);
    let cluster_id = base.wait_for("finding out which cluster this is", settle).await?;
    let sessions = Sessions { store: meta.store.clone(), keys: keys.clone(), clock: clock.clone() };
    let directory_id = data_dir.directory_id().unwrap_or_else(|| rng.uuid());
    let wish = options::id_wish(settings, data_dir.broker_id(), directory_id, host_name(), std::process::id());
    let take_id = || sessions.take_id(&wish, settings.cluster.lease_ttl_ms);
    let broker_identity = base.wait_for("taking a broker id", take_id).await?;
    if !in_memory {
        data_dir.belong_to(&cluster_id, broker_identity.broker_id, directory_id)?;
    }

    base.phase("opening the read cache");
    let pages = Arc::new(HybridPages::open(&options::cache(settings, data_dir.path())).await?);
    let network = Arc::new(Network { store: store.clone(), rng: rng.clone() });
    let parts = NodeParts {
        settings,
        clock,
        rng,
        tasks: &base.tasks,
        meta: meta.store.clone(),
        keys,
        reach: network.clone(),
        peers: network,
        store,
        pages: pages.clone(),
        disk: LocalDisk::shared(),
        data_dir: data_dir.path(),
        identity: broker_identity,
        doors,
    };
    let node = Node::start(parts, &mut metrics, |what| base.phase(what)).await?;
    let stalled_ms = node.stalled_ms();
    base.readiness.add_check(move || stall(&stalled_ms, COMMIT_STALL_MS));

    let grpc_metrics = grpc::metrics::Metrics::register(&mut metrics);
    let _ = registry.set(metrics);
    let grpc_stop = CancellationToken::new();
    let (door, grpc_settings) = (taken.grpc.open()?, settings.grpc.clone());
    let (slot, clock) = (node.slot().clone(), clock.clone());
    let grpc = tokio::spawn(serve_grpc(door, grpc_settings, slot, clock, grpc_metrics, grpc_stop.clone()));
    let kafka_stop = CancellationToken::new();
    let kafka = tokio::spawn(kafka::serve(taken.kafka.open()?, node.front().clone(), kafka_stop.clone()));
    let kafka = match taken.external {
        None => kafka,
        Some(port) => {
            let external = tokio::spawn(kafka::serve(port.open()?, node.front().external(), kafka_stop.clone()));
            tokio::spawn(async move {
                // A task that panicked has said so; the other one still ends in order.
                let _ = tokio::join!(kafka, external);
            })
        }
    };
    base.wait_for("opening its partitions", || node.open()).await?;
    Ok(Running { meta, pages, node, kafka_stop, kafka, grpc_stop, grpc })
}

async fn serve_grpc(
    listener: TcpListener,
    settings: GrpcSettings,
    slot: BrokerSlot,
    clock: Clock,
    metrics: grpc::metrics::Metrics,
    stop: CancellationToken,
) {
    if let Err(error) = grpc::serve(listener, &settings, slot, clock, metrics, stop).await {
        tracing::error!(%error, "the gRPC server ended");
    }
}

impl Running {
    /// Serves until a signal or a failure.
    async fn serve(&mut self, base: &Base<'_>, stop: &CancellationToken) -> anyhow::Result<()> {
        let heard = |stage, node: &Node| match stage {
            Stage::Rejoining => base.readiness.not_ready("its session was ended by others; a new one begins"),
            Stage::Serving => {
                tracing::info!(session = %node.log().session(), "serving again");
                base.readiness.ready();
            }
        };
        let failing = base.tasks.stopping();
        tokio::select! {
            biased;
            () = failing.cancelled() => Ok(()),
            served = self.node.serve(stop, heard) => served,
        }
    }

    /// Gives its partitions away, takes no more work, commits what is open, closes what is open.
    async fn stop(self, base: &Base<'_>) {
        self.node.drain().await;
        self.kafka_stop.cancel();
        // Replies that are due go out; clients that wait for longer than this are cut off.
        let limit = Duration::from_millis(base.settings.broker.stop_timeout_ms / 2);
        if tokio::time::timeout(limit, self.kafka).await.is_err() {
            tracing::warn!("some Kafka connections had requests that could not be answered in time");
        }
        // After the drain: others were told what was given away.
        self.grpc_stop.cancel();
        if tokio::time::timeout(Duration::from_millis(GRPC_STOP_MS), self.grpc).await.is_err() {
            tracing::debug!("some gRPC calls were cut off");
        }
        self.node.stop(&base.tasks).await;
        self.meta.close().await;
    }
}

/// Writes the pages in memory to the disk cache: the next start finds them, and the cache ends while there is a runtime to
/// write with. The broker id is given back by now, so nobody waits for it.
async fn close_cache(pages: &dyn PageCache) {
    if tokio::time::timeout(Duration::from_millis(CACHE_CLOSE_MS), pages.close()).await.is_err() {
        tracing::warn!("the page cache was not written in time; the next start finds less in it");
    }
}

/// What people (and scripts) read on stdout when the broker is ready.
fn say_ready(data_dir: &DataDir, Doors { kafka, http, grpc }: Doors) {
    println!("esker {} is ready", env!("CARGO_PKG_VERSION"));
    println!("  kafka   {kafka}");
    println!("  grpc    {grpc}");
    println!("  http    http://{http}/  (healthz, readyz, metrics)");
    println!("  data    {}", data_dir.path().display());
    println!("  try     echo hello | kcat -b {kafka} -t greetings -P && kcat -b {kafka} -t greetings -C -e");
}

/// This machine's name, for people.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The HTTP server, which runs from before the start to after the stop.
struct HttpDoor {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl HttpDoor {
    fn open(base: &Base<'_>, port: Reserved, registry: Arc<OnceLock<Registry>>) -> anyhow::Result<Self> {
        let address = port.local_addr()?;
        let stop = CancellationToken::new();
        let serving = http::serve(
            port.open()?,
            base.settings.http.max_connections,
            registry,
            base.readiness.clone(),
            stop.clone(),
        );
        Ok(Self { address, stop, task: tokio::spawn(serving) })
    }

    async fn stop(self) {
        self.stop.cancel();
        // A client that keeps its connection open does not keep the process.
        let _ = tokio::time::timeout(Duration::from_millis(RUNTIME_STOP_MS), self.task).await;
    }
}
