//! Ending the stream of a session that is taken for dead, and noticing that one's own was ended (DESIGN 2.3).
//!
//! Sealing is safe whether or not the session still lives: its next create loses. It can be repeated, and several may try
//! at once; all learn the same end. A crash leaves the stream sealed or not.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;

use super::service::Log;
use super::stream::StreamError;
use crate::base::{Rng, SessionId};
use crate::format::keys;
use crate::format::prelude::{ObjectKind, PRELUDE_BYTES, Prelude, encode_seal};
use crate::objstore::unique::{CommitOutcome, CreatePolicy, create_unique};
use crate::objstore::{ObjectMeta, ObjectStore, StoreError};

/// Seals the stream of `session`, if it is not sealed. Returns the seal's seq: the segments before it are committed.
pub async fn seal_stream(store: &Arc<dyn ObjectStore>, rng: &Rng, session: SessionId) -> Result<u64, StreamError> {
    let mut from = after_newest_checkpoint(store, session).await?;
    loop {
        let (next, sealed) = end_of_stream(store, session, from).await?;
        if sealed {
            return Ok(next);
        }
        let id = rng.uuid();
        let bytes = Bytes::copy_from_slice(&encode_seal(id, session, next));
        let key = keys::segment(session, next);
        match create_unique(store, &key, bytes.into(), id, &CreatePolicy::new(rng.clone())).await? {
            // Who was paused before the create may have filled a hole: a stream that had gone on had this segment collected.
            // So the end is looked for again, and has to be this seal.
            CommitOutcome::Committed => from = after_newest_checkpoint(store, session).await?,
            // A segment or somebody else's seal came first: look again from there.
            CommitOutcome::LostTo(_) => from = next,
        }
    }
}

/// A checkpoint at seq n was written after segment n was committed.
async fn after_newest_checkpoint(store: &Arc<dyn ObjectStore>, session: SessionId) -> Result<u64, StreamError> {
    let listed: Vec<ObjectMeta> = store.list(&keys::checkpoints_prefix(session), None).try_collect().await?;
    let newest = listed.iter().filter_map(|meta| keys::parse_checkpoint(&meta.key)).map(|(_, seq)| seq).max();
    Ok(newest.map_or(0, |seq| seq + 1))
}

/// The first seq at or after `from` without a segment, and whether a seal stands there. Segments before `from` exist or
/// existed.
async fn end_of_stream(
    store: &Arc<dyn ObjectStore>,
    session: SessionId,
    from: u64,
) -> Result<(u64, bool), StreamError> {
    let after = from.checked_sub(1).map(|seq| keys::segment(session, seq));
    let listed: Vec<ObjectMeta> = store.list(&keys::stream_prefix(session), after.as_deref()).try_collect().await?;
    let found = listed.into_iter().filter_map(|meta| Some((keys::parse_segment(&meta.key)?.1, meta)));
    let mut next = from;
    for (seq, meta) in found {
        if seq != next {
            break;
        }
        if meta.size_bytes == PRELUDE_BYTES as u64 && is_seal(store, &meta.key).await? {
            return Ok((seq, true));
        }
        next = seq + 1;
    }
    Ok((next, false))
}

async fn is_seal(store: &Arc<dyn ObjectStore>, key: &str) -> Result<bool, StreamError> {
    let bytes = store.get(key).await?;
    let prelude = Prelude::decode(&bytes).map_err(|source| StreamError::Corrupt { key: key.to_owned(), source })?;
    Ok(prelude.kind == ObjectKind::Seal)
}

impl Log {
    /// Looks whether another has sealed this stream; fences it if so. For a session that cannot confirm itself with the
    /// metadata store and may have nothing to write. Returns whether the session still stands.
    pub async fn probe_own_stream(&self) -> Result<bool, StoreError> {
        if self.progress().borrow().fenced {
            return Ok(false);
        }
        let committed = self.0.machine.lock().committed();
        match self.what_stands_at(committed).await? {
            Found::Seal { key, bytes } => {
                super::uploader::fence(self, &key, &bytes);
                Ok(false)
            }
            // A segment of ours whose commit is about to be applied; or an object that the next upload will judge.
            Found::Other | Found::Nothing => Ok(true),
        }
    }

    /// Whether nobody had sealed this stream when it was asked: what this session knew of its partitions until then was all
    /// there was to know. Unlike [`Log::probe_own_stream`] it looks behind segments of ours whose commit is not applied yet.
    /// Fences nothing.
    pub async fn is_current(&self) -> Result<bool, StoreError> {
        if self.progress().borrow().fenced {
            return Ok(false);
        }
        let mut seq = self.0.machine.lock().committed();
        loop {
            match self.what_stands_at(seq).await? {
                Found::Seal { .. } => return Ok(false),
                Found::Nothing => return Ok(true),
                // Uploads under way are few.
                Found::Other => seq += 1,
            }
        }
    }

    async fn what_stands_at(&self, seq: u64) -> Result<Found, StoreError> {
        let key = keys::segment(self.session(), seq);
        let bytes = match self.0.store.get_range(&key, 0..PRELUDE_BYTES as u64).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        Ok(match Prelude::decode(&bytes) {
            Ok(prelude) if prelude.kind == ObjectKind::Seal => Found::Seal { key, bytes },
            _ => Found::Other,
        })
    }
}

/// What a place of the own stream holds.
enum Found {
    Nothing,
    Seal { key: String, bytes: Bytes },
    Other,
}
