//! Which cluster this is, and that the metadata, the object store and the data directory agree on it.
//!
//! Order of writes: the cluster's record in the metadata store, then the object `cluster`, then `VERSION` of the data
//! directory, then the first session. Each is made once, by whoever comes first; a crash between two of them is mended by the
//! next start. So an object store without its object is refused once a directory or a session is there: it is not the one
//! that holds the data.

use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use futures::TryStreamExt;

use super::data_dir::DataDir;
use crate::base::{Clock, Rng};
use crate::cluster::identity::{
    Place, check_cluster_id, cluster_record, has_sessions, settle_cluster_id, with_epoch_base,
};
use crate::cluster::{Key, KeySpace};
use crate::format::identity::{Identity, MAX_BYTES};
use crate::format::keys::{CATALOGUE_PREFIX, CLUSTER, parse_catalogue};
use crate::meta::MetaStore;
use crate::objstore::{Created, ObjectStore, Payload, StoreError};

/// The id of the cluster that all of them belong to (a store in memory leaves the data directory out, and is empty at
/// every start); places that were empty are marked as its own.
pub async fn settle(
    meta: &Arc<dyn MetaStore>,
    keys: &KeySpace,
    store: &dyn ObjectStore,
    store_name: &str,
    data_dir: Option<&DataDir>,
    clock: &Clock,
    rng: &Rng,
) -> anyhow::Result<String> {
    let name = format!("the object store {store_name}");
    let found = read(store, &name).await?;
    let bucket = Place { cluster_id: found.map(|(id, _)| id), name: name.clone() };
    let directory = data_dir.map(|data_dir| Place {
        name: format!("the data directory '{}'", data_dir.path().display()),
        cluster_id: data_dir.cluster_id().map(str::to_owned),
    });
    let unmarked = bucket.cluster_id.is_none();
    let places: Vec<Place> = std::iter::once(bucket).chain(directory).collect();
    let cluster_id = settle_cluster_id(meta, keys, &places, clock, rng).await?;
    if unmarked {
        if let Some(data_dir) = data_dir
            && (data_dir.cluster_id().is_some() || has_sessions(meta, keys).await?)
            // Another broker of the cluster may have marked it and begun a moment ago.
            && read(store, &name).await?.is_none()
        {
            anyhow::bail!(
                "{name} holds nothing of cluster {cluster_id}, which has its data in another one: give that one \
                 (--object-store), or another --data-dir for a new cluster"
            );
        }
        let epoch_base = with_epoch_base(meta, keys.clone()).await?.epoch_base();
        mark(store, name, &cluster_id, epoch_base).await?;
    }
    Ok(cluster_id)
}

/// The cluster that the store belongs to, and the epoch base that it goes with; `None` if it belongs to none yet.
pub async fn read(store: &dyn ObjectStore, name: &str) -> anyhow::Result<Option<(String, u64)>> {
    match store.get_range(CLUSTER, 0..MAX_BYTES as u64).await {
        Ok(bytes) => match Identity::decode(&bytes).with_context(|| format!("object '{CLUSTER}' of {name}"))? {
            Identity::ObjectStore { cluster_id, epoch_base } => Ok(Some((cluster_id, epoch_base))),
            Identity::DataDirectory { .. } => anyhow::bail!("object '{CLUSTER}' of {name} is a data directory's"),
        },
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error).with_context(|| name.to_owned()),
    }
}

/// Replaces what the store says: it goes with a metadata store that was rebuilt. Brokers of the one before begin no session
/// from then on.
pub async fn mark_again(store: &dyn ObjectStore, cluster_id: &str, epoch_base: u64) -> Result<(), StoreError> {
    let now = Identity::ObjectStore { cluster_id: cluster_id.to_owned(), epoch_base };
    store.put(CLUSTER, Payload::from(Bytes::from(now.encode()))).await
}

/// What this process knows of its cluster is of an earlier life: it cannot go on, a new process perhaps can.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OtherLife(String);

/// Whether the metadata store and the object store still are those of the cluster that `keys` were read for. Asked before
/// each session: a broker that outlived its metadata store must not write with what it remembers (docs/adr/0006).
///
/// Errors: `OtherLife`, or that one of the two did not answer.
pub async fn check_life(meta: &Arc<dyn MetaStore>, keys: &KeySpace, store: &dyn ObjectStore) -> anyhow::Result<()> {
    let other = |text: String| Err(OtherLife(text).into());
    let Some(record) = cluster_record(meta, keys).await? else {
        return other(format!(
            "the metadata store has lost its cluster: there is nothing under '{}'. Stop every broker, then rebuild it from \
             the bucket with: esker cluster restore",
            keys.root()
        ));
    };
    if record.epoch_base != keys.epoch_base() {
        return other("the metadata store was rebuilt while this broker ran: start it again".to_owned());
    }
    // The backups first: what is saved later than this is not newer than what is read next.
    let newest = newest_backup(store).await?;
    let revision = keys.epoch(meta.range(&keys.key(&Key::Cluster)).await?.revision);
    if let Some(newest) = newest.filter(|newest| *newest > revision) {
        return other(format!(
            "the metadata store is older than the object store: it is at revision {revision}, and the catalogue was saved at \
             revision {newest}. If an old snapshot of it was restored, partitions would be served from the wrong streams. \
             Stop every broker and rebuild it from the bucket with: esker cluster restore"
        ));
    }
    match read(store, "the object store").await? {
        Some((id, epoch_base)) if id != record.cluster_id || epoch_base != record.epoch_base => other(format!(
            "the object store goes with another metadata store: it belongs to cluster {id} with epochs from {epoch_base}, \
             this metadata store to cluster {} with epochs from {}. After esker cluster restore, brokers need the metadata \
             store that it wrote to (--metadata)",
            record.cluster_id, record.epoch_base
        )),
        // A store without the object is the business of `settle`.
        _ => Ok(()),
    }
}

/// The newest revision that a backup of the catalogue shows.
async fn newest_backup(store: &dyn ObjectStore) -> anyhow::Result<Option<u64>> {
    let mut listed = store.list(CATALOGUE_PREFIX, None);
    let mut newest = None;
    while let Some(meta) = listed.try_next().await? {
        newest = newest.max(parse_catalogue(&meta.key));
    }
    Ok(newest)
}

async fn mark(store: &dyn ObjectStore, name: String, cluster_id: &str, epoch_base: u64) -> anyhow::Result<()> {
    let ours = Identity::ObjectStore { cluster_id: cluster_id.to_owned(), epoch_base };
    match store.create(CLUSTER, Payload::from(Bytes::from(ours.encode()))).await {
        Ok(Created::Yes) => Ok(()),
        // Ours from an unanswered try, or another cluster's that starts at this moment: what is there decides.
        Ok(Created::Exists) | Err(StoreError::Unavailable { .. }) => {
            let found = read(store, &name).await?;
            if found.is_none() {
                anyhow::bail!("{name} did not take its first object; try again");
            }
            Ok(check_cluster_id(&Place { name, cluster_id: found.map(|(id, _)| id) }, cluster_id)?)
        }
        Err(error) => Err(error).context(name),
    }
}
