//! What is made of a bucket: by example, and against histories whose outcome is known.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use uuid::Uuid;

use super::machine::{
    EPOCH_ROOM, FORGOTTEN_MS, Gathered, Known, LEADER_EPOCH_ROOM, Origin, PRODUCER_ID_ROOM, Plan, plan,
};
use super::report::{Report, State};
use crate::base::{SessionId, TopicPartition};
use crate::format::catalogue::{CatalogueBackup, SavedDeletion, SavedSession, SavedTopic};
use crate::format::metadata::{AssignmentRecord, DeletionRecord, FromStream, SessionRecord, TopicRecord};
use crate::format::state::{ObjectRef, PartitionState, ProducerState, Run};
use crate::partition::stream::StreamState;

const NOW_MS: i64 = 1_800_000_000_000;

fn session(broker_id: i32, epoch: u64) -> SessionId {
    SessionId { broker_id, epoch }
}

fn partition(topic: u128, index: i32) -> TopicPartition {
    TopicPartition::new(Uuid::from_u128(topic), index)
}

fn state(leader_epoch: i32, next_offset: i64) -> PartitionState {
    PartitionState { leader_epoch, next_offset, ..PartitionState::default() }
}

fn stream(session: SessionId, next_seq: u64, partitions: &[(TopicPartition, PartitionState)]) -> StreamState {
    StreamState { session, next_seq, sealed: true, partitions: partitions.iter().cloned().collect() }
}

fn saved(name: &str, id: u128, leader_epochs: &[i32]) -> SavedTopic {
    let configs = BTreeMap::from([("retention.ms".to_owned(), "-1".to_owned())]);
    let topic = TopicRecord {
        name: name.to_owned(),
        id: Uuid::from_u128(id),
        partitions: leader_epochs.len() as u32,
        replication_factor: 3,
        configs,
        created_ms: 7,
    };
    SavedTopic { topic, leader_epochs: leader_epochs.to_vec() }
}

fn backup(topics: Vec<SavedTopic>, sessions: &[(SessionId, Option<u64>)]) -> CatalogueBackup {
    CatalogueBackup {
        revision: 100,
        cluster_id: "id".to_owned(),
        created_ms: 5,
        next_producer_id: 3_000,
        topics,
        deletions: Vec::new(),
        sessions: sessions
            .iter()
            .map(|(session, sealed)| SavedSession { session: *session, sealed: *sealed })
            .collect(),
    }
}

fn known(backup: CatalogueBackup) -> Known {
    let bucket = Some(("id".to_owned(), 0));
    Known { bucket, backup: Some(backup), backup_ms: NOW_MS, names: BTreeMap::new() }
}

fn gather(streams: &[StreamState]) -> Gathered {
    let mut gathered = Gathered::default();
    for stream in streams {
        gathered.add(stream, NOW_MS, |_| true);
    }
    gathered
}

fn assignment(plan: &Plan, name: &str, index: usize) -> AssignmentRecord {
    let (_, chunks) = plan.rebuilt.topics.iter().find(|(topic, _)| topic.name == name).expect("the topic");
    chunks[index / 100].partitions[index % 100].clone()
}

#[test]
fn a_partition_comes_from_the_stream_that_led_it_last() {
    let (a, b) = (session(1, 10), session(2, 20));
    let streams = [
        stream(a, 4, &[(partition(7, 0), state(0, 100)), (partition(7, 1), state(2, 5))]),
        stream(b, 9, &[(partition(7, 0), state(3, 130)), (partition(7, 1), state(1, 50))]),
    ];
    let known = known(backup(vec![saved("orders", 7, &[4, 2, 0])], &[(a, Some(4)), (b, None)]));
    let plan = plan(&known, &gather(&streams), NOW_MS).expect("a plan");
    let from = |session, leader_epoch, sealed_seq| vec![FromStream { session, leader_epoch, sealed_seq }];
    let first = assignment(&plan, "orders", 0);
    assert_eq!(first.from, from(b, 3, 9));
    assert_eq!(first.leader_epoch, 4 + LEADER_EPOCH_ROOM, "above what the backup saw, which no stream knows");
    assert_eq!((first.session, first.target), (plan.nobody, None));
    assert_eq!(assignment(&plan, "orders", 1).from, from(a, 2, 4));
    assert_eq!(assignment(&plan, "orders", 2).from, [], "never written");
    let (record, _) = &plan.rebuilt.topics[0];
    assert_eq!((record.created_ms, record.replication_factor, record.configs.len()), (7, 3, 1));
    let sealed = |(id, record): &(SessionId, SessionRecord)| (*id, record.sealed.expect("it").seq);
    let sessions: Vec<_> = plan.rebuilt.sessions.iter().map(sealed).collect();
    assert_eq!(sessions, [(a, 4), (b, 9), (plan.nobody, 0)]);
    assert!(plan.problems.is_empty() && plan.deleted.is_empty());
}

