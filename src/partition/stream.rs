//! Reading a session's stream back from the store: newest checkpoint plus the segments after it.
//!
//! Only footers and control entries are read, never the records.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::base::{ErrorKind, SessionId, TopicPartition};
use crate::format::FormatError;
use crate::format::entry::Entry;
use crate::format::frame::{FrameKind, read_frame};
use crate::format::prelude::{ObjectKind, PRELUDE_BYTES, Prelude};
use crate::format::segment::{Footer, Indexed, TRAILER_BYTES, Trailer};
use crate::format::state::{ObjectRef, PartitionState};
use crate::format::{checkpoint, keys};
use crate::objstore::{ObjectMeta, ObjectStore, StoreError};

use super::fold::{FoldError, fold};

/// Bytes read from a segment's end in the first request: most footers fit.
const TAIL_READ_BYTES: u64 = 64 << 10;
/// Segments whose footers are read at the same time.
const PARALLEL_READS: usize = 16;

/// A stream could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object is damaged.
    #[error("object '{key}' is unreadable: {source}")]
    Corrupt {
        /// The object.
        key: String,
        /// What is wrong with it.
        source: FormatError,
    },
    /// Objects are readable but do not fit together.
    #[error("object '{key}' does not continue its stream: {source}")]
    DoesNotFit {
        /// The object.
        key: String,
        /// What does not fit.
        source: FoldError,
    },
    /// Objects that must be there are not.
    #[error("the stream of session {session} is incomplete: {missing}")]
    Missing {
        /// The stream.
        session: SessionId,
        /// What is missing.
        missing: String,
    },
    /// None of the streams that should hold a partition's state does.
    #[error(
        "no stream that the assignment of partition {partition} names holds its state, which one of them must: it is not led \
         until objects that were removed under 'log/' and 'ckpt/' are restored"
    )]
    Lost {
        /// The partition.
        partition: TopicPartition,
    },
    /// The local disk failed.
    #[error(transparent)]
    Wal(#[from] crate::wal::WalError),
    /// A local file could not be read.
    #[error("cannot read '{path}': {source}")]
    File {
        /// The file.
        path: String,
        /// What failed.
        source: std::io::Error,
    },
}

impl StreamError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Corrupt { .. } | Self::DoesNotFit { .. } | Self::Missing { .. } | Self::Lost { .. } => {
                ErrorKind::Corrupt
            }
            Self::Wal(_) | Self::File { .. } => ErrorKind::Environment,
        }
    }
}

/// What a stream says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StreamState {
    /// Whose stream it is.
    pub session: SessionId,
    /// The first seq that is not a committed segment: the seal's, or the next to be written.
    pub next_seq: u64,
    /// Whether a seal stands at `next_seq`.
    pub sealed: bool,
    /// The partitions that the stream owns (or released).
    pub partitions: BTreeMap<TopicPartition, PartitionState>,
}

impl StreamState {
    /// Whether batches begin where their partitions end, without changing anything.
    pub fn fits<'a>(&self, entries: impl IntoIterator<Item = (TopicPartition, &'a Entry)>) -> Result<(), FoldError> {
        let mut ends: BTreeMap<TopicPartition, i64> = BTreeMap::new();
        for (partition, entry) in entries {
            let known = || self.partitions.get(&partition).map_or(0, |state| state.next_offset);
            let end = ends.entry(partition).or_insert_with(known);
            match entry {
                Entry::Batch(facts) if facts.base_offset != *end => {
                    return Err(FoldError::NotNext { expected: *end, found: facts.base_offset });
                }
                Entry::Batch(facts) => *end = facts.last_offset + 1,
                Entry::Acquired(state) | Entry::Released(state) => *end = state.next_offset,
                Entry::Dropped => *end = 0,
                Entry::LogStartMoved { .. } | Entry::ProducersExpired { .. } | Entry::RunsReplaced(_) => {}
            }
        }
        Ok(())
    }

    /// Folds one segment's entries in; `entries` of a partition must be in order.
    pub fn apply<'a>(
        &mut self,
        seq: u64,
        entries: impl IntoIterator<Item = (TopicPartition, &'a Entry)>,
    ) -> Result<(), FoldError> {
        let object = ObjectRef::Segment { session: self.session, seq };
        for (partition, entry) in entries {
            match entry {
                Entry::Dropped => {
                    self.partitions.remove(&partition);
                }
                Entry::Acquired(state) | Entry::Released(state) => {
                    self.partitions.insert(partition, (**state).clone());
                }
                other => fold(self.partitions.entry(partition).or_default(), object, other)?,
            }
        }
        self.next_seq = seq + 1;
        Ok(())
    }
}

