//! What a cluster was, from its last backup and its streams. Pure: what was read comes in, what is to be written goes out.
//!
//! Invariants of a plan:
//! - The state of a partition is taken from the stream that acquired it under the highest leader epoch. Whoever led it
//!   before had ended, or had given it away, before that one could acquire it, so no older stream holds a newer state.
//! - Epochs only grow: every leader epoch is above all that were seen of the partition, every later session epoch above all
//!   that were seen of the cluster, each with room for those that left no trace.
//! - No topic is lost silently: one that streams hold and the backup does not know comes back under a name that says so,
//!   unless it was deleted before the backup was written.
//!
//! Who leads is left to the controller: every partition is given to a session that never lived and is sealed at 0, and is
//! taken over from it as from any other dead leader.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::base::{SessionId, TopicPartition};
use crate::cluster::check_name;
use crate::cluster::limits::MAX_PARTITIONS_PER_TOPIC;
use crate::cluster::rebuild::Rebuilt;
use crate::format::catalogue::CatalogueBackup;
use crate::format::metadata::{
    AssignmentChunk, AssignmentRecord, ClusterRecord, FromStream, PARTITIONS_PER_CHUNK, ProducerIdRecord, Sealed,
    SessionRecord, TopicRecord,
};
use crate::format::state::{ObjectRef, PartitionState};
use crate::partition::stream::StreamState;

/// Session epochs are left out between those that were seen and those that are to come: more than a metadata store counts
/// between two backups.
pub const EPOCH_ROOM: u64 = 1_000_000_000;
/// Leader epochs that are left out: more than a partition can have had since the last backup.
pub const LEADER_EPOCH_ROOM: i32 = 1_000;
/// Producer ids that are left out: a thousand blocks taken since the last backup.
pub const PRODUCER_ID_ROOM: i64 = 1_000_000;
/// A session that a backup does not know and whose objects are older than the backup by this much, in milliseconds, was
/// sealed and forgotten before. (Sessions are forgotten seven days after their seal.)
pub const FORGOTTEN_MS: i64 = 24 * 3600 * 1000;

/// The newest state of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Whose stream holds it.
    pub session: SessionId,
    /// Leader epoch under which that session led it.
    pub leader_epoch: i32,
    /// Where that stream ends.
    pub sealed_seq: u64,
    /// First offset.
    pub log_start: i64,
    /// End offset (exclusive).
    pub end_offset: i64,
    /// Runs of its index whose object is missing.
    pub missing_runs: usize,
}

/// A stream that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its first seq that is no committed segment.
    pub next_seq: u64,
    /// Whether a seal stands there.
    pub sealed: bool,
    /// Newest modification of its objects, in milliseconds since the Unix epoch.
    pub newest_object_ms: i64,
}

/// What the streams say together.
#[derive(Debug, Default)]
pub struct Gathered {
    /// All streams.
    pub streams: BTreeMap<SessionId, Ended>,
    /// Streams that cannot be read, and why.
    pub unreadable: BTreeMap<SessionId, String>,
    /// The newest state of each partition.
    newest: BTreeMap<TopicPartition, Candidate>,
    /// In whose streams each topic was found.
    topics: BTreeMap<Uuid, BTreeSet<SessionId>>,
    highest_producer_id: Option<i64>,
}

impl Gathered {
    /// Takes a stream in. `exists` says whether an object is there.
    pub fn add(&mut self, stream: &StreamState, newest_object_ms: i64, exists: impl Fn(&ObjectRef) -> bool) {
        let StreamState { session, next_seq, sealed, .. } = *stream;
        self.streams.insert(session, Ended { next_seq, sealed, newest_object_ms });
        for (partition, state) in &stream.partitions {
            self.topics.entry(partition.topic_id).or_default().insert(session);
            let highest = state.producers.last_key_value().map(|(id, _)| *id);
            self.highest_producer_id = self.highest_producer_id.max(highest);
            let known = self.newest.get(partition);
            // Two streams under one leader epoch are not possible; if they were there, more records are better than fewer.
            let newer = known
                .is_none_or(|known| (state.leader_epoch, state.next_offset) > (known.leader_epoch, known.end_offset));
            if newer {
                self.newest.insert(*partition, candidate(session, next_seq, state, &exists));
            }
        }
    }
}

fn candidate(
    session: SessionId,
    sealed_seq: u64,
    state: &PartitionState,
    exists: impl Fn(&ObjectRef) -> bool,
) -> Candidate {
    Candidate {
        session,
        leader_epoch: state.leader_epoch,
        sealed_seq,
        log_start: state.log_start,
        end_offset: state.next_offset,
        missing_runs: state.runs.iter().filter(|run| !exists(&run.object)).count(),
    }
}

/// What else is known.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The cluster's id and epoch base as the bucket has them.
    pub bucket: Option<(String, u64)>,
    /// The newest backup that could be read.
    pub backup: Option<CatalogueBackup>,
    /// When it was written, in milliseconds since the Unix epoch.
    pub backup_ms: i64,
    /// Names for topics that no backup knows.
    pub names: BTreeMap<Uuid, String>,
}

