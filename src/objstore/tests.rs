//! Tests of the parts; the behaviour of whole stores is in `tests/contract/objstore.rs`.

mod fault;
mod hedge;
mod key;
mod local;
mod metrics;
mod open;
mod probe;
mod retry;
mod s3;
mod unique;
mod unique_faults;

use std::sync::Arc;

use super::fault::{FaultStore, Faults};
use super::{MemoryStore, ObjectStore};
use crate::base::{Clock, Rng};

/// A store in memory, and the handle that makes it misbehave.
fn faulty(seed: u64) -> (Arc<dyn ObjectStore>, Faults, MemoryStore) {
    let faults = Faults::new(Rng::seeded(seed));
    let memory = MemoryStore::new(Clock::system());
    let store = FaultStore::new(Arc::new(memory.clone()), faults.clone());
    (Arc::new(store), faults, memory)
}
