//! Brokers that have just left. Pure: images and times come in.
//!
//! Clients are told of them for a few seconds more, as Kafka tells of a broker until its session times out. One that hears in
//! the same answer that a broker is gone and that its partitions have new leaders takes the broker away while it moves the
//! partitions: librdkafka 2.16 forgets some of the new leaders in that, and asks again only a second later. And one that is
//! told of nobody at all, because every session has ended at once, has nobody left to ask: while nobody lives, those who lived
//! last stay.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::format::metadata::BrokerRecord;

/// For how long a broker is told of after it has left, in milliseconds: Kafka's default of a broker's session timeout.
const KEPT_MS: u64 = 9_000;

/// Brokers by id.
pub type Brokers = BTreeMap<i32, Arc<BrokerRecord>>;

/// Who was alive a moment ago and is not now, by broker id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Departed(BTreeMap<i32, (u64, Arc<BrokerRecord>)>);

impl Departed {
    /// The next picture: those `before` who are not among the `living` have left at `now_ms` (since boot).
    pub fn next(&self, before: &Brokers, living: &Brokers, now_ms: u64) -> Self {
        let mut next = self.0.clone();
        next.retain(|_, (left_ms, _)| is_kept(*left_ms, living, now_ms));
        next.extend(before.iter().map(|(id, broker)| (*id, (now_ms, broker.clone()))));
        next.retain(|id, _| !living.contains_key(id));
        Self(next)
    }

    /// The living, and who has left a moment before `now_ms` (since boot).
    pub fn with(&self, living: &Brokers, now_ms: u64) -> Brokers {
        let kept = self.0.iter().filter(|(_, (left_ms, _))| is_kept(*left_ms, living, now_ms));
        let mut all: Brokers = kept.map(|(id, (_, broker))| (*id, broker.clone())).collect();
        all.extend(living.iter().map(|(id, broker)| (*id, broker.clone())));
        all
    }
}

fn is_kept(left_ms: u64, living: &Brokers, now_ms: u64) -> bool {
    living.is_empty() || now_ms.saturating_sub(left_ms) < KEPT_MS
}
