//! Hash maps whose order can be fixed.
//!
//! The standard library's maps iterate in another order in every process, and where that order reaches an effect (which
//! task wakes first, which entry is written first) the simulator could not repeat a run. These are the same maps with the
//! same keyed hash; the key comes from the machine once per process, so that nobody outside can guess collisions, unless
//! [`fix_order`] says otherwise.

use std::cell::Cell;
use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};
use std::sync::OnceLock;

/// As the standard library's; made with `default()`.
pub type HashMap<K, V> = std::collections::HashMap<K, V, Order>;
/// As the standard library's; made with `default()`.
pub type HashSet<T> = std::collections::HashSet<T, Order>;

#[cfg(test)]
mod tests;

thread_local! {
    static FIXED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Maps that this thread makes from now on hash with `key`: for the simulator, whose brokers live in one thread.
pub fn fix_order(key: u64) {
    FIXED.set(Some(key));
}

/// The key of one map's hash.
#[derive(Debug, Clone, Copy)]
pub struct Order(u64);

impl Default for Order {
    fn default() -> Self {
        static OF_PROCESS: OnceLock<u64> = OnceLock::new();
        Self(FIXED.get().unwrap_or_else(|| *OF_PROCESS.get_or_init(|| RandomState::new().hash_one(0_u64))))
    }
}

impl BuildHasher for Order {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}
