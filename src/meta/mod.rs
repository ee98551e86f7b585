//! Floor 2: the metadata store: etcd's semantics, nothing of Kafka's.
//!
//! Small values under byte-string keys with one global revision that grows by one with every successful transaction that
//! writes. Nothing here is ever written per segment or per batch.

pub mod embedded;
pub mod etcd;
mod machine;
pub mod memory;
pub mod metrics;
mod watchers;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::base::ErrorKind;

pub use embedded::EmbeddedMeta;
pub use etcd::{EtcdMeta, EtcdOptions};
pub use memory::MemoryMeta;
pub use metrics::{MeasuredMeta, Metrics};

/// A key with its value, as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// Revision at which the key was created (again).
    pub create_revision: u64,
    /// Revision of the last write of this key.
    pub mod_revision: u64,
    /// The lease the key hangs on; 0 for none.
    pub lease: i64,
}

/// What was read, and the store's revision at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Keys in byte order.
    pub entries: Vec<KeyValue>,
    /// The store's revision; a watch from `revision + 1` misses nothing.
    pub revision: u64,
}

/// A condition of a transaction: the key's `mod_revision` equals this; 0 means "does not exist".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: String,
    /// Expected modification revision.
    pub mod_revision: u64,
}

/// A write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets a key, optionally tied to a lease (0 for none).
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Bytes,
        /// Lease id, or 0.
        lease: i64,
    },
    /// Removes a key; nothing happens if it is not there.
    Delete {
        /// The key.
        key: String,
    },
}

/// Whether a transaction's conditions held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxnOutcome {
    /// All conditions held; the writes happened at this revision.
    Committed {
        /// The revision of the writes.
        revision: u64,
    },
    /// A condition failed; nothing was written.
    Conflict,
}

/// A change seen by a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A key was written.
    Put(KeyValue),
    /// A key was removed (or its lease ended) at `revision`.
    Delete {
        /// The key.
        key: String,
        /// When.
        revision: u64,
    },
    /// The asked-for revisions are compacted away, or events were lost: read a fresh snapshot, watch again from there.
    Resync,
}

/// A watch's events, in revision order; all events of one revision come in one message, and none comes twice.
///
/// A store that is interrupted (a connection that is cut, a member that is restarted) goes on by itself where it was; the
/// watcher notices nothing but the time. Where that is not possible, because the revisions in between are compacted away or
/// because the watcher did not keep up, `Resync` is the last event, alone in its message: the watcher reads a fresh snapshot
/// with [`MetaStore::range`] and watches again from the revision after the snapshot's. What happened in between shows in the
/// snapshot, but not step by step: keys that came and went are not seen, and deletes show as keys that are missing.
///
/// Ends (`None`) only when the store is closed.
pub type Watch = mpsc::Receiver<Vec<Event>>;

/// What went wrong with the metadata store.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// No answer. A transaction may have happened, may happen still, or may not; `reason` says so when it is known that it
    /// has not. Read before doing it again with other compares; with the same compares on what it writes, doing it again is
    /// safe, and a conflict may then be one's own success.
    #[error("the metadata store did not answer ({operation}): {reason}")]
    Unavailable {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        reason: String,
    },
    /// The lease is unknown or has expired.
    #[error("lease {lease} has expired or does not exist")]
    LeaseExpired {
        /// The lease.
        lease: i64,
    },
    /// The request breaks a limit (operations per transaction, bytes per request).
    #[error("metadata request over a limit: {0}")]
    TooLarge(String),
    /// Stored metadata is damaged or of a newer format.
    #[error("metadata is unreadable: {0}")]
    Corrupt(String),
    /// The machine is in the way: permissions, a full disk, a locked file.
    #[error("{0}")]
    Environment(String),
}

impl MetaError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unavailable { .. } => ErrorKind::Retriable,
            Self::LeaseExpired { .. } => ErrorKind::Fenced,
            Self::TooLarge(_) => ErrorKind::Invalid,
            Self::Corrupt(_) => ErrorKind::Corrupt,
            Self::Environment(_) => ErrorKind::Environment,
        }
    }
}

/// Most compares, and most writes, of one transaction: etcd's own default limit, which counts the two apart.
pub const MAX_TXN_OPERATIONS: usize = 128;
/// Most bytes of one request: etcd's own default limit (1.5 MiB).
pub const MAX_REQUEST_BYTES: usize = 1_572_864;

/// A metadata store. Every implementation passes the suite in `tests/contract/meta.rs`.
///
/// Reads are linearizable. A transaction is atomic and durable when it returns `Committed`.
#[async_trait]
pub trait MetaStore: fmt::Debug + Send + Sync + 'static {
    /// One key.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetaError>;

    /// Every key that starts with `prefix`.
    async fn range(&self, prefix: &str) -> Result<Snapshot, MetaError>;

    /// Writes all of `writes` if every compare holds, nothing otherwise. At most [`MAX_TXN_OPERATIONS`] and
    /// [`MAX_REQUEST_BYTES`]; a key may be written once per transaction. Without writes it only checks.
    async fn txn(&self, compares: Vec<Compare>, writes: Vec<Write>) -> Result<TxnOutcome, MetaError>;

    /// Changes of keys that start with `prefix`, from revision `from` (inclusive, 1 or more) on.
    async fn watch(&self, prefix: &str, from: u64) -> Result<Watch, MetaError>;

    /// A new lease that ends `ttl_ms` after its last keep-alive; etcd rounds up to whole seconds, and to its own minimum.
    /// Returns its id, never 0.
    async fn lease_grant(&self, ttl_ms: u64) -> Result<i64, MetaError>;

    /// Extends a lease by its ttl. `LeaseExpired` if it is gone (its keys are then gone too).
    async fn lease_keep_alive(&self, lease: i64) -> Result<(), MetaError>;

    /// Ends a lease and deletes its keys. `Ok` if it was already gone.
    async fn lease_revoke(&self, lease: i64) -> Result<(), MetaError>;
}
