//! The world of the model: an object store, a metadata store, sessions, and the steps that each of them can take.
//!
//! Everything is asynchronous: a step that is not taken is a pause, a delay or a lost reply. A PUT lands at any later time,
//! or never, also after its sender died; its sender learns what became of it by reading the key back, which is what a reply
//! or a repeated PUT would tell it. An image of the assignments stays as it is until it is refreshed.
//!
//! State, replay, takeover and collection are the code of the broker: `StreamState::apply`, `take_over`, `newest_state`,
//! `Collector::pass`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use esker::base::{SessionId, TopicPartition};
use esker::broker::{newest_state, state_or_empty};
use esker::cluster::take_over;
use esker::format::entry::{BatchFacts, Entry};
use esker::format::metadata::{AssignmentRecord, FromStream};
use esker::format::state::PartitionState;
use esker::partition::stream::StreamState;
use uuid::Uuid;

use crate::collecting::Collecting;
use crate::rules::{Budget, Flaw, Rules};

/// An object under `log/`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub enum Object {
    Seal,
    Segment(Vec<(TopicPartition, Entry)>),
}

/// The assignment of a partition, with the revision of its last change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    pub assigned: AssignmentRecord,
    pub target: Option<SessionId>,
    pub revision: u32,
}

/// What a session is to a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing (any more).
    Idle,
    /// Leads; its `Acquired` in segment `seq` is not known to be committed.
    Acquiring { seq: u64 },
    /// Leads, and its stream holds the state.
    Leading,
    /// Appends no more; its `Released` in segment `seq` is not known to be committed.
    Releasing { seq: u64 },
    /// The `Released` entry in segment `seq` is committed; the assignment may be flipped.
    Released { seq: u64 },
}

/// One session's hold of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hold {
    pub phase: Phase,
    /// Highest leader epoch under which it ever held the partition, or -1.
    pub epoch: i32,
    /// Offset of the next record.
    pub end: i64,
    /// A `Dropped` entry was written.
    pub dropping: bool,
}

/// A process with its session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each can be true beside any other")]
pub struct Process {
    pub id: SessionId,
    /// Runs, and has not noticed a seal.
    pub up: bool,
    /// Dead, and its disk is being read by the next life of the broker.
    pub recovering: bool,
    /// The next life has taken over.
    pub gone: bool,
    pub image: Vec<Record>,
    /// Its stream as far as it knows it committed.
    pub stream: StreamState,
    /// Segments behind that, as the write-ahead files hold them.
    pub log: VecDeque<Arc<Object>>,
    /// The last file is torn.
    pub torn: bool,
    pub holds: Vec<Hold>,
    /// The finished stream of the previous life.
    pub finished: Option<StreamState>,
}

/// A controller's decision that is not written yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Plan {
    pub by: SessionId,
    pub partition: usize,
    pub revision: u32,
    pub new: AssignmentRecord,
}

/// Everything, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub objects: BTreeMap<(SessionId, u64), Arc<Object>>,
    /// PUTs on their way.
    pub puts: BTreeMap<(SessionId, u64), Arc<Object>>,
    pub checkpoints: BTreeMap<(SessionId, u64), Arc<BTreeMap<TopicPartition, PartitionState>>>,
    pub records: Vec<Record>,
    /// Sessions on record, with the seq of the seal.
    pub sessions: BTreeMap<SessionId, Option<u64>>,
    pub controller: SessionId,
    pub processes: Vec<Process>,
    /// Ids of acknowledged batches by partition and offset.
    pub acked: BTreeMap<(usize, i64), i64>,
    pub next_id: i64,
    /// A seal that was decided: of whose stream, at which seq.
    pub sealer: Option<(SessionId, u64)>,
    pub plan: Option<Plan>,
    pub collecting: Collecting,
    pub left: Budget,
    /// Something that must not happen has happened.
    pub broken: Option<&'static str>,
}

pub fn topic_partition(index: usize) -> TopicPartition {
    TopicPartition::new(Uuid::from_u128(1), index as i32)
}

