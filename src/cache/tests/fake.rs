//! A store whose GETs are counted, held back and failed at will.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::objstore::{Created, ObjectMeta, ObjectStore, Payload, StoreError};

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
impl ObjectStore for FakeStore {
    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        self.get_range(key, 0..u64::MAX).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.gets.lock().push(range.clone());
        let bytes = range.end - range.start;
        let now = self.under_way.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.most_under_way_bytes.fetch_max(now, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        self.under_way.fetch_sub(bytes, Ordering::SeqCst);
        if self.failing.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable {
                operation: "get",
                key: key.to_owned(),
                reason: "told to".to_owned(),
            });
        }
        let object = self.object.lock().clone();
        let end = range.end.min(object.len() as u64) as usize;
        let start = (range.start as usize).min(end);
        Ok(object.slice(start..end))
    }

    async fn size(&self, _key: &str) -> Result<u64, StoreError> {
        Ok(self.object.lock().len() as u64)
    }

    async fn put(&self, _key: &str, _payload: Payload) -> Result<(), StoreError> {
        unreachable!("readers do not write")
    }

    async fn create(&self, _key: &str, _payload: Payload) -> Result<Created, StoreError> {
        unreachable!("readers do not write")
    }

    async fn delete(&self, _key: &str) -> Result<(), StoreError> {
        unreachable!("readers do not write")
    }

    fn list(&self, _prefix: &str, _start_after: Option<&str>) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        unreachable!("readers do not list")
    }
}
