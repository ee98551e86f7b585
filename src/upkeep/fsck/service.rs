//! Listing, finding out what must be there, reading it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::machine::{Wanted, check_batches, check_catalogue, check_checkpoint, check_identity, check_state, kind_of};
use super::{Fault, FaultKind, Orphan, Report};
use crate::base::{SessionId, TopicPartition};
use crate::cluster::{ClusterError, Key, Leadership, Sessions};
use crate::format::keys;
use crate::format::metadata::{
    AssignmentChunk, AssignmentRecord, ClusterRecord, MetadataError, MetadataValue, PARTITIONS_PER_CHUNK,
};
use crate::format::prelude::PRELUDE_BYTES;
use crate::format::state::{ObjectRef, PartitionState};
use crate::meta::MetaError;
use crate::objstore::{ObjectMeta, ObjectStore, StoreError};
use crate::partition::fold::FoldError;
use crate::partition::stream::{StreamError, StreamState, load_stream};
use crate::upkeep::collect::{Collector, Listing, LiveSet};

/// Streams that are read at the same time.
const PARALLEL_STREAMS: usize = 4;
/// Objects that are read and checked at the same time; each is whole in memory.
const PARALLEL_OBJECTS: usize = 4;
/// A segment behind a missing one that is older than this is no upload that was faster, in milliseconds.
const IN_FLIGHT_MS: i64 = 10 * 60 * 1000;
/// Objects of the probe at start, which a crash leaves behind.
const PROBE_PREFIX: &str = "probe/";

/// Why nothing can be told.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    /// The metadata store, or what it holds.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The metadata store.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// A value of the metadata store.
    #[error(transparent)]
    Value(#[from] MetadataError),
    /// The object store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stream could not be read, for another reason than its own state.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// How far the reading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read.
    pub done_bytes: u64,
    /// Bytes to read.
    pub all_bytes: u64,
}

/// Examines a store.
#[derive(Debug, Clone)]
pub struct Examiner {
    /// Where everything is.
    pub store: Arc<dyn ObjectStore>,
    /// Which sessions there are, and who leads what.
    pub sessions: Sessions,
    /// Only look whether objects are there and long enough, do not read them.
    pub quick: bool,
}

/// What the metadata store and the streams say.
struct Facts {
    leadership: Leadership,
    live: LiveSet,
    /// The runs that partitions name, by key.
    wanted: BTreeMap<String, Vec<Wanted>>,
    /// Streams that cannot be read, or parts of which are not there.
    faults: Vec<Fault>,
    /// Some stream could not be read.
    blind: bool,
    partitions: usize,
    offsets: i64,
}

/// The store's objects by what they are.
#[derive(Debug, Default)]
struct Listed {
    collected: Listing,
    catalogue: Vec<ObjectMeta>,
    cluster: Option<ObjectMeta>,
    probes: Vec<ObjectMeta>,
    unknown: Vec<String>,
    objects: usize,
    bytes: u64,
}

impl Listed {
    fn add(&mut self, meta: ObjectMeta) {
        self.objects += 1;
        self.bytes += meta.size_bytes;
        let key = meta.key.as_str();
        if keys::parse_segment(key).is_some() {
            self.collected.segments.push(meta);
        } else if keys::parse_checkpoint(key).is_some() {
            self.collected.checkpoints.push(meta);
        } else if keys::parse_run(key).is_some() {
            self.collected.runs.push(meta);
        } else if keys::parse_catalogue(key).is_some() {
            self.catalogue.push(meta);
        } else if key == keys::CLUSTER {
            self.cluster = Some(meta);
        } else if key.starts_with(PROBE_PREFIX) {
            self.probes.push(meta);
        } else {
            self.unknown.push(meta.key);
        }
    }
}

