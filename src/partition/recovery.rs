//! Restart with the disk intact: finish the old stream from the write-ahead files, seal it, leave nothing behind silently
//! (DESIGN 2.3).
//!
//! Each step can be repeated after a crash: uploads carry the object id that the write-ahead file was born with, so a
//! second try recognises the first. What cannot be appended is moved to `lost/`, never deleted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::base::{Rng, SessionId, TopicPartition, crash};
use crate::format::entry::Entry;
use crate::format::keys;
use crate::format::prelude::{ObjectKind, Prelude, encode_seal};
use crate::objstore::unique::{CommitOutcome, CreatePolicy, create_unique, create_unique_from_file};
use crate::objstore::{ObjectStore, Payload, StoreError};
use crate::wal::{Disk, Scan, WalDir, scan};

use super::stream::{StreamError, StreamState, load_stream};

/// Where recovery works.
#[derive(Debug, Clone)]
pub struct RecoveryPlace {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The disk of the two directories below.
    pub disk: Arc<dyn Disk>,
    /// `<data dir>/wal`.
    pub wal_root: PathBuf,
    /// `<data dir>/lost`.
    pub lost: PathBuf,
    /// Ids of seals.
    pub rng: Rng,
}

/// What became of an old stream.
#[derive(Debug)]
pub struct Finished {
    /// Its final state; `next_seq` is the seal's seq.
    pub stream: StreamState,
    /// Segments that were still to be uploaded.
    pub uploaded_segments: u64,
    /// Files whose records could not be appended any more; only acks 0 and 1 data can be in them.
    pub lost_files: Vec<PathBuf>,
}

/// Finishes and seals the stream of `session`, which no process writes any more. `progress` is told how many segments of
/// how many were uploaded.
pub async fn finish_stream(
    place: &RecoveryPlace,
    session: SessionId,
    mut progress: impl FnMut(u64, u64),
) -> Result<Finished, StreamError> {
    let stream = load_stream(&place.store, session).await?;
    let mut finished = Finished { stream, uploaded_segments: 0, lost_files: Vec::new() };
    let directory = WalDir::create(&place.disk, &place.wal_root, session)?;
    let files: Vec<(u64, PathBuf)> =
        directory.list()?.into_iter().filter(|(seq, _)| *seq >= finished.stream.next_seq).collect();
    let total = files.len() as u64;
    let mut appending = !finished.stream.sealed;
    for (seq, path) in files {
        if appending {
            let step = append_file(place, &mut finished.stream, seq, &path).await?;
            finished.uploaded_segments += u64::from(step.appended);
            appending = step.go_on;
            progress(finished.uploaded_segments, total);
            if step.appended {
                continue;
            }
        }
        if has_frames(place, &path)? {
            let kept = directory.move_to_lost(seq, &place.lost)?;
            tracing::error!(%session, seq, file = %kept.display(), "records of a sealed stream could not be appended; kept in the lost directory");
            finished.lost_files.push(kept);
        }
    }
    crash::point("recovery-before-seal");
    if !finished.stream.sealed {
        seal(place, &mut finished.stream).await?;
    }
    crash::point("recovery-after-seal");
    directory.remove_all()?;
    Ok(finished)
}

struct Step {
    appended: bool,
    go_on: bool,
}

const STOP: Step = Step { appended: false, go_on: false };

