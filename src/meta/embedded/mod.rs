//! The embedded store: one file in the data directory, one process.
//!
//! All keys live in memory; every change is one checksummed record appended to `metadata.log` and synced before it is
//! applied, seen or acknowledged. When the file has grown far beyond what it holds, a snapshot takes its place (written
//! aside, synced, renamed).
//!
//! Invariants: nothing is visible that is not durable; changes are applied in the order of the file; one process at a time
//! (`metadata.lock`).
//!
//! A crash at any point leaves the last whole record as the state: a torn record was never acknowledged and is cut at the
//! next start. A file that is damaged in another way is left alone and reported. Leases are not kept in the file: only
//! this process can have owned one, so the keys of leases are deleted at the next start.
//!
//! Cancellation: an operation whose future is dropped may or may not happen, like one whose answer was lost.
//!
//! A full disk fails the write and nothing else: reads go on, and writes work again when there is space. A failed sync
//! leaves unknown bytes on the disk, so the store refuses everything until the process is started again.

mod file;
mod lock;
mod service;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

pub use lock::DirectoryLock;

use super::machine::{Judged, Machine};
use super::{Compare, KeyValue, MetaError, MetaStore, Snapshot, TxnOutcome, Watch, Write};
use crate::base::Clock;
use service::{Outcome, Request, Service};

/// Operations that wait for the store's one worker; callers wait beyond it.
pub const QUEUE_OPERATIONS: usize = 256;

/// The store. Clones share it; it closes when the last one is dropped, or by [`EmbeddedMeta::close`].
#[derive(Clone)]
pub struct EmbeddedMeta {
    requests: mpsc::Sender<Request>,
}

impl EmbeddedMeta {
    /// Opens the store in `directory`, which is created if need be.
    ///
    /// Errors: `Environment` (another process has it, permissions, disk), `Corrupt` (damaged or of a newer version).
    pub async fn open(directory: PathBuf, clock: Clock) -> Result<Self, MetaError> {
        let (requests, queue) = mpsc::channel(QUEUE_OPERATIONS);
        let opened = tokio::task::spawn_blocking(move || Service::open(&directory, clock));
        let service = opened.await.map_err(|error| MetaError::Environment(error.to_string()))??;
        tokio::spawn(service.run(queue));
        Ok(Self { requests })
    }

    /// Finishes what was asked before, then releases the file; later operations fail.
    pub async fn close(&self) {
        let (closed, wait) = oneshot::channel();
        if self.requests.send(Request::Close(closed)).await.is_ok() {
            let _ = wait.await;
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        judge: impl FnOnce(&mut Machine, u64) -> Result<Outcome<T>, MetaError> + Send + 'static,
    ) -> Result<T, MetaError> {
        let (reply, answer) = oneshot::channel();
        self.send(operation, Request::operation(judge, reply), answer).await
    }

    async fn send<T>(
        &self,
        operation: &'static str,
        request: Request,
        answer: oneshot::Receiver<Result<T, MetaError>>,
    ) -> Result<T, MetaError> {
        let closed = || MetaError::Unavailable { operation, reason: "the store is closed".to_owned() };
        self.requests.send(request).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

impl fmt::Debug for EmbeddedMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EmbeddedMeta")
    }
}

#[async_trait]
impl MetaStore for EmbeddedMeta {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetaError> {
        let key = key.to_owned();
        self.run("get", move |machine, _| Ok(Outcome::Done(machine.get(&key)))).await
    }

    async fn range(&self, prefix: &str) -> Result<Snapshot, MetaError> {
        let prefix = prefix.to_owned();
        self.run("range", move |machine, _| Ok(Outcome::Done(machine.range(&prefix)))).await
    }

    async fn txn(&self, compares: Vec<Compare>, writes: Vec<Write>) -> Result<TxnOutcome, MetaError> {
        self.run("transaction", move |machine, now_ms| {
            Ok(match machine.txn(&compares, &writes, now_ms)? {
                Judged::Conflict => Outcome::Done(TxnOutcome::Conflict),
                Judged::Unchanged { revision } => Outcome::Done(TxnOutcome::Committed { revision }),
                Judged::Change(change) => {
                    let outcome = TxnOutcome::Committed { revision: change.revision };
                    Outcome::Write(outcome, change)
                }
            })
        })
        .await
    }

    async fn watch(&self, prefix: &str, from: u64) -> Result<Watch, MetaError> {
        let (reply, answer) = oneshot::channel();
        self.send("watch", Request::Watch { prefix: prefix.to_owned(), from, reply }, answer).await
    }

    async fn lease_grant(&self, ttl_ms: u64) -> Result<i64, MetaError> {
        self.run("lease grant", move |machine, now_ms| Ok(Outcome::Done(machine.grant(ttl_ms, now_ms)))).await
    }

    async fn lease_keep_alive(&self, lease: i64) -> Result<(), MetaError> {
        self.run("lease keep-alive", move |machine, now_ms| machine.keep_alive(lease, now_ms).map(Outcome::Done)).await
    }

    async fn lease_revoke(&self, lease: i64) -> Result<(), MetaError> {
        let (reply, answer) = oneshot::channel();
        self.send("lease revoke", Request::Revoke { lease, reply }, answer).await
    }
}
