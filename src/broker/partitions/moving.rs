//! Which partitions are on their way to this broker or from it, and since when. Pure: sets and times come in.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::RwLock;

use crate::base::TopicPartition;

/// Longest time for which writes to a partition are held while it moves, in milliseconds. What follows on the same connection
/// waits too, so it is short.
const HOLD_MS: u64 = 1_000;

/// See the module. It holds partitions that the catalogue gives to this broker, no others.
#[derive(Debug, Default)]
pub struct Moving(RwLock<BTreeMap<TopicPartition, u64>>);

impl Moving {
    /// These are moving now, at `now_ms` since boot, and no others.
    pub fn are(&self, partitions: &BTreeSet<TopicPartition>, now_ms: u64) {
        if partitions.is_empty() && self.0.read().is_empty() {
            return;
        }
        let mut since = self.0.write();
        since.retain(|partition, _| partitions.contains(partition));
        for partition in partitions {
            since.entry(*partition).or_insert(now_ms);
        }
    }

    /// For how many milliseconds more, at most, a write to `partition` is to be held; `None` if it is not: the partition does
    /// not move, or has done so for too long. `behind` says, of one that does not move as far as is known, whether more is to
    /// be known at once.
    pub fn hold_ms(&self, partition: TopicPartition, now_ms: u64, behind: impl FnOnce() -> bool) -> Option<u64> {
        let since_ms = self.0.read().get(&partition).copied();
        match since_ms {
            Some(since_ms) => (since_ms + HOLD_MS).checked_sub(now_ms).filter(|left_ms| *left_ms > 0),
            None => behind().then_some(HOLD_MS),
        }
    }
}
