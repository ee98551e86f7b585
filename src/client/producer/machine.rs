//! What a producer decides: which records make a batch, when it is sent to whom, and what an answer means.
//!
//! A partition is a *lane*: records wait in batches (`waiting`); a batch that is sent gets a sequence and is *under way* until
//! its fate is known. Batches under way are sent again with the same sequence, in their order, so the broker writes each of
//! them once, as Kafka's idempotent producers do it (KIP-98).
//!
//! Invariants:
//! - at most [`WINDOW`] batches follow the oldest one whose fate is not known: a broker remembers that many;
//! - a batch gets another sequence only if no copy of it can have been written, or can be written still: after a definite
//!   answer to each of its tries. What cannot be known is told (`may_have_happened`), and never sent under a new identity;
//! - after a hole in a lane's sequences (a batch was given up) nothing new gets a sequence of that identity; when the lane has
//!   nothing under way any more it takes another identity.
//!
//! Pure: time and identities come in, effects go out.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::super::Error;
use super::batch::Batch;
use super::lane::{Lane, Peer, Route};
use crate::base::HashMap;
use crate::protocol::batch::Compression;
use crate::protocol::batch::header::sequence_add;
use crate::protocol::grpc::v1::{Acks, ProduceRequest, Reason};

/// Batches from the oldest one whose fate is not known to the newest one that was sent.
pub const WINDOW: u64 = 5;
/// Requests to one broker that wait for their answers.
pub const MAX_REQUESTS: usize = 200;
/// A leader whose connection broke this often in a row is reached through other brokers,
const FORWARD_AFTER: u32 = 4;
/// for this long, in milliseconds.
const FORWARD_MS: u64 = 10_000;
/// Most time that one request may take at the broker, in milliseconds.
const REQUEST_TIMEOUT_MS: u64 = 30_000;

/// What a producer was told.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub acks: Acks,
    pub compression: Compression,
    pub linger_ms: u64,
    pub batch_bytes: usize,
    pub idempotent: bool,
    pub delivery_timeout_ms: u64,
}

/// Where the records of a batch went: offset of the first one, if the broker still knew.
pub type Outcome = Result<Option<i64>, Error>;

/// What is to be done.
#[derive(Debug)]
pub enum Effect<T> {
    /// Send this to the broker at `to`, in this order; without an address to any, which forwards it.
    Send { to: Option<Arc<str>>, request: ProduceRequest },
    /// Find out who leads the topic's partitions.
    FindLeaders { topic: Arc<str> },
    /// Get a producer id.
    Identify,
    /// The fate of these records is known.
    Done { partition: i32, tokens: Vec<T>, bytes: usize, outcome: Outcome },
}

#[derive(Debug)]
pub struct Machine<T> {
    settings: Settings,
    lanes: Vec<Lane<T>>,
    by_name: HashMap<(Arc<str>, i32), usize>,
    /// Lanes to look at.
    dirty: VecDeque<usize>,
    /// When to look at lanes again.
    timers: BTreeSet<(u64, usize)>,
    peers: HashMap<Option<Arc<str>>, Peer>,
    /// Who was asked what, by the request's id.
    requests: HashMap<u64, (usize, Option<Arc<str>>)>,
    next_request: u64,
    next_batch: u64,
    /// Batches whose fate is not known, by number; the parts of one that was split are as many.
    unsettled: BTreeMap<u64, u32>,
    identity: Option<i64>,
    identifying: bool,
    effects: Vec<Effect<T>>,
}