impl Process {
    /// Its state of a partition with what is on its way folded in.
    pub fn with_pending(&self, partition: usize) -> PartitionState {
        let mut stream = self.stream.clone();
        for object in &self.log {
            if let Object::Segment(entries) = &**object {
                let _ = stream.apply(stream.next_seq, entries.iter().map(|(p, entry)| (*p, entry)));
            }
        }
        stream.partitions.remove(&topic_partition(partition)).unwrap_or_default()
    }

    pub fn holds_given(&self, partition: usize) -> bool {
        self.stream.partitions.contains_key(&topic_partition(partition))
    }
}

impl World {
    pub fn new(rules: &Rules) -> Self {
        let ids: Vec<SessionId> =
            (0..rules.sessions).map(|n| SessionId { broker_id: n as i32, epoch: n as u64 + 1 }).collect();
        let assigned = AssignmentRecord { session: ids[0], ..unassigned() };
        let record = Record { assigned, target: None, revision: 1 };
        let records = vec![record; rules.partitions];
        let mut world = Self {
            objects: BTreeMap::new(),
            puts: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            records: records.clone(),
            sessions: ids.iter().map(|id| (*id, None)).collect(),
            controller: ids[rules.sessions - 1],
            processes: ids.iter().map(|id| new_process(*id, &records, None)).collect(),
            acked: BTreeMap::new(),
            next_id: 1,
            sealer: None,
            plan: None,
            collecting: Collecting::default(),
            left: rules.budget,
            broken: None,
        };
        if rules.acquired {
            for partition in 0..rules.partitions {
                world.acquire(rules, 0, partition);
                let seq = world.processes[0].stream.next_seq;
                world.land((ids[0], seq), rules);
                world.learn(0);
                world.records[partition].assigned.acquired = true;
            }
            for process in &mut world.processes {
                process.image.clone_from(&world.records);
            }
        }
        world
    }

    pub fn process(&self, id: SessionId) -> Option<&Process> {
        self.processes.iter().find(|process| process.id == id)
    }

    pub fn is_up(&self, id: SessionId) -> bool {
        self.process(id).is_some_and(|process| process.up)
    }

    /// Reads a stream as a new leader would: newest checkpoint, then segments up to the seal or the first that is missing.
    pub fn load(&self, session: SessionId) -> StreamState {
        let mut stream = StreamState { session, next_seq: 0, sealed: false, partitions: BTreeMap::new() };
        if let Some(((_, seq), states)) = self.checkpoints.range((session, 0)..=(session, u64::MAX)).next_back() {
            stream.partitions.clone_from(states);
            stream.next_seq = seq + 1;
        }
        self.read_on(&mut stream);
        stream
    }

    /// Goes on reading where `stream` ends.
    fn read_on(&self, stream: &mut StreamState) {
        while let Some(object) = self.objects.get(&(stream.session, stream.next_seq)) {
            match &**object {
                Object::Seal => {
                    stream.sealed = true;
                    break;
                }
                Object::Segment(entries) => {
                    let seq = stream.next_seq;
                    if stream.apply(seq, entries.iter().map(|(p, entry)| (*p, entry))).is_err() {
                        break;
                    }
                }
            }
        }
    }

    fn append(&mut self, at: usize, entries: Vec<(TopicPartition, Entry)>) -> u64 {
        let process = &mut self.processes[at];
        let seq = process.stream.next_seq + process.log.len() as u64;
        let object = Arc::new(Object::Segment(entries));
        process.log.push_back(object.clone());
        self.puts.insert((process.id, seq), object);
        seq
    }

    /// A client's records: appended, cut and sent.
    pub fn produce(&mut self, rules: &Rules, at: usize, partition: usize) {
        self.left.batches -= 1;
        let mut entries = Vec::new();
        for n in 0..rules.batches_per_segment {
            let hold = &mut self.processes[at].holds[partition];
            let facts = batch(n as u32, hold.end, hold.epoch, self.next_id);
            hold.end += 1;
            self.next_id += 1;
            entries.push((topic_partition(partition), Entry::Batch(facts)));
        }
        self.append(at, entries);
    }

    /// A PUT arrives at the store.
    pub fn land(&mut self, key: (SessionId, u64), rules: &Rules) {
        let Some(object) = self.puts.remove(&key) else { return };
        if rules.flaw == Flaw::PutWithoutCondition || !self.objects.contains_key(&key) {
            self.objects.insert(key, object);
        }
    }