/// Reads the stream of `session` up to its seal or its first missing segment.
pub async fn load_stream(store: &Arc<dyn ObjectStore>, session: SessionId) -> Result<StreamState, StreamError> {
    let mut state = load_checkpoint(store, session).await?;
    let after = state.next_seq.checked_sub(1).map(|seq| keys::segment(session, seq));
    let prefix = keys::stream_prefix(session);
    let objects: Vec<ObjectMeta> = store.list(&prefix, after.as_deref()).try_collect().await?;
    let found: Vec<(u64, ObjectMeta)> =
        objects.into_iter().filter_map(|meta| Some((keys::parse_segment(&meta.key)?.1, meta))).collect();
    if let Some((first, _)) = found.first()
        && *first > state.next_seq
        && state.next_seq == 0
        && state.partitions.is_empty()
    {
        // Segment 0 goes only after a checkpoint took its place; without either the stream cannot be read. (A lone later
        // segment beyond a gap was never committed, but segment 0 is always the first to be committed.)
        tracing::warn!(%session, first, "the stream's first segments are missing; what follows was never committed");
    }
    let contiguous = found.into_iter().zip(state.next_seq..).take_while(|((seq, _), expected)| seq == expected);
    let reads = contiguous.map(|((seq, meta), _)| {
        let store = store.clone();
        async move { read_object(&store, seq, &meta).await }
    });
    let mut reads = stream::iter(reads.collect::<Vec<_>>()).buffered(PARALLEL_READS);
    while let Some(read) = reads.next().await {
        match read? {
            Object::Seal => {
                state.sealed = true;
                break;
            }
            Object::Segment { seq, entries } => state
                .apply(seq, entries.iter().map(|(partition, entry)| (*partition, entry)))
                .map_err(|source| StreamError::DoesNotFit { key: keys::segment(session, seq), source })?,
        }
    }
    Ok(state)
}

/// The states of partitions that a session gave away in its segment `seq`. Only that segment is read.
pub async fn load_released(
    store: &Arc<dyn ObjectStore>,
    session: SessionId,
    seq: u64,
) -> Result<BTreeMap<TopicPartition, PartitionState>, StreamError> {
    let key = keys::segment(session, seq);
    let size_bytes = store.size(&key).await?;
    let meta = ObjectMeta { key, size_bytes, modified_ms: 0 };
    let mut released = BTreeMap::new();
    if let Object::Segment { entries, .. } = read_object(store, seq, &meta).await? {
        for (partition, entry) in entries {
            match entry {
                Entry::Released(state) => {
                    released.insert(partition, *state);
                }
                // Whatever else happened to it later in the segment, the state is not the last one any more.
                _ => {
                    released.remove(&partition);
                }
            }
        }
    }
    Ok(released)
}

async fn load_checkpoint(store: &Arc<dyn ObjectStore>, session: SessionId) -> Result<StreamState, StreamError> {
    let mut state = StreamState { session, next_seq: 0, sealed: false, partitions: BTreeMap::new() };
    let listed: Vec<ObjectMeta> = store.list(&keys::checkpoints_prefix(session), None).try_collect().await?;
    let mut damaged = None;
    for meta in listed.iter().rev() {
        let Some((_, seq)) = keys::parse_checkpoint(&meta.key) else { continue };
        let object = store.get(&meta.key).await?;
        match checkpoint::decode(&object) {
            Ok((_, states)) => {
                state.partitions = states.into_iter().collect();
                state.next_seq = seq + 1;
                return Ok(state);
            }
            Err(source @ FormatError::Newer { .. }) => {
                return Err(StreamError::Corrupt { key: meta.key.clone(), source });
            }
            Err(source) => {
                tracing::error!(key = meta.key, %source, "checkpoint is damaged; trying the one before it");
                damaged = Some(meta.key.clone());
            }
        }
    }
    match damaged {
        // Every checkpoint is damaged: the stream can still be read if its segments are all there.
        Some(key) if store.size(&keys::segment(session, 0)).await.is_err() => Err(StreamError::Missing {
            session,
            missing: format!("checkpoint '{key}' is damaged and the segments before it are gone"),
        }),
        _ => Ok(state),
    }
}

