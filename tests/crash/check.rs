//! A world of producers on one broker, and the proof that its deaths lost, doubled, moved and changed nothing.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::load::{
    Acknowledged, GROUP, GroupOffset, Producer, RecordId, TOPIC, Witnessed, commit_offsets, committed, identify, waste,
    witness,
};
use crate::process::Doors;
use crate::wire::Connection;

const PARTITIONS: i32 = 6;
/// Most tries until the coordinator of a new cluster is there.
const COORDINATOR_TRIES: u32 = 10_000;

/// Everything that the outside knows.
pub struct World {
    producers: Vec<Producer>,
    /// What each partition was found to hold, by offset.
    seen: Vec<Vec<RecordId>>,
    ids: HashSet<RecordId>,
    /// Acknowledged and not yet looked up.
    acknowledged: Vec<Acknowledged>,
    witnessed: Witnessed,
    positions: Vec<i64>,
    group: GroupOffset,
    next_waste: u64,
    /// Acknowledged batches by acks, for the report.
    pub counts: HashMap<i16, u64>,
}

impl World {
    /// Plain and idempotent producers, alone and together on a partition, with each acks and with both in turn.
    pub fn new() -> Self {
        const LEADER: &[i16] = &[1];
        const ALL: &[i16] = &[-1];
        const BOTH: &[i16] = &[1, -1, -1, 1];
        let plan = [(0, LEADER), (1, ALL), (2, LEADER), (3, ALL), (4, BOTH), (4, LEADER), (5, BOTH), (5, BOTH)];
        let producers =
            plan.iter().enumerate().map(|(number, (partition, acks))| Producer::new(number as u32, *partition, acks));
        Self {
            producers: producers.collect(),
            seen: vec![Vec::new(); PARTITIONS as usize],
            ids: HashSet::new(),
            acknowledged: Vec::new(),
            witnessed: Vec::new(),
            positions: vec![0; PARTITIONS as usize],
            group: GroupOffset { attempted: 0, committed: 0 },
            next_waste: 0,
            counts: HashMap::new(),
        }
    }

    /// Creates the topic, the coordinator and the producers' identities on a new broker.
    pub fn found(&mut self, doors: Doors) {
        let mut connection = Connection::open(doors.kafka).expect("the broker listens");
        assert_eq!(connection.create_topic(TOPIC, PARTITIONS).expect("the broker answers"), 0);
        let tries =
            (0..COORDINATOR_TRIES).find(|_| connection.find_coordinator(GROUP).expect("the broker answers") == 0);
        assert!(tries.is_some(), "no coordinator");
        // 2, 3: alone with an identity; 5: next to a plain producer; 6, 7: two with identities.
        for number in [2, 3, 5, 6, 7] {
            self.producers[number].identity = Some(connection.init_producer().expect("the broker answers"));
        }
    }

    /// Runs everybody until `end` returns (it is expected to kill the broker) or, with `enough`, until all is answered.
    pub fn load(&mut self, address: SocketAddr, end: impl FnOnce(&AtomicBool)) {
        let enough = AtomicBool::new(false);
        let Self { producers, positions, witnessed, group, next_waste, acknowledged, .. } = self;
        let problems: Vec<String> = std::thread::scope(|scope| {
            let enough = &enough;
            let producing: Vec<_> = producers
                .iter_mut()
                .map(|producer| {
                    scope.spawn(move || {
                        let mut acknowledged = Vec::new();
                        let problem = producer.run(address, enough, &mut acknowledged).err();
                        (acknowledged, problem)
                    })
                })
                .collect();
            let others = [
                scope.spawn(move || witness(address, enough, positions, witnessed).err()),
                scope.spawn(move || commit_offsets(address, enough, group).err()),
                scope.spawn(move || waste(address, enough, next_waste).err()),
            ];
            end(enough);
            let mut problems = Vec::new();
            for thread in producing {
                let (more, problem) = thread.join().expect("a producer does not panic");
                acknowledged.extend(more);
                problems.extend(problem);
            }
            problems.extend(others.into_iter().filter_map(|thread| thread.join().expect("a client does not panic")));
            problems
        });
        assert_eq!(problems, Vec::<String>::new());
        for producer in &mut self.producers {
            if producer.identity.is_none() {
                // Perhaps written, perhaps not; never sent again.
                producer.in_flight.clear();
            }
        }
    }