impl<T> Machine<T> {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            lanes: Vec::new(),
            by_name: HashMap::default(),
            dirty: VecDeque::new(),
            timers: BTreeSet::new(),
            peers: HashMap::default(),
            requests: HashMap::default(),
            next_request: 1,
            next_batch: 0,
            unsettled: BTreeMap::new(),
            identity: None,
            identifying: false,
            effects: Vec::new(),
        }
    }

    /// Takes a record. Returns whether [`Machine::poll`] has something to do at once, or a timer to set.
    pub fn push(
        &mut self,
        topic: &Arc<str>,
        partition: i32,
        record: crate::protocol::batch::NewRecord,
        bytes: usize,
        token: T,
        now_ms: u64,
    ) -> bool {
        let at = self.lane(topic, partition);
        let limit = self.settings.batch_bytes;
        let lane = &mut self.lanes[at];
        let fits = lane.waiting.back().is_some_and(|batch| batch.takes(bytes, limit));
        if !fits {
            if let Some(full) = lane.waiting.back_mut() {
                full.seal();
            }
            let due_ms = now_ms.saturating_add(self.settings.linger_ms);
            let give_up_ms = now_ms.saturating_add(self.settings.delivery_timeout_ms);
            lane.waiting.push_back(Batch::new(self.next_batch, due_ms, give_up_ms));
            self.unsettled.insert(self.next_batch, 1);
            self.next_batch += 1;
        }
        let Some(batch) = lane.waiting.back_mut() else { return false };
        batch.push(record, bytes, token);
        let full = batch.is_full(limit);
        if full {
            batch.seal();
        }
        let news = !fits || full;
        if news {
            self.mark(at);
        }
        news
    }

    /// Sends what waits without lingering. What is unsettled now is settled when [`Machine::settled_before`] of the number that
    /// this returns says so.
    pub fn flush(&mut self) -> u64 {
        for at in 0..self.lanes.len() {
            for batch in &mut self.lanes[at].waiting {
                batch.seal();
            }
            self.mark(at);
        }
        self.next_batch
    }

    /// Whether the fate of all batches before this number is known.
    pub fn settled_before(&self, number: u64) -> bool {
        self.unsettled.first_key_value().is_none_or(|(first, _)| *first >= number)
    }

    /// Gives everything up.
    pub fn abandon(&mut self, why: &Error) -> Vec<Effect<T>> {
        for at in 0..self.lanes.len() {
            let lane = &mut self.lanes[at];
            let mut all: Vec<Batch<T>> = lane.under_way.drain(..).collect();
            all.extend(lane.waiting.drain(..));
            for batch in all {
                self.fail(at, batch, why.clone());
            }
        }
        self.requests.clear();
        std::mem::take(&mut self.effects)
    }

    /// What is to be done now, and when to ask again at the latest.
    pub fn poll(&mut self, now_ms: u64) -> (Vec<Effect<T>>, Option<u64>) {
        while let Some((_, at)) = self.timers.first().copied().filter(|(due_ms, _)| *due_ms <= now_ms) {
            self.disarm(at);
            self.mark(at);
        }
        while let Some(at) = self.dirty.pop_front() {
            self.lanes[at].dirty = false;
            self.disarm(at);
            self.advance(at, now_ms);
        }
        (std::mem::take(&mut self.effects), self.timers.first().map(|(due_ms, _)| *due_ms))
    }

    /// A producer id came, or did not.
    pub fn on_identity(&mut self, identity: Result<i64, Error>, now_ms: u64) {
        self.identifying = false;
        match identity {
            Ok(id) => {
                self.identity = Some(id);
                for at in 0..self.lanes.len() {
                    self.mark(at);
                }
            }
            Err(error) => {
                for at in 0..self.lanes.len() {
                    if self.lanes[at].identity.is_some() || self.lanes[at].waiting.is_empty() {
                        continue;
                    }
                    if error.is_retriable() {
                        self.back_off(at, now_ms);
                    } else {
                        for batch in std::mem::take(&mut self.lanes[at].waiting) {
                            self.fail(at, batch, error.clone());
                        }
                    }
                }
            }
        }
    }

    /// Who leads the partitions of a topic, in their order; or why that is not known.
    pub fn on_leaders(&mut self, topic: &Arc<str>, leaders: Result<&[Option<Arc<str>>], &Error>, now_ms: u64) {
        for at in 0..self.lanes.len() {
            if self.lanes[at].topic != *topic || self.lanes[at].route != Route::Asked {
                continue;
            }
            self.lanes[at].route = Route::Unknown;
            match leaders {
                Ok(leaders) => match usize::try_from(self.lanes[at].partition).ok().and_then(|p| leaders.get(p)) {
                    Some(leader) => {
                        self.lanes[at].missing_since_ms = None;
                        match leader {
                            Some(leader) => self.set_leader(at, leader.clone(), now_ms),
                            None => self.back_off(at, now_ms),
                        }
                    }
                    None => self.miss_lane(at, &self.lanes[at].no_such_partition(), now_ms),
                },
                Err(error) if error.is_not_found() => self.miss_lane(at, error, now_ms),
                Err(_) => self.back_off(at, now_ms),
            }
        }
    }

    /// A request was answered.
    pub fn on_answer(&mut self, request: u64, answer: Outcome, now_ms: u64) {
        let Some((at, to)) = self.requests.remove(&request) else { return };
        self.release(to.as_ref());
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.failures = 0;
        }
        let Some(place) = self.lanes[at].under_way.iter().position(|batch| batch.sent == Some(request)) else { return };
        self.mark(at);
        match answer {
            Ok(offset) => {
                let lane = &mut self.lanes[at];
                (lane.failures, lane.established) = (0, true);
                if let Some(batch) = lane.under_way.remove(place) {
                    self.settle(at, batch, Ok(offset));
                }
            }
            Err(error) => self.on_refusal(at, place, error, now_ms),
        }
    }

    /// The connection to a broker broke: what it was asked and has not answered may have been done.
    pub fn on_broken(&mut self, to: &Arc<str>, now_ms: u64) {
        let key = Some(to.clone());
        let lost: Vec<u64> = self.requests.iter().filter(|(_, (_, asked))| *asked == key).map(|(id, _)| *id).collect();
        let mut lanes = BTreeSet::new();
        for id in lost {
            let Some((at, _)) = self.requests.remove(&id) else { continue };
            for batch in self.lanes[at].under_way.iter_mut().filter(|batch| batch.sent == Some(id)) {
                batch.sent = None;
                batch.ambiguous = true;
            }
            lanes.insert(at);
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.requests = 0;
            peer.failures += 1;
            lanes.extend(std::mem::take(&mut peer.held));
        }
        for at in lanes {
            if self.lanes[at].route == Route::Leader(to.clone()) {
                self.lanes[at].route = Route::Unknown;
            }
            self.back_off(at, now_ms);
        }
    }

    fn on_refusal(&mut self, at: usize, place: usize, error: Error, now_ms: u64) {
        let reason = error.reason();
        let idempotent = self.settings.idempotent;
        let lane = &mut self.lanes[at];
        let Some(batch) = lane.under_way.get_mut(place) else { return };
        batch.sent = None;
        match reason {
            // It was written; where is forgotten.
            Reason::DuplicateSequence => {
                lane.failures = 0;
                if let Some(batch) = lane.under_way.remove(place) {
                    self.settle(at, batch, Ok(None));
                }
            }
            // Those before it come first.
            Reason::OutOfOrderSequence if place > 0 => self.back_off(at, now_ms),
            Reason::OutOfOrderSequence if !batch.ambiguous => self.begin_anew(at),
            // What is refused for good is looked at when nothing before it is open any more.
            Reason::TooLarge | Reason::Invalid | Reason::Conflict if idempotent && place > 0 && !batch.ambiguous => {
                self.back_off(at, now_ms);
            }
            Reason::TooLarge if !batch.ambiguous && batch.records.len() > 1 => {
                let (first, second) = lane.under_way.remove(place).map_or((None, None), |batch| {
                    // Both halves have its number: who waits for it waits for both.
                    *self.unsettled.entry(batch.id).or_default() += 1;
                    let (first, second) = batch.halves();
                    (Some(first), Some(second))
                });
                let lane = &mut self.lanes[at];
                for half in [second, first].into_iter().flatten() {
                    lane.under_way.insert(place, half);
                }
                if idempotent {
                    self.begin_anew(at);
                }
            }
            _ if error.is_retriable() || matches!(reason, Reason::UnknownTopic | Reason::UnknownPartition) => {
                let definite = matches!(reason, Reason::Overloaded | Reason::UnknownTopic | Reason::UnknownPartition);
                batch.ambiguous |= !definite;
                if reason != Reason::Overloaded {
                    let first = lane.failures == 0;
                    lane.route = Route::Unknown;
                    if let Some(leader) = error.leader().map(Arc::from) {
                        self.set_leader(at, leader, now_ms);
                        if first {
                            self.lanes[at].failures = 1;
                            return;
                        }
                    }
                }
                self.back_off(at, now_ms);
            }
            _ => {
                let unclear = matches!(reason, Reason::Internal | Reason::Corrupt | Reason::Unspecified);
                batch.ambiguous |= unclear;
                let clean = !batch.ambiguous;
                if let Some(batch) = lane.under_way.remove(place) {
                    self.fail(at, batch, error);
                }
                // Nothing that follows can be written after a hole.
                if idempotent && clean && place == 0 {
                    self.begin_anew(at);
                } else {
                    self.lanes[at].holed = idempotent;
                }
            }
        }
    }

    /// No copy of anything under way can ever be written under this identity: it waits for another.
    fn begin_anew(&mut self, at: usize) {
        let lane = &mut self.lanes[at];
        while let Some(mut batch) = lane.under_way.pop_back() {
            batch.forget_sequence();
            lane.waiting.push_front(batch);
        }
        self.spend_identity(at);
        self.mark(at);
    }

    fn spend_identity(&mut self, at: usize) {
        let lane = &mut self.lanes[at];
        lane.spent_identity = lane.identity.take().or(lane.spent_identity);
        (lane.holed, lane.established) = (false, false);
        lane.next_sequence = 0;
        if self.identity == lane.spent_identity {
            self.identity = None;
        }
    }

    fn advance(&mut self, at: usize, now_ms: u64) {
        self.give_up(at, now_ms);
        let idempotent = self.settings.idempotent;
        if self.lanes[at].holed && self.lanes[at].under_way.is_empty() {
            self.spend_identity(at);
        }
        let lane = &self.lanes[at];
        let Some(oldest) = lane.under_way.front().or(lane.waiting.front()) else { return };
        self.arm(at, oldest.give_up_ms);
        let lane = &self.lanes[at];
        let unsent = lane.under_way.iter().any(|batch| batch.sent.is_none());
        let due = lane.waiting.front().is_some_and(|batch| batch.is_due(now_ms) || lane.waiting.len() > 1);
        if !unsent && !due {
            if let Some(due_ms) = lane.waiting.front().map(|batch| batch.due_ms) {
                self.arm(at, due_ms);
            }
            return;
        }
        if lane.not_before_ms > now_ms {
            self.arm(at, lane.not_before_ms);
            return;
        }
        if matches!(lane.route, Route::Any { until_ms } if until_ms <= now_ms) {
            self.lanes[at].route = Route::Unknown;
        }
        let to = match &self.lanes[at].route {
            Route::Asked => return,
            Route::Unknown => {
                let topic = self.lanes[at].topic.clone();
                for lane in self.lanes.iter_mut().filter(|lane| lane.topic == topic && lane.route == Route::Unknown) {
                    lane.route = Route::Asked;
                }
                self.effects.push(Effect::FindLeaders { topic });
                return;
            }
            Route::Leader(to) => Some(to.clone()),
            Route::Any { .. } => None,
        };
        // What broke is sent again before anything new; requests that others forward may overtake each other.
        let established = self.lanes[at].established || !idempotent;
        let window = if to.is_some() && established { WINDOW } else { 1 };
        for place in 0..self.lanes[at].under_way.len().min(window as usize) {
            if self.lanes[at].under_way[place].sent.is_none() && !self.send(at, place, to.as_ref()) {
                return;
            }
        }
        while !self.lanes[at].holed {
            let lane = &mut self.lanes[at];
            let used = lane.under_way.front().map_or(0, |front| lane.next_number - front.number);
            let due = lane.waiting.front().is_some_and(|batch| batch.is_due(now_ms)) || lane.waiting.len() > 1;
            if used >= window || !due {
                break;
            }
            if idempotent && lane.identity.is_none() {
                lane.identity = self.identity.filter(|id| lane.spent_identity != Some(*id));
                if lane.identity.is_none() {
                    if !std::mem::replace(&mut self.identifying, true) {
                        self.effects.push(Effect::Identify);
                    }
                    return;
                }
            }
            let Some(mut batch) = lane.waiting.pop_front() else { break };
            batch.seal();
            batch.number = lane.next_number;
            lane.next_number += 1;
            if idempotent {
                batch.sequence = Some((lane.identity.unwrap_or(-1), lane.next_sequence));
                lane.next_sequence = sequence_add(lane.next_sequence, batch.records.len() as i32);
            }
            lane.under_way.push_back(batch);
            let place = lane.under_way.len() - 1;
            if !self.send(at, place, to.as_ref()) {
                return;
            }
        }
        let open = self.lanes[at].waiting.front().filter(|batch| !batch.is_due(now_ms));
        if let Some(due_ms) = open.map(|batch| batch.due_ms) {
            self.arm(at, due_ms);
        }
    }

    /// Sends a batch under way; `false` if the broker has enough to do.
    fn send(&mut self, at: usize, place: usize, to: Option<&Arc<str>>) -> bool {
        let peer = self.peers.entry(to.cloned()).or_default();
        if peer.requests >= MAX_REQUESTS {
            peer.held.push(at);
            return false;
        }
        peer.requests += 1;
        let lane = &mut self.lanes[at];
        let batch = &mut lane.under_way[place];
        let id = self.next_request;
        self.next_request += 1;
        batch.sent = Some(id);
        let request = ProduceRequest {
            id,
            topic: lane.topic.to_string(),
            partition: Some(lane.partition),
            batch: batch.encoded(self.settings.compression),
            acks: self.settings.acks.into(),
            timeout_ms: self.settings.delivery_timeout_ms.clamp(1, REQUEST_TIMEOUT_MS) as u32,
            ..ProduceRequest::default()
        };
        self.requests.insert(id, (at, to.cloned()));
        self.effects.push(Effect::Send { to: to.cloned(), request });
        true
    }

    /// Those whose time is over.
    fn give_up(&mut self, at: usize, now_ms: u64) {
        let why = |lane: &Lane<T>| {
            let (topic, partition) = (&lane.topic, lane.partition);
            Error::new(Reason::TimedOut, format!("a batch for {topic}-{partition} was not acknowledged in time"))
        };
        while let Some(batch) = self.lanes[at].under_way.pop_front_if(|batch| batch.give_up_ms <= now_ms) {
            let clean = !batch.ambiguous && batch.sent.is_none();
            let why = why(&self.lanes[at]);
            self.fail(at, batch, why);
            match (self.settings.idempotent, clean) {
                (false, _) => {}
                (true, true) => self.begin_anew(at),
                // Its sequence is used up, whether it is written or not.
                (true, false) => self.lanes[at].holed = true,
            }
        }
        while let Some(batch) = self.lanes[at].waiting.pop_front_if(|batch| batch.give_up_ms <= now_ms) {
            let why = why(&self.lanes[at]);
            self.fail(at, batch, why);
        }
    }

    fn miss_lane(&mut self, at: usize, why: &Error, now_ms: u64) {
        if self.lanes[at].is_missing(now_ms) {
            self.fail_lane(at, why);
        } else {
            self.back_off(at, now_ms);
        }
    }

    fn fail_lane(&mut self, at: usize, why: &Error) {
        let lane = &mut self.lanes[at];
        lane.holed |= !lane.under_way.is_empty() && self.settings.idempotent;
        let mut all: Vec<Batch<T>> = lane.under_way.drain(..).collect();
        all.extend(lane.waiting.drain(..));
        for batch in all {
            self.fail(at, batch, why.clone());
        }
        self.mark(at);
    }

    fn fail(&mut self, at: usize, batch: Batch<T>, why: Error) {
        let why = if batch.ambiguous || batch.sent.is_some() { why.possibly_done() } else { why };
        self.settle(at, batch, Err(why));
    }

    fn settle(&mut self, at: usize, batch: Batch<T>, outcome: Outcome) {
        if let Entry::Occupied(mut parts) = self.unsettled.entry(batch.id) {
            *parts.get_mut() -= 1;
            if *parts.get() == 0 {
                parts.remove();
            }
        }
        let partition = self.lanes[at].partition;
        self.effects.push(Effect::Done { partition, tokens: batch.tokens, bytes: batch.bytes, outcome });
    }

    fn set_leader(&mut self, at: usize, leader: Arc<str>, now_ms: u64) {
        let unreachable = self.peers.get(&Some(leader.clone())).is_some_and(|peer| peer.failures >= FORWARD_AFTER);
        self.lanes[at].route = if unreachable {
            // Then it is tried once.
            self.peers.entry(Some(leader)).or_default().failures = FORWARD_AFTER - 1;
            Route::Any { until_ms: now_ms.saturating_add(FORWARD_MS) }
        } else {
            Route::Leader(leader)
        };
        self.mark(at);
    }

    fn back_off(&mut self, at: usize, now_ms: u64) {
        self.lanes[at].back_off(now_ms);
        self.mark(at);
    }

    fn release(&mut self, to: Option<&Arc<str>>) {
        let Some(peer) = self.peers.get_mut(&to.cloned()) else { return };
        peer.requests = peer.requests.saturating_sub(1);
        for at in std::mem::take(&mut peer.held) {
            self.mark(at);
        }
    }

    /// Looks at the lane again at this time, or before.
    fn arm(&mut self, at: usize, due_ms: u64) {
        if self.lanes[at].wake_ms.is_none_or(|wake_ms| due_ms < wake_ms) {
            self.disarm(at);
            self.lanes[at].wake_ms = Some(due_ms);
            self.timers.insert((due_ms, at));
        }
    }

    fn disarm(&mut self, at: usize) {
        if let Some(wake_ms) = self.lanes[at].wake_ms.take() {
            self.timers.remove(&(wake_ms, at));
        }
    }

    fn mark(&mut self, at: usize) {
        if !std::mem::replace(&mut self.lanes[at].dirty, true) {
            self.dirty.push_back(at);
        }
    }

    fn lane(&mut self, topic: &Arc<str>, partition: i32) -> usize {
        if let Some(at) = self.by_name.get(&(topic.clone(), partition)) {
            return *at;
        }
        let at = self.lanes.len();
        self.by_name.insert((topic.clone(), partition), at);
        self.lanes.push(Lane::new(topic.clone(), partition));
        at
    }
}
