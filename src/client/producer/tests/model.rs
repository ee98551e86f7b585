//! Two brokers in a bad network, as small as they can be: who leads, what is in the logs, what they know of producers, and
//! connections that break with requests and answers still in them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use crate::client::producer::machine::{Effect, Machine, Outcome, Settings};
use crate::client::{Error, Reason};
use crate::protocol::batch::{NewRecord, records};
use crate::protocol::grpc::v1;
use crate::protocol::grpc::v1::ProduceRequest;

const BROKERS: [&str; 2] = ["a:1", "b:1"];
const PARTITIONS: usize = 2;
/// Batches of a producer that a broker remembers.
const REMEMBERED: usize = 5;

#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// The program sends a record.
    Push(usize),
    /// A broker takes the next request.
    Process(usize),
    /// It refuses it: it has enough to do.
    Refuse(usize),
    /// The next answer arrives.
    Answer(usize),
    /// A connection breaks; answers in it are lost, requests in it may still arrive.
    Break(usize),
    /// A request of a connection that is broken arrives.
    Late,
    /// A partition is led by the other broker.
    Move(usize),
    /// The client hears who leads; stale: who led before.
    Leaders(bool),
    Identity(bool),
    /// A request that any broker forwards: done and answered, done, or lost.
    Forward(u8),
    Tick(u64),
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let broker = 0..BROKERS.len();
    let step = prop_oneof![
        10 => (0..PARTITIONS).prop_map(Step::Push),
        8 => broker.clone().prop_map(Step::Process),
        1 => broker.clone().prop_map(Step::Refuse),
        8 => broker.clone().prop_map(Step::Answer),
        1 => broker.prop_map(Step::Break),
        2 => Just(Step::Late),
        1 => (0..PARTITIONS).prop_map(Step::Move),
        4 => any::<bool>().prop_map(Step::Leaders),
        3 => prop_oneof![4 => Just(true), 1 => Just(false)].prop_map(Step::Identity),
        3 => (0..3_u8).prop_map(Step::Forward),
        8 => prop_oneof![8 => 1..30_u64, 4 => 30..1_500_u64, 1 => 5_000..11_000_u64].prop_map(Step::Tick),
    ];
    proptest::collection::vec(step, 1..250)
}

#[derive(Default)]
struct Connection {
    requests: VecDeque<ProduceRequest>,
    answers: VecDeque<(u64, Outcome)>,
}

/// First and last sequence, base offset.
type Remembered = VecDeque<(i32, i32, i64)>;

#[derive(Default)]
struct Log {
    leader: usize,
    before: usize,
    tokens: Vec<u64>,
    producers: BTreeMap<i64, Remembered>,
}

pub struct World {
    machine: Machine<u64>,
    now_ms: u64,
    logs: Vec<Log>,
    connections: Vec<Connection>,
    broken: Vec<(usize, VecDeque<ProduceRequest>)>,
    forwarded: VecDeque<ProduceRequest>,
    asked: usize,
    identifying: bool,
    next_identity: i64,
    pushed: Vec<(usize, u64)>,
    outcomes: BTreeMap<u64, Result<Option<i64>, bool>>,
}

fn topic() -> Arc<str> {
    "t".into()
}

impl World {
    pub fn new(settings: Settings) -> Self {
        Self {
            machine: Machine::new(settings),
            now_ms: 0,
            logs: (0..PARTITIONS).map(|_| Log::default()).collect(),
            connections: (0..BROKERS.len()).map(|_| Connection::default()).collect(),
            broken: Vec::new(),
            forwarded: VecDeque::new(),
            asked: 0,
            identifying: false,
            next_identity: 1,
            pushed: Vec::new(),
            outcomes: BTreeMap::new(),
        }
    }

    pub fn step(&mut self, step: Step) {
        match step {
            Step::Push(partition) => {
                let token = self.pushed.len() as u64;
                self.pushed.push((partition, token));
                let value = Some(Bytes::copy_from_slice(&token.to_le_bytes()));
                let record = NewRecord { value, ..NewRecord::default() };
                self.machine.push(&topic(), partition as i32, record, 100, token, self.now_ms);
            }
            Step::Process(broker) => {
                if let Some(request) = self.connections[broker].requests.pop_front() {
                    let outcome = self.append(broker, &request);
                    self.connections[broker].answers.push_back((request.id, outcome));
                }
            }
            Step::Refuse(broker) => {
                if let Some(request) = self.connections[broker].requests.pop_front() {
                    let refusal = Err(Error::new(Reason::Overloaded, "enough"));
                    self.connections[broker].answers.push_back((request.id, refusal));
                }
            }
            Step::Answer(broker) => {
                if let Some((id, outcome)) = self.connections[broker].answers.pop_front() {
                    self.machine.on_answer(id, outcome, self.now_ms);
                }
            }
            Step::Break(broker) => {
                let connection = std::mem::take(&mut self.connections[broker]);
                self.broken.push((broker, connection.requests));
                self.machine.on_broken(&BROKERS[broker].into(), self.now_ms);
            }
            Step::Late => {
                if let Some((broker, mut requests)) = self.broken.pop() {
                    if let Some(request) = requests.pop_front() {
                        let _ = self.append(broker, &request);
                    }
                    if !requests.is_empty() {
                        self.broken.insert(0, (broker, requests));
                    }
                }
            }
            Step::Move(partition) => {
                let log = &mut self.logs[partition];
                log.before = log.leader;
                log.leader = 1 - log.leader;
            }
            Step::Leaders(stale) => {
                if self.asked > 0 {
                    self.asked -= 1;
                    let led = |log: &Log| Some(Arc::from(BROKERS[if stale { log.before } else { log.leader }]));
                    let leaders: Vec<_> = self.logs.iter().map(led).collect();
                    self.machine.on_leaders(&topic(), Ok(&leaders), self.now_ms);
                }
            }
            Step::Identity(well) => {
                if std::mem::take(&mut self.identifying) {
                    let identity = if well { Ok(self.next_identity) } else { Err(Error::unavailable("no")) };
                    self.next_identity += i64::from(well);
                    self.machine.on_identity(identity, self.now_ms);
                }
            }
            Step::Forward(how) => {
                if let Some(request) = self.forwarded.pop_front() {
                    let partition = request.partition.unwrap() as usize;
                    let outcome = if how < 2 { Some(self.append(self.logs[partition].leader, &request)) } else { None };
                    let answer = outcome.filter(|_| how == 0).unwrap_or_else(|| Err(Error::unavailable("lost")));
                    self.machine.on_answer(request.id, answer, self.now_ms);
                }
            }
            Step::Tick(by_ms) => self.now_ms += by_ms,
        }
        self.poll();
    }

