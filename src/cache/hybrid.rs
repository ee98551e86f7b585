//! Pages in memory and, when memory is full, on disk: over `foyer`, which no other file names.
//!
//! Pages go to disk as they leave memory, in large sequential writes, and survive a restart: each entry on disk carries
//! its key and a checksum, so that whatever a crash tore is dropped when the cache is opened again. A full write queue or
//! a failing disk costs hits, never correctness.
//!
//! The trap: `foyer`'s clock may hang at start where libc's time functions are shadowed, as simulators do. They use
//! [`super::MemoryPages`].

use std::collections::{HashSet, VecDeque};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use foyer::{
    BlockEngineConfig, Code, DeviceBuilder, Error, Event, EventListener, FsDeviceBuilder, HybridCache,
    HybridCacheBuilder, LruConfig, PsyncIoEngineConfig, RecoverMode,
};
use parking_lot::Mutex;

use super::{PageCache, PageKey, Settings, Usage};
use crate::base::ErrorKind;

/// Removed pages remembered, so that none comes back from the write queue; by the time this many more were removed the
/// queue has long been written.
const REMEMBERED_REMOVALS: usize = 4096;
/// Files of the disk cache, each this large at most: the unit in which disk space is reused.
const BLOCK_BYTES: u64 = 16 << 20;
/// Fewest such files for reuse to work smoothly.
const FEWEST_BLOCKS: u64 = 8;
/// Room in a block for an entry's key and checksum beside its page, and for the block's own index.
const ENTRY_OVERHEAD_BYTES: u64 = 64 << 10;
/// Longest object key that is read back from disk.
const LONGEST_KEY_BYTES: u16 = 4096;

/// The disk cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The settings contradict each other.
    #[error("{0}")]
    Invalid(String),
    /// The directory cannot be used.
    #[error(
        "the page cache in '{dir}' cannot be opened: {reason}; free space, fix permissions or set cache_disk_bytes = 0"
    )]
    Environment {
        /// The directory.
        dir: String,
        /// What the engine said.
        reason: String,
    },
}

impl OpenError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_) => ErrorKind::Invalid,
            Self::Environment { .. } => ErrorKind::Environment,
        }
    }
}

/// A [`PageCache`] in memory and on disk. Made and used inside a Tokio runtime.
#[derive(Debug)]
pub struct HybridPages {
    cache: HybridCache<PageKey, Bytes>,
    /// The engine's own answer (`is_hybrid`) is always yes.
    has_disk: bool,
    evictions: Arc<Evictions>,
    removed: Mutex<Removed>,
    /// From then on nothing goes in: the engine would complain of each page, on its way out, that there is no place for it.
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Removed {
    keys: HashSet<PageKey>,
    order: VecDeque<PageKey>,
}

impl HybridPages {
    /// Opens the cache; pages that an earlier run left in `disk_dir` are found again.
    pub async fn open(settings: &Settings) -> Result<Self, OpenError> {
        let evictions = Arc::new(Evictions::default());
        // A shard smaller than a few pages would evict while others have room.
        let shards = (settings.memory_bytes / settings.page_bytes.max(1) / 16).clamp(1, 8);
        let memory = HybridCacheBuilder::new()
            .with_name("esker_pages")
            .with_event_listener(evictions.clone())
            .memory(usize::try_from(settings.memory_bytes).unwrap_or(usize::MAX))
            .with_shards(shards as usize)
            // Pages loaded ahead must live until they are read: recency, not frequency.
            .with_eviction_config(LruConfig::default())
            .with_weighter(|key: &PageKey, page: &Bytes| page.len() + key.object.len())
            .storage();
        let built = match (settings.disk_bytes, &settings.disk_dir) {
            (0, _) => memory.build().await,
            (_, None) => return Err(OpenError::Invalid("a disk cache needs a directory".to_owned())),
            (bytes, Some(dir)) => {
                let block_bytes = block_bytes(settings)?;
                std::fs::create_dir_all(dir).map_err(|error| environment(dir, &error))?;
                let device = FsDeviceBuilder::new(dir)
                    .with_capacity(usize::try_from(bytes).unwrap_or(usize::MAX))
                    .build()
                    .map_err(|error| environment(dir, &error))?;
                let engine = BlockEngineConfig::new(device).with_block_size(block_bytes);
                let engine = memory
                    .with_io_engine_config(PsyncIoEngineConfig::new())
                    .with_recover_mode(RecoverMode::Quiet)
                    .with_engine_config(engine);
                engine.build().await
            }
        };
        let dir = settings.disk_dir.as_deref().unwrap_or(Path::new("memory"));
        let cache = built.map_err(|error| environment(dir, &error))?;
        Ok(Self {
            cache,
            has_disk: settings.disk_bytes > 0,
            evictions,
            removed: Mutex::default(),
            closed: AtomicBool::new(false),
        })
    }

