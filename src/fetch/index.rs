//! Which batches lie where in an object: footers, decoded, kept within a limit of bytes.
//!
//! A footer is read once, however many readers ask for it at once, in a task of its own. One footer serves every partition
//! that has batches in the object.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::metrics::Metrics;
use super::spans::BatchSpan;
use crate::base::{ErrorKind, TopicPartition};
use crate::cache::lru::Lru;
use crate::cache::single_flight::{Abandoned, Boarding, Flights};
use crate::cache::{ObjectReader, ReadError};
use crate::format::FormatError;
use crate::format::segment::{Footer, TRAILER_BYTES, Trailer};
use crate::partition::ObjectRef;

/// Bytes read at an object's end in the hope that they hold the whole footer.
const TAIL_BYTES: u64 = 64 << 10;
/// Footers larger than this are refused as damaged.
const MAX_FOOTER_BYTES: u64 = 256 << 20;
/// What a section weighs besides its batches, in bytes.
const SECTION_WEIGHT_BYTES: u64 = 64;

/// Why an object's index is not to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexError {
    /// What the caller should do; `NotFound` if there is no such object, `Corrupt` if its footer is damaged.
    pub kind: ErrorKind,
    /// What went wrong.
    pub reason: Arc<str>,
}

impl From<FormatError> for IndexError {
    fn from(error: FormatError) -> Self {
        Self { kind: error.kind(), reason: error.to_string().into() }
    }
}

impl From<ReadError> for IndexError {
    fn from(error: ReadError) -> Self {
        Self { kind: error.kind(), reason: error.to_string().into() }
    }
}

impl From<Abandoned> for IndexError {
    fn from(_: Abandoned) -> Self {
        Self { kind: ErrorKind::Retriable, reason: "the task that was reading a footer ended early".into() }
    }
}

/// The batches of one object, by partition, in order.
#[derive(Debug, PartialEq, Eq)]
pub struct ObjectIndex(Vec<(TopicPartition, Box<[BatchSpan]>)>);

impl ObjectIndex {
    fn of(footer: &Footer) -> Self {
        let section = |section: &crate::format::segment::Section| {
            (section.partition, section.batches().map(BatchSpan::from).collect())
        };
        Self(footer.sections.iter().map(section).collect())
    }

    /// The batches of a partition, in order.
    pub fn batches(&self, partition: TopicPartition) -> &[BatchSpan] {
        match self.0.binary_search_by(|section| section.0.cmp(&partition)) {
            Ok(at) => &self.0[at].1,
            Err(_) => &[],
        }
    }

    fn weight_bytes(&self) -> u64 {
        let spans: usize = self.0.iter().map(|section| section.1.len() * size_of::<BatchSpan>()).sum();
        spans as u64 + SECTION_WEIGHT_BYTES * (1 + self.0.len() as u64)
    }
}

/// The decoded footers. Clones share them.
#[derive(Clone)]
pub struct Indexes(Arc<Inner>);

struct Inner {
    objects: ObjectReader,
    held: Mutex<Lru<ObjectRef, Arc<ObjectIndex>>>,
    flights: Flights<ObjectRef, Arc<ObjectIndex>, IndexError>,
    metrics: Metrics,
}

impl fmt::Debug for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Indexes").field("loading", &self.0.flights).finish_non_exhaustive()
    }
}

impl Indexes {
    /// Keeps at most `capacity_bytes` of decoded footers.
    pub fn new(objects: ObjectReader, capacity_bytes: u64, metrics: Metrics) -> Self {
        let held = Mutex::new(Lru::new(capacity_bytes));
        Self(Arc::new(Inner { objects, held, flights: Flights::default(), metrics }))
    }

    /// The index of an object. `frames_to` is a position up to which the object is known to hold frames: the footer
    /// begins there or later.
    pub async fn get(&self, object: ObjectRef, frames_to: u64) -> Result<Arc<ObjectIndex>, IndexError> {
        match self.board(object) {
            Boarding::Found(index) => {
                self.0.metrics.index_hits.inc();
                Ok(index)
            }
            Boarding::Follow(waiter) => waiter.landing().await,
            Boarding::Lead(flight) => {
                let waiter = flight.waiter();
                tokio::spawn(self.0.clone().load(flight, frames_to));
                waiter.landing().await
            }
        }
    }

