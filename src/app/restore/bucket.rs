//! What the bucket says of the cluster: its identity, backups of the catalogue, and all streams.
//!
//! Nothing is written but seals, and those only when asked for.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::machine::{Gathered, Known};
use crate::app::identity;
use crate::base::{ErrorKind, Rng, SessionId};
use crate::format::FormatError;
use crate::format::catalogue::{CatalogueBackup, MAX_BYTES};
use crate::format::keys;
use crate::format::state::ObjectRef;
use crate::objstore::{ObjectMeta, ObjectStore};
use crate::partition::seal::seal_stream;
use crate::partition::stream::{StreamError, StreamState, load_stream};

/// Streams that are read at the same time.
const PARALLEL_STREAMS: usize = 4;

/// Whether streams without a seal get one before they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seals {
    /// Yes: nobody can write to them any more.
    Write,
    /// No: what is read may change.
    Leave,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Where everything is.
    pub store: Arc<dyn ObjectStore>,
    /// Its address, for people.
    pub name: String,
    /// Ids of seals.
    pub rng: Rng,
}

impl Bucket {
    /// The bucket's identity, and the newest backup of that cluster that can be read. `notes` hears of those that cannot.
    pub async fn known(&self, notes: &mut Vec<String>) -> anyhow::Result<Known> {
        let bucket = identity::read(&*self.store, &self.name).await?;
        let mut listed: Vec<ObjectMeta> = self.store.list(keys::CATALOGUE_PREFIX, None).try_collect().await?;
        listed.retain(|meta| keys::parse_catalogue(&meta.key).is_some());
        let mut known = Known { bucket, ..Known::default() };
        for meta in listed.iter().rev() {
            if meta.size_bytes > MAX_BYTES {
                notes.push(format!("'{}' is too large to be a backup ({} bytes)", meta.key, meta.size_bytes));
                continue;
            }
            match CatalogueBackup::decode(&self.store.get(&meta.key).await?) {
                Ok(backup) if known.bucket.as_ref().is_some_and(|(id, _)| *id != backup.cluster_id) => {
                    notes.push(format!("'{}' is a backup of another cluster ({})", meta.key, backup.cluster_id));
                }
                Ok(backup) => {
                    known.backup = Some(backup);
                    known.backup_ms = meta.modified_ms;
                    break;
                }
                Err(error @ FormatError::Newer { .. }) => anyhow::bail!("'{}': {error}", meta.key),
                Err(error) => notes.push(format!("'{}' cannot be used: {error}", meta.key)),
            }
        }
        Ok(known)
    }

    /// Reads all streams: those in the bucket, and of the backup those that may live without having written anything.
    /// `progress` hears how many of how many are read.
    pub async fn gather(
        &self,
        known: &Known,
        seals: Seals,
        mut progress: impl FnMut(usize, usize),
    ) -> anyhow::Result<Gathered> {
        let (objects, newest_ms) = self.objects().await?;
        let lived = known.backup.iter().flat_map(|backup| &backup.sessions).filter(|saved| saved.sealed.is_none());
        let sessions: BTreeSet<SessionId> = newest_ms.keys().copied().chain(lived.map(|saved| saved.session)).collect();
        let mut gathered = Gathered::default();
        let reads: Vec<_> = sessions.iter().map(|session| self.clone().read(*session, seals)).collect();
        let mut reads = stream::iter(reads).buffer_unordered(PARALLEL_STREAMS);
        let mut done = 0;
        while let Some((session, read)) = reads.next().await {
            match read {
                Ok(stream) => {
                    let newest_object_ms = newest_ms.get(&session).copied().unwrap_or_default();
                    gathered.add(&stream, newest_object_ms, |object| objects.contains(object));
                }
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    gathered.unreadable.insert(session, error.to_string());
                }
                Err(error) => return Err(error.into()),
            }
            done += 1;
            progress(done, sessions.len());
        }
        Ok(gathered)
    }

    async fn read(self, session: SessionId, seals: Seals) -> (SessionId, Result<StreamState, StreamError>) {
        if seals == Seals::Write
            && let Err(error) = seal_stream(&self.store, &self.rng, session).await
        {
            return (session, Err(error));
        }
        (session, load_stream(&self.store, session).await)
    }

    /// Every segment and compacted run, and for each session when its newest object was written.
    async fn objects(&self) -> anyhow::Result<(HashSet<ObjectRef>, BTreeMap<SessionId, i64>)> {
        let (mut objects, mut newest_ms) = (HashSet::new(), BTreeMap::new());
        let mut saw = |session: SessionId, modified_ms: i64| {
            let newest = newest_ms.entry(session).or_insert(modified_ms);
            *newest = modified_ms.max(*newest);
        };
        let mut segments = self.store.list(keys::LOG_PREFIX, None);
        while let Some(meta) = segments.try_next().await? {
            let Some((session, seq)) = keys::parse_segment(&meta.key) else { continue };
            objects.insert(ObjectRef::Segment { session, seq });
            saw(session, meta.modified_ms);
        }
        let mut runs = self.store.list(keys::RUNS_PREFIX, None);
        while let Some(meta) = runs.try_next().await? {
            let Some((session, number, commit_before)) = keys::parse_run(&meta.key) else { continue };
            objects.insert(ObjectRef::Run { session, number, commit_before });
            saw(session, meta.modified_ms);
        }
        let mut checkpoints = self.store.list(keys::CHECKPOINT_PREFIX, None);
        while let Some(meta) = checkpoints.try_next().await? {
            if let Some((session, _)) = keys::parse_checkpoint(&meta.key) {
                saw(session, meta.modified_ms);
            }
        }
        Ok((objects, newest_ms))
    }
}
