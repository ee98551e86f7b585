//! What the object store costs and how fast it is: counts requests as they are sent, so that repeated and hedged ones are
//! seen (they are on the bill).

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::operation::Operation;
use super::{Created, ObjectMeta, ObjectStore, Payload, StoreError};
use crate::base::Clock;

/// A listing counts as one request for each this many objects: S3's page.
const LIST_PAGE_OBJECTS: u64 = 1_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: Operation,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: Operation,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are the label values")]
enum Outcome {
    ok,
    exists,
    not_found,
    unavailable,
    refused,
    invalid,
    /// The caller stopped waiting (a hedge that lost, a deadline); the store may still carry it out.
    dropped,
}

impl Outcome {
    fn of(error: &StoreError) -> Self {
        match error {
            StoreError::NotFound { .. } => Self::not_found,
            StoreError::Unavailable { .. } => Self::unavailable,
            StoreError::Refused { .. } => Self::refused,
            StoreError::Config(_) => Self::invalid,
        }
    }
}

/// The counters of one process's object stores. Clones count into the same.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    bytes: Family<OperationLabel, Counter>,
    seconds: Family<OperationLabel, Histogram, fn() -> Histogram>,
    retries: Family<OperationLabel, Counter>,
    hedges: Counter,
    hedges_won: Counter,
}

impl Metrics {
    /// Makes the metrics and names them in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::detached();
        registry.register(
            "esker_objstore_requests",
            "Requests sent to the object store, repeated and hedged ones included; a listing counts once per 1000 objects",
            metrics.requests.clone(),
        );
        registry.register(
            "esker_objstore_bytes",
            "Bytes of objects read (get) and sent (put, create), answered or not",
            metrics.bytes.clone(),
        );
        registry.register(
            "esker_objstore_request_seconds",
            "Time until a request was answered; listings are measured to their end",
            metrics.seconds.clone(),
        );
        registry.register(
            "esker_objstore_retries",
            "Requests that repeat one without a clear answer (creates are repeated by their callers)",
            metrics.retries.clone(),
        );
        registry.register(
            "esker_objstore_hedges",
            "Reads sent a second time because they were slow",
            metrics.hedges.clone(),
        );
        registry.register("esker_objstore_hedges_won", "Hedges that answered first", metrics.hedges_won.clone());
        metrics
    }

    /// Metrics that nobody collects.
    pub fn detached() -> Self {
        Self {
            requests: Family::default(),
            bytes: Family::default(),
            // 0.5 ms to 16 s.
            seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_5, 2.0, 16))),
            retries: Family::default(),
            hedges: Counter::default(),
            hedges_won: Counter::default(),
        }
    }

    /// Requests of one kind so far, whatever became of them.
    pub fn requests(&self, operation: Operation) -> u64 {
        use Outcome::{dropped, exists, invalid, not_found, ok, refused, unavailable};
        [ok, exists, not_found, unavailable, refused, invalid, dropped]
            .into_iter()
            .map(|outcome| self.requests.get_or_create(&RequestLabels { operation, outcome }).get())
            .sum()
    }

    /// Bytes of one kind of request so far.
    pub fn bytes(&self, operation: Operation) -> u64 {
        self.bytes.get_or_create(&OperationLabel { operation }).get()
    }

    pub(super) fn retried(&self, operation: Operation) {
        self.retries.get_or_create(&OperationLabel { operation }).inc();
    }

    pub(super) fn hedged(&self) {
        self.hedges.inc();
    }

    pub(super) fn hedge_won(&self) {
        self.hedges_won.inc();
    }
}

/// Measures every request to the store inside.
pub struct MeasuredStore {
    inner: Arc<dyn ObjectStore>,
    metrics: Metrics,
    clock: Clock,
}

impl MeasuredStore {
    /// Counts what goes to `inner` into `metrics`.
    pub fn new(inner: Arc<dyn ObjectStore>, metrics: Metrics, clock: Clock) -> Self {
        Self { inner, metrics, clock }
    }

    fn start(&self, operation: Operation) -> Request {
        Request {
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
            operation,
            started_us: self.clock.boot_us(),
            outcome: Outcome::dropped,
        }
    }

    fn count_bytes(&self, operation: Operation, bytes: u64) {
        self.metrics.bytes.get_or_create(&OperationLabel { operation }).inc_by(bytes);
    }
}

/// A request under way; counted when it ends or is dropped.
struct Request {
    metrics: Metrics,
    clock: Clock,
    operation: Operation,
    started_us: u64,
    outcome: Outcome,
}

impl Request {
    fn end<T>(mut self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        self.outcome = answer.as_ref().map_or_else(Outcome::of, |_| Outcome::ok);
        answer
    }

    fn end_create(mut self, answer: Result<Created, StoreError>) -> Result<Created, StoreError> {
        self.outcome = match &answer {
            Ok(Created::Yes) => Outcome::ok,
            Ok(Created::Exists) => Outcome::exists,
            Err(error) => Outcome::of(error),
        };
        answer
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let (operation, outcome) = (self.operation, self.outcome);
        self.metrics.requests.get_or_create(&RequestLabels { operation, outcome }).inc();
        if outcome != Outcome::dropped {
            let took_us = self.clock.boot_us().saturating_sub(self.started_us);
            self.metrics.seconds.get_or_create(&OperationLabel { operation }).observe(took_us as f64 / 1e6);
        }
    }
}

impl fmt::Debug for MeasuredStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for MeasuredStore {
    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        let request = self.start(Operation::get);
        let answer = request.end(self.inner.get(key).await);
        answer.inspect(|bytes| self.count_bytes(Operation::get, bytes.len() as u64))
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let request = self.start(Operation::get);
        let answer = request.end(self.inner.get_range(key, range).await);
        answer.inspect(|bytes| self.count_bytes(Operation::get, bytes.len() as u64))
    }

    async fn size(&self, key: &str) -> Result<u64, StoreError> {
        let request = self.start(Operation::size);
        request.end(self.inner.size(key).await)
    }

    async fn put(&self, key: &str, payload: Payload) -> Result<(), StoreError> {
        self.count_bytes(Operation::put, payload.len());
        let request = self.start(Operation::put);
        request.end(self.inner.put(key, payload).await)
    }

    async fn create(&self, key: &str, payload: Payload) -> Result<Created, StoreError> {
        self.count_bytes(Operation::create, payload.len());
        let request = self.start(Operation::create);
        request.end_create(self.inner.create(key, payload).await)
    }

    async fn create_from_file(&self, key: &str, path: &Path, payload: Payload) -> Result<Created, StoreError> {
        self.count_bytes(Operation::create, payload.len());
        let request = self.start(Operation::create);
        request.end_create(self.inner.create_from_file(key, path, payload).await)
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let request = self.start(Operation::delete);
        request.end(self.inner.delete(key).await)
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let state = (self.inner.list(prefix, start_after), self.start(Operation::list), 0_u64);
        futures::stream::unfold(state, |(mut objects, mut request, mut count)| async move {
            let next = objects.next().await;
            match &next {
                None => request.outcome = Outcome::ok,
                Some(Err(error)) => request.outcome = Outcome::of(error),
                Some(Ok(_)) => {
                    if count > 0 && count.is_multiple_of(LIST_PAGE_OBJECTS) {
                        let labels = RequestLabels { operation: Operation::list, outcome: Outcome::ok };
                        request.metrics.requests.get_or_create(&labels).inc();
                    }
                    count += 1;
                }
            }
            next.map(|item| (item, (objects, request, count)))
        })
        .boxed()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }
}