impl Examiner {
    /// Looks at everything. `progress` hears how far the reading has come.
    pub async fn examine(&self, mut progress: impl FnMut(Progress)) -> Result<Report, FsckError> {
        let mut listed = Listed::default();
        let mut listing = self.store.list("", None);
        while let Some(meta) = listing.try_next().await? {
            listed.add(meta);
        }
        drop(listing);
        let facts = self.facts(&listed).await?;
        let cluster = self.sessions.store.get(&self.sessions.keys.key(&Key::Cluster)).await?;
        let cluster = cluster.map(|entry| ClusterRecord::decode(&entry.key, &entry.value)).transpose()?;
        let mut report = Report {
            objects: listed.objects,
            bytes: listed.bytes,
            partitions: facts.partitions,
            offsets: facts.offsets,
            faults: facts.faults.clone(),
            unknown: std::mem::take(&mut listed.unknown),
            ..Report::default()
        };
        report.streams = facts.live.streams.iter().copied().collect();
        report.streams.sort_unstable();
        match &cluster {
            None => report.notes.push("the metadata store knows no cluster".to_owned()),
            Some(record) if listed.cluster.is_none() => report.faults.push(Fault {
                kind: FaultKind::Missing,
                key: Some(keys::CLUSTER.to_owned()),
                partition: None,
                detail: format!("it names the cluster, {}", record.cluster_id),
            }),
            Some(_) => {}
        }
        let garbage = self.garbage(&facts.live, &listed);
        report.cluster_id = cluster.map(|record| record.cluster_id);
        self.read(&listed, &facts, &garbage, &mut report, &mut progress).await?;
        self.look_again(&facts, &listed, &mut report).await?;
        report.orphans = if facts.blind || report.orphans.is_none() {
            report
                .notes
                .push("a stream could not be read, or partitions moved: what is an orphan is not known".to_owned());
            None
        } else {
            let orphan = |meta: &ObjectMeta| Orphan {
                key: meta.key.clone(),
                bytes: meta.size_bytes,
                modified_ms: meta.modified_ms,
            };
            let all = listed.collected.all().filter(|meta| garbage.contains(&meta.key));
            Some(all.chain(&listed.probes).map(orphan).collect())
        };
        report.faults.sort();
        report.faults.dedup();
        Ok(report)
    }

    /// What garbage collection would take in the end.
    fn garbage(&self, live: &LiveSet, listed: &Listed) -> HashSet<String> {
        let mut collector = Collector::new(0);
        let wall_ms = self.sessions.clock.wall_ms();
        // The first look marks, the second one finds what was marked.
        collector.pass(live, &listed.collected, 0, wall_ms);
        collector.pass(live, &listed.collected, 0, wall_ms).into_iter().collect()
    }

    /// What must be there, as known after the listing.
    async fn facts(&self, listed: &Listed) -> Result<Facts, FsckError> {
        let leadership = self.sessions.leadership().await?;
        let assignments = self.assignments().await?;
        let on_record = self.sessions.all().await?;
        let unsealed = on_record.iter().filter(|(_, sealed)| sealed.is_none()).map(|(session, _)| *session);
        let mut live = LiveSet {
            streams: unsealed
                .chain(leadership.leaders.iter().copied())
                .chain(leadership.from.iter().copied())
                .collect(),
            ended_before: on_record.iter().map(|(session, _)| session.epoch).max().unwrap_or(0),
            ..LiveSet::default()
        };
        let mut faults = Vec::new();
        let mut blind = false;
        let mut streams: BTreeMap<SessionId, StreamState> = BTreeMap::new();
        let wanted: BTreeSet<SessionId> = live.streams.iter().copied().collect();
        let reads: Vec<_> = wanted.into_iter().map(|session| load(self.store.clone(), session)).collect();
        let mut reads = stream::iter(reads).buffer_unordered(PARALLEL_STREAMS);
        while let Some((session, read)) = reads.next().await {
            match read {
                Ok(state) => {
                    let sealed = on_record.iter().find(|(known, _)| *known == session).and_then(|(_, sealed)| *sealed);
                    let end = sealed.map(|sealed| sealed.seq);
                    faults.extend(unfinished(&state, end, &listed.collected.segments, self.sessions.clock.wall_ms()));
                    streams.insert(session, state);
                }
                Err(error) => {
                    blind = true;
                    faults.push(fault_of(error)?);
                }
            }
        }
        for stream in streams.values() {
            live.ends.insert(stream.session, stream.next_seq);
            let runs = stream.partitions.values().flat_map(|state| &state.runs);
            live.objects.extend(runs.map(|run| run.object));
        }
        let mut facts = Facts { leadership, live, wanted: BTreeMap::new(), faults, blind, partitions: 0, offsets: 0 };
        for (partition, assignment) in assignments {
            match newest(partition, &assignment, &streams) {
                Some(state) => facts.take(partition, state),
                // A stream that cannot be read may hold it; that is reported as such.
                None if assignment.acquired && !facts.blind => facts.faults.push(Fault {
                    kind: FaultKind::Missing,
                    key: None,
                    partition: Some(partition),
                    detail: "no stream that its assignment names holds its state".to_owned(),
                }),
                None => {}
            }
        }
        Ok(facts)
    }

    async fn assignments(&self) -> Result<Vec<(TopicPartition, AssignmentRecord)>, FsckError> {
        let mut all = Vec::new();
        for entry in self.sessions.store.range(&self.sessions.keys.assignments()).await?.entries {
            let Some(Key::Assignments(topic_id, chunk)) = self.sessions.keys.parse(&entry.key) else { continue };
            let first = chunk as usize * PARTITIONS_PER_CHUNK;
            for (index, assignment) in
                AssignmentChunk::decode(&entry.key, &entry.value)?.partitions.into_iter().enumerate()
            {
                let index = i32::try_from(first + index).unwrap_or(i32::MAX);
                all.push((TopicPartition::new(topic_id, index), assignment));
            }
        }
        Ok(all)
    }

