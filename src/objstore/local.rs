//! Objects as files below one directory: `file://PATH`. The layout is in docs/formats/object-stores.md.
//!
//! Invariants
//! - A key is the file's path below the root. A file appears under its key only whole and synced: the bytes are written to
//!   a temporary file below `ROOT/.tmp`, synced, then moved (or linked) to the key, then the directory is synced.
//! - The move of a create refuses an existing key in one step of the kernel, so one of several racing creates wins, also
//!   between processes.
//! - `Created::Exists` and every `Ok` of a write are given only after the key's directory was synced: also an object whose
//!   first writer stopped between the move and the sync is durable once somebody was told that it exists.
//! - Directories are synced into their parents before anything in them counts.
//!
//! A crash leaves temporary files, which the next [`LocalStore::open`] removes once their owner's lock is gone. A cancelled
//! future lets the file operation finish in the background: it happened or not, never half. A deletion may be undone by a
//! power loss. After a directory could not be synced the store refuses writes until it is opened again, since the kernel
//! may forget the error and call lost entries durable.
//!
//! Unlike in a bucket, a key cannot continue another one (`a` and `a/b`): the second is refused.

mod disk;
mod walk;

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;

use self::disk::Disk;
use super::key::check_key;
use super::{Created, ObjectMeta, ObjectStore, Payload, StoreError};
use crate::base::Rng;

/// Entries of a listing that may wait for their reader.
const LIST_BUFFER_ENTRIES: usize = 256;

/// An object store on a local (or mounted) file system. Clones share it.
#[derive(Clone)]
pub struct LocalStore(Arc<Disk>);

impl LocalStore {
    /// Opens `root`, making it if needed, and removes what dead processes left in `.tmp`. Blocks on the disk.
    /// Errors: `Refused` (permissions, read-only, not a directory), `Unavailable` (full disk).
    pub fn open(root: &Path, rng: &Rng) -> Result<Self, StoreError> {
        let disk =
            Disk::open(root, rng).map_err(|error| disk::explain("open", &root.display().to_string(), root, &error))?;
        Ok(Self(Arc::new(disk)))
    }

    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl FnOnce(&Disk, &str) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        check_key(key)?;
        let (disk, owned) = (self.0.clone(), key.to_owned());
        let joined = tokio::task::spawn_blocking(move || {
            work(&disk, &owned).map_err(|error| disk.explain_at(operation, &owned, &error))
        });
        joined.await.unwrap_or_else(|error| {
            Err(StoreError::Unavailable { operation, key: key.to_owned(), reason: error.to_string() })
        })
    }
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file://{}", self.0.root().display())
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        self.run("get", key, |disk, key| disk.read(key, 0..u64::MAX)).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.run("get", key, move |disk, key| disk.read(key, range)).await
    }

    async fn size(&self, key: &str) -> Result<u64, StoreError> {
        self.run("size", key, Disk::size).await
    }

    async fn put(&self, key: &str, payload: Payload) -> Result<(), StoreError> {
        self.run("put", key, move |disk, key| disk.put(key, &payload)).await
    }

    async fn create(&self, key: &str, payload: Payload) -> Result<Created, StoreError> {
        self.run("create", key, move |disk, key| disk.create(key, &payload)).await
    }

    async fn create_from_file(&self, key: &str, path: &Path, payload: Payload) -> Result<Created, StoreError> {
        let path = path.to_owned();
        self.run("create", key, move |disk, key| disk.create_from_file(key, &path, &payload)).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.run("delete", key, Disk::delete).await
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let (sender, receiver) = tokio::sync::mpsc::channel(LIST_BUFFER_ENTRIES);
        let disk = self.0.clone();
        let prefix = prefix.to_owned();
        let start_after = start_after.map(str::to_owned);
        tokio::task::spawn_blocking(move || {
            let walked = walk::walk(disk.root(), &prefix, start_after.as_deref(), &mut |object| {
                // The reader is gone: stop walking.
                sender.blocking_send(Ok(object)).is_ok()
            });
            if let Err(error) = walked.and_then(|()| disk.check_still_there()) {
                let _ = sender.blocking_send(Err(disk.explain_at("list", &prefix, &error)));
            }
        });
        tokio_stream::wrappers::ReceiverStream::new(receiver).boxed()
    }

    fn is_local(&self) -> bool {
        true
    }
}

#[cfg(test)]
pub(crate) use self::disk::explain as explain_for_tests;
