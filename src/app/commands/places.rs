//! The stores that the settings name, for tools that look into them without being a broker.
//!
//! Nothing is created here: a tool that is pointed at the wrong place says so.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use prometheus_client::registry::Registry;

use crate::app::data_dir::DataDir;
use crate::app::metadata_store::Metadata;
use crate::app::{options, serve};
use crate::base::{Clock, Rng};
use crate::cluster::{KeySpace, Sessions};
use crate::config::{MetadataSetting, ObjectStoreSetting, Settings};
use crate::objstore::{self, ObjectStore};

/// How often a progress bar moves by itself, in ms.
const TICK_MS: u64 = 120;

/// Whether such tools take this setting.
pub fn takes(setting: &str) -> bool {
    let names = ["data_dir", "object_store", "metadata", "cluster"];
    names.contains(&setting) || setting.starts_with("etcd.") || setting.starts_with("store.")
}

/// The object store, and its address.
pub async fn object_store(settings: &Settings) -> anyhow::Result<(Arc<dyn ObjectStore>, String)> {
    match &settings.broker.object_store {
        ObjectStoreSetting::Memory => bail!("objects in memory end with their process: there is nothing to look at"),
        ObjectStoreSetting::File { dir } => must_exist("object store", dir, "--object-store or --data-dir")?,
        ObjectStoreSetting::S3 { .. } => {}
    }
    let url = options::store_url(&settings.broker.object_store)?;
    let (clock, rng, mut metrics) = (Clock::system(), Rng::system(), Registry::default());
    let store = objstore::open(&url, options::store(&settings.store, &clock, &rng, &mut metrics)).await?;
    Ok((store, url))
}

/// A metadata store, and what is locked while it is open.
pub struct Meta {
    /// The store.
    pub metadata: Metadata,
    /// Where the cluster's sessions are.
    pub sessions: Sessions,
    /// With embedded metadata: the data directory, so that no broker starts on it.
    pub lock: Option<DataDir>,
}

/// The metadata store: etcd beside running brokers, an embedded one only while no broker runs on its directory.
pub async fn metadata(settings: &Settings) -> anyhow::Result<Meta> {
    let broker = &settings.broker;
    let mut lock = None;
    if broker.metadata == MetadataSetting::Embedded {
        must_exist("data directory", &broker.data_dir, "--data-dir")?;
        if !broker.data_dir.join("VERSION").exists() || !broker.data_dir.join("meta").exists() {
            bail!(
                "'{}' is no data directory with embedded metadata: name another with --data-dir, or the brokers' etcd with \
                 --metadata",
                broker.data_dir.display()
            );
        }
        lock = Some(DataDir::open(&broker.data_dir, None).context("embedded metadata is its broker's own")?);
    }
    let (clock, rng, mut metrics) = (Clock::system(), Rng::system(), Registry::default());
    let metadata = Metadata::open(settings, &broker.data_dir, &clock, &rng, &mut metrics).await?;
    let keys = KeySpace::of_cluster(serve::cluster_name(settings));
    let sessions = Sessions { store: metadata.store.clone(), keys, clock };
    Ok(Meta { metadata, sessions, lock })
}

/// A directory that was named by mistake is not made.
pub fn must_exist(what: &str, dir: &Path, flags: &str) -> anyhow::Result<()> {
    match std::fs::metadata(dir) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => bail!("the {what} '{}' is no directory: name another with {flags}", dir.display()),
        Err(error) => bail!("the {what} '{}': {error}; name another with {flags}", dir.display()),
    }
}

/// A bar on a terminal with rate and time left; elsewhere nothing. Dropping it clears it.
pub fn bar(template: &str) -> ProgressBar {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(TICK_MS));
    bar
}