#[test]
fn epochs_and_producer_ids_begin_above_all_that_could_have_been() {
    let mut led = state(0, 1);
    let producer = ProducerState {
        epoch: 0,
        coordinator_epoch: -1,
        txn_first_offset: None,
        last_append_ms: 0,
        batches: std::collections::VecDeque::new(),
    };
    led.producers.insert(9_999, producer);
    let streams = [stream(session(1, 10), 1, &[(partition(7, 0), led)])];
    let mut known = known(backup(vec![saved("orders", 7, &[0])], &[(session(3, 4_000), None)]));
    let planned = plan(&known, &gather(&streams), NOW_MS).expect("a plan");
    assert_eq!(planned.cluster.epoch_base, 2 * EPOCH_ROOM);
    assert_eq!(planned.nobody, session(0, 2 * EPOCH_ROOM));
    assert_eq!(planned.rebuilt.producer_ids.next_id, 10_000 + PRODUCER_ID_ROOM);
    // A second time, soon after the first: the bucket remembers.
    known.bucket = Some(("id".to_owned(), planned.cluster.epoch_base));
    let again = plan(&known, &gather(&streams), NOW_MS).expect("a plan");
    assert_eq!(again.cluster.epoch_base, 4 * EPOCH_ROOM);
    let mut unread = Gathered::default();
    unread.unreadable.insert(session(1, 5 * EPOCH_ROOM + 1), "damaged".to_owned());
    let third = plan(&known, &unread, NOW_MS).expect("a plan");
    assert_eq!(third.cluster.epoch_base, 7 * EPOCH_ROOM, "streams that cannot be read count");
}

#[test]
fn topics_that_only_streams_know_come_back_under_a_name_that_says_so() {
    let (old, alive) = (session(1, 10), session(1, 90));
    let mut saved_catalogue = backup(vec![saved("orders", 7, &[0])], &[(old, Some(4)), (alive, None)]);
    let deletion = DeletionRecord { name: "gone".to_owned(), partitions: 1, deleted_ms: 9 };
    saved_catalogue.deletions.push(SavedDeletion { id: Uuid::from_u128(3), deletion: deletion.clone() });
    let streams = [
        // 2 was deleted before the backup; 3 is being deleted.
        stream(old, 4, &[(partition(2, 0), state(0, 9)), (partition(3, 0), state(0, 9))]),
        // 5 was made after the backup. Who led it first had ended before its other partition was written: that does not matter.
        stream(alive, 2, &[(partition(5, 3), state(0, 11)), (partition(3, 0), state(1, 9))]),
    ];
    let mut known = known(saved_catalogue);
    let planned = plan(&known, &gather(&streams), NOW_MS).expect("a plan");
    let names: Vec<&str> = planned.topics.iter().map(|topic| topic.record.name.as_str()).collect();
    let restored = "restored-00000000-0000-0000-0000-000000000005";
    assert_eq!(names, ["orders", restored]);
    let topic = &planned.topics[1];
    assert_eq!((topic.origin, topic.record.partitions, topic.record.created_ms), (Origin::Streams, 4, NOW_MS));
    assert_eq!(topic.partitions[3].expect("written").end_offset, 11);
    assert_eq!(planned.deleted, [Uuid::from_u128(2), Uuid::from_u128(3)]);
    assert_eq!(planned.rebuilt.deletions, [(Uuid::from_u128(3), deletion)]);
    assert!(planned.problems[0].contains(restored), "{:?}", planned.problems);
    // They may be given names, also to bring a deleted one back; never two the same.
    known.names = [(Uuid::from_u128(5), "payments".to_owned()), (Uuid::from_u128(2), "back".to_owned())].into();
    let planned = plan(&known, &gather(&streams), NOW_MS).expect("a plan");
    let names: Vec<&str> = planned.topics.iter().map(|topic| topic.record.name.as_str()).collect();
    assert_eq!(names, ["back", "orders", "payments"]);
    for (id, name) in [(5, "orders"), (5, "not a name"), (77, "fine")] {
        known.names = [(Uuid::from_u128(id), name.to_owned())].into();
        assert!(plan(&known, &gather(&streams), NOW_MS).is_err(), "{name}");
    }
}

