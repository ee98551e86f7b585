//! Filling a metadata store that holds nothing of the cluster (any more) with what was found elsewhere (docs/adr/0006).
//!
//! Order of the writes: the marker `rebuild`, then everything but the record `cluster`, in as few transactions as the
//! limits allow, each comparing the marker; last, in one transaction, `cluster` comes and the marker goes. Without `cluster`
//! no broker starts on a bucket that belongs to one. A crash, or a dropped future, leaves the marker: the next rebuild takes
//! it over, which ends an earlier one that still runs, removes what that wrote, and begins anew.

use std::sync::Arc;

use uuid::Uuid;

use super::batch::{Piece, join, pack};
use super::error::ClusterError;
use super::keys::{Key, KeySpace};
use crate::base::SessionId;
use crate::format::metadata::{
    AssignmentChunk, ClusterRecord, DeletionRecord, MetadataValue, ProducerIdRecord, RebuildRecord, SessionRecord,
    TopicRecord,
};
use crate::meta::{Compare, MetaStore, TxnOutcome};

/// Keys removed by one transaction.
const DELETES_PER_TXN: usize = 100;

/// Everything that the store is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// Who the cluster is.
    pub cluster: ClusterRecord,
    /// Sessions on record.
    pub sessions: Vec<(SessionId, SessionRecord)>,
    /// Topics, each with all its assignments.
    pub topics: Vec<(TopicRecord, Vec<AssignmentChunk>)>,
    /// Deleted topics whose objects may still exist.
    pub deletions: Vec<(Uuid, DeletionRecord)>,
    /// Producer ids.
    pub producer_ids: ProducerIdRecord,
}

/// Whether the store may be filled: it holds no cluster under these keys.
///
/// Errors: `WrongCluster` says what to do if it does.
pub async fn check_empty(store: &Arc<dyn MetaStore>, keys: &KeySpace) -> Result<(), ClusterError> {
    let root = keys.root();
    if let Some(entry) = store.get(&keys.key(&Key::Cluster)).await? {
        let id = ClusterRecord::decode(&entry.key, &entry.value)?.cluster_id;
        return Err(ClusterError::WrongCluster(format!(
            "the metadata store already holds a cluster under '{root}': {id}. Nothing is lost there: start the brokers. To \
             put what the bucket holds in its place (an old snapshot was restored), stop every broker, delete all keys under \
             '{root}' (with etcd: etcdctl del --prefix {root}), and run this again"
        )));
    }
    let others = !store.range(root).await?.entries.is_empty();
    if others && store.get(&keys.key(&Key::Rebuild)).await?.is_none() {
        return Err(ClusterError::WrongCluster(format!(
            "the metadata store holds keys under '{root}', but no cluster: they are the rest of something else. Delete them \
             (with etcd: etcdctl del --prefix {root}), and run this again"
        )));
    }
    Ok(())
}

/// Fills the store. Errors: those of [`check_empty`]; `Contended` if another rebuild has taken over; `Meta` (run it again).
pub async fn rebuild(
    store: &Arc<dyn MetaStore>,
    keys: &KeySpace,
    rebuilt: &Rebuilt,
    now_ms: i64,
) -> Result<(), ClusterError> {
    check_empty(store, keys).await?;
    let mark = begin(store, keys, now_ms).await?;
    let mut leftovers = Vec::new();
    for some in store.range(keys.root()).await?.entries.chunks(DELETES_PER_TXN) {
        let mut piece = Piece::default();
        some.iter().filter(|entry| entry.key != mark.key).for_each(|entry| piece.delete(entry.key.clone()));
        leftovers.push(piece);
    }
    write(store, &mark, &leftovers).await?;
    write(store, &mark, &pieces(keys, rebuilt)).await?;
    let mut last = Piece::default();
    let cluster = keys.key(&Key::Cluster);
    last.compare(cluster.clone(), 0);
    last.put(cluster, rebuilt.cluster.encode());
    last.delete(mark.key.clone());
    write(store, &mark, &[last]).await
}

async fn begin(store: &Arc<dyn MetaStore>, keys: &KeySpace, now_ms: i64) -> Result<Compare, ClusterError> {
    let key = keys.key(&Key::Rebuild);
    let before = store.get(&key).await?.map_or(0, |entry| entry.mod_revision);
    let mut piece = Piece::default();
    piece.compare(keys.key(&Key::Cluster), 0);
    piece.compare(key.clone(), before);
    piece.put(key.clone(), RebuildRecord { started_ms: now_ms }.encode());
    match store.txn(piece.compares, piece.writes).await? {
        TxnOutcome::Committed { revision } => Ok(Compare { key, mod_revision: revision }),
        TxnOutcome::Conflict => Err(taken_over()),
    }
}

async fn write(store: &Arc<dyn MetaStore>, mark: &Compare, pieces: &[Piece]) -> Result<(), ClusterError> {
    for group in pack(pieces) {
        let (compares, writes) = join(Some(mark.clone()), &pieces[group]);
        if !writes.is_empty() && store.txn(compares, writes).await? == TxnOutcome::Conflict {
            return Err(taken_over());
        }
    }
    Ok(())
}

fn taken_over() -> ClusterError {
    ClusterError::Contended("somebody else rebuilds this metadata store at the same time; this one stops".to_owned())
}

fn pieces(keys: &KeySpace, rebuilt: &Rebuilt) -> Vec<Piece> {
    let one = |key: &Key, value| {
        let mut piece = Piece::default();
        piece.put(keys.key(key), value);
        piece
    };
    let mut pieces = vec![one(&Key::ProducerIds, rebuilt.producer_ids.encode())];
    pieces.extend(rebuilt.sessions.iter().map(|(session, record)| one(&Key::Session(*session), record.encode())));
    pieces.extend(rebuilt.deletions.iter().map(|(id, record)| one(&Key::Deletion(*id), record.encode())));
    for (topic, chunks) in &rebuilt.topics {
        let mut piece = one(&Key::Topic(topic.name.clone()), topic.encode());
        for (number, chunk) in (0..).zip(chunks) {
            piece.put(keys.key(&Key::Assignments(topic.id, number)), chunk.encode());
        }
        pieces.push(piece);
    }
    pieces
}
