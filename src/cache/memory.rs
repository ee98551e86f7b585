//! Pages in memory only: a least-recently-used map with a limit in bytes.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{PageCache, PageKey, Usage};

/// A [`PageCache`] without disk, threads or clocks.
#[derive(Debug)]
pub struct MemoryPages {
    capacity_bytes: u64,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    by_key: HashMap<PageKey, (Bytes, u64)>,
    /// Keys in the order of their last use.
    by_use: BTreeMap<u64, PageKey>,
    next_use: u64,
    usage: Usage,
}

impl MemoryPages {
    /// Keeps at most `capacity_bytes` of pages; 0 keeps none.
    pub fn new(capacity_bytes: u64) -> Self {
        Self { capacity_bytes, pages: Mutex::default() }
    }
}

impl Pages {
    fn touch(&mut self, key: &PageKey) -> Option<Bytes> {
        let (bytes, used) = self.by_key.get_mut(key)?;
        let bytes = bytes.clone();
        let key = self.by_use.remove(used)?;
        *used = self.next_use;
        self.by_use.insert(self.next_use, key);
        self.next_use += 1;
        Some(bytes)
    }

    fn remove(&mut self, key: &PageKey) {
        if let Some((bytes, used)) = self.by_key.remove(key) {
            self.by_use.remove(&used);
            self.usage.memory_bytes -= bytes.len() as u64;
        }
    }
}

#[async_trait]
impl PageCache for MemoryPages {
    fn get_memory(&self, key: &PageKey) -> Option<Bytes> {
        self.pages.lock().touch(key)
    }

    async fn get_slow(&self, _key: &PageKey) -> Option<Bytes> {
        None
    }

    fn has_slow_tier(&self) -> bool {
        false
    }

    fn insert(&self, key: PageKey, bytes: Bytes) {
        let mut pages = self.pages.lock();
        pages.remove(&key);
        pages.usage.memory_bytes += bytes.len() as u64;
        let used = pages.next_use;
        pages.next_use += 1;
        pages.by_use.insert(used, key.clone());
        pages.by_key.insert(key, (bytes, used));
        while pages.usage.memory_bytes > self.capacity_bytes {
            let Some((_, oldest)) = pages.by_use.first_key_value() else { break };
            let oldest = oldest.clone();
            pages.remove(&oldest);
            pages.usage.memory_evictions += 1;
        }
    }

    fn remove(&self, key: &PageKey) {
        self.pages.lock().remove(key);
    }

    fn usage(&self) -> Usage {
        self.pages.lock().usage
    }

    async fn close(&self) {}
}
