//! A store in memory, for tests and the simulator: the same machine as the embedded store, without a file.
//!
//! Clones share one store, so that several simulated brokers can use it. Leases end by the given clock, checked at every
//! operation and by [`MemoryMeta::tick`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::machine::{Change, Judged, Machine};
use super::watchers::Watchers;
use super::{Compare, KeyValue, MetaError, MetaStore, Snapshot, TxnOutcome, Watch, Write};
use crate::base::Clock;

/// Pause between two looks at the leases, in milliseconds.
const TICK_MS: u64 = 100;

/// The store.
#[derive(Clone)]
pub struct MemoryMeta {
    clock: Clock,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    machine: Machine,
    watchers: Watchers,
}

impl MemoryMeta {
    /// An empty store.
    pub fn new(clock: Clock) -> Self {
        Self { clock, state: Arc::default() }
    }

    /// Ends leases in time from a task, too, for as long as the store is used; for clocks that move by themselves.
    pub fn with_ticks(self) -> Self {
        let (state, clock) = (Arc::downgrade(&self.state), self.clock.clone());
        tokio::spawn(async move {
            while let Some(state) = state.upgrade() {
                Self { clock: clock.clone(), state }.tick();
                tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
            }
        });
        self
    }

    /// Ends the leases whose time is over, for watchers to see it without another operation.
    pub fn tick(&self) {
        self.with(|_, _| ());
    }

    /// Runs one operation at a time, leases first.
    fn with<T>(&self, operate: impl FnOnce(&mut State, u64) -> T) -> T {
        let now_ms = self.clock.boot_ms();
        let mut state = self.state.lock();
        for lease in state.machine.expired(now_ms) {
            state.end_lease(lease);
        }
        operate(&mut state, now_ms)
    }
}

impl State {
    fn commit(&mut self, change: Change) {
        self.machine.apply(&change);
        self.watchers.publish(change);
    }

    fn end_lease(&mut self, lease: i64) {
        if let Some(change) = self.machine.lease_change(lease) {
            self.commit(change);
        }
        self.machine.end_lease(lease);
    }
}

impl fmt::Debug for MemoryMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryMeta")
    }
}

#[async_trait]
impl MetaStore for MemoryMeta {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetaError> {
        Ok(self.with(|state, _| state.machine.get(key)))
    }

    async fn range(&self, prefix: &str) -> Result<Snapshot, MetaError> {
        Ok(self.with(|state, _| state.machine.range(prefix)))
    }

    async fn txn(&self, compares: Vec<Compare>, writes: Vec<Write>) -> Result<TxnOutcome, MetaError> {
        self.with(|state, now_ms| {
            Ok(match state.machine.txn(&compares, &writes, now_ms)? {
                Judged::Conflict => TxnOutcome::Conflict,
                Judged::Unchanged { revision } => TxnOutcome::Committed { revision },
                Judged::Change(change) => {
                    let revision = change.revision;
                    state.commit(change);
                    TxnOutcome::Committed { revision }
                }
            })
        })
    }

    async fn watch(&self, prefix: &str, from: u64) -> Result<Watch, MetaError> {
        Ok(self.with(|state, _| state.watchers.watch(prefix, from)))
    }

    async fn lease_grant(&self, ttl_ms: u64) -> Result<i64, MetaError> {
        Ok(self.with(|state, now_ms| state.machine.grant(ttl_ms, now_ms)))
    }

    async fn lease_keep_alive(&self, lease: i64) -> Result<(), MetaError> {
        self.with(|state, now_ms| state.machine.keep_alive(lease, now_ms))
    }

    async fn lease_revoke(&self, lease: i64) -> Result<(), MetaError> {
        self.with(|state, _| state.end_lease(lease));
        Ok(())
    }
}