    /// Starts loading an index that somebody will soon ask for, unless `limit` or more are being loaded. Returns at once.
    pub fn prefetch(&self, object: ObjectRef, frames_to: u64, limit: usize) {
        if self.0.flights.len() >= limit || self.0.held.lock().contains(&object) {
            return;
        }
        if let Boarding::Lead(flight) = self.board(object) {
            tokio::spawn(self.0.clone().load(flight, frames_to));
        }
    }

    /// Forgets an index; the next reader reads the footer again.
    pub fn forget(&self, object: ObjectRef) {
        self.0.flights.detach(&object);
        self.0.held.lock().remove(&object);
    }

    fn board(&self, object: ObjectRef) -> Boarding<ObjectRef, Arc<ObjectIndex>, IndexError> {
        let find = || self.0.held.lock().get(&object);
        match find() {
            Some(index) => Boarding::Found(index),
            None => self.0.flights.board(&object, find),
        }
    }
}

type Flight = crate::cache::single_flight::Flight<ObjectRef, Arc<ObjectIndex>, IndexError>;

impl Inner {
    async fn load(self: Arc<Self>, flight: Flight, frames_to: u64) {
        let key = flight.key().key();
        let mut loaded = self.read(&key, frames_to).await;
        if loaded.as_ref().is_err_and(|error| error.kind == ErrorKind::Corrupt) {
            // The cache may hold what the store does not: ask the store itself before calling it damage.
            self.metrics.rereads.inc();
            if let Ok(object_bytes) = self.objects.size(&key).await {
                self.objects.invalidate(&key, frames_to.saturating_sub(1)..object_bytes.max(frames_to));
            }
            loaded = self.read(&key, frames_to).await;
        }
        self.metrics.index_loads.inc();
        flight.land(loaded, |object, index| {
            let mut held = self.held.lock();
            held.insert(*object, index.clone(), index.weight_bytes());
            self.metrics.index_bytes.set(held.weight() as i64);
        });
    }

    async fn read(&self, key: &str, frames_to: u64) -> Result<Arc<ObjectIndex>, IndexError> {
        let object_bytes = self.object_bytes(key, frames_to).await?;
        let tail_from = object_bytes.saturating_sub(TAIL_BYTES).max(frames_to);
        let tail = self.objects.read(key, tail_from..object_bytes, object_bytes).await?;
        let truncated = || FormatError::Truncated("segment");
        let trailer_from = object_bytes.saturating_sub(TRAILER_BYTES as u64);
        let trailer = tail.slice(trailer_from..object_bytes).ok_or_else(truncated)?;
        let trailer = Trailer::decode(&trailer, object_bytes)?;
        let range = trailer.footer_range();
        if range.start < frames_to || range.end - range.start > MAX_FOOTER_BYTES {
            return Err(FormatError::Invalid("segment trailer").into());
        }
        let footer = match tail.slice(range.clone()) {
            Some(footer) => footer,
            None => self.objects.read(key, range.clone(), range.end).await?.slice(range).ok_or_else(truncated)?,
        };
        Ok(Arc::new(ObjectIndex::of(&trailer.decode_footer(&footer)?)))
    }

    /// Length of the object. If the page that holds its last known frame turns out to be the object's last, the store
    /// need not be asked.
    async fn object_bytes(&self, key: &str, frames_to: u64) -> Result<u64, IndexError> {
        let from = frames_to.saturating_sub(1);
        let to = match self.objects.page_end(from) {
            to if to > from => to,
            _ => from + TAIL_BYTES,
        };
        let found = self.objects.read(key, from..to, to).await?.end();
        if found < frames_to {
            return Err(FormatError::Truncated("segment").into());
        }
        if found < to { Ok(found) } else { Ok(self.objects.size(key).await?) }
    }
}
