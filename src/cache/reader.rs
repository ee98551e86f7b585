//! The shell: pages looked up, loaded once, put together.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::bytes::ObjectBytes;
use super::metrics::Metrics;
use super::read_ahead::ReadAhead;
use super::single_flight::{self, Abandoned, Boarding};
use super::{PageCache, PageKey};
use crate::base::ErrorKind;

type Flights = single_flight::Flights<PageKey, Bytes, ReadError>;
type Flight = single_flight::Flight<PageKey, Bytes, ReadError>;
type Waiter = single_flight::Waiter<Bytes, ReadError>;

/// Sizes of the page cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Size of a page in bytes, 1 or more.
    pub page_bytes: u64,
    /// Bytes of pages kept in memory (`cache_memory_bytes`).
    pub memory_bytes: u64,
    /// Bytes of pages kept on disk (`cache_disk_bytes`); 0 for none.
    pub disk_bytes: u64,
    /// Where the pages on disk lie; it belongs to one cluster's store, since pages are named by object keys alone.
    pub disk_dir: Option<PathBuf>,
    /// Most bytes of one GET; neighbouring missing pages share one up to here.
    pub get_bytes: u64,
    /// Most bytes being fetched at once, for all readers together; more wait.
    pub in_flight_bytes: u64,
    /// Most bytes loaded ahead of one forward reader; 0 for no read-ahead.
    pub read_ahead_bytes: u64,
    /// Most bytes being loaded ahead at once, for all readers together; more are not loaded ahead.
    pub read_ahead_in_flight_bytes: u64,
    /// Whether a store on this machine's file system is read directly, without pages (see the module for why not).
    pub bypass_local: bool,
}

impl Default for Settings {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            page_bytes: MIB,
            memory_bytes: 128 * MIB,
            disk_bytes: 0,
            disk_dir: None,
            get_bytes: 8 * MIB,
            in_flight_bytes: 128 * MIB,
            read_ahead_bytes: 8 * MIB,
            read_ahead_in_flight_bytes: 64 * MIB,
            bypass_local: false,
        }
    }
}

/// Why bytes of an object could not be read. Clones go to everyone who waited for the same page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ReadError {
    kind: ErrorKind,
    reason: Arc<str>,
}

impl ReadError {
    /// `reason` names the object.
    pub fn new(kind: ErrorKind, reason: &str) -> Self {
        Self { kind, reason: reason.into() }
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl From<Abandoned> for ReadError {
    fn from(_: Abandoned) -> Self {
        Self::new(ErrorKind::Retriable, "the task that was reading the page ended early")
    }
}

/// Where objects come from: an object store, as far as a page cache cares. (The store's own trait is on the same floor.)
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// Bytes `range.start` (inclusive) to `range.end` (exclusive); cut short where the object ends, empty past its end.
    async fn get_range(&self, object: &str, range: Range<u64>) -> Result<Bytes, ReadError>;

    /// Length of the object in bytes.
    async fn size(&self, object: &str) -> Result<u64, ReadError>;

    /// Whether objects are files of this machine.
    fn is_local(&self) -> bool;

    /// Bytes of this object failed a check above: read it from where they are surest to be right from now on.
    fn distrust(&self, object: &str) {
        let _ = object;
    }
}

/// Reads immutable objects through pages. Clones share pages and limits.
#[derive(Debug, Clone)]
pub struct ObjectReader(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Arc<dyn Source>,
    pages: Arc<dyn PageCache>,
    settings: Settings,
    flights: Flights,
    ahead: Mutex<ReadAhead>,
    /// Permits are bytes.
    in_flight: Arc<Semaphore>,
    ahead_in_flight: Arc<Semaphore>,
    metrics: Metrics,
}

/// Where a wanted page comes from.
enum Place {
    Here(Bytes),
    Coming(Waiter),
}

impl ObjectReader {
    /// Reads `source` through `pages`. Sizes of 0 are raised to one page where nothing could be read otherwise.
    pub fn new(source: Arc<dyn Source>, pages: Arc<dyn PageCache>, mut settings: Settings, metrics: Metrics) -> Self {
        settings.page_bytes = settings.page_bytes.clamp(1, u64::from(u32::MAX));
        settings.get_bytes = settings.get_bytes.clamp(settings.page_bytes, u64::from(u32::MAX));
        settings.in_flight_bytes = settings.in_flight_bytes.clamp(settings.page_bytes, MAX_PERMITS);
        settings.read_ahead_in_flight_bytes = settings.read_ahead_in_flight_bytes.min(MAX_PERMITS);
        let ahead = ReadAhead::new(settings.read_ahead_bytes / settings.page_bytes);
        let permits = |bytes: u64| Arc::new(Semaphore::new(bytes as usize));
        let in_flight = permits(settings.in_flight_bytes);
        let ahead_in_flight = permits(settings.read_ahead_in_flight_bytes);
        Self(Arc::new(Inner {
            source,
            pages,
            settings,
            flights: Flights::default(),
            ahead: Mutex::new(ahead),
            in_flight,
            ahead_in_flight,
            metrics,
        }))
    }

