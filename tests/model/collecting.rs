//! The garbage collector of the model: a mark lists (or does so last), reads the records, then one stream after the other;
//! what the marks agree on is deleted by a later step.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use esker::base::SessionId;
use esker::format::keys;
use esker::format::prelude::PRELUDE_BYTES;
use esker::format::state::ObjectRef;
use esker::objstore::ObjectMeta;
use esker::upkeep::{Collector, Listing as Stored, LiveSet, SEAL_KEPT_MS};

use crate::rules::{Flaw, Rules};
use crate::world::{Object, Record, World};

/// How far the collector is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Collecting {
    pub mark: Option<Mark>,
    /// Keys that the first mark has found to be garbage.
    pub marked: Option<BTreeSet<String>>,
    /// Keys that may be deleted.
    pub doomed: BTreeSet<String>,
}

/// A mark under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mark {
    pub by: SessionId,
    pub records: Vec<Record>,
    pub unread: BTreeSet<SessionId>,
    pub live: BTreeSet<SessionId>,
    pub objects: BTreeSet<ObjectRef>,
    pub ended_before: u64,
    pub listed: Option<Listing>,
}

/// Keys of objects that are no seals, of seals, and of checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Listing {
    segments: Vec<(String, bool)>,
    checkpoints: Vec<String>,
}

impl World {
    pub fn begin_mark(&mut self, rules: &Rules, by: SessionId) {
        self.left.marks -= 1;
        let unsealed = self.sessions.iter().filter(|(_, sealed)| sealed.is_none()).map(|(session, _)| *session);
        let records = match rules.flaw {
            Flaw::MarkFromOldImage => World::new(rules).records,
            _ => self.records.clone(),
        };
        let named = |record: &Record| {
            let from = record.assigned.from.iter().map(|from| from.session);
            from.chain([record.assigned.session]).collect::<Vec<_>>()
        };
        let mut unread: BTreeSet<SessionId> = records.iter().flat_map(named).collect();
        let live = unsealed.chain(unread.iter().copied()).collect();
        if rules.flaw == Flaw::MarkFromOwnStates {
            unread.retain(|session| *session == by);
        }
        let ended_before = self.processes.len() as u64 + 1;
        let listed = rules.lists_first.then(|| self.list());
        self.collecting.mark = Some(Mark { by, records, unread, live, objects: BTreeSet::new(), ended_before, listed });
    }

    pub fn read_for_mark(&mut self, session: SessionId) {
        let stream = self.load(session);
        if let Some(mark) = &mut self.collecting.mark
            && mark.unread.remove(&session)
        {
            let runs = stream.partitions.values().flat_map(|state| &state.runs);
            mark.objects.extend(runs.map(|run| run.object));
        }
    }

    pub fn end_mark(&mut self, rules: &Rules) {
        let Some(mark) = self.collecting.mark.take() else { return };
        let assigned = |records: &[Record]| records.iter().map(|record| record.assigned.clone()).collect::<Vec<_>>();
        let unchecked = matches!(rules.flaw, Flaw::MarkWithoutCheck | Flaw::MarkFromOldImage);
        if !unchecked && assigned(&mark.records) != assigned(&self.records) {
            // A state may have been on its way from one stream to another and seen in neither.
            return;
        }
        let live = LiveSet {
            objects: mark.objects.into_iter().collect(),
            streams: mark.live.into_iter().collect(),
            ended_before: mark.ended_before,
            ..LiveSet::default()
        };
        let garbage = garbage(rules, &live, &mark.listed.unwrap_or_else(|| self.list()));
        match self.collecting.marked.take() {
            Some(first) => self.collecting.doomed = first.intersection(&garbage).cloned().collect(),
            None if rules.lists_first || rules.flaw == Flaw::OneMark => self.collecting.doomed = garbage,
            None => self.collecting.marked = Some(garbage),
        }
    }

    fn list(&self) -> Listing {
        let segment = |((id, seq), object): (&(SessionId, u64), &Arc<Object>)| {
            (keys::segment(*id, *seq), **object == Object::Seal)
        };
        Listing {
            segments: self.objects.iter().map(segment).collect(),
            checkpoints: self.checkpoints.keys().map(|(id, seq)| keys::checkpoint(*id, *seq)).collect(),
        }
    }

    pub fn delete_doomed(&mut self) {
        let doomed: HashSet<String> = std::mem::take(&mut self.collecting.doomed).into_iter().collect();
        self.objects.retain(|(id, seq), _| !doomed.contains(&keys::segment(*id, *seq)));
        self.checkpoints.retain(|(id, seq), _| !doomed.contains(&keys::checkpoint(*id, *seq)));
    }
}

/// What the broker's own collector calls garbage: it deletes what two of its passes find.
fn garbage(rules: &Rules, live: &LiveSet, listing: &Listing) -> BTreeSet<String> {
    let meta = |key: &String, size_bytes| ObjectMeta { key: key.clone(), size_bytes, modified_ms: 0 };
    let size = |seal: bool| PRELUDE_BYTES as u64 + u64::from(!seal);
    let segments: Vec<ObjectMeta> = listing.segments.iter().map(|(key, seal)| meta(key, size(*seal))).collect();
    let checkpoints: Vec<ObjectMeta> = listing.checkpoints.iter().map(|key| meta(key, 1_000)).collect();
    let wall_ms = if rules.flaw == Flaw::SealsCollected { SEAL_KEPT_MS } else { 0 };
    let mut collector = Collector::new(0);
    let listing = Stored { segments, checkpoints, runs: Vec::new() };
    collector.pass(live, &listing, 0, wall_ms);
    collector.pass(live, &listing, 0, wall_ms).into_iter().collect()
}
