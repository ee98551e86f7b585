//! Which cluster this is, and that the metadata, the object store and the data directory agree on it.
//!
//! Order of writes: the cluster's record in the metadata store, then the object `cluster`, then `VERSION` of the data
//! directory. Each is made once, by whoever comes first; a crash between two of them is mended by the next start.

use anyhow::{Context, bail};
use bytes::Bytes;
use uuid::Uuid;

use crate::base::{Clock, Rng};
use crate::cluster::{Key, KeySpace};
use crate::format::identity::{Identity, MAX_BYTES};
use crate::format::keys::CLUSTER;
use crate::format::metadata::{ClusterRecord, MetadataValue};
use crate::meta::{Compare, MetaStore, TxnOutcome, Write};
use crate::objstore::{Created, ObjectStore, Payload, StoreError};

/// The cluster's id from the metadata store; a new cluster gets one.
pub async fn cluster_id(meta: &dyn MetaStore, keys: &KeySpace, clock: &Clock, rng: &Rng) -> anyhow::Result<String> {
    let key = keys.key(&Key::Cluster);
    loop {
        if let Some(entry) = meta.get(&key).await? {
            return Ok(ClusterRecord::decode(&entry.key, &entry.value)?.cluster_id);
        }
        let record = ClusterRecord { cluster_id: short_id(rng.uuid()), created_ms: clock.wall_ms() };
        let compare = Compare { key: key.clone(), mod_revision: 0 };
        let write = Write::Put { key: key.clone(), value: record.encode(), lease: 0 };
        if let TxnOutcome::Committed { .. } = meta.txn(vec![compare], vec![write]).await? {
            return Ok(record.cluster_id);
        }
    }
}

/// Checks that the object store belongs to the cluster, or makes it so if it belongs to none yet.
pub async fn claim_store(store: &dyn ObjectStore, store_name: &str, cluster_id: &str) -> anyhow::Result<()> {
    let ours = Identity::ObjectStore { cluster_id: cluster_id.to_owned() };
    match store.get_range(CLUSTER, 0..MAX_BYTES as u64).await {
        Ok(bytes) => return same_cluster(store_name, &bytes, cluster_id),
        Err(StoreError::NotFound { .. }) => {}
        Err(error) => return Err(error).with_context(|| format!("object store {store_name}")),
    }
    match store.create(CLUSTER, Payload::from(Bytes::from(ours.encode()))).await {
        Ok(Created::Yes) => Ok(()),
        // Ours from an unanswered try, or another cluster's that starts at this moment: what is there decides.
        Ok(Created::Exists) | Err(StoreError::Unavailable { .. }) => {
            same_cluster(store_name, &store.get(CLUSTER).await?, cluster_id)
        }
        Err(error) => Err(error).with_context(|| format!("object store {store_name}")),
    }
}

fn same_cluster(store_name: &str, bytes: &[u8], cluster_id: &str) -> anyhow::Result<()> {
    let found = Identity::decode(bytes).with_context(|| format!("object '{CLUSTER}' of {store_name}"))?;
    if found.cluster_id() != cluster_id {
        bail!(
            "the object store {store_name} belongs to cluster {}, the metadata to cluster {cluster_id}: use the data \
             directory (or metadata store) that goes with it, or another prefix",
            found.cluster_id()
        );
    }
    Ok(())
}

/// 22 characters of URL-safe base64, as Kafka writes its ids.
fn short_id(id: Uuid) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let value = id.as_u128();
    // 128 bits in groups of six from the top; the last group holds two bits and is padded with zeros.
    (0..22)
        .map(|group| {
            let shift = 122 - 6 * group;
            let bits = if shift >= 0 { value >> shift } else { value << -shift };
            char::from(ALPHABET[(bits & 63) as usize])
        })
        .collect()
}