    /// Bytes `range.start` (inclusive) to `range.end` (exclusive) of an object, cut short where it ends.
    ///
    /// `ahead_to` (exclusive) is how far this reader will want to read on if it goes forward; nothing past it is loaded
    /// ahead, so `range.end` means no read-ahead. The caller bounds `range`: all of it is held in memory at once.
    ///
    /// A local store is read directly (one `pread`, no page) when [`Settings::bypass_local`] says so.
    pub async fn read(&self, object: &str, range: Range<u64>, ahead_to: u64) -> Result<ObjectBytes, ReadError> {
        let inner = &self.0;
        if range.start >= range.end {
            return Ok(ObjectBytes::new(range.start, Vec::new()));
        }
        if inner.direct() {
            let permits =
                u32::try_from((range.end - range.start).min(inner.settings.in_flight_bytes)).unwrap_or(u32::MAX);
            // The semaphore is never closed; without a permit there would only be no limit.
            let _permit = inner.in_flight.acquire_many(permits).await.ok();
            let bytes = inner.source.get_range(object, range.clone()).await?;
            inner.metrics.direct_reads.inc();
            inner.metrics.direct_bytes.inc_by(bytes.len() as u64);
            return Ok(ObjectBytes::new(range.start, vec![bytes]));
        }
        let object: Arc<str> = object.into();
        let (first, last) = inner.pages_of(&range);
        let places = self.find_or_load(&object, first..last + 1);
        let end_page = ahead_to.div_ceil(inner.settings.page_bytes);
        let ahead = inner.ahead.lock().note(&object, first, last, end_page);
        self.load_ahead(&object, ahead);

        let mut chunks = Vec::with_capacity(places.len());
        let mut position = first * inner.settings.page_bytes;
        for place in places {
            let page = match place {
                Place::Here(bytes) => bytes,
                Place::Coming(waiter) => waiter.landing().await?,
            };
            let from = range.start.saturating_sub(position).min(page.len() as u64);
            let to = (range.end - position).min(page.len() as u64);
            chunks.push(page.slice(from as usize..to as usize));
            if (page.len() as u64) < inner.settings.page_bytes {
                break;
            }
            position += inner.settings.page_bytes;
        }
        Ok(ObjectBytes::new(range.start, chunks))
    }

    /// Starts loading these bytes if they are not here and the read-ahead budget allows it. Returns at once.
    pub fn prefetch(&self, object: &str, range: Range<u64>) {
        if range.start >= range.end || self.0.direct() {
            return;
        }
        let (first, last) = self.0.pages_of(&range);
        self.load_ahead(&object.into(), first..last + 1);
    }