/// Where a topic's name and configs come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The backup.
    Backup,
    /// Nowhere: only streams know the topic.
    Streams,
}

/// A topic that comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTopic {
    /// Its record.
    pub record: TopicRecord,
    /// Who knows it.
    pub origin: Origin,
    /// Its partitions' newest states, by index; `None` for one that was never written.
    pub partitions: Vec<Option<Candidate>>,
    /// Leader epochs, by index.
    pub leader_epochs: Vec<i32>,
}

/// What is to be written, and what to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Who the cluster is.
    pub cluster: ClusterRecord,
    /// The session that all partitions are taken over from.
    pub nobody: SessionId,
    /// Topics in the order of their names.
    pub topics: Vec<PlannedTopic>,
    /// Topics that were deleted, or were being deleted, before the backup was written.
    pub deleted: Vec<Uuid>,
    /// What the metadata store is to hold.
    pub rebuilt: Rebuilt,
    /// What is missing or had to be guessed, in sentences.
    pub problems: Vec<String>,
}

/// Plans. `now_ms` is the time to put on records. Errors: sentences for people.
pub fn plan(known: &Known, gathered: &Gathered, now_ms: i64) -> Result<Plan, String> {
    let backup = known.backup.as_ref();
    let id = known.bucket.as_ref().map(|(id, _)| id.clone()).or_else(|| backup.map(|backup| backup.cluster_id.clone()));
    let cluster_id =
        id.ok_or("nothing of a cluster is here: neither the object 'cluster' nor a backup of a catalogue")?;
    let epoch_base = epoch_base(known, gathered);
    let created_ms = backup.map_or(now_ms, |backup| backup.created_ms);
    let cluster = ClusterRecord { cluster_id, created_ms, epoch_base };
    let nobody = SessionId { broker_id: 0, epoch: epoch_base };
    let mut problems = Vec::new();
    if backup.is_none() {
        problems.push("there is no backup of the catalogue: topics have lost their names and configs".to_owned());
    }
    let mut deleted = Vec::new();
    let topics = topics(known, gathered, now_ms, &mut deleted, &mut problems)?;
    let rebuilt = Rebuilt {
        sessions: sessions(&topics, gathered, backup, nobody, now_ms),
        topics: topics.iter().map(|topic| (topic.record.clone(), chunks(topic, nobody))).collect(),
        deletions: backup.into_iter().flat_map(|b| &b.deletions).map(|d| (d.id, d.deletion.clone())).collect(),
        producer_ids: ProducerIdRecord { next_id: next_producer_id(backup, gathered) },
        cluster: cluster.clone(),
    };
    Ok(Plan { cluster, nobody, topics, deleted, rebuilt, problems })
}

fn epoch_base(known: &Known, gathered: &Gathered) -> u64 {
    let backup = known.backup.as_ref();
    let of_backup = backup
        .into_iter()
        .flat_map(|backup| backup.sessions.iter().map(|saved| saved.session.epoch).chain([backup.revision]));
    let of_streams = gathered.streams.keys().chain(gathered.unreadable.keys()).map(|session| session.epoch);
    let of_bucket = known.bucket.iter().map(|(_, base)| *base);
    let highest = of_backup.chain(of_streams).chain(of_bucket).max().unwrap_or(0);
    (highest / EPOCH_ROOM).saturating_add(2).saturating_mul(EPOCH_ROOM)
}

fn next_producer_id(backup: Option<&CatalogueBackup>, gathered: &Gathered) -> i64 {
    let saved = backup.map_or(0, |backup| backup.next_producer_id);
    let seen = gathered.highest_producer_id.map_or(0, |id| id.saturating_add(1));
    saved.max(seen).saturating_add(PRODUCER_ID_ROOM)
}

fn topics(
    known: &Known,
    gathered: &Gathered,
    now_ms: i64,
    deleted: &mut Vec<Uuid>,
    problems: &mut Vec<String>,
) -> Result<Vec<PlannedTopic>, String> {
    let backup = known.backup.as_ref();
    let mut topics: BTreeMap<String, PlannedTopic> = BTreeMap::new();
    let mut saved_ids = BTreeSet::new();
    for saved in backup.into_iter().flat_map(|backup| &backup.topics) {
        saved_ids.insert(saved.topic.id);
        let topic = planned(&saved.topic, Origin::Backup, &saved.leader_epochs, gathered);
        topics.insert(saved.topic.name.clone(), topic);
    }
    let mut names = known.names.clone();
    for id in gathered.topics.keys().filter(|id| !saved_ids.contains(*id)) {
        let given = names.remove(id);
        if given.is_none() && was_deleted(*id, known, gathered) {
            deleted.push(*id);
            continue;
        }
        let name = given.unwrap_or_else(|| format!("restored-{id}"));
        check_name(&name).map_err(|error| error.to_string())?;
        let configs = BTreeMap::new();
        let record = TopicRecord { name, id: *id, partitions: 0, replication_factor: 1, configs, created_ms: now_ms };
        let topic = planned(&record, Origin::Streams, &[], gathered);
        let name = topic.record.name.clone();
        if backup.is_some() {
            problems.push(format!("topic {id} is in no backup: it comes back as '{name}' with default configs"));
        }
        if topics.insert(name.clone(), topic).is_some() {
            return Err(format!("topic {id} cannot be called '{name}': another topic has that name"));
        }
    }
    if let Some((id, _)) = names.first_key_value() {
        return Err(format!("there is no topic {id} without a name"));
    }
    for topic in topics.values() {
        for (index, candidate) in topic.partitions.iter().enumerate() {
            let missing = candidate.map_or(0, |candidate| candidate.missing_runs);
            if missing > 0 {
                problems.push(format!(
                    "partition {}-{index}: {missing} objects that its index names are missing; their records cannot be read",
                    topic.record.name
                ));
            }
        }
    }
    Ok(topics.into_values().collect())
}