    /// A session learns what became of its oldest segment on its way (or, with none, probes its next seq).
    pub fn learn(&mut self, at: usize) {
        let (id, seq) = (self.processes[at].id, self.processes[at].stream.next_seq);
        let Some(object) = self.objects.get(&(id, seq)).cloned() else { return };
        let Object::Segment(entries) = &*object else {
            self.processes[at].up = false;
            return;
        };
        let process = &mut self.processes[at];
        if process.log.pop_front().is_none() {
            self.broken = Some("a segment stands where the session never wrote");
            return;
        }
        if process.stream.apply(seq, entries.iter().map(|(p, entry)| (*p, entry))).is_err() {
            self.broken = Some("a committed segment does not fit the state before it");
            return;
        }
        for hold in &mut process.holds {
            match hold.phase {
                Phase::Acquiring { seq: own } if own == seq => hold.phase = Phase::Leading,
                Phase::Releasing { seq: own } if own == seq => hold.phase = Phase::Released { seq },
                _ => {}
            }
        }
        for (partition, entry) in entries {
            if *entry == Entry::Dropped {
                process.holds[partition.partition as usize].dropping = false;
            }
            let Entry::Batch(facts) = entry else { continue };
            let place = (partition.partition as usize, facts.base_offset);
            if self.acked.insert(place, facts.max_timestamp).is_some_and(|other| other != facts.max_timestamp) {
                self.broken = Some("one offset was acknowledged for two records");
            }
        }
    }

    /// Takes a partition over as the session's image says.
    pub fn acquire(&mut self, rules: &Rules, at: usize, partition: usize) {
        let process = &self.processes[at];
        let assigned = process.image[partition].assigned.clone();
        let mut streams: HashMap<SessionId, StreamState> =
            assigned.from.iter().map(|from| (from.session, self.load(from.session))).collect();
        if let Some(finished) = process.finished.clone().filter(|stream| streams.contains_key(&stream.session)) {
            streams.insert(finished.session, finished);
        }
        for from in &assigned.from {
            let stream = &streams[&from.session];
            let sealed = self.sessions.get(&from.session).copied().flatten();
            // A stream that was released from goes on; one that was sealed ends where its seal was recorded.
            let whole = if sealed.is_some() { stream.sealed } else { stream.next_seq >= from.sealed_seq };
            if !whole || stream.next_seq < from.sealed_seq {
                self.broken = Some("a stream that an assignment names cannot be read to its end");
            }
        }
        let tp = topic_partition(partition);
        let found = if rules.flaw == Flaw::AnyEpoch {
            assigned.from.iter().find_map(|from| streams[&from.session].partitions.get(&tp)).cloned()
        } else {
            newest_state(tp, &assigned.from, &mut streams)
        };
        let Ok(mut state) = state_or_empty(tp, assigned.acquired, found) else {
            // Under an old image that is as it should be: somebody else leads by now, and has the state.
            if assigned == self.records[partition].assigned {
                self.broken = Some("a partition's state is in no stream that its assignment names");
            }
            return;
        };
        state.leader_epoch = assigned.leader_epoch;
        let end = state.next_offset;
        let seq = self.append(at, vec![(tp, Entry::Acquired(Box::new(state)))]);
        let phase = Phase::Acquiring { seq };
        self.processes[at].holds[partition] = Hold { phase, epoch: assigned.leader_epoch, end, dropping: false };
    }

    pub fn clear_from(&mut self, partition: usize) {
        let record = &mut self.records[partition];
        record.assigned.from.clear();
        record.assigned.acquired = true;
        record.revision += 1;
    }

    /// Appends end; the state goes into the stream.
    pub fn release(&mut self, rules: &Rules, at: usize, partition: usize) {
        let tp = topic_partition(partition);
        let process = &self.processes[at];
        let state = match rules.flaw {
            Flaw::ReleasedWithoutPending => process.stream.partitions.get(&tp).cloned().unwrap_or_default(),
            _ => process.with_pending(partition),
        };
        let seq = self.append(at, vec![(tp, Entry::Released(Box::new(state)))]);
        self.processes[at].holds[partition].phase = Phase::Releasing { seq };
    }

