//! Objects in the memory of this process: `memory://`, and the ground that tests and the simulator stand on.
//!
//! Atomic and ordered like the others; durable only as long as the process. Each store is separate: two brokers share one
//! only when they share the value.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, Range};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use parking_lot::RwLock;

use super::key::check_key;
use super::{Created, ObjectMeta, ObjectStore, Payload, StoreError};
use crate::base::Clock;

/// An object store in memory. Clones share their objects.
#[derive(Clone)]
pub struct MemoryStore {
    objects: Arc<RwLock<BTreeMap<String, Object>>>,
    clock: Clock,
}

struct Object {
    bytes: Bytes,
    modified_ms: i64,
}

impl MemoryStore {
    /// An empty store whose `modified_ms` come from `clock`.
    pub fn new(clock: Clock) -> Self {
        Self { objects: Arc::default(), clock }
    }

    fn read<T>(&self, key: &str, look: impl FnOnce(&Bytes) -> T) -> Result<T, StoreError> {
        check_key(key)?;
        match self.objects.read().get(key) {
            Some(object) => Ok(look(&object.bytes)),
            None => Err(StoreError::NotFound { key: key.to_owned() }),
        }
    }

    fn object(&self, payload: &Payload) -> Object {
        Object { bytes: concatenate(payload), modified_ms: self.clock.wall_ms() }
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory://")
    }
}

/// The payload's bytes in one piece; copies only if there are several chunks.
fn concatenate(payload: &Payload) -> Bytes {
    if let [only] = payload.0.as_slice() {
        return only.clone();
    }
    let mut all = BytesMut::with_capacity(usize::try_from(payload.len()).unwrap_or(0));
    for chunk in &payload.0 {
        all.extend_from_slice(chunk);
    }
    all.freeze()
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        self.read(key, Bytes::clone)
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.read(key, |bytes| {
            let end = usize::try_from(range.end).unwrap_or(usize::MAX).min(bytes.len());
            let start = usize::try_from(range.start).unwrap_or(usize::MAX).min(end);
            bytes.slice(start..end)
        })
    }

    async fn size(&self, key: &str) -> Result<u64, StoreError> {
        self.read(key, |bytes| bytes.len() as u64)
    }

    async fn put(&self, key: &str, payload: Payload) -> Result<(), StoreError> {
        check_key(key)?;
        let object = self.object(&payload);
        self.objects.write().insert(key.to_owned(), object);
        Ok(())
    }

    async fn create(&self, key: &str, payload: Payload) -> Result<Created, StoreError> {
        use std::collections::btree_map::Entry;
        check_key(key)?;
        let object = self.object(&payload);
        match self.objects.write().entry(key.to_owned()) {
            Entry::Occupied(_) => Ok(Created::Exists),
            Entry::Vacant(free) => {
                free.insert(object);
                Ok(Created::Yes)
            }
        }
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        check_key(key)?;
        self.objects.write().remove(key);
        Ok(())
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        // The larger of the two bounds; a map's range refuses bounds that cross, so only the lower one is given to it.
        let from = match start_after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let found: Vec<_> = self
            .objects
            .read()
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, object)| {
                Ok(ObjectMeta {
                    key: key.clone(),
                    size_bytes: object.bytes.len() as u64,
                    modified_ms: object.modified_ms,
                })
            })
            .collect();
        futures::stream::iter(found).boxed()
    }
}
