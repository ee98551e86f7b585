//! When nothing of a deleted topic is left in the object store. Pure: what a look at everything showed comes in, topics that
//! may be forgotten go out.
//!
//! The controller asks this, since it alone looks at the streams of all brokers. A topic is gone once
//! 1. no stream that is written, or may still be read, holds a partition of it: every broker that led one has dropped it, and
//!    that is committed;
//! 2. in each of these streams, everything up to where it then ended is covered by checkpoints, or the stream itself is no
//!    longer needed: the topic's segments are garbage, unless other topics' runs lie in them too (then they go with those);
//! 3. what was garbage at that moment was deleted.
//!
//! A crash, or another controller, begins anew: the topic's record is still there.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::collect::{Collector, Covered};
use crate::base::SessionId;

/// What a look at the streams showed, as far as deleted topics are concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traces {
    /// Topics of which some stream holds a partition.
    pub topics: HashSet<Uuid>,
    /// Where each stream ended: its first seq that was not committed.
    pub ends: BTreeMap<SessionId, u64>,
}

/// A topic that no stream holds any more.
#[derive(Debug)]
struct Gone {
    /// Streams that may have segments of it which a recovery would still read, and where they ended.
    uncovered: BTreeMap<SessionId, u64>,
    /// When all its segments were garbage for the first time, in milliseconds since boot.
    garbage_since_ms: Option<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Deletions {
    gone: HashMap<Uuid, Gone>,
}

impl Deletions {
    /// Forgets what was seen: another broker looks from now on.
    pub fn forget(&mut self) {
        self.gone.clear();
    }

    /// One look, after the collector's pass over the same listing. `deleted` are the topics on record as deleted before the
    /// look began. Returns those of which nothing is left, again and again until they are not in `deleted` any more.
    pub fn pass(
        &mut self,
        deleted: &HashSet<Uuid>,
        traces: &Traces,
        covered: &Covered,
        collector: &Collector,
        boot_ms: u64,
    ) -> Vec<Uuid> {
        self.gone.retain(|topic, _| deleted.contains(topic) && !traces.topics.contains(topic));
        for topic in deleted.difference(&traces.topics) {
            let seen = self.gone.entry(*topic);
            let gone = seen.or_insert_with(|| Gone { uncovered: traces.ends.clone(), garbage_since_ms: None });
            gone.uncovered.retain(|session, end| end.checked_sub(1).is_some_and(|last| !covered.has(*session, last)));
            // A full table of marks may have left some of its segments out.
            if gone.uncovered.is_empty() && gone.garbage_since_ms.is_none() && !collector.is_full() {
                gone.garbage_since_ms = Some(boot_ms);
            }
        }
        let oldest_ms = collector.oldest_mark_ms().unwrap_or(u64::MAX);
        let finished =
            self.gone.iter().filter(|(_, gone)| gone.garbage_since_ms.is_some_and(|since| since < oldest_ms));
        let mut finished: Vec<Uuid> = finished.map(|(topic, _)| *topic).collect();
        finished.sort_unstable();
        finished
    }
}
