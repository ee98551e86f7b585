//! Counters of the metadata store, and a store that counts what goes through it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::{Compare, KeyValue, MetaError, MetaStore, Snapshot, TxnOutcome, Watch, Write};
use crate::base::Clock;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: Operation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: Operation,
    result: Outcome,
}

/// What is asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(
    non_camel_case_types,
    missing_docs,
    reason = "the names are the label values, and those of the trait's methods"
)]
pub enum Operation {
    get,
    range,
    txn,
    watch,
    lease_grant,
    lease_keep_alive,
    lease_revoke,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are the label values")]
enum Outcome {
    ok,
    conflict,
    unavailable,
    lease_expired,
    too_large,
    corrupt,
    environment,
    /// The caller stopped waiting; the store may still carry it out.
    dropped,
}

impl Outcome {
    fn of(error: &MetaError) -> Self {
        match error {
            MetaError::Unavailable { .. } => Self::unavailable,
            MetaError::LeaseExpired { .. } => Self::lease_expired,
            MetaError::TooLarge(_) => Self::too_large,
            MetaError::Corrupt(_) => Self::corrupt,
            MetaError::Environment(_) => Self::environment,
        }
    }
}

/// The counters of one process's metadata store. Clones count into the same.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<OperationLabel, Histogram, fn() -> Histogram>,
    /// Times that a watch was begun again after it broke.
    pub watch_restarts: Counter,
    /// Watches that were told to read everything again.
    pub watch_resyncs: Counter,
    /// Times that an endpoint stopped answering, or did not answer after a pause.
    pub endpoint_failures: Counter,
    /// Logins with user and password.
    pub logins: Counter,
}

impl Metrics {
    /// Makes the metrics and names them in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let it = Self::detached();
        registry.register("esker_meta_requests", "Operations of the metadata store, by result", it.requests.clone());
        registry.register(
            "esker_meta_request_seconds",
            "Time until an operation of the metadata store was answered, repetitions included",
            it.seconds.clone(),
        );
        let mut counter = |name, help, counter: &Counter| registry.register(name, help, counter.clone());
        counter("esker_meta_watch_restarts", "Watches of etcd begun again after they broke", &it.watch_restarts);
        counter("esker_meta_watch_resyncs", "Watches of etcd told to read everything again", &it.watch_resyncs);
        counter("esker_meta_endpoint_failures", "Times that an etcd endpoint did not answer", &it.endpoint_failures);
        counter("esker_meta_logins", "Logins to etcd", &it.logins);
        it
    }

    /// Metrics that nobody collects.
    pub fn detached() -> Self {
        Self {
            requests: Family::default(),
            // 0.25 ms to 8 s.
            seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_25, 2.0, 16))),
            watch_restarts: Counter::default(),
            watch_resyncs: Counter::default(),
            endpoint_failures: Counter::default(),
            logins: Counter::default(),
        }
    }

    /// Operations of one kind so far, whatever became of them.
    pub fn requests(&self, operation: Operation) -> u64 {
        use Outcome::{conflict, corrupt, dropped, environment, lease_expired, ok, too_large, unavailable};
        [ok, conflict, unavailable, lease_expired, too_large, corrupt, environment, dropped]
            .into_iter()
            .map(|result| self.requests.get_or_create(&RequestLabels { operation, result }).get())
            .sum()
    }
}

/// Measures every operation of the store inside.
pub struct MeasuredMeta {
    inner: Arc<dyn MetaStore>,
    metrics: Metrics,
    clock: Clock,
}

impl MeasuredMeta {
    /// Counts what goes to `inner` into `metrics`.
    pub fn new(inner: Arc<dyn MetaStore>, metrics: Metrics, clock: Clock) -> Self {
        Self { inner, metrics, clock }
    }

    async fn measured<T>(
        &self,
        operation: Operation,
        asking: impl Future<Output = Result<T, MetaError>>,
        outcome: impl FnOnce(&T) -> Outcome,
    ) -> Result<T, MetaError> {
        let started_us = self.clock.boot_us();
        let mut request = Request { metrics: self.metrics.clone(), operation, result: Outcome::dropped };
        let answer = asking.await;
        request.result = answer.as_ref().map_or_else(Outcome::of, outcome);
        let took_us = self.clock.boot_us().saturating_sub(started_us);
        self.metrics.seconds.get_or_create(&OperationLabel { operation }).observe(took_us as f64 / 1e6);
        answer
    }
}

/// An operation under way; counted when it ends or is dropped.
struct Request {
    metrics: Metrics,
    operation: Operation,
    result: Outcome,
}

impl Drop for Request {
    fn drop(&mut self) {
        let (operation, result) = (self.operation, self.result);
        self.metrics.requests.get_or_create(&RequestLabels { operation, result }).inc();
    }
}

impl fmt::Debug for MeasuredMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl MetaStore for MeasuredMeta {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetaError> {
        self.measured(Operation::get, self.inner.get(key), |_| Outcome::ok).await
    }

    async fn range(&self, prefix: &str) -> Result<Snapshot, MetaError> {
        self.measured(Operation::range, self.inner.range(prefix), |_| Outcome::ok).await
    }

    async fn txn(&self, compares: Vec<Compare>, writes: Vec<Write>) -> Result<TxnOutcome, MetaError> {
        let outcome = |outcome: &TxnOutcome| match outcome {
            TxnOutcome::Committed { .. } => Outcome::ok,
            TxnOutcome::Conflict => Outcome::conflict,
        };
        self.measured(Operation::txn, self.inner.txn(compares, writes), outcome).await
    }

    async fn watch(&self, prefix: &str, from: u64) -> Result<Watch, MetaError> {
        self.measured(Operation::watch, self.inner.watch(prefix, from), |_| Outcome::ok).await
    }

    async fn lease_grant(&self, ttl_ms: u64) -> Result<i64, MetaError> {
        self.measured(Operation::lease_grant, self.inner.lease_grant(ttl_ms), |_| Outcome::ok).await
    }

    async fn lease_keep_alive(&self, lease: i64) -> Result<(), MetaError> {
        self.measured(Operation::lease_keep_alive, self.inner.lease_keep_alive(lease), |()| Outcome::ok).await
    }

    async fn lease_revoke(&self, lease: i64) -> Result<(), MetaError> {
        self.measured(Operation::lease_revoke, self.inner.lease_revoke(lease), |()| Outcome::ok).await
    }
}
