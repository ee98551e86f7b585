//! A least-recently-used map with a limit on the weight of what it holds.

use std::collections::BTreeMap;
use std::hash::Hash;

use crate::base::HashMap;

/// The map. Weights are the caller's: bytes, mostly.
#[derive(Debug)]
pub struct Lru<K, V> {
    capacity: u64,
    weight: u64,
    evictions: u64,
    next_use: u64,
    by_key: HashMap<K, Held<V>>,
    /// Keys in the order of their last use.
    by_use: BTreeMap<u64, K>,
}

#[derive(Debug)]
struct Held<V> {
    value: V,
    weight: u64,
    used: u64,
}

impl<K: Eq + Hash + Clone, V: Clone> Lru<K, V> {
    /// Holds at most `capacity` of weight; 0 holds nothing that weighs something.
    pub fn new(capacity: u64) -> Self {
        Self { capacity, weight: 0, evictions: 0, next_use: 0, by_key: HashMap::default(), by_use: BTreeMap::new() }
    }

    /// The value, which becomes the most recently used.
    pub fn get(&mut self, key: &K) -> Option<V> {
        let held = self.by_key.get_mut(key)?;
        let key = self.by_use.remove(&held.used)?;
        held.used = self.next_use;
        self.by_use.insert(self.next_use, key);
        self.next_use += 1;
        Some(held.value.clone())
    }

    /// Whether the key is held; its place in the order stays.
    pub fn contains(&self, key: &K) -> bool {
        self.by_key.contains_key(key)
    }

    /// Puts a value in, replacing any, and drops the least recently used until the rest fits (the new one included).
    pub fn insert(&mut self, key: K, value: V, weight: u64) {
        self.remove(&key);
        let used = self.next_use;
        self.next_use += 1;
        self.weight += weight;
        self.by_use.insert(used, key.clone());
        self.by_key.insert(key, Held { value, weight, used });
        while self.weight > self.capacity {
            let Some((_, oldest)) = self.by_use.first_key_value() else { break };
            let oldest = oldest.clone();
            self.remove(&oldest);
            self.evictions += 1;
        }
    }

    /// Drops a value.
    pub fn remove(&mut self, key: &K) {
        if let Some(held) = self.by_key.remove(key) {
            self.by_use.remove(&held.used);
            self.weight -= held.weight;
        }
    }

    /// Weight of all that is held.
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// Values dropped for want of room, since the map was made.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }
}
