//! `esker serve`: one broker, from its settings to its end.
//!
//! Order of a start: data directory (lock, `VERSION`), ports, HTTP, metadata, object store. `/readyz` tells what the start
//! is at. Nothing is written before the lock is held.
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
use crate::base::{Clock, Rng, Tasks};
use crate::cluster::KeySpace;
use crate::config::{Loaded, MetadataSetting, ObjectStoreSetting, Settings};
use crate::frontend::http::{self, Readiness};
use crate::meta::{EmbeddedMeta, MemoryMeta, MetaStore};
use crate::objstore::{self, ObjectStore, OpenOptions};

/// Name of the cluster when `--cluster` does not say.
const DEFAULT_CLUSTER: &str = "esker";
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

    let started = tokio::select! {
        started = start(&base, &mut data_dir, &registry) => Some(started),
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
}

/// Builds the broker from the bottom floor up.
async fn start(base: &Base<'_>, data_dir: &mut DataDir, registry: &OnceLock<Registry>) -> anyhow::Result<Running> {
    let Base { settings, clock, rng, .. } = base;
    let broker = &settings.broker;
    let mut metrics = Registry::default();
    http::register_process_metrics(&mut metrics);

    base.phase("opening the metadata store");
    let meta = Metadata::open(settings, data_dir, clock).await?;
    let keys = KeySpace::of_cluster(broker.cluster.as_deref().unwrap_or(DEFAULT_CLUSTER));

    base.phase("opening the object store");
    let url = store_url(&broker.object_store)?;
    let store: Arc<dyn ObjectStore> = objstore::open(&url, OpenOptions::new(clock.clone(), rng.clone())).await?;
    let cluster_id = identity::settle(&meta.store, &keys, &*store, &url, data_dir, clock, rng).await?;
    if broker.object_store != ObjectStoreSetting::Memory {
        data_dir.belong_to(&cluster_id, broker.broker_id, rng.uuid())?;
    }

    let _ = registry.set(metrics);
    Ok(Running { meta })
}

impl Running {
    /// Takes no more work, commits what is open, closes what is open.
    async fn stop(self, base: &Base<'_>) {
        base.tasks.stop().await;
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
