//! Mark and sweep over the store's listing. Pure: listings, references and time come in, keys to delete go out.

use std::collections::{HashMap, HashSet};

use crate::base::SessionId;
use crate::format::keys;
use crate::format::prelude::PRELUDE_BYTES;
use crate::format::state::ObjectRef;
use crate::objstore::ObjectMeta;

/// Seals stay at least this long after they were written (DESIGN 2.3), in milliseconds.
pub const SEAL_KEPT_MS: i64 = 7 * 24 * 3600 * 1000;
/// Checkpoints of a live stream that stay: the newest, and one in case it is damaged.
pub const CHECKPOINTS_KEPT: usize = 2;
/// Most objects marked at a time; the rest is marked in later passes.
pub const MAX_MARKS: usize = 200_000;

/// What the store holds.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Segments and seals.
    pub segments: Vec<ObjectMeta>,
    /// Checkpoints.
    pub checkpoints: Vec<ObjectMeta>,
    /// Compacted runs.
    pub runs: Vec<ObjectMeta>,
}

impl Listing {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &ObjectMeta> {
        self.segments.iter().chain(&self.checkpoints).chain(&self.runs)
    }
}

/// What must stay, as known at one moment after the listing: what came into the store since then is not judged.
#[derive(Debug, Clone, Default)]
pub struct LiveSet {
    /// Objects that some partition's index names.
    pub objects: HashSet<ObjectRef>,
    /// Streams that are written, or that a recovery or a takeover may still read.
    pub streams: HashSet<SessionId>,
    /// Streams of sessions registered before this epoch that are not in `streams` have ended and are needed by nobody (a
    /// session is on record before its first object is).
    pub ended_before: u64,
    /// How far streams had come when their partitions were looked at: everything before this seq is in `objects`.
    pub ends: HashMap<SessionId, u64>,
}

impl LiveSet {
    fn has_ended(&self, session: SessionId) -> bool {
        session.epoch < self.ended_before && !self.streams.contains(&session)
    }
}

/// Which segments no recovery and no takeover reads any more: their streams have ended and are needed by nobody, or enough
/// checkpoints stand behind them.
#[derive(Debug)]
pub struct Covered<'a> {
    live: &'a LiveSet,
    newest: Newest,
}

impl<'a> Covered<'a> {
    /// Of a listing, and what was known after it.
    pub fn new(live: &'a LiveSet, checkpoints: &[ObjectMeta]) -> Self {
        Self { live, newest: newest_checkpoints(checkpoints) }
    }

    /// Whether segment `seq` of a session is one of them; then so are all before it.
    pub fn has(&self, session: SessionId, seq: u64) -> bool {
        self.live.has_ended(session) || self.oldest_kept(session).is_some_and(|kept| seq <= kept)
    }

    /// The oldest checkpoint that stays of a stream that goes on: segments after it are needed to recover from it. `None`
    /// while there are fewer than [`CHECKPOINTS_KEPT`]: then the stream may have to be read from its first segment.
    fn oldest_kept(&self, session: SessionId) -> Option<u64> {
        let seqs = self.newest.get(&session).filter(|_| self.live.streams.contains(&session))?;
        seqs.get(CHECKPOINTS_KEPT - 1).copied()
    }
}

/// Remembers marks between passes.
#[derive(Debug, Default)]
pub struct Collector {
    grace_ms: u64,
    marks: HashMap<String, u64>,
    /// Compacted runs of the last listing that were referred to at some time: nothing new will refer to them.
    named_runs: HashSet<ObjectRef>,
}

impl Collector {
    /// Objects go `grace_ms` after they were first found unreferenced, if they still are.
    pub fn new(grace_ms: u64) -> Self {
        Self { grace_ms, marks: HashMap::new(), named_runs: HashSet::new() }
    }

    /// Objects marked now.
    pub fn marked(&self) -> usize {
        self.marks.len()
    }

    /// When the oldest object that is marked now was marked, in milliseconds since boot.
    pub fn oldest_mark_ms(&self) -> Option<u64> {
        self.marks.values().min().copied()
    }

