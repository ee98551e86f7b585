//! S3 as one broker sees it: every request and every reply takes its time and may be lost, refused for now, or late.
//!
//! A request that was sent is carried out by the world when it arrives, whatever has become of the sender.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use esker::base::Clock;
use esker::objstore::{Created, MemoryStore, ObjectMeta, ObjectStore, Payload, StoreError};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::ledger::Ledger;
use crate::run::Mutant;
use crate::world::{Place, World};

/// How the store behaves at the moment.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Chances, each of one request.
    pub unavailable: f64,
    pub lost_reply: f64,
    pub conflict: f64,
    /// A request that is carried out only after up to half a minute.
    pub late: f64,
    /// Usual time of a request, one way, in microseconds.
    pub latency_us: (u64, u64),
}

pub const FAIR: Weather =
    Weather { unavailable: 0.0, lost_reply: 0.0, conflict: 0.0, late: 0.0, latency_us: (2_000, 15_000) };
pub const ROUGH: Weather =
    Weather { unavailable: 0.1, lost_reply: 0.08, conflict: 0.08, late: 0.03, latency_us: (5_000, 300_000) };

/// Every request is told to slow down.
pub const STORM: Weather = Weather { unavailable: 1.0, ..FAIR };
/// Most requests hang until their sender has given up, and are carried out after all.
pub const STALL: Weather = Weather { late: 0.8, ..FAIR };

/// The bucket itself. Clones share it.
#[derive(Clone)]
pub struct Bucket {
    world: World,
    objects: MemoryStore,
    weather: Arc<Mutex<Weather>>,
    /// Reads what comes into being.
    pub ledger: Ledger,
    /// For the checker's own test.
    mutant: Mutant,
}

impl Bucket {
    pub fn new(world: &World, clock: Clock, mutant: Mutant) -> Self {
        let weather = Arc::new(Mutex::new(FAIR));
        Self { world: world.clone(), objects: MemoryStore::new(clock), weather, ledger: Ledger::default(), mutant }
    }

    pub fn set_weather(&self, weather: Weather) {
        *self.weather.lock() = weather;
    }

    /// The objects without any way to them.
    pub fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.objects.clone())
    }

    /// As `place` sees it; a request without an answer fails after `timeout_ms`.
    pub fn seen_from(&self, place: Place, timeout_ms: u64) -> SimStore {
        SimStore { bucket: self.clone(), place, timeout: Duration::from_millis(timeout_ms) }
    }
}

/// See the module.
#[derive(Clone)]
pub struct SimStore {
    bucket: Bucket,
    place: Place,
    timeout: Duration,
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sim://")
    }
}

enum Fate {
    Fine,
    Unavailable(&'static str),
    LostReply,
}

impl SimStore {
    fn unavailable(operation: &'static str, key: &str, reason: &str) -> StoreError {
        StoreError::Unavailable { operation, key: key.to_owned(), reason: reason.to_owned() }
    }

    async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &str,
        carry_out: impl FnOnce(MemoryStore) -> BoxFuture<'static, Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (world, place) = (self.bucket.world.clone(), self.place);
        let weather = *self.bucket.weather.lock();
        let (from_us, to_us) = weather.latency_us;
        let fate = if world.happens(weather.unavailable) {
            Fate::Unavailable("503 SlowDown")
        } else if operation == "create" && world.happens(weather.conflict) {
            Fate::Unavailable("409: another operation is in flight")
        } else if world.happens(weather.lost_reply) {
            Fate::LostReply
        } else {
            Fate::Fine
        };
        let late = world.happens(weather.late);
        let there_us = if late { world.between(1_000_000, 30_000_000) } else { world.between(from_us, to_us) };
        let back_us = world.between(from_us, to_us);
        let (answer, answered) = oneshot::channel();
        let objects = self.bucket.objects.clone();
        let (named, far) = (key.to_owned(), world.clone());
        if !world.reaches(place, Place::Store) {
            tokio::time::sleep(self.timeout).await;
            return Err(Self::unavailable(operation, key, "no way to the store"));
        }
        world.after(there_us, move || {
            if !far.reaches(place, Place::Store) && !late {
                return;
            }
            let result = match fate {
                Fate::Unavailable(reason) => Err(Self::unavailable(operation, &named, reason)),
                Fate::Fine | Fate::LostReply => {
                    carry_out(objects).now_or_never().expect("a store in memory answers at once")
                }
            };
            let told = match &result {
                Ok(_) => "done".to_owned(),
                Err(error) => error.to_string(),
            };
            far.trace("store", format_args!("{place:?} {operation} {named}: {told}"));
            if matches!(fate, Fate::LostReply) {
                return;
            }
            let near = far.clone();
            far.after(back_us, move || {
                if near.reaches(place, Place::Store) {
                    let _ = answer.send(result);
                }
            });
        });
        match tokio::time::timeout(self.timeout, answered).await {
            Ok(Ok(result)) => result,
            // The sender is dropped with a reply that is lost; nobody is told so at once.
            Ok(Err(_)) => {
                tokio::time::sleep(self.timeout).await;
                Err(Self::unavailable(operation, key, "timed out"))
            }
            Err(_) => Err(Self::unavailable(operation, key, "timed out")),
        }
    }
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        let wanted = key.to_owned();
        self.call("get", key, |store| async move { store.get(&wanted).await }.boxed()).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let wanted = key.to_owned();
        self.call("get", key, |store| async move { store.get_range(&wanted, range).await }.boxed()).await
    }

    async fn size(&self, key: &str) -> Result<u64, StoreError> {
        let wanted = key.to_owned();
        self.call("size", key, |store| async move { store.size(&wanted).await }.boxed()).await
    }

    async fn put(&self, key: &str, payload: Payload) -> Result<(), StoreError> {
        let wanted = key.to_owned();
        self.call("put", key, |store| async move { store.put(&wanted, payload).await }.boxed()).await
    }

    async fn create(&self, key: &str, payload: Payload) -> Result<Created, StoreError> {
        let wanted = key.to_owned();
        let forgets = self.bucket.mutant == Mutant::EarlyYes && self.bucket.world.happens(0.02);
        let ledger = self.bucket.ledger.clone();
        let create = move |store: MemoryStore| {
            async move {
                if forgets {
                    return Ok(Created::Yes);
                }
                let created = store.create(&wanted, payload).await?;
                if created == Created::Yes {
                    ledger.created(&wanted, store.get(&wanted).await?);
                }
                Ok(created)
            }
            .boxed()
        };
        self.call("create", key, create).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let wanted = key.to_owned();
        self.call("delete", key, |store| async move { store.delete(&wanted).await }.boxed()).await
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let (store, prefix, after) = (self.clone(), prefix.to_owned(), start_after.map(str::to_owned));
        let listed = async move {
            let wanted = prefix.clone();
            let list = move |store: MemoryStore| {
                let objects = store.list(&wanted, after.as_deref());
                objects.try_collect::<Vec<ObjectMeta>>().boxed()
            };
            store.call("list", &prefix, list).await
        };
        let objects = futures::stream::once(listed).map(|listed| match listed {
            Ok(objects) => futures::stream::iter(objects.into_iter().map(Ok).collect::<Vec<_>>()),
            Err(error) => futures::stream::iter(vec![Err(error)]),
        });
        objects.flatten().boxed()
    }
}
