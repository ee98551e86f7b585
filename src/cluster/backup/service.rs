//! The task that writes backups while its session is the controller.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;

use super::machine::{Schedule, backup_of};
use crate::base::{Clock, SessionId, Tasks};
use crate::cluster::catalogue::Catalogue;
use crate::cluster::image::ClusterImage;
use crate::cluster::metrics::Metrics;
use crate::format::catalogue::CatalogueBackup;
use crate::format::keys;
use crate::objstore::{ObjectMeta, ObjectStore, Payload, StoreError};

/// Backups that stay: the newest, and some in case they cannot be read.
pub const BACKUPS_KEPT: usize = 5;

/// What backups are made with.
#[derive(Debug, Clone)]
pub struct Backups {
    /// What is saved.
    pub catalogue: Catalogue,
    /// This broker's session.
    pub own: SessionId,
    /// Where they go.
    pub store: Arc<dyn ObjectStore>,
    /// Time.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
}

impl Backups {
    /// Writes them in a task of `tasks`.
    pub fn start(self, tasks: &Tasks) {
        let stop = tasks.stopping();
        tasks.spawn("catalogue backup", async move {
            stop.run_until_cancelled(self.run()).await;
        });
    }

    async fn run(self) {
        let mut versions = self.catalogue.subscribe();
        let mut reign = Reign::default();
        loop {
            versions.borrow_and_update();
            let image = self.catalogue.image();
            let now_ms = self.clock.boot_ms();
            let due_ms = if image.controller == Some(self.own) {
                reign.schedule.saw(image.version, now_ms);
                reign.schedule.due_ms()
            } else {
                reign = Reign::default();
                self.metrics.backup_written_seconds.set(0);
                None
            };
            self.metrics.backup_waiting_ms.set(reign.schedule.waiting_ms(now_ms) as i64);
            if due_ms.is_some_and(|due_ms| due_ms <= now_ms) {
                self.attempt(&image, &mut reign).await;
                continue;
            }
            let pause = async {
                match due_ms {
                    Some(due_ms) => tokio::time::sleep(Duration::from_millis(due_ms - now_ms)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = versions.changed() => if changed.is_err() { return },
                () = pause => {}
            }
        }
    }

    async fn attempt(&self, image: &ClusterImage, reign: &mut Reign) {
        let result = self.save(image, reign).await;
        let now_ms = self.clock.boot_ms();
        match result {
            Ok(wrote) => {
                reign.schedule.saved(image.version, wrote, now_ms);
                if wrote {
                    self.metrics.backups.inc();
                    self.metrics.backup_written_seconds.set(self.clock.wall_ms() / 1000);
                }
            }
            Err(error) => {
                reign.schedule.failed(now_ms);
                self.metrics.backup_errors.inc();
                tracing::warn!(%error, "the catalogue could not be saved in the object store; trying again");
            }
        }
    }

    /// Whether an object was written.
    async fn save(&self, image: &ClusterImage, reign: &mut Reign) -> Result<bool, StoreError> {
        let Some(backup) = backup_of(image, self.catalogue.epoch_base()) else { return Ok(false) };
        if !reign.looked {
            reign.newest = self.read_newest().await?;
            reign.looked = true;
        }
        if reign.newest.as_ref().is_some_and(|newest| newest.same_content(&backup)) {
            return Ok(false);
        }
        self.store.put(&keys::catalogue(backup.revision), Payload::from(backup.encode())).await?;
        tracing::debug!(revision = backup.revision, "the catalogue is saved in the object store");
        reign.newest = Some(backup);
        if let Err(error) = self.prune().await {
            tracing::debug!(%error, "old backups of the catalogue stay for now");
        }
        Ok(true)
    }

    /// The newest backup, if there is one and it can be read.
    async fn read_newest(&self) -> Result<Option<CatalogueBackup>, StoreError> {
        let Some(meta) = list(&self.store).await?.pop() else { return Ok(None) };
        self.metrics.backup_written_seconds.set(meta.modified_ms / 1000);
        let bytes = self.store.get(&meta.key).await?;
        Ok(CatalogueBackup::decode(&bytes).ok())
    }

    async fn prune(&self) -> Result<(), StoreError> {
        let listed = list(&self.store).await?;
        for old in listed.iter().rev().skip(BACKUPS_KEPT) {
            self.store.delete(&old.key).await?;
        }
        Ok(())
    }
}

/// What is known while this session is the controller.
#[derive(Debug, Default)]
struct Reign {
    schedule: Schedule,
    /// Whether the newest backup was looked for.
    looked: bool,
    /// The newest backup, if there is one and it can be read.
    newest: Option<CatalogueBackup>,
}

/// All backups in the store, oldest first.
async fn list(store: &Arc<dyn ObjectStore>) -> Result<Vec<ObjectMeta>, StoreError> {
    let mut listed: Vec<ObjectMeta> = store.list(keys::CATALOGUE_PREFIX, None).try_collect().await?;
    listed.retain(|meta| keys::parse_catalogue(&meta.key).is_some());
    Ok(listed)
}
