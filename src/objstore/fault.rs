//! A store that misbehaves as told: for tests of the floors above and for the simulator, not for production.
//!
//! Faults come from rules (the first matching rule acts, as often as it says) and then by chance from a seed, so that one
//! seed and one order of requests give one run. Nothing is lost by itself: a fault says exactly what happened inside.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::sleep;

use super::operation::Operation;
use super::{Created, ObjectMeta, ObjectStore, Payload, StoreError};
use crate::base::Rng;

/// What goes wrong with one request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It is carried out this much later, in milliseconds.
    Delay(u64),
    /// It is not carried out; the answer is `Unavailable` (a 503, a refused connection).
    Unavailable,
    /// It is carried out; the answer is `Unavailable` (the reply was lost).
    LostReply,
    /// It is not carried out; the answer says that another operation is in flight (S3's 409).
    Conflict,
    /// It is not carried out; the answer is `Refused`.
    Refused,
    /// It waits for the gate, then is carried out and answered.
    HangBefore(Gate),
    /// It is carried out; the answer waits for the gate.
    HangAfter(Gate),
    /// The answer is `Unavailable` at once; it is carried out when the gate opens (a write that lands late).
    Late(Gate),
    /// A read gives one wrong byte; other requests are carried out as usual.
    Corrupt,
    /// A listing breaks with `Unavailable` after this many objects; other requests are carried out as usual.
    BreakAfter(usize),
}

/// Holds requests until it is opened; then it stays open.
#[derive(Debug, Clone)]
pub struct Gate(Arc<watch::Sender<Passage>>);

#[derive(Debug, Clone, Copy, Default)]
struct Passage {
    open: bool,
    arrived: usize,
}

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Passage::default())))
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets everybody through, now and later.
    pub fn open(&self) {
        self.0.send_modify(|passage| passage.open = true);
    }

    /// Resolves when `requests` have come to the gate since it was made.
    pub async fn reached_by(&self, requests: usize) {
        let mut passage = self.0.subscribe();
        // The sender lives in `self`.
        let _ = passage.wait_for(|passage| passage.arrived >= requests).await;
    }

    async fn pass(&self) {
        self.0.send_modify(|passage| passage.arrived += 1);
        let mut passage = self.0.subscribe();
        let _ = passage.wait_for(|passage| passage.open).await;
    }
}

/// Which requests meet a fault.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Only requests of this kind.
    pub operation: Option<Operation>,
    /// Only keys that contain this.
    pub key_contains: String,
    /// Matching requests that pass before the first fault.
    pub skip: u32,
    /// Faults in all; the rule is then used up.
    pub times: u32,
    /// What happens.
    pub fault: Fault,
}

impl Rule {
    /// The next request of this kind on a key that contains `key_contains` meets `fault`, once.
    pub fn once(operation: Operation, key_contains: &str, fault: Fault) -> Self {
        Self { operation: Some(operation), key_contains: key_contains.to_owned(), skip: 0, times: 1, fault }
    }

    /// Every such request does.
    pub fn always(operation: Operation, key_contains: &str, fault: Fault) -> Self {
        Self { times: u32::MAX, ..Self::once(operation, key_contains, fault) }
    }
}

/// Chances of faults, each from 0 to 1; they are tried in this order and at most one happens (a delay may come on top).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Chances {
    /// [`Fault::Unavailable`]
    pub unavailable: f64,
    /// [`Fault::LostReply`]
    pub lost_reply: f64,
    /// [`Fault::Conflict`], of creates only.
    pub conflict: f64,
    /// [`Fault::Corrupt`], of reads only.
    pub corrupt: f64,
    /// [`Fault::Delay`] of up to `delay_ms_max`.
    pub delay: f64,
    /// Longest delay by chance, in milliseconds.
    pub delay_ms_max: u64,
}

/// The handle by which a test makes trouble. Clones share it.
#[derive(Debug, Clone)]
pub struct Faults(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    rules: Vec<Rule>,
    chances: Chances,
    rng: Rng,
    down: bool,
    requests: Vec<(Operation, String)>,
}

/// Requests that are remembered; older ones are forgotten.
const REQUESTS_MAX: usize = 100_000;

impl Faults {
    /// No faults; chances will be drawn from `rng`.
    pub fn new(rng: Rng) -> Self {
        let chances = Chances::default();
        Self(Arc::new(Mutex::new(State { rules: Vec::new(), chances, rng, down: false, requests: Vec::new() })))
    }