    /// The old leader names the new one. `heard`: it got the reply.
    pub fn flip(&mut self, at: usize, partition: usize, target: SessionId, heard: bool) {
        let process = &mut self.processes[at];
        let hold = &mut process.holds[partition];
        let (Phase::Releasing { seq } | Phase::Released { seq }) = hold.phase else { return };
        let record = &mut self.records[partition];
        record.assigned.from = vec![FromStream { session: process.id, leader_epoch: hold.epoch, sealed_seq: seq + 1 }];
        record.assigned.session = target;
        record.assigned.leader_epoch += 1;
        record.assigned.acquired = true;
        record.target = None;
        record.revision += 1;
        if heard {
            hold.phase = Phase::Idle;
        }
    }

    /// The move was called off: the same leader goes on under the same epoch.
    pub fn resume(&mut self, at: usize, partition: usize) {
        let tp = topic_partition(partition);
        let state = self.processes[at].with_pending(partition);
        let seq = self.append(at, vec![(tp, Entry::Acquired(Box::new(state)))]);
        self.processes[at].holds[partition].phase = Phase::Acquiring { seq };
    }

    pub fn drop_given(&mut self, at: usize, partition: usize) {
        self.append(at, vec![(topic_partition(partition), Entry::Dropped)]);
        self.processes[at].holds[partition].dropping = true;
    }

    /// Retention: everything committed so far goes.
    pub fn move_log_start(&mut self, at: usize, partition: usize) {
        self.left.retentions -= 1;
        let tp = topic_partition(partition);
        let log_start = self.processes[at].stream.partitions[&tp].next_offset;
        self.append(at, vec![(tp, Entry::LogStartMoved { log_start })]);
    }

    pub fn checkpoint(&mut self, rules: &Rules, at: usize) {
        self.left.checkpoints -= 1;
        let process = &self.processes[at];
        let mut states = process.stream.partitions.clone();
        if rules.flaw == Flaw::CheckpointWithoutReleased {
            let acquiring = |hold: &Hold| matches!(hold.phase, Phase::Acquiring { .. });
            states.retain(|tp, _| !acquiring(&process.holds[tp.partition as usize]));
        }
        self.checkpoints.insert((process.id, process.stream.next_seq - 1), Arc::new(states));
    }

    /// Records the end of a stream.
    fn mark_sealed(&mut self, session: SessionId, seq: u64) {
        match self.sessions.insert(session, Some(seq)) {
            Some(Some(other)) if other != seq => self.broken = Some("a stream has two ends on record"),
            _ => {}
        }
    }

    /// Looks for the end of a stream, and seals it there unless it is sealed.
    pub fn plan_seal(&mut self, rules: &Rules, victim: SessionId) {
        let stream = self.load(victim);
        if stream.sealed {
            self.mark_sealed(victim, stream.next_seq);
        } else {
            self.sealer = Some((victim, stream.next_seq));
            if !rules.slow_sealer {
                self.put_seal(rules);
            }
        }
    }

    /// The seal arrives. It counts if the stream, read again, ends with it.
    pub fn put_seal(&mut self, rules: &Rules) {
        let Some((victim, seq)) = self.sealer.take() else { return };
        if self.objects.contains_key(&(victim, seq)) {
            return;
        }
        self.objects.insert((victim, seq), Arc::new(Object::Seal));
        let stream = self.load(victim);
        if rules.flaw == Flaw::SealNotReadBack || (stream.sealed && stream.next_seq == seq) {
            self.mark_sealed(victim, seq);
        }
    }

    /// The assignment after its sealed leader, if `to` gets it.
    pub fn plan_takeover(&self, partition: usize, to: SessionId) -> Option<AssignmentRecord> {
        let sealed: HashMap<SessionId, u64> =
            self.sessions.iter().filter_map(|(session, sealed)| Some((*session, (*sealed)?))).collect();
        take_over(&self.records[partition].assigned, to, &sealed).unwrap_or_default()
    }

    pub fn assign(&mut self, partition: usize, new: AssignmentRecord) {
        let record = &mut self.records[partition];
        record.assigned = new;
        record.target = None;
        record.revision += 1;
    }

