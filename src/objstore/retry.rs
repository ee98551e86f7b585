//! Repeats what may be repeated: reads, listings, deletes and plain writes that got no clear answer.
//!
//! Never creates: a create that was carried out and repeated is answered "exists", and only the caller knows its own bytes
//! ([`super::unique`]). A listing goes on after the last key that it gave.
//!
//! Holds no state; dropping a future leaves what the last request leaves.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::time::sleep;

use super::metrics::Metrics;
use super::operation::Operation;
use super::{Created, ObjectMeta, ObjectStore, Payload, StoreError};
use crate::base::{Backoff, Clock, Rng};

/// How often and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Most requests for one call, the first included.
    pub attempts: u32,
    /// No repetition starts later than this after the call, in milliseconds.
    pub deadline_ms: u64,
    /// Pauses in between.
    pub backoff: Backoff,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 5, deadline_ms: 30_000, backoff: Backoff::default() }
    }
}

/// A store whose idempotent requests are repeated.
pub struct RetryStore(Arc<Shared>);

struct Shared {
    inner: Arc<dyn ObjectStore>,
    policy: RetryPolicy,
    clock: Clock,
    rng: Rng,
    metrics: Metrics,
}

impl RetryStore {
    /// Repeats requests to `inner`, counting into `metrics`.
    pub fn new(inner: Arc<dyn ObjectStore>, policy: RetryPolicy, clock: Clock, rng: Rng, metrics: Metrics) -> Self {
        Self(Arc::new(Shared { inner, policy, clock, rng, metrics }))
    }
}

impl Shared {
    async fn repeat<T, F>(&self, operation: Operation, request: impl Fn() -> F + Send) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let started_ms = self.clock.boot_ms();
        let mut failures = 0;
        loop {
            match request().await {
                Err(error @ StoreError::Unavailable { .. }) => {
                    failures += 1;
                    self.pause_after(operation, failures, started_ms, error).await?;
                }
                answer => return answer,
            }
        }
    }

    /// Waits before the next try, or gives the error back if there is to be none.
    async fn pause_after(
        &self,
        operation: Operation,
        failures: u32,
        started_ms: u64,
        error: StoreError,
    ) -> Result<(), StoreError> {
        let pause = self.policy.backoff.pause(failures, &self.rng);
        let next_ms = self.clock.boot_ms().saturating_sub(started_ms) + pause.as_millis() as u64;
        if failures >= self.policy.attempts || next_ms > self.policy.deadline_ms {
            return Err(error);
        }
        tracing::debug!(%error, failures, "object store request will be repeated");
        self.metrics.retried(operation);
        sleep(pause).await;
        Ok(())
    }
}

impl fmt::Debug for RetryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for RetryStore {
    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        self.0.repeat(Operation::get, || self.0.inner.get(key)).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.0.repeat(Operation::get, || self.0.inner.get_range(key, range.clone())).await
    }

    async fn size(&self, key: &str) -> Result<u64, StoreError> {
        self.0.repeat(Operation::size, || self.0.inner.size(key)).await
    }

    async fn put(&self, key: &str, payload: Payload) -> Result<(), StoreError> {
        self.0.repeat(Operation::put, || self.0.inner.put(key, payload.clone())).await
    }

    async fn create(&self, key: &str, payload: Payload) -> Result<Created, StoreError> {
        self.0.inner.create(key, payload).await
    }

    async fn create_from_file(&self, key: &str, path: &Path, payload: Payload) -> Result<Created, StoreError> {
        self.0.inner.create_from_file(key, path, payload).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.0.repeat(Operation::delete, || self.0.inner.delete(key)).await
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let listing = Listing {
            shared: self.0.clone(),
            prefix: prefix.to_owned(),
            after: start_after.map(str::to_owned),
            objects: None,
            failures: 0,
            started_ms: self.0.clock.boot_ms(),
            ended: false,
        };
        futures::stream::unfold(listing, |mut listing| async move {
            let next = listing.next().await?;
            Some((next, listing))
        })
        .boxed()
    }

    fn is_local(&self) -> bool {
        self.0.inner.is_local()
    }
}

/// A listing that starts again after the last key it gave.
struct Listing {
    shared: Arc<Shared>,
    prefix: String,
    after: Option<String>,
    objects: Option<BoxStream<'static, Result<ObjectMeta, StoreError>>>,
    /// Failures since the last object.
    failures: u32,
    /// When the last object came, or the listing began.
    started_ms: u64,
    ended: bool,
}

impl Listing {
    async fn next(&mut self) -> Option<Result<ObjectMeta, StoreError>> {
        if self.ended {
            return None;
        }
        loop {
            let shared = self.shared.clone();
            let (prefix, after) = (&self.prefix, self.after.as_deref());
            match self.objects.get_or_insert_with(|| shared.inner.list(prefix, after)).next().await {
                Some(Ok(object)) => {
                    self.after = Some(object.key.clone());
                    self.failures = 0;
                    self.started_ms = shared.clock.boot_ms();
                    return Some(Ok(object));
                }
                Some(Err(error @ StoreError::Unavailable { .. })) => {
                    self.objects = None;
                    self.failures += 1;
                    let paused = shared.pause_after(Operation::list, self.failures, self.started_ms, error).await;
                    if let Err(error) = paused {
                        self.ended = true;
                        return Some(Err(error));
                    }
                }
                last => {
                    self.ended = true;
                    return last;
                }
            }
        }
    }
}