    /// Whether there may be garbage that is not marked yet.
    pub fn is_full(&self) -> bool {
        self.marks.len() >= MAX_MARKS
    }

    /// Forgets all marks: the grace period begins anew.
    pub fn forget(&mut self) {
        self.marks.clear();
    }

    /// One pass over everything under `log/`, `ckpt/` and `runs/`. Returns the keys that may be deleted now.
    pub fn pass(&mut self, live: &LiveSet, listing: &Listing, boot_ms: u64, wall_ms: i64) -> Vec<String> {
        let Listing { segments, checkpoints, runs } = listing;
        let covered = Covered::new(live, checkpoints);
        let mut garbage: Vec<&str> = Vec::new();
        for meta in segments {
            let Some((session, seq)) = keys::parse_segment(&meta.key) else { continue };
            let referenced = live.objects.contains(&ObjectRef::Segment { session, seq });
            let young_seal = meta.size_bytes == PRELUDE_BYTES as u64 && wall_ms - meta.modified_ms < SEAL_KEPT_MS;
            if covered.has(session, seq) && !referenced && !young_seal {
                garbage.push(&meta.key);
            }
        }
        for meta in checkpoints {
            let Some((session, seq)) = keys::parse_checkpoint(&meta.key) else { continue };
            let replaced = covered.oldest_kept(session).is_some_and(|kept| seq < kept);
            if replaced || live.has_ended(session) {
                garbage.push(&meta.key);
            }
        }
        let newest = newest_runs(live);
        let mut named = HashSet::new();
        for meta in runs {
            let Some((session, number, commit_before)) = keys::parse_run(&meta.key) else { continue };
            let object = ObjectRef::Run { session, number, commit_before };
            if live.objects.contains(&object) {
                named.insert(object);
                continue;
            }
            let was_named = self.named_runs.contains(&object);
            if was_named {
                named.insert(object);
            }
            // Nothing will ever refer to one that the stream has passed without a word. A session makes one run at a time, and
            // the next one when what refers to the last is committed.
            let passed = live.ends.get(&session).is_some_and(|end| *end >= commit_before)
                || newest.get(&session).is_some_and(|newest| number < *newest);
            if was_named || passed || live.has_ended(session) {
                garbage.push(&meta.key);
            }
        }
        self.named_runs = named;
        self.sweep(&garbage, boot_ms)
    }

    fn sweep(&mut self, garbage: &[&str], boot_ms: u64) -> Vec<String> {
        let still: HashSet<&str> = garbage.iter().copied().collect();
        self.marks.retain(|key, _| still.contains(key.as_str()));
        let mut delete = Vec::new();
        for key in garbage {
            match self.marks.get(*key) {
                Some(since) if boot_ms.saturating_sub(*since) >= self.grace_ms => delete.push((*key).to_owned()),
                None if self.marks.len() < MAX_MARKS => {
                    self.marks.insert((*key).to_owned(), boot_ms);
                }
                _ => {}
            }
        }
        delete
    }
}

/// The largest number of a run that is referred to, of each session.
fn newest_runs(live: &LiveSet) -> HashMap<SessionId, u64> {
    let mut newest = HashMap::new();
    for object in &live.objects {
        if let ObjectRef::Run { session, number, .. } = object {
            let known = newest.entry(*session).or_insert(*number);
            *known = (*known).max(*number);
        }
    }
    newest
}

type Newest = HashMap<SessionId, Vec<u64>>;

fn newest_checkpoints(checkpoints: &[ObjectMeta]) -> Newest {
    let mut by_session: Newest = HashMap::new();
    for (session, seq) in checkpoints.iter().filter_map(|meta| keys::parse_checkpoint(&meta.key)) {
        by_session.entry(session).or_default().push(seq);
    }
    for seqs in by_session.values_mut() {
        seqs.sort_unstable_by(|a, b| b.cmp(a));
        seqs.truncate(CHECKPOINTS_KEPT);
    }
    by_session
}