    /// Adds a rule after the others.
    pub fn add(&self, rule: Rule) {
        self.0.lock().rules.push(rule);
    }

    /// Sets the chances of faults that no rule decides.
    pub fn set_chances(&self, chances: Chances) {
        self.0.lock().chances = chances;
    }

    /// While down, every request is `Unavailable` and not carried out, whatever rules say.
    pub fn set_down(&self, down: bool) {
        self.0.lock().down = down;
    }

    /// Removes rules and chances and ends an outage.
    pub fn clear(&self) {
        let mut state = self.0.lock();
        state.rules.clear();
        state.chances = Chances::default();
        state.down = false;
    }

    /// How many requests of this kind came, on keys that contain `key_contains`.
    pub fn count(&self, operation: Operation, key_contains: &str) -> usize {
        let state = self.0.lock();
        state.requests.iter().filter(|(kind, key)| *kind == operation && key.contains(key_contains)).count()
    }

    /// The faults of one request, in the order in which they happen.
    fn decide(&self, operation: Operation, key: &str) -> (Option<Fault>, Option<u64>) {
        let mut guard = self.0.lock();
        let state = &mut *guard;
        if state.requests.len() >= REQUESTS_MAX {
            state.requests.drain(..REQUESTS_MAX / 2);
        }
        state.requests.push((operation, key.to_owned()));
        if state.down {
            return (Some(Fault::Unavailable), None);
        }
        for rule in &mut state.rules {
            if rule.operation.is_some_and(|only| only != operation) || !key.contains(&rule.key_contains) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if rule.times > 0 {
                rule.times = if rule.times == u32::MAX { u32::MAX } else { rule.times - 1 };
                return (Some(rule.fault.clone()), None);
            }
        }
        let (chances, rng) = (state.chances, &state.rng);
        let happens = |chance: f64| chance > 0.0 && rng.fraction() < chance;
        let delay_ms = happens(chances.delay).then(|| rng.below(chances.delay_ms_max + 1));
        let fault = if happens(chances.unavailable) {
            Some(Fault::Unavailable)
        } else if happens(chances.lost_reply) {
            Some(Fault::LostReply)
        } else if operation == Operation::create && happens(chances.conflict) {
            Some(Fault::Conflict)
        } else if operation == Operation::get && happens(chances.corrupt) {
            Some(Fault::Corrupt)
        } else {
            None
        };
        (fault, delay_ms)
    }

    fn spoil(&self, bytes: &Bytes) -> Bytes {
        let mut spoiled = bytes.to_vec();
        let (at, bit) = {
            let state = self.0.lock();
            (state.rng.below(bytes.len() as u64) as usize, state.rng.below(8))
        };
        if let Some(byte) = spoiled.get_mut(at) {
            *byte ^= 1 << bit;
        }
        spoiled.into()
    }
}

/// The misbehaving store.
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    faults: Faults,
}

impl FaultStore {
    /// Puts `faults` between the caller and `inner`.
    pub fn new(inner: Arc<dyn ObjectStore>, faults: Faults) -> Self {
        Self { inner, faults }
    }