#[test]
fn a_stream_that_was_forgotten_before_the_backup_brings_no_topic_back() {
    let forgotten = stream(session(1, 3), 1, &[(partition(2, 0), state(0, 9))]);
    for (modified_ms, topics) in [(NOW_MS - FORGOTTEN_MS - 1, 0), (NOW_MS - FORGOTTEN_MS, 1)] {
        let mut gathered = Gathered::default();
        gathered.add(&forgotten, modified_ms, |_| true);
        let planned = plan(&known(backup(Vec::new(), &[])), &gathered, NOW_MS).expect("a plan");
        assert_eq!(planned.topics.len(), topics);
    }
}

#[test]
fn without_a_backup_the_streams_alone_bring_everything_back_but_names() {
    let streams = [stream(session(1, 3), 1, &[(partition(2, 0), state(0, 9))])];
    let mut known = Known { bucket: Some(("id".to_owned(), 0)), ..Known::default() };
    let planned = plan(&known, &gather(&streams), NOW_MS).expect("a plan");
    assert_eq!(planned.topics.len(), 1);
    assert!(planned.problems[0].contains("no backup"), "{:?}", planned.problems);
    known.bucket = None;
    assert!(plan(&known, &gather(&streams), NOW_MS).is_err(), "whose it is cannot be guessed");
}

