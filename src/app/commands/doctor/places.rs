//! The data directory, the object store and the metadata store, as a broker would find them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use prometheus_client::registry::Registry;

use super::findings::{self, Finding, StoreTimes};
use super::{Doctor, disk};
use crate::app::data_dir::{DataDir, DataDirError};
use crate::app::metadata_store::Metadata;
use crate::app::{identity, options, serve};
use crate::cluster::identity::cluster_record;
use crate::cluster::{Key, KeySpace};
use crate::config::{MetadataSetting, ObjectStoreSetting};
use crate::format::metalog;
use crate::objstore::{self, ObjectStore, Payload, ProbeOptions, StoreError, probe};

/// Requests of each kind that are timed.
const TIMED: usize = 5;
/// Bytes of a scratch object.
const SCRATCH_BYTES: usize = 64 << 10;

impl Doctor<'_> {
    /// The directory, and the disk that it is on.
    pub async fn check_data_dir(&mut self) {
        const CHECK: &str = "data directory";
        let dir = self.settings.broker.data_dir.clone();
        self.progress.phase("looking at the data directory");
        if dir.join("VERSION").exists() {
            match DataDir::open(&dir, self.settings.broker.broker_id) {
                Ok(_) => {
                    self.findings.push(Finding::fine(CHECK, format!("'{}' is a broker's, and free", dir.display())));
                }
                Err(error @ DataDirError::InUse(..)) => {
                    self.beside_broker = true;
                    let advice = "a broker runs on it, which is fine; a second one would not start";
                    self.findings.push(Finding::warning(CHECK, error.to_string(), advice));
                }
                Err(error) => self.findings.push(Finding::problem(CHECK, error.to_string(), "a broker does not start")),
            }
        } else {
            let foreign = std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some());
            self.findings.push(if foreign {
                let detail = format!("'{}' is not empty and has no VERSION file", dir.display());
                Finding::problem(CHECK, detail, "it is not a broker's: name another with --data-dir, or empty this one")
            } else {
                Finding::fine(CHECK, format!("'{}' is new; the first start makes it", dir.display()))
            });
        }
        if self.settings.broker.object_store == ObjectStoreSetting::Memory {
            return;
        }
        let near = nearest(&dir);
        self.progress.phase("measuring the disk");
        let (clock, rng, at) = (self.clock.clone(), self.rng.clone(), near.clone());
        let measured = tokio::task::spawn_blocking(move || disk::measure(&at, &clock, &rng)).await;
        let finding = match measured.map_err(std::io::Error::other).and_then(|measured| measured) {
            Ok(speed) => findings::disk_speed(&speed),
            Err(error) => {
                let detail = format!("writing in '{}' failed: {error}", near.display());
                Finding::problem("disk speed", detail, "the broker's user must be allowed to write there")
            }
        };
        self.findings.push(finding);
        if let Ok(free) = disk::free_bytes(&near) {
            let needed = self.settings.log.wal_disk_bytes.saturating_add(self.settings.cache.disk_bytes);
            self.findings.push(findings::free_space(free, needed));
        }
    }

    /// The object store; the cluster that it belongs to, if it belongs to one.
    pub async fn check_store(&mut self) -> Option<String> {
        const CHECK: &str = "object store";
        self.progress.phase("opening the object store");
        match &self.settings.broker.object_store {
            ObjectStoreSetting::Memory => return None,
            ObjectStoreSetting::File { dir } if !dir.exists() => {
                let detail = format!("'{}' is new; the first start makes it", dir.display());
                self.findings.push(Finding::fine(CHECK, detail));
                return None;
            }
            _ => {}
        }
        let opened = async {
            let url = options::store_url(&self.settings.broker.object_store)?;
            let mut metrics = Registry::default();
            let options = options::store(&self.settings.store, &self.clock, &self.rng, &mut metrics);
            anyhow::Ok((objstore::open(&url, options).await?, url))
        };
        let (store, url) = match opened.await {
            Ok(opened) => opened,
            Err(error) => {
                let advice = "check its name, region, endpoint (AWS_ENDPOINT_URL) and credentials";
                self.findings.push(Finding::problem(CHECK, format!("{error:#}"), advice));
                return None;
            }
        };
        let belongs = match identity::read(&*store, &url).await {
            Ok(found) => found.map(|(cluster_id, _)| cluster_id),
            Err(error) => {
                let advice = "esker inspect object cluster says more; restore the object from a copy of the bucket";
                self.findings.push(Finding::problem(CHECK, format!("{error:#}"), advice));
                None
            }
        };
        self.progress.phase("trying conditional creates");
        let probing = ProbeOptions { marker: None, clock: self.clock.clone(), rng: self.rng.clone() };
        match probe(&store, &probing).await {
            Ok(report) => {
                let whose = belongs.as_ref().map_or("no cluster's yet".to_owned(), |id| format!("of cluster {id}"));
                let took = report.took_ms;
                let detail = format!("{url} ({whose}); of creates that race one wins, tried in {took} ms");
                self.findings.push(Finding::fine(CHECK, detail));
            }
            Err(error) => {
                self.findings.push(Finding::problem(CHECK, error.to_string(), advice_on(&error)));
                return belongs;
            }
        }
        self.progress.phase("timing the object store");
        match self.time(&store).await {
            Ok(times) => self.findings.push(findings::store_speed(&times, self.settings.log.flush_linger_ms)),
            Err(error) => {
                self.findings.push(Finding::problem("object store speed", error.to_string(), advice_on(&error)));
            }
        }
        belongs
    }

    /// Puts, gets, lists and deletes scratch objects. What the store says of their age tells its clock.
    async fn time(&mut self, store: &Arc<dyn ObjectStore>) -> Result<StoreTimes, StoreError> {
        let prefix = format!("probe/{}/", self.rng.uuid().simple());
        let mut times = StoreTimes::default();
        let mut said = None;
        for number in 0..TIMED {
            let key = format!("{prefix}doctor-{number}");
            let started_ms = self.clock.wall_ms();
            let at = self.clock.boot_us();
            store.put(&key, Payload::from(Bytes::from(vec![0x5a; SCRATCH_BYTES]))).await?;
            times.put_us.push(self.clock.boot_us() - at);
            let ended_ms = self.clock.wall_ms();
            let at = self.clock.boot_us();
            store.get(&key).await?;
            times.get_us.push(self.clock.boot_us() - at);
            let at = self.clock.boot_us();
            let mut listing = store.list(&prefix, None);
            while let Some(meta) = listing.next().await {
                let meta = meta?;
                if meta.key == key {
                    said = Some((started_ms, ended_ms, meta.modified_ms));
                }
            }
            times.list_us.push(self.clock.boot_us() - at);
            let at = self.clock.boot_us();
            store.delete(&key).await?;
            times.delete_us.push(self.clock.boot_us() - at);
        }
        if let Some((started_ms, ended_ms, modified_ms)) = said.filter(|_| !store.is_local()) {
            self.findings.push(findings::clock(started_ms, ended_ms, modified_ms));
        }
        Ok(times)
    }

    /// The metadata store, and whether it goes with the `bucket`'s cluster.
    pub async fn check_metadata(&mut self, bucket: Option<String>) {
        const CHECK: &str = "metadata";
        let broker = &self.settings.broker;
        self.progress.phase("asking the metadata store");
        if broker.object_store == ObjectStoreSetting::Memory && broker.metadata == MetadataSetting::Embedded {
            return;
        }
        if broker.metadata == MetadataSetting::Embedded {
            let path = broker.data_dir.join("meta").join("metadata.log");
            self.findings.push(match std::fs::read(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => match bucket {
                    Some(cluster_id) => Finding::problem(
                        CHECK,
                        format!("there is none, but the object store is of cluster {cluster_id}"),
                        "give the data directory that goes with it (--data-dir), or rebuild the metadata: esker cluster restore",
                    ),
                    None => Finding::fine(CHECK, "embedded, new; the first start makes it"),
                },
                Err(error) => Finding::problem(
                    CHECK,
                    format!("'{}': {error}", path.display()),
                    "the broker's user must be allowed to read and write there",
                ),
                Ok(bytes) => match metalog::scan(&bytes.into()) {
                    Ok((records, _)) => {
                        let revision = records.last().map_or(0, |record| record.revision);
                        Finding::fine(CHECK, format!("embedded, whole, at revision {revision}"))
                    }
                    Err(error) => Finding::problem(
                        CHECK,
                        format!("'{}': {error}", path.display()),
                        "restore the file from a copy, or rebuild it from the objects: esker cluster restore, with a new \
                         --data-dir",
                    ),
                },
            });
            return;
        }
        let answered = self.ask_etcd(bucket.as_deref()).await;
        self.findings.push(answered.unwrap_or_else(|error| {
            Finding::problem(
                CHECK,
                format!("{error:#}"),
                "check that etcd runs at these addresses, and etcd.user, etcd.password_file and the certificates",
            )
        }));
    }

    async fn ask_etcd(&self, bucket: Option<&str>) -> anyhow::Result<Finding> {
        let mut metrics = Registry::default();
        let settings = self.settings;
        let opened = Metadata::open(settings, &settings.broker.data_dir, &self.clock, &self.rng, &mut metrics).await?;
        let keys = KeySpace::of_cluster(serve::cluster_name(settings));
        let mut times = Vec::new();
        for _ in 0..TIMED {
            let at = self.clock.boot_us();
            opened.store.get(&keys.key(&Key::Cluster)).await?;
            times.push(self.clock.boot_us() - at);
        }
        let record = cluster_record(&opened.store, &keys).await?;
        let id = record.map(|record| record.cluster_id);
        Ok(match (id, bucket) {
            (Some(id), Some(bucket)) if id != bucket => Finding::problem(
                "metadata",
                format!("etcd is of cluster {id}, the object store of cluster {bucket}"),
                "name those that go together: --metadata, --object-store, --cluster",
            ),
            (None, Some(bucket)) => Finding::problem(
                "metadata",
                format!("etcd knows no cluster under '{}', but the object store is of cluster {bucket}", keys.root()),
                "check --metadata and --cluster; if etcd was lost: esker cluster restore",
            ),
            (Some(id), _) => findings::metadata_speed(&times, &format!("etcd, of cluster {id}")),
            (None, None) => findings::metadata_speed(&times, "etcd, no cluster's yet"),
        })
    }
}

fn advice_on(error: &StoreError) -> &'static str {
    match error {
        StoreError::Refused { .. } => {
            "give the broker's credentials the rights to put, get, list and delete in the bucket (s3:PutObject, s3:GetObject, \
             s3:DeleteObject, s3:ListBucket), or to write in the directory"
        }
        StoreError::Config(_) => "a broker refuses this store",
        StoreError::Unavailable { .. } | StoreError::NotFound { .. } => {
            "a broker waits until the store answers: is it up, and is the way to it free?"
        }
    }
}

/// The directory itself, or the nearest one above it that is there.
fn nearest(dir: &Path) -> PathBuf {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    dir.ancestors().find(|dir| dir.is_dir()).map_or_else(|| PathBuf::from("/"), Path::to_owned)
}