    /// Reads everything that must stay.
    async fn read(
        &self,
        listed: &Listed,
        facts: &Facts,
        garbage: &HashSet<String>,
        report: &mut Report,
        progress: &mut impl FnMut(Progress),
    ) -> Result<(), FsckError> {
        let there: HashMap<&str, u64> =
            listed.collected.all().map(|meta| (meta.key.as_str(), meta.size_bytes)).collect();
        for (key, wanted) in facts.wanted.iter().filter(|(key, _)| !there.contains_key(key.as_str())) {
            let size = match self.store.size(key).await {
                Ok(_) => continue,
                Err(StoreError::NotFound { .. }) => wanted,
                Err(error) => return Err(error.into()),
            };
            report.faults.extend(size.iter().map(|(partition, run)| Fault {
                kind: FaultKind::Missing,
                key: Some(key.clone()),
                partition: Some(*partition),
                detail: format!("it holds offsets {}..{}", run.first_offset, run.next_offset),
            }));
        }
        let all = listed.collected.all().filter(|meta| !garbage.contains(&meta.key));
        let all: Vec<ObjectMeta> = all.chain(&listed.catalogue).chain(&listed.cluster).cloned().collect();
        if self.quick {
            // Whose bucket it is must be known in any case.
            if let Some(meta) = &listed.cluster {
                let object = self.store.get(&meta.key).await?;
                report.faults.extend(check_identity(&meta.key, &object, report.cluster_id.as_deref()));
            }
            report.faults.extend(all.iter().filter_map(|meta| check_length(meta, facts)));
            return Ok(());
        }
        let mut at = Progress { done_bytes: 0, all_bytes: all.iter().map(|meta| meta.size_bytes).sum() };
        progress(at);
        let reads: Vec<_> = all.into_iter().map(|meta| get(self.store.clone(), meta)).collect();
        let mut reads = stream::iter(reads).buffer_unordered(PARALLEL_OBJECTS);
        while let Some((meta, read)) = reads.next().await {
            let key = meta.key.as_str();
            let wanted = facts.wanted.get(key).map(Vec::as_slice).unwrap_or_default();
            let found = match read {
                Ok(object) => {
                    report.checked_bytes += object.len() as u64;
                    if let Some(place) = place_of(key) {
                        check_batches(key, place, &object, wanted)
                    } else if let Some((session, seq)) = keys::parse_checkpoint(key) {
                        check_checkpoint(key, session, seq, &object)
                    } else if key == keys::CLUSTER {
                        check_identity(key, &object, report.cluster_id.as_deref())
                    } else {
                        check_catalogue(key, &object)
                    }
                }
                // Collected meanwhile, unless something leads to it.
                Err(StoreError::NotFound { .. }) => wanted
                    .iter()
                    .map(|(partition, _)| Fault {
                        kind: FaultKind::Missing,
                        key: Some(key.to_owned()),
                        partition: Some(*partition),
                        detail: "it was there a moment ago".to_owned(),
                    })
                    .collect(),
                Err(error) => return Err(error.into()),
            };
            if !found.is_empty() {
                // Reading the object says more than the stream that stumbled over it.
                report.faults.retain(|fault| fault.key.as_deref() != Some(key) || found.contains(fault));
            }
            report.faults.extend(found);
            at.done_bytes += meta.size_bytes;
            progress(at);
        }
        Ok(())
    }

    /// What is missing beside running brokers may not be wanted any more; and while partitions move, a state may have been
    /// seen in no stream.
    async fn look_again(&self, before: &Facts, listed: &Listed, report: &mut Report) -> Result<(), FsckError> {
        let moved = !self.sessions.leadership().await?.unchanged_since(&before.leadership);
        report.orphans = (!moved).then(Vec::new);
        if report.faults.iter().any(|fault| fault.kind == FaultKind::Missing) {
            let now = self.facts(listed).await?;
            let still = |fault: &Fault| match &fault.key {
                Some(key) => key == keys::CLUSTER || now.wanted.contains_key(key) || now.faults.contains(fault),
                None => now.faults.contains(fault),
            };
            report.faults.retain(|fault| fault.kind != FaultKind::Missing || still(fault));
        }
        Ok(())
    }
}

impl Facts {
    fn take(&mut self, partition: TopicPartition, state: &PartitionState) {
        self.partitions += 1;
        self.offsets += state.next_offset - state.log_start;
        self.faults.extend(check_state(partition, state));
        for run in &state.runs {
            self.wanted.entry(run.object.key()).or_default().push((partition, *run));
        }
    }
}

