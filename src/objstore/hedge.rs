//! Hedged reads: when a GET is slower than most recent ones, a second one is sent and the first answer counts.
//!
//! "Slow" is a quantile of the recent latencies of reads of about the same size; the share of second requests is bounded.
//! Nothing is hedged until enough is known. The request that loses is dropped. Writes pass through.

mod latency;

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{BoxFuture, Either, select};
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::time::sleep;

pub(crate) use self::latency::{Budget, Latencies};
use super::metrics::Metrics;
use super::{Created, ObjectMeta, ObjectStore, Payload, StoreError};
use crate::base::Clock;

/// Upper ends of the size classes, in bytes: preludes and footers, pages, larger reads; whole objects are a class too.
const CLASS_BYTES: [u64; 2] = [64 * 1024, 2 * 1024 * 1024];
const CLASSES: usize = CLASS_BYTES.len() + 2;
const WHOLE: usize = CLASSES - 1;

/// When to send a second request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HedgePolicy {
    /// A read is slow when it takes longer than this share of the recent ones did.
    pub quantile: f64,
    /// Most second requests, as a share of all reads.
    pub share: f64,
    /// No read is slow before this time, in milliseconds.
    pub least_ms: u64,
}

impl Default for HedgePolicy {
    fn default() -> Self {
        Self { quantile: 0.95, share: 0.05, least_ms: 10 }
    }
}

/// A store whose slow reads are sent twice.
pub struct HedgeStore {
    inner: Arc<dyn ObjectStore>,
    policy: HedgePolicy,
    clock: Clock,
    metrics: Metrics,
    classes: [Mutex<Latencies>; CLASSES],
    budget: Mutex<Budget>,
}

type Read<'a> = BoxFuture<'a, Result<Bytes, StoreError>>;

impl HedgeStore {
    /// Hedges reads of `inner`.
    pub fn new(inner: Arc<dyn ObjectStore>, policy: HedgePolicy, clock: Clock, metrics: Metrics) -> Self {
        let budget = Mutex::new(Budget::new(policy.share));
        Self { inner, policy, clock, metrics, classes: Default::default(), budget }
    }

    async fn read<'a>(&'a self, class: usize, request: impl Fn() -> Read<'a> + Send) -> Result<Bytes, StoreError> {
        let started_us = self.clock.boot_us();
        self.budget.lock().earn();
        let answer = self.race(class, request).await;
        if answer.is_ok() {
            let took_us = self.clock.boot_us().saturating_sub(started_us);
            self.classes[class].lock().add(took_us, self.policy.quantile);
        }
        answer
    }

    async fn race<'a>(&'a self, class: usize, request: impl Fn() -> Read<'a> + Send) -> Result<Bytes, StoreError> {
        let slow_us = self.classes[class].lock().slow_us();
        let Some(slow_us) = slow_us else { return request().await };
        let patience = Duration::from_micros(slow_us.max(self.policy.least_ms * 1_000));
        let first = match select(request(), Box::pin(sleep(patience))).await {
            Either::Left((answer, _)) => return answer,
            Either::Right(((), first)) => first,
        };
        if !self.budget.lock().spend() {
            return first.await;
        }
        self.metrics.hedged();
        match select(first, request()).await {
            // One that got no answer does not end the race.
            Either::Left((Err(StoreError::Unavailable { .. }), other))
            | Either::Right((Err(StoreError::Unavailable { .. }), other)) => other.await,
            Either::Left((answer, _)) => answer,
            Either::Right((answer, _)) => {
                self.metrics.hedge_won();
                answer
            }
        }
    }
}

fn class_of(bytes: u64) -> usize {
    CLASS_BYTES.iter().position(|most| bytes <= *most).unwrap_or(CLASS_BYTES.len())
}

impl fmt::Debug for HedgeStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for HedgeStore {
    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        self.read(WHOLE, || self.inner.get(key)).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let class = class_of(range.end.saturating_sub(range.start));
        self.read(class, || self.inner.get_range(key, range.clone())).await
    }

    async fn size(&self, key: &str) -> Result<u64, StoreError> {
        self.inner.size(key).await
    }

    async fn put(&self, key: &str, payload: Payload) -> Result<(), StoreError> {
        self.inner.put(key, payload).await
    }

    async fn create(&self, key: &str, payload: Payload) -> Result<Created, StoreError> {
        self.inner.create(key, payload).await
    }

    async fn create_from_file(&self, key: &str, path: &Path, payload: Payload) -> Result<Created, StoreError> {
        self.inner.create_from_file(key, path, payload).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        self.inner.list(prefix, start_after)
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }
}