enum Object {
    Seal,
    Segment { seq: u64, entries: Vec<(TopicPartition, Entry)> },
}

async fn read_object(store: &Arc<dyn ObjectStore>, seq: u64, meta: &ObjectMeta) -> Result<Object, StreamError> {
    let key = &meta.key;
    let corrupt = |source| StreamError::Corrupt { key: key.clone(), source };
    let tail_start = meta.size_bytes.saturating_sub(TAIL_READ_BYTES);
    let tail = store.get_range(key, tail_start..meta.size_bytes).await?;
    if tail_start == 0 {
        let prelude = Prelude::decode(&tail).map_err(corrupt)?;
        if prelude.kind == ObjectKind::Seal {
            return Ok(Object::Seal);
        }
        if prelude.seq != seq || prelude.kind != ObjectKind::Segment {
            return Err(corrupt(FormatError::Invalid("segment: it belongs somewhere else")));
        }
    }
    let trailer_at = tail.len().checked_sub(TRAILER_BYTES).ok_or(FormatError::Truncated("segment")).map_err(corrupt)?;
    let trailer = Trailer::decode(&tail[trailer_at..], meta.size_bytes).map_err(corrupt)?;
    let object = Partial { store, key, start: tail_start, bytes: tail };
    let range = trailer.footer_range();
    let footer = trailer.decode_footer(&object.read(range.start, range.end - range.start).await?).map_err(corrupt)?;
    let entries = read_entries(&object, &footer).await?;
    Ok(Object::Segment { seq, entries })
}

/// The end of an object, and the rest of it on demand.
struct Partial<'a> {
    store: &'a Arc<dyn ObjectStore>,
    key: &'a str,
    start: u64,
    bytes: Bytes,
}

impl Partial<'_> {
    async fn read(&self, position: u64, length: u64) -> Result<Bytes, StreamError> {
        if position >= self.start {
            let from = (position - self.start) as usize;
            let to = from.saturating_add(length as usize).min(self.bytes.len());
            return Ok(self.bytes.slice(from.min(to)..to));
        }
        Ok(self.store.get_range(self.key, position..position + length).await?)
    }
}

/// Control entries of large segments are read in one request when they lie close together (they do: the first segment of
/// a session is mostly `Acquired` entries).
async fn read_entries(object: &Partial<'_>, footer: &Footer) -> Result<Vec<(TopicPartition, Entry)>, StreamError> {
    let corrupt = |source| StreamError::Corrupt { key: object.key.to_owned(), source };
    let all = || footer.sections.iter().flat_map(|section| section.entries.iter());
    let controls = || all().filter(|entry| matches!(entry, Indexed::Control(_)));
    let first = controls().map(Indexed::position).min().unwrap_or(PRELUDE_BYTES as u32);
    let end = controls().map(|entry| entry.position() + entry.frame_bytes()).max().unwrap_or(first);
    let bytes = object.read(u64::from(first), u64::from(end - first)).await?;
    let mut entries = Vec::new();
    for section in &footer.sections {
        for indexed in &section.entries {
            let entry = match indexed {
                Indexed::Batch(facts) => Entry::Batch(*facts),
                Indexed::Control(control) => {
                    let at = (control.position - first) as usize;
                    let frame = bytes
                        .get(at..at + control.frame_bytes as usize)
                        .ok_or(corrupt(FormatError::Truncated("control entry")))?;
                    let (header, payload) = read_frame(frame).map_err(corrupt)?;
                    if header.partition != section.partition || header.kind == FrameKind::Batch {
                        return Err(corrupt(FormatError::Invalid("segment footer")));
                    }
                    Entry::decode(&header, payload, control.position).map_err(corrupt)?
                }
            };
            entries.push((section.partition, entry));
        }
    }
    Ok(entries)
}