    fn poll(&mut self) {
        for effect in self.machine.poll(self.now_ms).0 {
            match effect {
                Effect::Send { to: None, request } => self.forwarded.push_back(request),
                Effect::Send { to: Some(to), request } => {
                    let broker = BROKERS.iter().position(|name| **name == *to).unwrap();
                    self.connections[broker].requests.push_back(request);
                }
                Effect::FindLeaders { .. } => self.asked += 1,
                Effect::Identify => self.identifying = true,
                Effect::Done { tokens, outcome, .. } => {
                    for (at, token) in (0..).zip(tokens) {
                        let told = match &outcome {
                            Ok(base) => Ok(base.map(|base| base + at)),
                            Err(error) => Err(error.may_have_happened()),
                        };
                        assert!(self.outcomes.insert(token, told).is_none(), "token {token} has two outcomes");
                    }
                }
            }
        }
    }

    /// What a broker does with a batch: as `partition/producers.rs`.
    fn append(&mut self, broker: usize, request: &ProduceRequest) -> Outcome {
        let log = &mut self.logs[request.partition.unwrap() as usize];
        if log.leader != broker {
            let grpc_endpoint = BROKERS[log.leader].to_owned();
            return Err(Error::of_answer(v1::Error {
                reason: Reason::NotLeader.into(),
                retriable: true,
                leader: Some(v1::Leader { broker_id: log.leader as i32, grpc_endpoint }),
                ..v1::Error::default()
            }));
        }
        let batch = records(&request.batch).unwrap();
        let header = *batch.header();
        let base = log.tokens.len() as i64;
        if header.producer_id >= 0 {
            let known = log.producers.entry(header.producer_id).or_default();
            let span = (header.base_sequence, header.last_sequence());
            if let Some((.., base)) = known.iter().find(|(first, last, _)| (*first, *last) == span) {
                return Ok(Some(*base));
            }
            if known.back().is_some_and(|(_, last, _)| header.base_sequence != last + 1) {
                return Err(Error::new(Reason::OutOfOrderSequence, "not the next one"));
            }
            if known.len() == REMEMBERED {
                known.pop_front();
            }
            known.push_back((span.0, span.1, base));
        }
        for record in batch {
            let value = record.unwrap().value.unwrap();
            log.tokens.push(u64::from_le_bytes(value.as_ref().try_into().unwrap()));
        }
        Ok(Some(base))
    }

    /// The network is well again, until nothing is left to be done; then what was lost arrives after all.
    pub fn settle(&mut self) {
        let until = self.machine.flush();
        for _ in 0..2_000 {
            for broker in 0..BROKERS.len() {
                for _ in 0..10 {
                    self.step(Step::Process(broker));
                    self.step(Step::Answer(broker));
                }
            }
            for step in [Step::Leaders(false), Step::Identity(true), Step::Forward(0), Step::Tick(40)] {
                self.step(step);
            }
            if self.machine.settled_before(until) {
                break;
            }
        }
        assert!(self.machine.settled_before(until), "it is stuck");
        while !self.broken.is_empty() {
            self.step(Step::Late);
        }
    }

    pub fn check(&self) {
        let mut places: BTreeMap<u64, (usize, Vec<i64>)> = BTreeMap::new();
        for (partition, log) in self.logs.iter().enumerate() {
            for (offset, token) in (0..).zip(&log.tokens) {
                places.entry(*token).or_insert_with(|| (partition, Vec::new())).1.push(offset);
            }
        }
        let mut last = [-1_i64; PARTITIONS];
        for (partition, token) in &self.pushed {
            let found = places.get(token).map(|(partition, offsets)| (*partition, offsets.as_slice()));
            match (self.outcomes.get(token), found) {
                (None, _) => panic!("token {token} has no outcome"),
                (Some(Ok(told)), Some((there, [offset]))) => {
                    assert_eq!(there, *partition);
                    assert!(told.is_none_or(|told| told == *offset), "token {token}: told {told:?}, is at {offset}");
                    assert!(*offset > last[*partition], "token {token} is out of order");
                    last[*partition] = *offset;
                }
                (Some(Err(false)), None) | (Some(Err(true)), None | Some((_, [_]))) => {}
                (Some(outcome), found) => panic!("token {token}: told {outcome:?}, found {found:?}"),
            }
        }
    }
}
