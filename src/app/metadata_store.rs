//! The metadata store that the settings name.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use prometheus_client::registry::Registry;

use crate::base::{Clock, Rng};
use crate::config::{EtcdSettings, MetadataSetting, ObjectStoreSetting, Secret, Settings};
use crate::meta::etcd::{Tls, User};
use crate::meta::{EmbeddedMeta, EtcdMeta, EtcdOptions, MeasuredMeta, MemoryMeta, MetaStore, Metrics};

/// The metadata store, and how to close it.
pub struct Metadata {
    /// The store, measured.
    pub store: Arc<dyn MetaStore>,
    embedded: Option<EmbeddedMeta>,
}

impl Metadata {
    /// Opens it. With etcd nothing is connected yet: the first operation is, and fails if etcd is not there.
    ///
    /// In memory if the objects are: one without the other would be half a cluster after a restart.
    pub async fn open(
        settings: &Settings,
        data_dir: &Path,
        clock: &Clock,
        rng: &Rng,
        registry: &mut Registry,
    ) -> anyhow::Result<Self> {
        let metrics = Metrics::register(registry);
        let mut embedded = None;
        let store: Arc<dyn MetaStore> = match &settings.broker.metadata {
            MetadataSetting::Embedded if settings.broker.object_store == ObjectStoreSetting::Memory => {
                Arc::new(MemoryMeta::new(clock.clone()))
            }
            MetadataSetting::Embedded => {
                let store = EmbeddedMeta::open(data_dir.join("meta"), clock.clone()).await?;
                embedded = Some(store.clone());
                Arc::new(store)
            }
            MetadataSetting::Etcd { endpoints, tls } => {
                let options = etcd_options(endpoints, *tls, &settings.etcd)?;
                Arc::new(EtcdMeta::new(options, clock.clone(), rng.clone(), metrics.clone())?)
            }
        };
        let store = Arc::new(MeasuredMeta::new(store, metrics, clock.clone()));
        Ok(Self { store, embedded })
    }

    /// Finishes what was asked before and releases what is held.
    pub async fn close(self) {
        if let Some(embedded) = self.embedded {
            embedded.close().await;
        }
    }
}

fn etcd_options(endpoints: &[String], tls: bool, settings: &EtcdSettings) -> anyhow::Result<EtcdOptions> {
    let password = match (&settings.password, &settings.password_file) {
        (_, Some(path)) => {
            let text = read("etcd.password_file", path)?;
            Some(Secret::new(text.lines().next().unwrap_or_default().to_owned()))
        }
        (password, None) => password.clone(),
    };
    let user = settings.user.clone().zip(password).map(|(name, password)| User { name, password });
    let pem = |setting, path: &Option<_>| path.as_deref().map(|path| read(setting, path)).transpose();
    let certificate = pem("etcd.cert_file", &settings.cert_file)?;
    let identity = certificate.zip(pem("etcd.key_file", &settings.key_file)?);
    let tls = if tls { Some(Tls { ca: pem("etcd.ca_file", &settings.ca_file)?, identity }) } else { None };
    Ok(EtcdOptions { endpoints: endpoints.to_vec(), tls, user, request_timeout_ms: settings.request_timeout_ms })
}

fn read(setting: &str, path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{setting}: cannot read '{}'", path.display()))
}