    /// Forgets the pages that hold these bytes, in memory and on disk; the next read asks the store. For readers that
    /// found a wrong checksum: invalidate, read once more, and only then report corruption.
    pub fn invalidate(&self, object: &str, range: Range<u64>) {
        self.0.source.distrust(object);
        if range.start >= range.end || self.0.direct() {
            return;
        }
        let object: Arc<str> = object.into();
        let (first, last) = self.0.pages_of(&range);
        for number in first..=last {
            let key = PageKey { object: object.clone(), number };
            self.0.flights.detach(&key);
            self.0.pages.remove(&key);
            self.0.metrics.invalidated_pages.inc();
        }
    }

    /// Length of the object in bytes; asked from the store each time.
    pub async fn size(&self, object: &str) -> Result<u64, ReadError> {
        self.0.source.size(object).await
    }

    /// Where a read that has to touch byte `position` may end without touching more of the store: the end (exclusive) of
    /// its page, or the position itself where there are no pages.
    pub fn page_end(&self, position: u64) -> u64 {
        if self.0.direct() {
            position
        } else {
            (position / self.0.settings.page_bytes + 1) * self.0.settings.page_bytes
        }
    }

    /// Loads of pages under way.
    pub fn loads_under_way(&self) -> usize {
        self.0.flights.len()
    }

    /// Writes back what should survive a restart.
    pub async fn close(&self) {
        self.0.pages.close().await;
    }

    /// Looks the pages up in memory and starts the load of those that are missing and not yet on their way.
    fn find_or_load(&self, object: &Arc<str>, pages: Range<u64>) -> Vec<Place> {
        let inner = &self.0;
        let mut lead = Vec::new();
        let places = pages
            .map(|number| {
                let key = PageKey { object: object.clone(), number };
                let find = || inner.pages.get_memory(&key);
                if let Some(found) = find() {
                    inner.metrics.hits_memory.inc();
                    return Place::Here(found);
                }
                match inner.flights.board(&key, find) {
                    Boarding::Found(found) => {
                        inner.metrics.hits_memory.inc();
                        Place::Here(found)
                    }
                    Boarding::Follow(waiter) => {
                        inner.metrics.coalesced_waits.inc();
                        Place::Coming(waiter)
                    }
                    Boarding::Lead(flight) => {
                        let waiter = flight.waiter();
                        lead.push(flight);
                        Place::Coming(waiter)
                    }
                }
            })
            .collect();
        if !lead.is_empty() {
            tokio::spawn(inner.clone().load(lead, None));
        }
        places
    }

    fn load_ahead(&self, object: &Arc<str>, pages: Range<u64>) {
        let inner = &self.0;
        let missing = |number: &u64| {
            let key = PageKey { object: object.clone(), number: *number };
            !inner.flights.contains(&key) && inner.pages.get_memory(&key).is_none()
        };
        let wanted: Vec<u64> = pages.filter(missing).collect();
        if wanted.is_empty() {
            return;
        }
        let bytes = u32::try_from(wanted.len() as u64 * inner.settings.page_bytes).unwrap_or(u32::MAX);
        let Ok(budget) = inner.ahead_in_flight.clone().try_acquire_many_owned(bytes) else {
            inner.metrics.read_ahead_skips.inc();
            return;
        };
        let mut lead = Vec::new();
        for number in wanted {
            let key = PageKey { object: object.clone(), number };
            if let Boarding::Lead(flight) = inner.flights.board(&key, || inner.pages.get_memory(&key)) {
                inner.metrics.read_ahead_pages.inc();
                lead.push(flight);
            }
        }
        if !lead.is_empty() {
            tokio::spawn(inner.clone().load(lead, Some(budget)));
        }
    }
}

/// Most permits that a semaphore can hold and one call can take, in bytes.
const MAX_PERMITS: u64 = u32::MAX as u64;

impl Inner {
    fn direct(&self) -> bool {
        self.settings.bypass_local && self.source.is_local()
    }

    /// First and last page (both inclusive) of a range that is not empty.
    fn pages_of(&self, range: &Range<u64>) -> (u64, u64) {
        (range.start / self.settings.page_bytes, (range.end - 1) / self.settings.page_bytes)
    }