/// Which object of batches a key names.
fn place_of(key: &str) -> Option<ObjectRef> {
    let run = || {
        let (session, number, commit_before) = keys::parse_run(key)?;
        Some(ObjectRef::Run { session, number, commit_before })
    };
    keys::parse_segment(key).map(|(session, seq)| ObjectRef::Segment { session, seq }).or_else(run)
}

/// Deletes orphans that were written before `written_before_ms`, in milliseconds since the Unix epoch. Returns those that it
/// deleted.
pub async fn remove(
    store: &Arc<dyn ObjectStore>,
    orphans: &[Orphan],
    written_before_ms: i64,
) -> Result<Vec<Orphan>, StoreError> {
    let mut removed = Vec::new();
    for orphan in orphans.iter().filter(|orphan| orphan.modified_ms < written_before_ms) {
        store.delete(&orphan.key).await?;
        removed.push(orphan.clone());
    }
    Ok(removed)
}

/// The state that counts: the leader's if it has taken the partition under this epoch, otherwise the first of those that it is
/// taken from.
fn newest<'a>(
    partition: TopicPartition,
    assignment: &AssignmentRecord,
    streams: &'a BTreeMap<SessionId, StreamState>,
) -> Option<&'a PartitionState> {
    let led = (assignment.session, assignment.leader_epoch);
    let from = assignment.from.iter().map(|from| (from.session, from.leader_epoch));
    std::iter::once(led).chain(from).find_map(|(session, leader_epoch)| {
        let state = streams.get(&session)?.partitions.get(&partition)?;
        (state.leader_epoch == leader_epoch).then_some(state)
    })
}

/// Segments that a stream must have and has not: those before the end that is on record, and one that others stand behind for
/// longer than any upload takes.
fn unfinished(state: &StreamState, end: Option<u64>, segments: &[ObjectMeta], now_ms: i64) -> Option<Fault> {
    if state.sealed {
        return None;
    }
    let session = state.session;
    let behind = |meta: &&ObjectMeta| {
        keys::parse_segment(&meta.key).is_some_and(|(of, seq)| of == session && seq > state.next_seq)
    };
    let stands_behind = segments.iter().filter(behind).any(|meta| now_ms - meta.modified_ms > IN_FLIGHT_MS);
    let sealed = end.filter(|end| state.next_seq < *end);
    let detail = match sealed {
        Some(end) => format!("the stream of session {session} is on record as sealed at {end}"),
        None if stands_behind => "segments behind it were written long ago".to_owned(),
        None => return None,
    };
    let key = Some(keys::segment(session, state.next_seq));
    Some(Fault { kind: FaultKind::Missing, key, partition: None, detail })
}

/// A stream that cannot be read, as a fault; an error if the store is to blame.
fn fault_of(error: StreamError) -> Result<Fault, StreamError> {
    let detail = error.to_string();
    let fault = |kind, key| Fault { kind, key, partition: None, detail: detail.clone() };
    Ok(match error {
        StreamError::Corrupt { key, source } => fault(kind_of(&source), Some(key)),
        StreamError::DoesNotFit { key, source } => match source {
            FoldError::NotNext { expected, found } if found < expected => fault(FaultKind::Overlap, Some(key)),
            FoldError::NotNext { .. } => fault(FaultKind::Gap, Some(key)),
            FoldError::StartPastEnd { .. } | FoldError::NotTheSameRuns { .. } => fault(FaultKind::Damaged, Some(key)),
        },
        StreamError::Missing { .. } | StreamError::Lost { .. } => fault(FaultKind::Missing, None),
        StreamError::Store(StoreError::NotFound { key }) => fault(FaultKind::Missing, Some(key)),
        other => return Err(other),
    })
}

/// What a listing alone tells: objects that end before what indexes name in them.
fn check_length(meta: &ObjectMeta, facts: &Facts) -> Option<Fault> {
    let wanted = facts.wanted.get(&meta.key)?;
    let needed = wanted.iter().map(|(_, run)| u64::from(run.position) + u64::from(run.length)).max()?;
    if meta.size_bytes >= needed.max(PRELUDE_BYTES as u64) {
        return None;
    }
    let detail = format!("it has {} bytes, and indexes name bytes up to {needed}", meta.size_bytes);
    Some(Fault { kind: FaultKind::Truncated, key: Some(meta.key.clone()), partition: None, detail })
}

async fn load(store: Arc<dyn ObjectStore>, session: SessionId) -> (SessionId, Result<StreamState, StreamError>) {
    (session, load_stream(&store, session).await)
}

async fn get(store: Arc<dyn ObjectStore>, meta: ObjectMeta) -> (ObjectMeta, Result<bytes::Bytes, StoreError>) {
    let read = store.get(&meta.key).await;
    (meta, read)
}
