//! `esker serve`: one broker, from its settings to its end.
//!
//! Order of a start: data directory (lock, `VERSION`), ports, HTTP, metadata, object store, old streams finished and sealed,
//! session, partitions taken over, log. `/readyz` tells what the start is at. Nothing is written before the lock is held.
//!
//! A start that fails or is stopped half-way leaves what a crash would leave. A panic in a task stops the process with exit
//! code 1.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, anyhow};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::data_dir::DataDir;
use super::identity;
use super::listen::{self, Reserved};
use super::logging::{self, Progress};
use super::signals;
use super::takeover::{TakenOver, Takeover};
use crate::base::{Clock, Rng, SessionId, Tasks};
use crate::cluster::{self, Catalogue, DEFAULT_LEASE_TTL_MS, Identity, KeySpace, Registration, Sessions, TopicRules};
use crate::config::{FsyncPolicy, Loaded, MetadataSetting, ObjectStoreSetting, Settings};
use crate::format::metadata::BrokerRecord;
use crate::frontend::http::{self, Readiness};
use crate::meta::{EmbeddedMeta, MemoryMeta, MetaStore};
use crate::objstore::hedge::HedgePolicy;
use crate::objstore::{self, ObjectStore, OpenOptions, ProbeOptions, S3Options, probe};
use crate::partition::recovery::RecoveryPlace;
use crate::partition::{Log, LogLimits, LogOptions, WalFsync};
use crate::upkeep::{Upkeep, UpkeepMetrics, UpkeepSettings};

/// Name of the cluster when `--cluster` does not say.
const DEFAULT_CLUSTER: &str = "esker";
/// An idempotent producer that has not written for this long is forgotten, in ms (Kafka's `producer.id.expiration.ms`).
const PRODUCER_EXPIRATION_MS: u64 = 86_400_000;
/// How long blocking work may hold up the end of the process, in ms.
const RUNTIME_STOP_MS: u64 = 1_000;

