//! Pages in memory only.

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::lru::Lru;
use super::{PageCache, PageKey, Usage};

/// A [`PageCache`] without disk, threads or clocks: a least-recently-used map with a limit in bytes.
#[derive(Debug)]
pub struct MemoryPages(Mutex<Lru<PageKey, Bytes>>);

impl MemoryPages {
    /// Keeps at most `capacity_bytes` of pages; 0 keeps none.
    pub fn new(capacity_bytes: u64) -> Self {
        Self(Mutex::new(Lru::new(capacity_bytes)))
    }
}

#[async_trait]
impl PageCache for MemoryPages {
    fn get_memory(&self, key: &PageKey) -> Option<Bytes> {
        self.0.lock().get(key)
    }

    async fn get_slow(&self, _key: &PageKey) -> Option<Bytes> {
        None
    }

    fn has_slow_tier(&self) -> bool {
        false
    }

    fn insert(&self, key: PageKey, bytes: Bytes) {
        let weight = bytes.len() as u64;
        self.0.lock().insert(key, bytes, weight);
    }

    fn remove(&self, key: &PageKey) {
        self.0.lock().remove(key);
    }

    fn usage(&self) -> Usage {
        let pages = self.0.lock();
        Usage { memory_bytes: pages.weight(), memory_evictions: pages.evictions() }
    }

    async fn close(&self) {}
}