    /// Lands every one of `flights` (pages of one object, ascending): from the slow tier, else from the store.
    async fn load(self: Arc<Self>, flights: Vec<Flight>, budget: Option<OwnedSemaphorePermit>) {
        let missing = if self.pages.has_slow_tier() {
            let found = join_all(flights.iter().map(|flight| self.pages.get_slow(flight.key()))).await;
            let mut missing = Vec::new();
            for (flight, found) in flights.into_iter().zip(found) {
                match found {
                    Some(bytes) => {
                        self.metrics.hits_disk.inc();
                        // The cache has it already and decides where to keep it.
                        flight.land(Ok(bytes), |_, _| ());
                    }
                    None => missing.push(flight),
                }
            }
            missing
        } else {
            flights
        };
        self.metrics.misses.inc_by(missing.len() as u64);
        let for_reader = budget.is_none();
        join_all(self.group(missing).into_iter().map(|group| self.get(group, for_reader))).await;
        drop(budget);
    }

    /// Neighbouring pages together, up to the size of one GET.
    fn group(&self, flights: Vec<Flight>) -> Vec<Vec<Flight>> {
        let most = (self.settings.get_bytes.min(self.settings.in_flight_bytes) / self.settings.page_bytes).max(1);
        let mut groups: Vec<Vec<Flight>> = Vec::new();
        for flight in flights {
            match groups.last_mut() {
                Some(group)
                    if (group.len() as u64) < most
                        && group.last().is_some_and(|last| last.key().number + 1 == flight.key().number) =>
                {
                    group.push(flight);
                }
                _ => groups.push(vec![flight]),
            }
        }
        groups
    }

    /// One ranged GET for neighbouring pages. When a reader asked for them and went away while they waited for room,
    /// and nobody else wants them, they are not read.
    async fn get(&self, flights: Vec<Flight>, for_reader: bool) {
        let (Some(first), Some(last)) = (flights.first(), flights.last()) else { return };
        let page_bytes = self.settings.page_bytes;
        let range = first.key().number * page_bytes..(last.key().number + 1) * page_bytes;
        let object = first.key().object.clone();
        let permits = u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
        // The semaphore is never closed; without a permit there would only be no limit.
        let permit = self.in_flight.acquire_many(permits).await.ok();
        let flights = if for_reader {
            let Some(flights) = self.flights.give_up_unwanted(flights) else { return };
            flights
        } else {
            flights
        };
        self.metrics.gets.inc();
        self.show_gauges();
        match self.source.get_range(&object, range).await {
            Ok(bytes) => {
                self.metrics.get_bytes.inc_by(bytes.len() as u64);
                let alone = flights.len() == 1;
                for (index, flight) in flights.into_iter().enumerate() {
                    let from = (index as u64 * page_bytes).min(bytes.len() as u64) as usize;
                    let to = (from as u64 + page_bytes).min(bytes.len() as u64) as usize;
                    // A page of its own memory: a slice would keep the whole GET alive for as long as any page of it.
                    let page = if alone { bytes.slice(from..to) } else { Bytes::copy_from_slice(&bytes[from..to]) };
                    flight.land(Ok(page), |key, page| self.keep(key, page));
                }
            }
            Err(error) => {
                self.metrics.get_errors.inc();
                for flight in flights {
                    flight.land(Err(error.clone()), |_, _| ());
                }
            }
        }
        drop(permit);
        self.show_gauges();
    }

    fn show_gauges(&self) {
        let usage = self.pages.usage();
        self.metrics.memory_bytes.set(usage.memory_bytes as i64);
        self.metrics.evictions.set(usage.memory_evictions as i64);
        let free = self.in_flight.available_permits() as u64;
        self.metrics.in_flight_bytes.set(self.settings.in_flight_bytes.saturating_sub(free) as i64);
    }

    /// Keeps a loaded page; nothing is kept of a page that lies past the object's end.
    fn keep(&self, key: &PageKey, page: &Bytes) {
        if !page.is_empty() {
            self.pages.insert(key.clone(), page.clone());
        }
    }
}