/// Runs a broker until a signal ends it.
pub fn run(loaded: Loaded) -> anyhow::Result<()> {
    logging::start(&loaded.settings.tracing).map_err(|problem| anyhow!(problem))?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("esker").build()?;
    let result = runtime.block_on(serve(&loaded.settings));
    runtime.shutdown_timeout(Duration::from_millis(RUNTIME_STOP_MS));
    result
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
    let http_port = listen::reserve("http.listen", &settings.http.listen)?;
    let kafka_address = kafka_port.local_addr()?;
    let registry = Arc::new(OnceLock::new());
    let http = HttpDoor::open(&base, http_port, registry.clone())?;
    let doors = Doors { kafka: kafka_address, http: http.address };

    let started = tokio::select! {
        started = start(&base, &mut data_dir, &registry, doors) => Some(started),
        () = stop.cancelled() => None,
    };
    base.progress.finish();
    let result = match started {
        Some(Ok(running)) => {
            base.readiness.ready();
            say_ready(&data_dir, &http, kafka_address);
            let failing = base.tasks.stopping();
            tokio::select! {
                () = stop.cancelled() => {}
                () = failing.cancelled() => {}
            }
            base.readiness.not_ready("stopping");
            let limit = Duration::from_millis(settings.broker.stop_timeout_ms);
            if tokio::time::timeout(limit, running.stop(&base)).await.is_err() {
                Err(anyhow!("the stop took longer than stop_timeout; the next start finishes what is open"))
            } else {
                Ok(())
            }
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

/// The parts of a broker that serves.
struct Running {
    meta: Metadata,
    registration: Registration,
    log: Log,
}

/// Builds the broker from the bottom floor up.
async fn start(
    base: &Base<'_>,
    data_dir: &mut DataDir,
    registry: &OnceLock<Registry>,
    doors: Doors,
) -> anyhow::Result<Running> {
    let Base { settings, clock, rng, .. } = base;
    let broker = &settings.broker;
    let mut metrics = Registry::default();
    http::register_process_metrics(&mut metrics);

    base.phase("opening the metadata store");
    let meta = Metadata::open(settings, data_dir, clock).await?;
    let keys = KeySpace::of_cluster(broker.cluster.as_deref().unwrap_or(DEFAULT_CLUSTER));

    base.phase("opening the object store");
    let url = store_url(&broker.object_store)?;
    let store = objstore::open(&url, store_options(base, &mut metrics)).await?;
    if broker.object_store.is_remote() {
        base.phase("proving that the object store lets one of several creates win");
        let marker = Some(data_dir.path().join("store-proof.json"));
        let report = probe(&store, &ProbeOptions { marker, clock: clock.clone(), rng: rng.clone() }).await?;
        tracing::info!(
            store = url,
            remembered = report.remembered,
            took_ms = report.took_ms,
            "the object store may be used"
        );
    }
    let in_memory = broker.object_store == ObjectStoreSetting::Memory;
    let directory = (!in_memory).then_some(&*data_dir);
    let cluster_id = identity::settle(&meta.store, &keys, &*store, &url, directory, clock, rng).await?;
    if !in_memory {
        data_dir.belong_to(&cluster_id, broker.broker_id, rng.uuid())?;
    }

    base.phase("reading the catalogue");
    let cluster_metrics = cluster::Metrics::register(&mut metrics);
    let rules = TopicRules {
        default_partitions: settings.topics.num_partitions,
        max_topics: settings.topics.max_topics,
        max_partitions: settings.topics.max_partitions,
        ..TopicRules::default()
    };
    let catalogue = Catalogue::open(
        meta.store.clone(),
        keys.clone(),
        rules,
        clock.clone(),
        rng.clone(),
        cluster_metrics.clone(),
        &base.tasks,
    )
    .await?;
    let sessions = Sessions { store: meta.store.clone(), keys: keys.clone(), clock: clock.clone() };
    let takeover = Takeover {
        sessions: &sessions,
        identity: &Identity {
            broker_id: broker.broker_id,
            directory_id: data_dir.directory_id().unwrap_or_else(|| rng.uuid()),
            host: host_name(),
            pid: std::process::id(),
        },
        lease_ttl_ms: DEFAULT_LEASE_TTL_MS,
        catalogue: &catalogue,
        place: RecoveryPlace {
            store: store.clone(),
            wal_root: data_dir.path().join("wal"),
            lost: data_dir.path().join("lost"),
            rng: rng.clone(),
        },
        has_wal: !in_memory,
    };
    let options = |session| log_options(base, session, &store, data_dir);
    let TakenOver { registration, log, lost_files } =
        takeover.run(options, &mut metrics, |what| base.phase(what)).await?;
    for file in &lost_files {
        tracing::error!(file = %file.display(), "acks=0/1 records that could not be committed any more are kept in this file");
    }
    registration.keep_alive(&base.tasks, cluster_metrics);
    registration.announce(&broker_record(settings, registration.session(), doors)?).await?;

    let upkeep = Upkeep {
        log: log.clone(),
        catalogue: catalogue.clone(),
        sessions: Arc::new(sessions),
        settings: UpkeepSettings {
            interval_ms: settings.retention.check_interval_ms,
            grace_ms: settings.retention.delete_grace_ms,
            producer_expiration_ms: PRODUCER_EXPIRATION_MS,
        },
        clock: clock.clone(),
        metrics: UpkeepMetrics::new(&mut metrics),
    };
    upkeep.start(&base.tasks);

    let _ = registry.set(metrics);
    Ok(Running { meta, registration, log })
}

impl Running {
    /// Takes no more work, commits what is open, closes what is open.
    async fn stop(self, base: &Base<'_>) {
        if let Err(error) = self.log.close().await {
            tracing::warn!(%error, "what is open could not be committed; the next start finishes it");
        }
        base.tasks.stop().await;
        if let Err(error) = self.registration.release().await {
            tracing::warn!(%error, "the broker id could not be given back; the next start takes it over");
        }
        self.meta.close().await;
    }
}

/// What people (and scripts) read on stdout when the broker is ready.
fn say_ready(data_dir: &DataDir, http: &HttpDoor, kafka: SocketAddr) {
    println!("esker {} is ready", env!("CARGO_PKG_VERSION"));
    println!("  kafka   {kafka}");
    println!("  http    http://{}/  (healthz, readyz, metrics)", http.address);
    println!("  data    {}", data_dir.path().display());
    println!("  try     echo hello | kcat -b {kafka} -t greetings -P && kcat -b {kafka} -t greetings -C -e");
}

/// The metadata store, and how to close it.
struct Metadata {
    store: Arc<dyn MetaStore>,
    embedded: Option<EmbeddedMeta>,
}

impl Metadata {
    /// In memory if the objects are: one without the other would be half a cluster after a restart.
    async fn open(settings: &Settings, data_dir: &DataDir, clock: &Clock) -> anyhow::Result<Self> {
        let MetadataSetting::Embedded = settings.broker.metadata;
        if settings.broker.object_store == ObjectStoreSetting::Memory {
            return Ok(Self { store: Arc::new(MemoryMeta::new(clock.clone())), embedded: None });
        }
        let embedded = EmbeddedMeta::open(data_dir.path().join("meta"), clock.clone()).await?;
        Ok(Self { store: Arc::new(embedded.clone()), embedded: Some(embedded) })
    }

    async fn close(self) {
        if let Some(embedded) = self.embedded {
            embedded.close().await;
        }
    }
}

/// Where this process listens.
#[derive(Debug, Clone, Copy)]
struct Doors {
    kafka: SocketAddr,
    http: SocketAddr,
}

/// What clients and other brokers are told of this one.
fn broker_record(settings: &Settings, session: SessionId, doors: Doors) -> anyhow::Result<BrokerRecord> {
    let advertised = settings.kafka.advertise.clone().unwrap_or_else(|| doors.kafka.to_string());
    let (host, port) = advertised.rsplit_once(':').context("advertise is host:port")?;
    Ok(BrokerRecord {
        session,
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port: port.parse().context("advertise is host:port")?,
        rack: settings.broker.zone.clone(),
        endpoints: [("http".to_owned(), doors.http.to_string())].into(),
    })
}

/// The settings of the object store in its own words.
fn store_options(base: &Base<'_>, metrics: &mut Registry) -> OpenOptions {
    let settings = &base.settings.store;
    let defaults = OpenOptions::new(base.clock.clone(), base.rng.clone());
    let least_ms = settings.get_hedge_after_ms;
    OpenOptions {
        metrics: objstore::Metrics::register(metrics),
        hedge: (least_ms > 0).then(|| HedgePolicy { least_ms, ..HedgePolicy::default() }),
        s3: S3Options { request_timeout_ms: settings.request_timeout_ms, ..defaults.s3 },
        ..defaults
    }
}

/// The settings of the log in its own words.
fn log_options(base: &Base<'_>, session: SessionId, store: &Arc<dyn ObjectStore>, data_dir: &DataDir) -> LogOptions {
    let (log, broker) = (&base.settings.log, &base.settings.broker);
    let in_memory = broker.object_store == ObjectStoreSetting::Memory;
    LogOptions {
        session,
        limits: LogLimits {
            flush_bytes: u32::try_from(log.flush_bytes).unwrap_or(u32::MAX),
            flush_linger_us: log.flush_linger_ms * 1000,
            flush_idle_us: log.flush_idle_ms * 1000,
            idle_cuts_per_s: if log.put_rate_per_s.is_finite() { (log.put_rate_per_s.ceil() as u32).max(1) } else { 0 },
            idle_cuts_burst: log.put_burst,
            uploads: log.upload_concurrency,
            unflushed_bytes: log.unflushed_bytes as u64,
            wal_disk_bytes: log.wal_disk_bytes,
            memory_tail_bytes: log.memory_tail_bytes as u64,
            checkpoint_segments: log.checkpoint_segments,
            checkpoint_interval_us: log.checkpoint_interval_ms * 1000,
            ..LogLimits::default()
        },
        wal_root: (!in_memory).then(|| data_dir.path().join("wal")),
        wal_fsync: match log.wal_fsync {
            FsyncPolicy::Group => WalFsync::Group,
            FsyncPolicy::Never => WalFsync::Never,
        },
        hedge_after_ms: (log.hedge_after_ms > 0).then_some(log.hedge_after_ms),
        store: store.clone(),
        clock: base.clock.clone(),
        rng: base.rng.clone(),
        tasks: base.tasks.clone(),
    }
}

/// This machine's name, for people.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The setting as a URL again, with the directory absolute.
fn store_url(setting: &ObjectStoreSetting) -> anyhow::Result<String> {
    Ok(match setting {
        ObjectStoreSetting::Memory => "memory://".to_owned(),
        ObjectStoreSetting::S3 { bucket, prefix } => format!("s3://{bucket}/{prefix}"),
        ObjectStoreSetting::File { dir } => {
            let dir = std::path::absolute(dir).with_context(|| format!("object_store '{}'", dir.display()))?;
            Url::from_file_path(&dir)
                .map_err(|()| anyhow!("object_store '{}' is no usable path", dir.display()))?
                .into()
        }
    })
}

/// The HTTP server, which runs from before the start to after the stop.
struct HttpDoor {
    address: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
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