async fn append_file(
    place: &RecoveryPlace,
    stream: &mut StreamState,
    seq: u64,
    path: &Path,
) -> Result<Step, StreamError> {
    if seq != stream.next_seq {
        return Ok(STOP);
    }
    let bytes = read_file(place, path)?;
    let (scanned, chunks) = match scan(bytes) {
        Ok((scanned, Some(chunks))) => (scanned, chunks),
        Ok((_, None)) => return Ok(STOP),
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "write-ahead file has no whole frame");
            return Ok(STOP);
        }
    };
    if scanned.prelude.session != stream.session || scanned.prelude.seq != seq {
        tracing::error!(file = %path.display(), "write-ahead file belongs to another stream");
        return Ok(STOP);
    }
    if !scanned.complete && later_segment_exists(place, stream.session, seq).await? {
        // The file was torn (power loss) after a later segment had reached the store; to append the torn one would commit
        // the later one behind a gap. Nothing that was acknowledged can be in either.
        return Ok(STOP);
    }
    if let Err(error) = stream.fits(sorted(&scanned)) {
        tracing::error!(file = %path.display(), %error, "write-ahead file does not continue its stream");
        return Ok(STOP);
    }
    match upload(place, stream.session, &scanned, chunks, path).await? {
        CommitOutcome::Committed => {
            crash::point("recovery-after-upload");
            if !scanned.complete {
                // The whole segment carries the same id. If a late PUT of the dead process was first, it is what stands
                // there now, and counts.
                *stream = load_stream(&place.store, stream.session).await?;
                return Ok(Step { appended: true, go_on: false });
            }
            let applied = stream.apply(seq, sorted(&scanned));
            applied.map_err(|source| StreamError::DoesNotFit { key: keys::segment(stream.session, seq), source })?;
            Ok(Step { appended: true, go_on: true })
        }
        CommitOutcome::LostTo(prelude) => {
            stream.sealed = is_seal(&prelude);
            Ok(STOP)
        }
    }
}

fn sorted(scan: &Scan) -> Vec<(TopicPartition, &Entry)> {
    scan.entries.iter().map(|scanned| (scanned.partition, &scanned.entry)).collect()
}

async fn upload(
    place: &RecoveryPlace,
    session: SessionId,
    scanned: &Scan,
    chunks: Vec<Bytes>,
    path: &Path,
) -> Result<CommitOutcome, StreamError> {
    let policy = CreatePolicy::new(place.rng.clone());
    let key = keys::segment(session, scanned.prelude.seq);
    let payload = Payload(chunks);
    let id = scanned.prelude.object_id;
    let outcome = if scanned.complete {
        create_unique_from_file(&place.store, &key, path, payload, id, &policy).await
    } else {
        create_unique(&place.store, &key, payload, id, &policy).await
    };
    Ok(outcome?)
}

async fn later_segment_exists(place: &RecoveryPlace, session: SessionId, seq: u64) -> Result<bool, StreamError> {
    match place.store.size(&keys::segment(session, seq + 1)).await {
        Ok(_) => Ok(true),
        Err(StoreError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Seals at the first free seq; a segment found there is read and the next one tried.
async fn seal(place: &RecoveryPlace, stream: &mut StreamState) -> Result<(), StreamError> {
    loop {
        let (session, seq, id) = (stream.session, stream.next_seq, place.rng.uuid());
        let bytes = Bytes::copy_from_slice(&encode_seal(id, session, seq));
        let policy = CreatePolicy::new(place.rng.clone());
        let key = keys::segment(session, seq);
        match create_unique(&place.store, &key, bytes.into(), id, &policy).await? {
            CommitOutcome::Committed => {
                stream.sealed = true;
                return Ok(());
            }
            // Another has ended the stream here. What lies before may be collected meanwhile, if nobody needs it.
            CommitOutcome::LostTo(found) if is_seal(&found) => {
                stream.sealed = true;
                return Ok(());
            }
            CommitOutcome::LostTo(_) => {
                *stream = load_stream(&place.store, session).await?;
                if stream.sealed {
                    return Ok(());
                }
                if stream.next_seq <= seq {
                    return Err(StreamError::Missing {
                        session,
                        missing: format!("'{key}' exists but cannot be read as a segment"),
                    });
                }
            }
        }
    }
}

fn is_seal(prelude: &[u8]) -> bool {
    Prelude::decode(prelude).is_ok_and(|prelude| prelude.kind == ObjectKind::Seal)
}

fn has_frames(place: &RecoveryPlace, path: &Path) -> Result<bool, StreamError> {
    Ok(scan(read_file(place, path)?).is_ok_and(|(scan, _)| !scan.entries.is_empty()))
}

fn read_file(place: &RecoveryPlace, path: &Path) -> Result<Bytes, StreamError> {
    place.disk.read(path).map_err(|source| StreamError::File { path: path.display().to_string(), source })
}