#[test]
fn objects_that_are_missing_are_told_of() {
    let object = ObjectRef::Segment { session: session(1, 1), seq: 5 };
    let mut led = state(1, 9);
    led.runs.push_back(Run {
        first_offset: 0,
        next_offset: 9,
        max_timestamp: 0,
        object,
        position: 64,
        length: 100,
        batch_bytes: 100,
    });
    let mut gathered = Gathered::default();
    gathered.add(&stream(session(1, 3), 1, &[(partition(7, 0), led)]), NOW_MS, |asked| *asked != object);
    let known = known(backup(vec![saved("orders", 7, &[1])], &[]));
    let planned = plan(&known, &gathered, NOW_MS).expect("a plan");
    assert!(planned.problems[0].contains("orders-0: 1 objects"), "{:?}", planned.problems);
    let notes = ["a note".to_owned()];
    let (state, store) = (State::Found, "file:///bucket");
    let report = Report { state, store, known: &known, gathered: &gathered, plan: &planned, notes: &notes };
    let text = report.text();
    for part in [
        "cluster    id\n",
        "TOPIC   PARTITIONS  WRITTEN  RECORDS  FROM    END OFFSETS\norders           1        1        9  backup            9\n",
        "not as it was:\n  a note\n  partition orders-0",
        "\nnothing was changed\n",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
    let json = report.json();
    assert_eq!(json["topics"][0]["partitions"][0]["end_offset"], 9);
    assert_eq!((json["restored"].as_bool(), json["problems"][0].as_str()), (Some(false), Some("a note")));
}

/// A cluster as it was: who leads what, what is in whose stream, what was saved.
#[derive(Default)]
struct History {
    revision: u64,
    living: Vec<SessionId>,
    streams: BTreeMap<SessionId, StreamState>,
    sealed: BTreeMap<SessionId, u64>,
    topics: BTreeMap<u128, Vec<Led>>,
    deletions: BTreeSet<u128>,
    saved: Option<CatalogueBackup>,
}

/// A partition that is led.
#[derive(Clone, Copy)]
struct Led {
    leader: SessionId,
    epoch: i32,
    end: i64,
    /// Whether the leader's stream holds the state.
    acquired: bool,
}

impl History {
    fn begin_session(&mut self) {
        self.revision += 1;
        let session = session((self.revision % 3) as i32, self.revision);
        self.living.push(session);
        self.streams.insert(session, stream(session, 0, &[]));
    }

    fn living(&self, pick: u8) -> SessionId {
        self.living[pick as usize % self.living.len()]
    }

    fn topic(&self, pick: u8) -> Option<u128> {
        self.topics.keys().nth(pick as usize % self.topics.len().max(1)).copied()
    }

    /// The leader's stream takes the state in, with `more` records.
    fn write(&mut self, id: u128, index: usize, more: i64) {
        let led = &mut self.topics.get_mut(&id).expect("it")[index];
        led.end += more;
        led.acquired = true;
        let stream = self.streams.get_mut(&led.leader).expect("it");
        stream.partitions.insert(partition(id, index as i32), state(led.epoch, led.end));
        stream.next_seq += 1;
    }

    fn step(&mut self, (kind, a, b): (u8, u8, u8)) {
        self.revision += 1;
        let topic = self.topic(a);
        let leader = self.living(b);
        match (kind % 9, topic) {
            (0, _) => {
                let led = Led { leader, epoch: 0, end: 0, acquired: false };
                self.topics.insert(u128::from(self.revision), vec![led; 1 + a as usize % 3]);
            }
            (1 | 2, Some(id)) => {
                let index = b as usize % self.topics[&id].len();
                self.write(id, index, i64::from(a) + 1);
            }
            // Acquired without a record.
            (3, Some(id)) => {
                let index = b as usize % self.topics[&id].len();
                self.write(id, index, 0);
            }
            // Given away.
            (4, Some(id)) => {
                for index in 0..self.topics[&id].len() {
                    let led = &mut self.topics.get_mut(&id).expect("it")[index];
                    if led.acquired && led.leader != leader {
                        *led = Led { leader, epoch: led.epoch + 1, acquired: false, ..*led };
                    }
                }
            }
            (5, _) => {
                // A leader dies, and another takes over.
                let dead = self.living.remove(b as usize % self.living.len());
                self.sealed.insert(dead, self.streams[&dead].next_seq);
                self.begin_session();
                let heir = self.living(a);
                for led in self.topics.values_mut().flatten().filter(|led| led.leader == dead) {
                    *led = Led { leader: heir, epoch: led.epoch + 1, acquired: false, ..*led };
                }
            }
            (6, _) => self.begin_session(),
            (7, Some(id)) => {
                for (index, led) in (0..).zip(self.topics.remove(&id).expect("it")) {
                    let stream = self.streams.get_mut(&led.leader).expect("it");
                    stream.partitions.remove(&partition(id, index));
                }
                self.deletions.insert(id);
            }
            (8, _) => self.save(),
            _ => {}
        }
    }

    fn save(&mut self) {
        let topics = self.topics.iter();
        let topics = topics
            .map(|(id, all)| saved(&format!("topic-{id}"), *id, &all.iter().map(|led| led.epoch).collect::<Vec<_>>()));
        let sessions: Vec<_> =
            self.streams.keys().map(|session| (*session, self.sealed.get(session).copied())).collect();
        let deletion = |id: &u128| SavedDeletion {
            id: Uuid::from_u128(*id),
            deletion: DeletionRecord { name: "gone".to_owned(), partitions: 1, deleted_ms: 0 },
        };
        let mut saved = backup(topics.collect(), &sessions);
        (saved.revision, saved.deletions) = (self.revision, self.deletions.iter().map(deletion).collect());
        self.saved = Some(saved);
    }
}

proptest! {
    #[test]
    fn what_was_written_comes_back_as_it_was(steps in proptest::collection::vec(any::<(u8, u8, u8)>(), 1..120)) {
        let mut history = History::default();
        history.begin_session();
        history.begin_session();
        history.save();
        for step in steps {
            history.step(step);
        }
        let streams: Vec<StreamState> = history.streams.values().cloned().collect();
        let saved = history.saved.clone().expect("it");
        let planned = plan(&known(saved.clone()), &gather(&streams), NOW_MS).expect("a plan");
        prop_assert!(planned.cluster.epoch_base >= history.revision + EPOCH_ROOM);
        for (id, all) in &history.topics {
            let in_backup = saved.topics.iter().any(|saved| saved.topic.id == Uuid::from_u128(*id));
            let written = all.iter().any(|led| led.end > 0);
            let found = planned.topics.iter().find(|topic| topic.record.id == Uuid::from_u128(*id));
            let Some(found) = found else {
                prop_assert!(!in_backup && !written, "topic {id} is lost");
                continue;
            };
            let name = if in_backup { format!("topic-{id}") } else { format!("restored-{}", Uuid::from_u128(*id)) };
            prop_assert_eq!(&found.record.name, &name);
            for (index, led) in all.iter().enumerate() {
                let candidate = found.partitions.get(index).copied().flatten();
                prop_assert_eq!(candidate.map_or(0, |candidate| candidate.end_offset), led.end, "{}-{}", id, index);
                let epoch = found.leader_epochs.get(index).copied();
                prop_assert!(epoch.is_none_or(|epoch| epoch > led.epoch));
            }
        }
        // What was deleted before the backup stays deleted, whatever old streams hold of it.
        for deleted in &saved.deletions {
            prop_assert!(planned.topics.iter().all(|topic| topic.record.id != deleted.id));
        }
    }
}
