//! What clients were told, and whether it can all be true: the rules of Jepsen's tests of Kafka.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use uuid::Uuid;

/// One record: which producer's, and its how manieth.
pub type RecordId = (u32, u64);

/// A partition of a topic.
pub type Partition = (String, i32);

/// Records that one acknowledgement promises, from its offset on.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    pub partition: Partition,
    pub offset: i64,
    pub acks: i16,
    pub ids: Vec<RecordId>,
}

/// A group's try to commit an offset.
#[derive(Debug, Clone, Copy)]
pub struct Commit {
    pub generation: i32,
    pub offset: i64,
    /// Whether it was acknowledged; `None` without an answer.
    pub told: Option<bool>,
}

/// Clones share one history.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
pub struct Known {
    pub sent: BTreeMap<Partition, BTreeSet<RecordId>>,
    pub idempotent: BTreeSet<u32>,
    pub acknowledged: Vec<Acknowledged>,
    /// What readers were given, by partition and offset.
    pub seen: BTreeMap<(Partition, i64), BTreeSet<RecordId>>,
    /// What the partitions hold in the end.
    pub found: BTreeMap<Partition, Vec<(i64, RecordId)>>,
    /// The same, read through the gRPC door.
    pub found_by_grpc: BTreeMap<Partition, Vec<(i64, RecordId)>>,
    /// The last offset of a group that was acknowledged, and the last that was tried.
    pub committed: BTreeMap<String, (i64, i64)>,
    /// Every try of a group to commit an offset, in order.
    pub commits: BTreeMap<(String, Partition), Vec<Commit>>,
    /// The ids of topics that were read.
    pub topics: BTreeMap<String, Uuid>,
    /// Offsets that members of a group were given.
    pub delivered: BTreeMap<(String, Partition), BTreeSet<i64>>,
    /// The lowest and the highest high watermark that was told under a leader epoch.
    pub watermarks: BTreeMap<Partition, BTreeMap<i32, (i64, i64)>>,
    /// What clients were refused: when (in milliseconds), who, why.
    pub refused: Vec<(u64, String, String)>,
    /// What was wrong on the spot.
    pub wrong: Vec<String>,
}

impl History {
    pub fn with<T>(&self, f: impl FnOnce(&mut Known) -> T) -> T {
        f(&mut self.0.lock())
    }

    pub fn wrong(&self, what: String) {
        self.0.lock().wrong.push(what);
    }
}

/// Most violations of one kind that are told.
const TOLD: usize = 5;

impl Known {
    /// Everything that cannot be true.
    pub fn violations(&self) -> Vec<String> {
        let mut all = Violations::default();
        for what in &self.wrong {
            all.add("told at once", what);
        }
        self.acknowledged_is_there(&mut all);
        for ((partition, offset), ids) in &self.seen {
            if ids.len() > 1 {
                all.add("inconsistent offsets", &format!("{partition:?} gave at {offset}: {ids:?}"));
            }
            let Some(found) = self.found.get(partition) else { continue };
            match found.binary_search_by_key(offset, |(at, _)| *at).ok().map(|at| found[at]) {
                Some((_, id)) if ids.contains(&id) => {}
                other => all.add("read and gone", &format!("{partition:?} gave at {offset}: {ids:?}, now {other:?}")),
            }
        }
        for (partition, found) in &self.found_by_grpc {
            let kafka = self.found.get(partition).map_or(&[][..], Vec::as_slice);
            if found != kafka {
                let differs = found.iter().zip(kafka).find(|(one, other)| one != other);
                let (here, there) = (found.len(), kafka.len());
                all.add("doors", &format!("{partition:?}: {here} records by gRPC, {there} by Kafka; {differs:?}"));
            }
        }
        self.watermarks_only_grow(&mut all);
        for ((group, partition), given) in &self.delivered {
            let found = self.found.get(partition).map_or(&[][..], Vec::as_slice);
            let mut missed = found.iter().map(|(offset, _)| *offset).filter(|offset| !given.contains(offset));
            if let Some(first) = missed.next() {
                let more = missed.count();
                all.add("skipped", &format!("{group} never got offset {first} of {partition:?}, and {more} more"));
            }
        }
        for (partition, found) in &self.found {
            self.partition_is_sound(partition, found, &mut all);
        }
        all.0
    }

    /// Under a later epoch there is all that was committed under an earlier one.
    fn watermarks_only_grow(&self, all: &mut Violations) {
        for (partition, epochs) in &self.watermarks {
            let mut before = (-1, 0);
            for (epoch, (least, most)) in epochs {
                if *least < before.1 {
                    let (old, high) = before;
                    all.add(
                        "high watermark",
                        &format!("{partition:?}: {high} under epoch {old}, then {least} under {epoch}"),
                    );
                }
                before = (*epoch, *most);
            }
        }
    }

    fn acknowledged_is_there(&self, all: &mut Violations) {
        for Acknowledged { partition, offset, acks, ids } in &self.acknowledged {
            if *acks != -1 {
                continue;
            }
            let Some(found) = self.found.get(partition) else {
                all.add("lost write", &format!("{partition:?}: {ids:?} were acknowledged at {offset}: not readable"));
                continue;
            };
            for (at, id) in (*offset..).zip(ids) {
                match found.binary_search_by_key(&at, |(offset, _)| *offset) {
                    Ok(index) if found[index].1 == *id => {}
                    Ok(index) => all.add(
                        "lost write",
                        &format!("{partition:?}: {id:?} was acknowledged at {at}, where {:?} is", found[index].1),
                    ),
                    Err(_) => {
                        all.add("lost write", &format!("{partition:?}: {id:?} was acknowledged at {at}: nothing"));
                    }
                }
            }
        }
    }

    fn partition_is_sound(&self, partition: &Partition, found: &[(i64, RecordId)], all: &mut Violations) {
        let mut places: BTreeMap<RecordId, i64> = BTreeMap::new();
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        for (expected, (offset, id)) in (0..).zip(found) {
            if *offset != expected {
                all.add("gap", &format!("{partition:?}: offset {offset} follows {}", expected - 1));
                return;
            }
            if !self.sent.get(partition).is_some_and(|sent| sent.contains(id)) {
                all.add("phantom", &format!("{partition:?}: {id:?} at {offset} was never sent there"));
            }
            if let Some(first) = places.insert(*id, *offset) {
                all.add("duplicate", &format!("{partition:?}: {id:?} at {first} and {offset}"));
            }
            let (producer, number) = *id;
            if self.idempotent.contains(&producer) && !last.contains_key(&producer) && number != 0 {
                all.add("order", &format!("{partition:?}: producer {producer} begins with {number} at {offset}"));
            }
            if let Some(before) = last.insert(producer, number)
                && self.idempotent.contains(&producer)
                && number != before + 1
            {
                all.add("order", &format!("{partition:?}: {id:?} at {offset} follows {before}"));
            }
        }
    }
}

#[derive(Default)]
struct Violations(Vec<String>);

impl Violations {
    fn add(&mut self, kind: &str, what: &str) {
        if self.0.iter().filter(|told| told.starts_with(kind)).count() < TOLD {
            self.0.push(format!("{kind}: {what}"));
        }
    }
}
