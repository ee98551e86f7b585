//! Randomness as an argument.

#![allow(clippy::disallowed_methods, reason = "this is the one file that asks the machine for entropy")]

use std::sync::Arc;

use parking_lot::Mutex;
use uuid::Uuid;

/// A source of random numbers. Cheap to clone; clones draw from one sequence.
///
/// Not for secrets: the generator is fast and seedable, not cryptographic.
#[derive(Clone, Debug)]
pub struct Rng(Arc<Mutex<fastrand::Rng>>);

impl Rng {
    /// Seeded by the machine.
    pub fn system() -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::new())))
    }

    /// The same seed gives the same sequence.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    /// Any u64.
    pub fn u64(&self) -> u64 {
        self.0.lock().u64(..)
    }

    /// A number in `0..below`; 0 when `below` is 0.
    pub fn below(&self, below: u64) -> u64 {
        if below == 0 { 0 } else { self.0.lock().u64(..below) }
    }

    /// A number in `[0, 1)`.
    pub fn fraction(&self) -> f64 {
        self.0.lock().f64()
    }

    /// A random (version 4) UUID.
    pub fn uuid(&self) -> Uuid {
        uuid::Builder::from_random_bytes(self.0.lock().u128(..).to_le_bytes()).into_uuid()
    }
}