/// A topic as wide as its record and the streams say.
fn planned(record: &TopicRecord, origin: Origin, saved_epochs: &[i32], gathered: &Gathered) -> PlannedTopic {
    let all = TopicPartition::new(record.id, 0)..=TopicPartition::new(record.id, i32::MAX);
    let found: BTreeMap<usize, Candidate> = gathered
        .newest
        .range(all)
        .filter_map(|(partition, candidate)| Some((usize::try_from(partition.partition).ok()?, *candidate)))
        .filter(|(index, _)| *index < MAX_PARTITIONS_PER_TOPIC)
        .collect();
    let width = found.last_key_value().map_or(0, |(index, _)| index + 1).max(record.partitions as usize);
    let partitions: Vec<Option<Candidate>> = (0..width).map(|index| found.get(&index).copied()).collect();
    let epoch = |(index, candidate): (usize, &Option<Candidate>)| {
        let seen = candidate.map(|candidate| candidate.leader_epoch).max(saved_epochs.get(index).copied());
        seen.unwrap_or(0).saturating_add(LEADER_EPOCH_ROOM)
    };
    let leader_epochs = partitions.iter().enumerate().map(epoch).collect();
    let record = TopicRecord { partitions: width as u32, ..record.clone() };
    PlannedTopic { record, origin, partitions, leader_epochs }
}

/// Whether a topic that the backup does not have was deleted before it was written, rather than created afterwards: it was
/// being deleted, or is found only in streams that had ended by then.
fn was_deleted(id: Uuid, known: &Known, gathered: &Gathered) -> bool {
    let Some(backup) = &known.backup else { return false };
    let had_ended = |session: &SessionId| match backup.sessions.iter().find(|saved| saved.session == *session) {
        Some(saved) => saved.sealed.is_some(),
        None => gathered
            .streams
            .get(session)
            .is_some_and(|ended| ended.newest_object_ms < known.backup_ms.saturating_sub(FORGOTTEN_MS)),
    };
    backup.deletions.iter().any(|saved| saved.id == id)
        || gathered.topics.get(&id).is_some_and(|sessions| sessions.iter().all(had_ended))
}

fn chunks(topic: &PlannedTopic, nobody: SessionId) -> Vec<AssignmentChunk> {
    let from = |candidate: Candidate| FromStream {
        session: candidate.session,
        leader_epoch: candidate.leader_epoch,
        sealed_seq: candidate.sealed_seq,
    };
    let assignment = |(candidate, leader_epoch): (&Option<Candidate>, &i32)| AssignmentRecord {
        session: nobody,
        leader_epoch: *leader_epoch,
        from: candidate.map(from).into_iter().collect(),
        target: None,
        acquired: candidate.is_some(),
    };
    let all: Vec<AssignmentRecord> = topic.partitions.iter().zip(&topic.leader_epochs).map(assignment).collect();
    all.chunks(PARTITIONS_PER_CHUNK).map(|some| AssignmentChunk { partitions: some.to_vec() }).collect()
}

/// Sessions that go on record as sealed: those whose streams are still to be read, and those that may believe to live.
fn sessions(
    topics: &[PlannedTopic],
    gathered: &Gathered,
    backup: Option<&CatalogueBackup>,
    nobody: SessionId,
    now_ms: i64,
) -> Vec<(SessionId, SessionRecord)> {
    let named = topics.iter().flat_map(|topic| &topic.partitions).flatten().map(|candidate| candidate.session);
    let lived = backup.into_iter().flat_map(|backup| &backup.sessions).filter(|saved| saved.sealed.is_none());
    let all: BTreeSet<SessionId> = named.chain(lived.map(|saved| saved.session)).collect();
    let record = |seq| SessionRecord { started_ms: now_ms, sealed: Some(Sealed { seq, at_ms: now_ms }) };
    let ended = all.into_iter().filter_map(|session| Some((session, record(gathered.streams.get(&session)?.next_seq))));
    ended.chain([(nobody, record(0))]).collect()
}
