//! Deadlines, each under a key; setting a key again moves it.

use std::collections::BTreeSet;
use std::hash::Hash;

use crate::base::HashMap;

/// A set of deadlines in milliseconds since boot.
#[derive(Debug)]
pub struct Timers<K> {
    by_key: HashMap<K, u64>,
    by_time: BTreeSet<(u64, K)>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { by_key: HashMap::default(), by_time: BTreeSet::new() }
    }
}

impl<K: Clone + Eq + Hash + Ord> Timers<K> {
    /// Sets or moves the deadline of `key`.
    pub fn set(&mut self, key: K, at_ms: u64) {
        self.cancel(&key);
        self.by_key.insert(key.clone(), at_ms);
        self.by_time.insert((at_ms, key));
    }

    /// Forgets `key`, if it is set.
    pub fn cancel(&mut self, key: &K) {
        if let Some((key, at_ms)) = self.by_key.remove_entry(key) {
            self.by_time.remove(&(at_ms, key));
        }
    }

    /// Takes the earliest deadline that is at or before `now_ms`.
    pub fn pop_due(&mut self, now_ms: u64) -> Option<K> {
        if self.next_ms()? > now_ms {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }

    /// The earliest deadline.
    pub fn next_ms(&self) -> Option<u64> {
        self.by_time.first().map(|(at_ms, _)| *at_ms)
    }

    /// The deadline of `key`.
    pub fn get(&self, key: &K) -> Option<u64> {
        self.by_key.get(key).copied()
    }
}