    /// The broker starts again with its disk: what is in the store of its old stream, and what only the disk has.
    pub fn recover(&mut self, at: usize) {
        self.left.restarts -= 1;
        let stream = self.load(self.processes[at].id);
        let process = &mut self.processes[at];
        process.recovering = true;
        for _ in process.stream.next_seq..stream.next_seq {
            process.log.pop_front();
        }
        process.stream = stream;
        if let Some(Object::Segment(entries)) = process.log.back().map(|last| &**last).filter(|_| process.torn) {
            let kept = entries[..entries.len() - 1].to_vec();
            process.log.pop_back();
            if !kept.is_empty() {
                process.log.push_back(Arc::new(Object::Segment(kept)));
            }
        }
    }

    /// One file of the old stream is uploaded at its own seq; without any left, the stream is sealed and the next session
    /// registered.
    pub fn finish(&mut self, rules: &Rules, at: usize) {
        let process = &self.processes[at];
        let key = (process.id, process.stream.next_seq);
        let mut stream = process.stream.clone();
        self.read_seal(&mut stream);
        let mut log = process.log.clone();
        if stream.sealed {
            log.clear();
        } else if let Some(object) = log.pop_front() {
            let torn = process.torn && log.is_empty();
            if torn && self.objects.contains_key(&(key.0, key.1 + 1)) {
                log.clear();
            } else {
                let late = self.objects.contains_key(&key);
                let there = self.objects.entry(key).or_insert_with(|| object.clone()).clone();
                let counts = if rules.flaw == Flaw::TornFileTakenForWhole { object } else { there };
                if let Object::Segment(entries) = &*counts {
                    let _ = stream.apply(key.1, entries.iter().map(|(p, entry)| (*p, entry)));
                }
                if late && torn {
                    log.clear();
                }
            }
        } else {
            self.objects.entry(key).or_insert_with(|| Arc::new(Object::Seal));
            self.read_on(&mut stream);
        }
        let ended = stream.sealed && log.is_empty();
        let process = &mut self.processes[at];
        process.log = log;
        process.stream = stream.clone();
        if ended {
            process.gone = true;
            self.mark_sealed(stream.session, stream.next_seq);
            self.register(stream.session.broker_id, Some(stream));
        }
    }

    fn read_seal(&self, stream: &mut StreamState) {
        let there = self.objects.get(&(stream.session, stream.next_seq));
        stream.sealed |= there.is_some_and(|object| **object == Object::Seal);
    }

    /// A fenced process starts over with an empty stream.
    pub fn rejoin(&mut self, at: usize) {
        self.left.restarts -= 1;
        self.processes[at].gone = true;
        self.register(self.processes[at].id.broker_id, None);
    }

    fn register(&mut self, broker_id: i32, finished: Option<StreamState>) {
        let id = SessionId { broker_id, epoch: self.processes.len() as u64 + 1 };
        self.sessions.insert(id, None);
        self.processes.push(new_process(id, &self.records, finished));
    }

    /// Sessions that a controller or an old leader may name: those that are not sealed (their transactions compare that).
    pub fn candidates(&self) -> BTreeSet<SessionId> {
        self.sessions.iter().filter(|(_, sealed)| sealed.is_none()).map(|(session, _)| *session).collect()
    }
}

fn new_process(id: SessionId, records: &[Record], finished: Option<StreamState>) -> Process {
    let stream = StreamState { session: id, next_seq: 0, sealed: false, partitions: BTreeMap::new() };
    let hold = Hold { phase: Phase::Idle, epoch: -1, end: 0, dropping: false };
    Process {
        id,
        up: true,
        recovering: false,
        gone: false,
        image: records.to_vec(),
        stream,
        log: VecDeque::new(),
        torn: false,
        holds: vec![hold; records.len()],
        finished,
    }
}

fn unassigned() -> AssignmentRecord {
    let nobody = SessionId { broker_id: 0, epoch: 0 };
    let json = format!("{{\"session\":\"{nobody}\",\"leader_epoch\":0}}");
    serde_json::from_str(&json).expect("an assignment")
}

fn batch(position: u32, offset: i64, leader_epoch: i32, id: i64) -> BatchFacts {
    BatchFacts {
        position: position * 100,
        batch_bytes: 50,
        base_offset: offset,
        last_offset: offset,
        max_timestamp: id,
        attributes: 0,
        leader_epoch,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        append_ms: 0,
        marker: None,
    }
}
