//! Who this cluster is: an id made once, kept in the metadata store, and repeated in every place that holds the
//! cluster's data, so that no broker mixes the data of two clusters.

use std::sync::Arc;

use super::error::ClusterError;
use super::keys::{Key, KeySpace};
use crate::base::{Clock, Rng};
use crate::format::metadata::{ClusterRecord, MetadataValue};
use crate::meta::{Compare, MetaStore, TxnOutcome, Write};

/// A place that holds data of the cluster, and the id that is written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// For people, with its address: "the data directory ./esker-data", "the bucket s3://logs/prod".
    pub name: String,
    /// The cluster id found there; `None` for a place that is still empty.
    pub cluster_id: Option<String>,
}

/// The cluster's id: read from the metadata store, or made and written there if the store and every place are still
/// empty. Afterwards the caller writes it into the places that had none.
///
/// Errors: `WrongCluster` if a place belongs to another cluster, or to one that this metadata store does not know.
pub async fn settle_cluster_id(
    store: &Arc<dyn MetaStore>,
    keys: &KeySpace,
    places: &[Place],
    clock: &Clock,
    rng: &Rng,
) -> Result<String, ClusterError> {
    let key = keys.key(&Key::Cluster);
    loop {
        if let Some(entry) = store.get(&key).await? {
            let known = ClusterRecord::decode(&entry.key, &entry.value)?.cluster_id;
            for place in places {
                check_cluster_id(place, &known)?;
            }
            return Ok(known);
        }
        if let Some(place) = places.iter().find(|place| place.cluster_id.is_some()) {
            let id = place.cluster_id.as_deref().unwrap_or_default();
            return Err(ClusterError::WrongCluster(format!(
                "{} belongs to cluster {id}, but the metadata store knows no cluster yet: give the metadata store of \
                 cluster {id} (--metadata, or the data directory that it lived in), or, if that is lost, rebuild it with \
                 esker cluster restore, or give an empty place for a new cluster",
                place.name
            )));
        }
        let record = ClusterRecord { cluster_id: new_cluster_id(rng), created_ms: clock.wall_ms(), epoch_base: 0 };
        let compare = Compare { key: key.clone(), mod_revision: 0 };
        let write = Write::Put { key: key.clone(), value: record.encode(), lease: 0 };
        if let TxnOutcome::Committed { .. } = store.txn(vec![compare], vec![write]).await? {
            return Ok(record.cluster_id);
        }
    }
}

/// The cluster that the metadata store knows, if it knows one.
pub async fn cluster_record(
    store: &Arc<dyn MetaStore>,
    keys: &KeySpace,
) -> Result<Option<ClusterRecord>, ClusterError> {
    let entry = store.get(&keys.key(&Key::Cluster)).await?;
    Ok(entry.map(|entry| ClusterRecord::decode(&entry.key, &entry.value)).transpose()?)
}

/// `keys` as the metadata store counts session epochs; it is written before the first session, and never changes.
pub async fn with_epoch_base(store: &Arc<dyn MetaStore>, keys: KeySpace) -> Result<KeySpace, ClusterError> {
    let epoch_base = cluster_record(store, &keys).await?.map_or(0, |record| record.epoch_base);
    Ok(keys.with_epoch_base(epoch_base))
}

/// Whether a session of this cluster is on record, which is only after all its places were marked as its own.
pub async fn has_sessions(store: &Arc<dyn MetaStore>, keys: &KeySpace) -> Result<bool, ClusterError> {
    Ok(!store.range(&keys.sessions()).await?.entries.is_empty())
}

/// Whether `place` belongs to the cluster that the metadata store knows; an empty place does.
pub fn check_cluster_id(place: &Place, known: &str) -> Result<(), ClusterError> {
    match &place.cluster_id {
        Some(found) if found != known => Err(ClusterError::WrongCluster(format!(
            "{} belongs to cluster {found}, the metadata store to cluster {known}: give the one that belongs to {known}, or \
             the metadata store of {found}",
            place.name
        ))),
        _ => Ok(()),
    }
}

/// A new id, as Kafka writes them: 128 random bits in URL-safe base64, 22 characters, never starting with '-'.
pub fn new_cluster_id(rng: &Rng) -> String {
    loop {
        let id = base64_url(rng.uuid().as_bytes());
        if !id.starts_with('-') {
            return id;
        }
    }
}

fn base64_url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0, |group, at| group << 8 | usize::from(chunk.get(at).copied().unwrap_or(0)));
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[group >> (18 - 6 * digit) & 63]));
        }
    }
    text
}
