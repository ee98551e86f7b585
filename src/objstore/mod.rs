//! Floor 2: objects in a bucket or a directory.
//!
//! A thin trait over `object_store` with the one rule that the commit protocol stands on: [`ObjectStore::create`] makes
//! an object only if its key is free, and of several racing creates exactly one wins.
//!
//! It never mentions topics, groups, users or transactions: keys and bytes only.

pub mod fault;
pub mod hedge;
pub mod key;
pub mod local;
pub mod memory;
pub mod metrics;
pub mod open;
pub mod operation;
pub mod probe;
pub mod retry;
pub mod s3;
pub mod unique;

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::base::ErrorKind;

pub use self::local::LocalStore;
pub use self::memory::MemoryStore;
pub use self::metrics::Metrics;
pub use self::open::{OpenOptions, open};
pub use self::operation::Operation;
pub use self::probe::{ProbeOptions, ProbeReport, probe};
pub use self::s3::S3Options;
pub use self::unique::{CommitOutcome, CreatePolicy, create_unique, create_unique_from_file};

/// The bytes of an object to write: one or more chunks, in order, never copied together.
#[derive(Debug, Clone, Default)]
pub struct Payload(pub Vec<Bytes>);

impl Payload {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|chunk| chunk.len() as u64).sum()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self(vec![bytes])
    }
}

/// What a listing tells of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The key, relative to the store's prefix.
    pub key: String,
    /// Length in bytes.
    pub size_bytes: u64,
    /// When the store says it was last written, in milliseconds since the Unix epoch.
    pub modified_ms: i64,
}

/// How a conditional create ended, when it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The key was free and now holds our bytes, durably.
    Yes,
    /// The key holds an object (ours from an earlier, unanswered try, or somebody else's: compare the object's id).
    Exists,
}

/// What went wrong with an object, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No object at this key.
    #[error("object '{key}' does not exist")]
    NotFound {
        /// The key.
        key: String,
    },
    /// The store did not answer clearly (timeout, connection lost, 5xx, throttling). A write may or may not have happened.
    #[error("{operation} of '{key}' failed and may be repeated: {reason}")]
    Unavailable {
        /// What was tried: "get", "put", "create", …
        operation: &'static str,
        /// The key.
        key: String,
        /// The store's own words.
        reason: String,
    },
    /// The store refused for good: credentials, permissions, no such bucket, a full or read-only disk.
    #[error("{operation} of '{key}' was refused: {reason}")]
    Refused {
        /// What was tried.
        operation: &'static str,
        /// The key.
        key: String,
        /// The store's own words, and what to do.
        reason: String,
    },
    /// The setting does not describe a store that can be used.
    #[error("{0}")]
    Config(String),
}

impl StoreError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Unavailable { .. } => ErrorKind::Retriable,
            Self::Refused { .. } => ErrorKind::Environment,
            Self::Config(_) => ErrorKind::Invalid,
        }
    }
}

/// An object store. Every implementation passes the suite in `tests/contract/objstore.rs`.
///
/// Keys are relative paths of `[A-Za-z0-9._=/-]`. Writes are durable when they return `Ok`: after power loss the object is
/// whole or (for an unanswered write) whole or absent, never partial. Dropping a returned future may or may not have
/// written.
#[async_trait]
pub trait ObjectStore: fmt::Debug + Send + Sync + 'static {
    /// The whole object. Errors: `NotFound`, `Unavailable`, `Refused`.
    async fn get(&self, key: &str) -> Result<Bytes, StoreError>;

    /// Bytes `range.start` (inclusive) to `range.end` (exclusive); cut short where the object ends. A range that starts at
    /// or after the end gives no bytes.
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError>;

    /// Length in bytes. Errors: `NotFound`, …
    async fn size(&self, key: &str) -> Result<u64, StoreError>;

    /// Writes the object, replacing any.
    async fn put(&self, key: &str, payload: Payload) -> Result<(), StoreError>;

    /// Writes the object only if the key is free. `Unavailable` is ambiguous: it may have been written. "Operation in
    /// flight" answers (S3's 409) are told apart from `Exists` and reported as `Unavailable`: nothing has landed.
    async fn create(&self, key: &str, payload: Payload) -> Result<Created, StoreError>;

    /// Like [`ObjectStore::create`], for bytes that also lie, complete and in order, in the local file `path`. A store on
    /// the same file system syncs and links the file instead of writing it again; others send `payload`.
    async fn create_from_file(&self, key: &str, path: &Path, payload: Payload) -> Result<Created, StoreError> {
        let _ = path;
        self.create(key, payload).await
    }

    /// Removes an object; `Ok` if it was not there.
    async fn delete(&self, key: &str) -> Result<(), StoreError>;

    /// Objects whose key starts with `prefix` and sorts after `start_after` (exclusive), in key order.
    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'static, Result<ObjectMeta, StoreError>>;

    /// Whether objects are files of this machine (then `create_from_file` links).
    fn is_local(&self) -> bool {
        false
    }
}
