//! The metadata store as one broker sees it: away, slow, its answers lost, its watches late or compacted.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use esker::base::Clock;
use esker::base::clock::Source;
use esker::meta::{Compare, Event, KeyValue, MemoryMeta, MetaError, MetaStore, Snapshot, TxnOutcome, Watch, Write};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::world::{Place, WALL_START_MS, World};

const TIMEOUT: Duration = Duration::from_secs(2);
/// Changes on their way to one watcher.
const WATCH_QUEUE: usize = 4096;

/// The store itself. Clones share it.
#[derive(Clone)]
pub struct Registry {
    world: World,
    store: MemoryMeta,
    lost_reply: Arc<Mutex<f64>>,
    clock: StoppingClock,
    relays: Arc<Mutex<Vec<Relay>>>,
}

/// A clock that stands still while the store is down.
#[derive(Clone)]
struct StoppingClock {
    world: World,
    /// When it was stopped, if it is, and for how many microseconds it was before.
    stopped: Arc<Mutex<(Option<u64>, u64)>>,
}

impl Source for StoppingClock {
    fn wall_ms(&self) -> i64 {
        WALL_START_MS + self.world.now_ms() as i64
    }

    fn boot_us(&self) -> u64 {
        let (at_us, lost_us) = *self.stopped.lock();
        at_us.unwrap_or_else(|| self.world.now_us()) - lost_us
    }
}

/// One watch, on its way to its broker.
struct Relay {
    place: Place,
    events: Watch,
    to: Option<mpsc::Sender<Vec<Event>>>,
    /// When the last of them arrives; they arrive in order.
    due_us: u64,
}

impl Registry {
    pub fn new(world: &World) -> Self {
        let clock = StoppingClock { world: world.clone(), stopped: Arc::default() };
        let store = MemoryMeta::new(Clock::of(clock.clone()));
        Self { world: world.clone(), store, lost_reply: Arc::default(), clock, relays: Arc::default() }
    }

    /// Stops or starts the store itself: while it is down leases do not run out, as etcd does it.
    pub fn set_stopped(&self, stopped: bool) {
        let now_us = self.world.now_us();
        let mut state = self.clock.stopped.lock();
        let (at_us, lost_us) = *state;
        *state = match (at_us, stopped) {
            (None, true) => (Some(now_us), lost_us),
            (Some(at_us), false) => (None, lost_us + now_us - at_us),
            _ => return,
        };
    }

    /// Whether `place` gets an answer.
    fn answers(&self, place: Place) -> bool {
        self.clock.stopped.lock().0.is_none() && self.world.reaches(place, Place::Meta)
    }

    pub fn set_lost_reply(&self, chance: f64) {
        *self.lost_reply.lock() = chance;
    }

    /// Ends leases that are over and moves events on to whoever can be reached.
    pub fn tick(&self) {
        self.store.tick();
        let mut relays = self.relays.lock();
        relays.retain_mut(|relay| {
            if relay.to.as_ref().is_none_or(mpsc::Sender::is_closed) {
                return false;
            }
            if !self.answers(relay.place) {
                return true;
            }
            while let Ok(events) = relay.events.try_recv() {
                let last = matches!(events.as_slice(), [Event::Resync]);
                let Some(to) = relay.to.clone() else { break };
                relay.due_us = relay.due_us.max(self.world.now_us() + self.world.between(500, 3_000));
                self.world.at(relay.due_us, move || {
                    let _ = to.try_send(events);
                });
                if last {
                    relay.to = None;
                }
            }
            true
        });
    }

    /// Makes every watch that `place` has begin anew, as a compaction during an absence would.
    pub fn compact(&self, place: Place) {
        for relay in self.relays.lock().iter_mut().filter(|relay| relay.place == place) {
            if let Some(to) = relay.to.take() {
                self.world.after(3_000, move || {
                    let _ = to.try_send(vec![Event::Resync]);
                });
            }
        }
    }

    pub fn seen_from(&self, place: Place) -> SimMeta {
        SimMeta { registry: self.clone(), place }
    }
}

/// See the module.
#[derive(Clone)]
pub struct SimMeta {
    registry: Registry,
    place: Place,
}

impl fmt::Debug for SimMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimMeta")
    }
}

impl SimMeta {
    async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        carry_out: impl FnOnce(Registry) -> BoxFuture<'static, Result<T, MetaError>> + Send + 'static,
    ) -> Result<T, MetaError> {
        let unavailable = || MetaError::Unavailable { operation, reason: "no answer".to_owned() };
        let (world, place) = (self.registry.world.clone(), self.place);
        if !self.registry.answers(place) {
            tokio::time::sleep(TIMEOUT).await;
            return Err(unavailable());
        }
        let lost = world.happens(*self.registry.lost_reply.lock());
        let (there_us, back_us) = (world.between(300, 2_000), world.between(300, 2_000));
        let (answer, answered) = oneshot::channel();
        let (registry, far) = (self.registry.clone(), world.clone());
        world.after(there_us, move || {
            if !registry.answers(place) {
                return;
            }
            let near = registry.clone();
            let result = carry_out(registry).now_or_never().expect("a store in memory answers at once");
            far.trace("meta", format_args!("{place:?} {operation}: {}", if result.is_ok() { "done" } else { "no" }));
            far.after(back_us, move || {
                if !lost && near.answers(place) {
                    let _ = answer.send(result);
                }
            });
        });
        match tokio::time::timeout(TIMEOUT, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => {
                tokio::time::sleep(TIMEOUT).await;
                Err(unavailable())
            }
            Err(_) => Err(unavailable()),
        }
    }
}

#[async_trait]
impl MetaStore for SimMeta {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetaError> {
        let key = key.to_owned();
        self.call("get", |registry| async move { registry.store.get(&key).await }.boxed()).await
    }

    async fn range(&self, prefix: &str) -> Result<Snapshot, MetaError> {
        let prefix = prefix.to_owned();
        self.call("range", |registry| async move { registry.store.range(&prefix).await }.boxed()).await
    }

    async fn txn(&self, compares: Vec<Compare>, writes: Vec<Write>) -> Result<TxnOutcome, MetaError> {
        self.call("txn", |registry| async move { registry.store.txn(compares, writes).await }.boxed()).await
    }

    async fn watch(&self, prefix: &str, from: u64) -> Result<Watch, MetaError> {
        let (prefix, place) = (prefix.to_owned(), self.place);
        let watch = move |registry: Registry| {
            async move {
                let events = registry.store.watch(&prefix, from).await?;
                let (to, watch) = mpsc::channel(WATCH_QUEUE);
                registry.relays.lock().push(Relay { place, events, to: Some(to), due_us: 0 });
                Ok::<Watch, MetaError>(watch)
            }
            .boxed()
        };
        self.call("watch", watch).await
    }

    async fn lease_grant(&self, ttl_ms: u64) -> Result<i64, MetaError> {
        self.call("grant", move |registry| async move { registry.store.lease_grant(ttl_ms).await }.boxed()).await
    }

    async fn lease_keep_alive(&self, lease: i64) -> Result<(), MetaError> {
        let beat = move |registry: Registry| async move { registry.store.lease_keep_alive(lease).await }.boxed();
        self.call("keep alive", beat).await
    }

    async fn lease_revoke(&self, lease: i64) -> Result<(), MetaError> {
        self.call("revoke", move |registry| async move { registry.store.lease_revoke(lease).await }.boxed()).await
    }
}
