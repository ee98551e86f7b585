//! Which cluster this is, and that the metadata, the object store and the data directory agree on it.
//!
//! Order of writes: the cluster's record in the metadata store, then the object `cluster`, then `VERSION` of the data
//! directory, then the first session. Each is made once, by whoever comes first; a crash between two of them is mended by the
//! next start. So an object store without its object is refused once a directory or a session is there: it is not the one
//! that holds the data.

use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;

use super::data_dir::DataDir;
use crate::base::{Clock, Rng};
use crate::cluster::KeySpace;
use crate::cluster::identity::{Place, check_cluster_id, has_sessions, settle_cluster_id};
use crate::format::identity::{Identity, MAX_BYTES};
use crate::format::keys::CLUSTER;
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
    let bucket = Place { cluster_id: read(store, &name).await?, name: name.clone() };
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
        mark(store, name, &cluster_id).await?;
    }
    Ok(cluster_id)
}

/// The cluster that the store belongs to; `None` if it belongs to none yet.
async fn read(store: &dyn ObjectStore, name: &str) -> anyhow::Result<Option<String>> {
    match store.get_range(CLUSTER, 0..MAX_BYTES as u64).await {
        Ok(bytes) => {
            let found = Identity::decode(&bytes).with_context(|| format!("object '{CLUSTER}' of {name}"))?;
            Ok(Some(found.cluster_id().to_owned()))
        }
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error).with_context(|| name.to_owned()),
    }
}

async fn mark(store: &dyn ObjectStore, name: String, cluster_id: &str) -> anyhow::Result<()> {
    let ours = Identity::ObjectStore { cluster_id: cluster_id.to_owned() };
    match store.create(CLUSTER, Payload::from(Bytes::from(ours.encode()))).await {
        Ok(Created::Yes) => Ok(()),
        // Ours from an unanswered try, or another cluster's that starts at this moment: what is there decides.
        Ok(Created::Exists) | Err(StoreError::Unavailable { .. }) => {
            let found = read(store, &name).await?;
            if found.is_none() {
                anyhow::bail!("{name} did not take its first object; try again");
            }
            Ok(check_cluster_id(&Place { name, cluster_id: found }, cluster_id)?)
        }
        Err(error) => Err(error).context(name),
    }
}