    /// Lets every idempotent producer get the answers it lacks.
    pub fn settle(&mut self, doors: Doors) {
        self.load(doors.kafka, |enough| enough.store(true, Ordering::SeqCst));
        assert!(self.producers.iter().all(|producer| producer.in_flight.is_empty()));
    }

    /// Reads what is new (or, `from_start`, everything) and compares it with all that is known.
    pub fn check(&mut self, doors: Doors, from_start: bool) {
        let mut connection = Connection::open(doors.kafka).expect("the broker listens");
        for partition in 0..PARTITIONS {
            let known = self.seen[partition as usize].len();
            let mut offset = if from_start { 0 } else { known as i64 };
            loop {
                let fetched = connection.fetch(TOPIC, partition, offset, 0).expect("the broker answers");
                assert_eq!((fetched.error, fetched.log_start), (0, 0), "partition {partition} at {offset}");
                let end = fetched.high_watermark;
                assert!(end >= known as i64, "partition {partition} ends at {end} and once ended at {known}");
                if offset == end {
                    break;
                }
                assert!(!fetched.records.is_empty(), "partition {partition}: nothing at {offset} of {end}");
                for record in fetched.records {
                    assert_eq!(record.offset, offset, "partition {partition}: a gap or an overlap");
                    let id = record.value.as_deref().and_then(identify);
                    let id = id.unwrap_or_else(|| panic!("partition {partition}: damaged record at {offset}"));
                    self.remember(partition, offset, id);
                    offset += 1;
                }
            }
        }
        self.check_acknowledged();
        self.check_order();
        for (partition, offset, id) in self.witnessed.drain(..) {
            let now = self.seen[partition as usize].get(offset as usize);
            assert_eq!(now, Some(&id), "partition {partition}: a consumer saw another record at {offset}");
        }
        let offset = committed(&mut connection);
        let GroupOffset { attempted, committed } = self.group;
        assert!(
            offset.max(0) >= committed && offset <= attempted,
            "the group's offset is {offset}; {committed} was committed and {attempted} attempted"
        );
    }

    fn remember(&mut self, partition: i32, offset: i64, id: RecordId) {
        let seen = &mut self.seen[partition as usize];
        if let Some(before) = seen.get(offset as usize) {
            assert_eq!(*before, id, "partition {partition}: offset {offset} changed");
        } else {
            seen.push(id);
            assert!(self.ids.insert(id), "partition {partition}: {id:?} is there twice, again at {offset}");
        }
    }

    fn check_acknowledged(&mut self) {
        for Acknowledged { partition, offset, acks, batch } in self.acknowledged.drain(..) {
            *self.counts.entry(acks).or_default() += 1;
            for index in 0..batch.records {
                let at = offset + index as i64;
                let found = self.seen[partition as usize].get(at as usize);
                assert_eq!(
                    found,
                    Some(&(batch.producer, batch.first + index)),
                    "partition {partition}: {batch:?} was acknowledged (acks={acks}) at {offset}, but {at} holds this"
                );
            }
        }
    }

    /// Each producer's records are in the order in which they were sent, an idempotent one's without a hole.
    fn check_order(&self) {
        for (partition, seen) in self.seen.iter().enumerate() {
            let mut next: HashMap<u32, u64> = HashMap::new();
            for (offset, (producer, record)) in seen.iter().enumerate() {
                let expected = next.entry(*producer).or_default();
                let idempotent = self.producers[*producer as usize].identity.is_some();
                assert!(
                    if idempotent { record == expected } else { record >= expected },
                    "partition {partition}: record {record} of producer {producer} at {offset}, expected {expected}"
                );
                *expected = record + 1;
            }
        }
    }

    /// Records found so far.
    pub fn records(&self) -> usize {
        self.ids.len()
    }
}
