//! A store whose GETs are counted, held back and failed at will.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::base::ErrorKind;
use crate::cache::{ReadError, Source};

/// One object, whatever its key.
#[derive(Debug)]
pub struct FakeStore {
    pub object: Mutex<Bytes>,
    pub gets: Mutex<Vec<Range<u64>>>,
    /// GETs wait for a permit each.
    pub gate: Semaphore,
    pub failing: AtomicBool,
    pub under_way: AtomicU64,
    pub most_under_way_bytes: AtomicU64,
}

impl FakeStore {
    pub fn with(object: impl Into<Bytes>) -> Arc<Self> {
        let store = Self::shut(object);
        store.gate.add_permits(1 << 20);
        store
    }

    pub fn shut(object: impl Into<Bytes>) -> Arc<Self> {
        Arc::new(Self {
            object: Mutex::new(object.into()),
            gets: Mutex::default(),
            gate: Semaphore::new(0),
            failing: AtomicBool::new(false),
            under_way: AtomicU64::new(0),
            most_under_way_bytes: AtomicU64::new(0),
        })
    }

    pub fn get_count(&self) -> usize {
        self.gets.lock().len()
    }
}

/// Bytes that tell where they come from.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 251 + at) as u8).collect()
}

#[async_trait]
impl Source for FakeStore {
    async fn get_range(&self, object: &str, range: Range<u64>) -> Result<Bytes, ReadError> {
        self.gets.lock().push(range.clone());
        let bytes = range.end - range.start;
        let now = self.under_way.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.most_under_way_bytes.fetch_max(now, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        self.under_way.fetch_sub(bytes, Ordering::SeqCst);
        if self.failing.load(Ordering::SeqCst) {
            return Err(ReadError::new(ErrorKind::Retriable, &format!("get of '{object}' failed: told to")));
        }
        let object = self.object.lock().clone();
        let end = range.end.min(object.len() as u64) as usize;
        let start = (range.start as usize).min(end);
        Ok(object.slice(start..end))
    }

    async fn size(&self, _object: &str) -> Result<u64, ReadError> {
        Ok(self.object.lock().len() as u64)
    }

    fn is_local(&self) -> bool {
        false
    }
}
