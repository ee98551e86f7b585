//! All shards of one coordinator in this process.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use parking_lot::RwLock;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::limits::{MAX_CONCURRENT_LOADS, QUEUE_REQUESTS};
use super::log::CoordinatorLog;
use super::machine::Machine;
use super::metrics::RuntimeMetrics;
use super::shard::{Request, Shard};
use crate::base::{Clock, Tasks};

/// Shards by partition. Cheap to clone.
pub struct Runtime<M: Machine>(Arc<Inner<M>>);

impl<M: Machine> Clone for Runtime<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<M: Machine> {
    log: Arc<dyn CoordinatorLog>,
    clock: Clock,
    tasks: Tasks,
    metrics: RuntimeMetrics,
    make: Arc<dyn Fn() -> M + Send + Sync>,
    loads: Arc<Semaphore>,
    shards: RwLock<Shards<M>>,
}

struct Shards<M: Machine> {
    led: BTreeMap<i32, Handle<M>>,
    /// Shards that were given up and may still have something in flight.
    ending: BTreeMap<i32, CancellationToken>,
}

struct Handle<M: Machine> {
    requests: mpsc::Sender<Request<M>>,
    resigned: CancellationToken,
    ended: CancellationToken,
}

/// The shard went away without an answer; the request may or may not have been handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator's shard went away")]
pub struct ShardGone;

impl<M: Machine> Runtime<M> {
    /// No shards yet; `make` makes an empty machine.
    pub fn new(
        log: Arc<dyn CoordinatorLog>,
        clock: Clock,
        tasks: Tasks,
        metrics: RuntimeMetrics,
        make: impl Fn() -> M + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            log,
            clock,
            tasks,
            metrics,
            make: Arc::new(make),
            loads: Arc::new(Semaphore::new(MAX_CONCURRENT_LOADS)),
            shards: RwLock::new(Shards { led: BTreeMap::new(), ending: BTreeMap::new() }),
        }))
    }

    /// This broker leads `partition` from now on: its state is loaded in the background. Nothing if it leads already.
    pub fn elect(&self, partition: i32) {
        let mut shards = self.0.shards.write();
        if shards.led.contains_key(&partition) {
            return;
        }
        let (sender, requests) = mpsc::channel(QUEUE_REQUESTS);
        let (resigned, ended) = (CancellationToken::new(), CancellationToken::new());
        let shard = Shard {
            partition,
            log: self.0.log.clone(),
            clock: self.0.clock.clone(),
            metrics: self.0.metrics.clone(),
            make: self.0.make.clone(),
            loads: self.0.loads.clone(),
            requests,
            resigned: resigned.clone(),
            stopping: self.0.tasks.stopping(),
            after: shards.ending.remove(&partition),
            ended: ended.clone(),
        };
        shards.led.insert(partition, Handle { requests: sender, resigned, ended });
        self.0.tasks.spawn("coordinator shard", shard.run());
    }

    /// This broker does not lead `partition` any more: everybody who waits is told so.
    pub fn resign(&self, partition: i32) {
        let mut shards = self.0.shards.write();
        if let Some(handle) = shards.led.remove(&partition) {
            handle.resigned.cancel();
            shards.ending.insert(partition, handle.ended);
        }
    }

    /// The partitions that are led here, in order.
    pub fn partitions(&self) -> Vec<i32> {
        self.0.shards.read().led.keys().copied().collect()
    }

    /// Asks the shard of `partition`; waits for room in its queue, then for the answer.
    pub async fn call(&self, partition: i32, input: M::Input) -> Result<M::Reply, ShardGone> {
        let requests = self.0.shards.read().led.get(&partition).map(|handle| handle.requests.clone());
        let Some(requests) = requests else { return Ok(M::refuse(&input, ResponseError::NotCoordinator)) };
        let (reply, answer) = oneshot::channel();
        match requests.send(Request { input, reply }).await {
            Ok(()) => answer.await.map_err(|_| ShardGone),
            Err(unsent) => Ok(M::refuse(&unsent.0.input, ResponseError::NotCoordinator)),
        }
    }
}