    #[cfg(test)]
    pub(super) async fn written(&self) {
        self.cache.memory().flush().await;
        self.cache.storage().wait().await;
    }
}

fn environment(dir: &Path, error: &dyn std::fmt::Display) -> OpenError {
    OpenError::Environment { dir: dir.display().to_string(), reason: error.to_string() }
}

fn block_bytes(settings: &Settings) -> Result<usize, OpenError> {
    let least = settings.page_bytes + ENTRY_OVERHEAD_BYTES;
    if settings.disk_bytes < least * FEWEST_BLOCKS {
        return Err(OpenError::Invalid(format!(
            "cache_disk_bytes = {} is too small for pages of {} bytes: at least {} (or 0 for no disk cache)",
            settings.disk_bytes,
            settings.page_bytes,
            least * FEWEST_BLOCKS
        )));
    }
    let wanted = BLOCK_BYTES.min(settings.disk_bytes / FEWEST_BLOCKS).max(least);
    usize::try_from(wanted)
        .map_err(|_| OpenError::Invalid(format!("page_bytes = {} is too large", settings.page_bytes)))
}

impl Removed {
    fn note(&mut self, key: &PageKey) {
        if self.keys.insert(key.clone()) {
            self.order.push_back(key.clone());
        }
        while self.order.len() > REMEMBERED_REMOVALS {
            if let Some(oldest) = self.order.pop_front() {
                self.keys.remove(&oldest);
            }
        }
    }
}

#[async_trait]
impl PageCache for HybridPages {
    fn get_memory(&self, key: &PageKey) -> Option<Bytes> {
        self.cache.memory().get(key).map(|entry| entry.value().clone())
    }

    async fn get_slow(&self, key: &PageKey) -> Option<Bytes> {
        if self.closed.load(Ordering::Relaxed) || self.removed.lock().keys.contains(key) {
            return None;
        }
        match self.cache.get(key).await {
            // Removed while it was being read?
            Ok(Some(entry)) if !self.removed.lock().keys.contains(key) => Some(entry.value().clone()),
            Ok(Some(_)) => {
                self.cache.memory().remove(key);
                None
            }
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(object = %key.object, page = key.number, %error, "a page of the disk cache is unreadable");
                None
            }
        }
    }

    fn has_slow_tier(&self) -> bool {
        self.has_disk
    }

    fn insert(&self, key: PageKey, bytes: Bytes) {
        self.removed.lock().keys.remove(&key);
        if !self.closed.load(Ordering::Relaxed) {
            self.cache.insert(key, bytes);
        }
    }

    fn remove(&self, key: &PageKey) {
        self.removed.lock().note(key);
        self.cache.remove(key);
    }

    fn usage(&self) -> Usage {
        Usage {
            memory_bytes: self.cache.memory().usage() as u64,
            memory_evictions: self.evictions.0.load(Ordering::Relaxed),
        }
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        if let Err(error) = self.cache.close().await {
            tracing::warn!(%error, "the page cache was not closed in order; it may start colder");
        }
    }
}

#[derive(Debug, Default)]
struct Evictions(AtomicU64);

impl EventListener for Evictions {
    type Key = PageKey;
    type Value = Bytes;

    fn on_leave(&self, reason: Event, _key: &PageKey, _value: &Bytes) {
        if reason == Event::Evict {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// On disk: page number (8 bytes), length of the object key (2), the object key. Little-endian. A cache, not a format:
/// a change only makes old pages unreadable, which drops them.
impl Code for PageKey {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        let length = u16::try_from(self.object.len()).unwrap_or(u16::MAX);
        writer.write_all(&self.number.to_le_bytes()).map_err(Error::io_error)?;
        writer.write_all(&length.to_le_bytes()).map_err(Error::io_error)?;
        writer.write_all(self.object.as_bytes()).map_err(Error::io_error)
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        let (mut number, mut length) = ([0; 8], [0; 2]);
        reader.read_exact(&mut number).map_err(Error::io_error)?;
        reader.read_exact(&mut length).map_err(Error::io_error)?;
        let length = u16::from_le_bytes(length);
        let bad = |what: &str| Error::new(foyer::ErrorKind::Parse, what.to_owned());
        if length > LONGEST_KEY_BYTES {
            return Err(bad("the object key is too long"));
        }
        let mut object = vec![0; usize::from(length)];
        reader.read_exact(&mut object).map_err(Error::io_error)?;
        let object = String::from_utf8(object).map_err(|_| bad("the object key is not text"))?;
        Ok(Self { object: object.into(), number: u64::from_le_bytes(number) })
    }

    fn estimated_size(&self) -> usize {
        10 + self.object.len()
    }
}