    async fn run<T, F>(&self, operation: Operation, key: &str, request: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(Arc<dyn ObjectStore>, String) -> BoxFuture<'static, Result<T, StoreError>> + Send,
    {
        let decided = self.faults.decide(operation, key);
        self.carry_out(decided, operation, key, request).await
    }

    async fn read<F>(&self, key: &str, request: F) -> Result<Bytes, StoreError>
    where
        F: FnOnce(Arc<dyn ObjectStore>, String) -> BoxFuture<'static, Result<Bytes, StoreError>> + Send,
    {
        let decided = self.faults.decide(Operation::get, key);
        let spoil = matches!(decided.0, Some(Fault::Corrupt));
        let bytes = self.carry_out(decided, Operation::get, key, request).await?;
        Ok(if spoil { self.faults.spoil(&bytes) } else { bytes })
    }

    async fn carry_out<T, F>(
        &self,
        (fault, delay_ms): (Option<Fault>, Option<u64>),
        operation: Operation,
        key: &str,
        request: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(Arc<dyn ObjectStore>, String) -> BoxFuture<'static, Result<T, StoreError>> + Send,
    {
        if let Some(delay_ms) = delay_ms {
            sleep(Duration::from_millis(delay_ms)).await;
        }
        let inside = |request: F| request(self.inner.clone(), key.to_owned());
        match fault {
            None | Some(Fault::Corrupt | Fault::BreakAfter(_)) => inside(request).await,
            Some(Fault::Delay(delay_ms)) => {
                sleep(Duration::from_millis(delay_ms)).await;
                inside(request).await
            }
            Some(Fault::Unavailable) => Err(unavailable(operation, key, "injected: 503")),
            Some(Fault::LostReply) => {
                let _ = inside(request).await;
                Err(unavailable(operation, key, "injected: reply lost"))
            }
            Some(Fault::Conflict) => {
                Err(unavailable(operation, key, "injected: another operation on the key is in flight"))
            }
            Some(Fault::Refused) => Err(StoreError::Refused {
                operation: name(operation),
                key: key.to_owned(),
                reason: "injected: 403".to_owned(),
            }),
            Some(Fault::HangBefore(gate)) => {
                gate.pass().await;
                inside(request).await
            }
            Some(Fault::HangAfter(gate)) => {
                let answer = inside(request).await;
                gate.pass().await;
                answer
            }
            Some(Fault::Late(gate)) => {
                let late = inside(request);
                tokio::spawn(async move {
                    gate.pass().await;
                    let _ = late.await;
                });
                Err(unavailable(operation, key, "injected: timed out"))
            }
        }
    }
}

fn name(operation: Operation) -> &'static str {
    match operation {
        Operation::get => "get",
        Operation::size => "size",
        Operation::put => "put",
        Operation::create => "create",
        Operation::delete => "delete",
        Operation::list => "list",
    }
}

fn unavailable(operation: Operation, key: &str, reason: &str) -> StoreError {
    StoreError::Unavailable { operation: name(operation), key: key.to_owned(), reason: reason.to_owned() }
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {:?}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        self.read(key, |inner, key| Box::pin(async move { inner.get(&key).await })).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.read(key, |inner, key| Box::pin(async move { inner.get_range(&key, range).await })).await
    }

    async fn size(&self, key: &str) -> Result<u64, StoreError> {
        self.run(Operation::size, key, |inner, key| Box::pin(async move { inner.size(&key).await })).await
    }

    async fn put(&self, key: &str, payload: Payload) -> Result<(), StoreError> {
        self.run(Operation::put, key, |inner, key| Box::pin(async move { inner.put(&key, payload).await })).await
    }

    async fn create(&self, key: &str, payload: Payload) -> Result<Created, StoreError> {
        self.run(Operation::create, key, |inner, key| Box::pin(async move { inner.create(&key, payload).await })).await
    }

    async fn create_from_file(&self, key: &str, path: &Path, payload: Payload) -> Result<Created, StoreError> {
        let path = path.to_owned();
        let request = |inner: Arc<dyn ObjectStore>, key: String| -> BoxFuture<'static, _> {
            Box::pin(async move { inner.create_from_file(&key, &path, payload).await })
        };
        self.run(Operation::create, key, request).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.run(Operation::delete, key, |inner, key| Box::pin(async move { inner.delete(&key).await })).await
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let decided = self.faults.decide(Operation::list, prefix);
        let objects = self.inner.list(prefix, start_after);
        let broken = |after: usize, objects: BoxStream<'static, _>| {
            let error = unavailable(Operation::list, prefix, "injected: listing broke");
            objects.take(after).chain(futures::stream::iter([Err(error)])).boxed()
        };
        let refused =
            StoreError::Refused { operation: "list", key: prefix.to_owned(), reason: "injected: 403".to_owned() };
        let objects = match decided.0 {
            None | Some(Fault::Corrupt) => objects,
            Some(Fault::BreakAfter(after)) => broken(after, objects),
            Some(Fault::Unavailable | Fault::LostReply | Fault::Conflict | Fault::Late(_)) => broken(0, objects),
            Some(Fault::Refused) => futures::stream::iter([Err(refused)]).boxed(),
            Some(Fault::Delay(delay_ms)) => after(sleep(Duration::from_millis(delay_ms)), objects),
            Some(Fault::HangBefore(gate) | Fault::HangAfter(gate)) => after(async move { gate.pass().await }, objects),
        };
        match decided.1 {
            Some(delay_ms) => after(sleep(Duration::from_millis(delay_ms)), objects),
            None => objects,
        }
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }
}

/// The stream, from when `wait` is over.
fn after<T: Send + 'static>(
    wait: impl Future<Output = ()> + Send + 'static,
    objects: BoxStream<'static, T>,
) -> BoxStream<'static, T> {
    futures::stream::once(async move {
        wait.await;
        objects
    })
    .flatten()
    .boxed()
}
