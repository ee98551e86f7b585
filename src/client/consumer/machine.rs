//! Where a consumer stands in each partition, and which streams it has open to whom.
//!
//! Invariants:
//! - a partition is in one stream at most, and takes data only of that one: no record comes twice;
//! - after anything breaks it is opened again at its position: no record is left out. "Behind the last record" becomes an
//!   offset before anything else ([`Place::position`]).
//!
//! Pure: time and answers come in, effects go out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Start;
use crate::base::HashMap;
use crate::client::{Error, Reason};
use crate::protocol::grpc::v1::FetchFrom;
use crate::protocol::grpc::v1::fetch_from;

/// A leader whose connection broke this often in a row is left for any other broker, once.
const LEAVE_AFTER: u32 = 4;
/// Longest first pause before something is tried again, in milliseconds; it doubles,
const RETRY_FIRST_MS: u64 = 20;
/// up to this.
const RETRY_MOST_MS: u64 = 1_000;

/// A topic or a partition that no broker knows for so long is not there, in milliseconds: one broker hears of it before another.
const MISSING_MS: u64 = 2_000;

/// What is to be read: a partition, or all of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub topic: Arc<str>,
    pub partition: Option<i32>,
    pub start: Option<Start>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Open a stream to the broker at `to`, or to any; `to_learn` ends at once and only says where the end is.
    Open { stream: u64, to: Option<Arc<str>>, from: Vec<FetchFrom>, to_learn: bool },
    /// Find out who leads the topic's partitions.
    FindLeaders { topic: Arc<str> },
    /// Tell the program.
    Fail(Error),
    /// All partitions have ended.
    End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// To be asked for.
    Lost,
    Asked,
    /// To be opened there.
    Found(Option<Arc<str>>),
    Open(u64),
    Ended,
}

#[derive(Debug)]
struct Place {
    start: Start,
    /// The next offset, once it is known.
    position: Option<i64>,
    state: State,
    failures: u32,
    not_before_ms: u64,
}

#[derive(Debug)]
pub struct Machine {
    stop_at_end: bool,
    /// Topics of which all partitions are wanted, and that were not found yet.
    whole: BTreeMap<Arc<str>, (Start, State, u32, u64)>,
    places: BTreeMap<(Arc<str>, i32), Place>,
    /// Topics, and partitions of them, that brokers do not know, and since when.
    missing: BTreeMap<(Arc<str>, Option<i32>), u64>,
    broken: HashMap<Arc<str>, u32>,
    streams: BTreeMap<u64, (Option<Arc<str>>, bool)>,
    next_stream: u64,
    ended: bool,
}

impl Machine {
    pub fn new(wanted: Vec<Wanted>, stop_at_end: bool) -> Self {
        let (mut whole, mut places) = (BTreeMap::new(), BTreeMap::new());
        for Wanted { topic, partition, start } in wanted {
            let start = start.unwrap_or_default();
            match partition {
                None => drop(whole.insert(topic, (start, State::Lost, 0, 0))),
                Some(partition) => drop(places.insert((topic, partition), Place::new(start))),
            }
        }
        let (missing, broken, streams) = (BTreeMap::new(), HashMap::default(), BTreeMap::new());
        Self { stop_at_end, whole, places, missing, broken, streams, next_stream: 1, ended: false }
    }

    /// What is to be done now, and when to ask again at the latest.
    pub fn poll(&mut self, now_ms: u64) -> (Vec<Effect>, Option<u64>) {
        let mut effects = Vec::new();
        let mut wake_ms: Option<u64> = None;
        let mut later = |at_ms: u64| wake_ms = Some(wake_ms.map_or(at_ms, |wake_ms: u64| wake_ms.min(at_ms)));
        let mut asked: BTreeSet<Arc<str>> = BTreeSet::new();
        for (topic, (_, state, _, not_before_ms)) in &mut self.whole {
            if *state == State::Lost {
                if *not_before_ms > now_ms {
                    later(*not_before_ms);
                } else {
                    *state = State::Asked;
                    asked.insert(topic.clone());
                }
            }
        }
        let mut opening: BTreeMap<(Option<Arc<str>>, bool), Vec<FetchFrom>> = BTreeMap::new();
        let mut next_stream = self.next_stream;
        let mut ids: BTreeMap<(Option<Arc<str>>, bool), u64> = BTreeMap::new();
        for ((topic, partition), place) in &mut self.places {
            if place.not_before_ms > now_ms && matches!(place.state, State::Lost | State::Found(_)) {
                later(place.not_before_ms);
                continue;
            }
            match &place.state {
                State::Lost => {
                    place.state = State::Asked;
                    asked.insert(topic.clone());
                }
                State::Found(to) => {
                    let start = match (place.position, place.start) {
                        (Some(offset), _) | (None, Start::Offset(offset)) => fetch_from::Start::Offset(offset),
                        (None, Start::TimestampMs(at_ms)) => fetch_from::Start::TimestampMs(at_ms),
                        (None, Start::Latest) => fetch_from::Start::Latest(true),
                        (None, Start::Earliest) => fetch_from::Start::Latest(false),
                    };
                    let key = (to.clone(), start == fetch_from::Start::Latest(true));
                    let id = *ids.entry(key.clone()).or_insert_with(|| {
                        next_stream += 1;
                        next_stream - 1
                    });
                    place.state = State::Open(id);
                    let from = FetchFrom { topic: topic.to_string(), partition: *partition, start: Some(start) };
                    opening.entry(key).or_default().push(from);
                }
                State::Asked | State::Open(_) | State::Ended => {}
            }
        }
        self.next_stream = next_stream;
        effects.extend(asked.into_iter().map(|topic| Effect::FindLeaders { topic }));
        for ((to, to_learn), from) in opening {
            let stream = ids[&(to.clone(), to_learn)];
            self.streams.insert(stream, (to.clone(), to_learn));
            effects.push(Effect::Open { stream, to, from, to_learn });
        }
        let all_ended = self.whole.is_empty() && self.places.values().all(|place| place.state == State::Ended);
        if all_ended && !std::mem::replace(&mut self.ended, true) {
            effects.push(Effect::End);
        }
        (effects, wake_ms)
    }

    /// Who leads the partitions of a topic, in their order; or why that is not known. Returns what to tell the program.
    pub fn on_leaders(
        &mut self,
        topic: &Arc<str>,
        leaders: Result<&[Option<Arc<str>>], Error>,
        now_ms: u64,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let of_topic = (topic.clone(), None);
        let passes = match &leaders {
            Err(error) if error.is_not_found() => may_pass(&mut self.missing, of_topic, now_ms),
            Err(error) => error.is_retriable(),
            Ok(_) => {
                self.missing.remove(&of_topic);
                true
            }
        };
        match leaders {
            Err(error) if !passes => {
                let whole = self.whole.remove(topic).is_some();
                let places = self.places.range_mut((topic.clone(), i32::MIN)..=(topic.clone(), i32::MAX));
                let mut open = 0;
                for (_, place) in places.filter(|(_, place)| place.state == State::Asked) {
                    place.state = State::Ended;
                    open += 1;
                }
                if whole || open > 0 {
                    effects.push(Effect::Fail(error));
                }
            }
            Err(_) => {
                if let Some((_, state, failures, not_before_ms)) = self.whole.get_mut(topic) {
                    (*state, *not_before_ms) = (State::Lost, now_ms + pause_ms(*failures));
                    *failures += 1;
                }
                let places = self.places.range_mut((topic.clone(), i32::MIN)..=(topic.clone(), i32::MAX));
                for (_, place) in places.filter(|(_, place)| place.state == State::Asked) {
                    place.lose(now_ms);
                }
            }
            Ok(leaders) => {
                if let Some((start, ..)) = self.whole.remove(topic) {
                    for partition in 0..leaders.len() as i32 {
                        let place = || Place { state: State::Asked, ..Place::new(start) };
                        self.places.entry((topic.clone(), partition)).or_insert_with(place);
                    }
                }
                let missing = &mut self.missing;
                let places = self.places.range_mut((topic.clone(), i32::MIN)..=(topic.clone(), i32::MAX));
                for ((_, partition), place) in places.filter(|(_, place)| place.state == State::Asked) {
                    let of_place = (topic.clone(), Some(*partition));
                    match usize::try_from(*partition).ok().and_then(|at| leaders.get(at)) {
                        Some(Some(leader)) => {
                            missing.remove(&of_place);
                            let broken = self.broken.get_mut(leader).filter(|broken| **broken >= LEAVE_AFTER);
                            let leave = broken.map(|broken| *broken = 0).is_some();
                            place.state = State::Found((!leave).then(|| leader.clone()));
                        }
                        Some(None) => place.lose(now_ms),
                        None if may_pass(missing, of_place, now_ms) => place.lose(now_ms),
                        None => {
                            place.state = State::Ended;
                            let why = format!("topic {topic} has no partition {partition}");
                            effects.push(Effect::Fail(Error::new(Reason::UnknownPartition, why)));
                        }
                    }
                }
            }
        }
        effects
    }

    fn place(&mut self, stream: u64, topic: &str, partition: i32) -> Option<(Arc<str>, &mut Place)> {
        let at = (Arc::from(topic), partition);
        let place = self.places.get_mut(&at).filter(|place| place.state == State::Open(stream))?;
        Some((at.0, place))
    }

    /// Data came, up to `next_offset` (exclusive). Returns from where on it is wanted; `None`: not at all.
    pub fn on_data(&mut self, stream: u64, topic: &str, partition: i32, next_offset: i64) -> Option<(Arc<str>, i64)> {
        if let Some((Some(to), _)) = self.streams.get(&stream) {
            self.broken.remove(to);
        }
        let (topic, place) = self.place(stream, topic, partition)?;
        let from = place.position.unwrap_or(match place.start {
            Start::Offset(offset) => offset,
            _ => i64::MIN,
        });
        place.position = Some(place.position.unwrap_or(next_offset).max(next_offset));
        place.failures = 0;
        Some((topic, from))
    }

    /// All that was there has come.
    pub fn on_end(&mut self, stream: u64, topic: &str, partition: i32, next_offset: i64) {
        let (to, to_learn) = self.streams.get(&stream).cloned().unwrap_or_default();
        let stop_at_end = self.stop_at_end;
        let Some((_, place)) = self.place(stream, topic, partition) else { return };
        place.position = Some(next_offset);
        place.state = if to_learn && !stop_at_end { State::Found(to) } else { State::Ended };
    }

    /// A partition is read no further in a stream. Returns what to tell the program.
    pub fn on_failure(&mut self, stream: u64, topic: &str, partition: i32, error: Error, now_ms: u64) -> Option<Error> {
        let (_, place) = self.place(stream, topic, partition)?;
        let moving = matches!(error.reason(), Reason::UnknownTopic | Reason::UnknownPartition);
        if !error.is_retriable() && !moving {
            place.state = State::Ended;
            return Some(error);
        }
        let first = place.failures == 0;
        place.lose(now_ms);
        if let Some(leader) = error.leader() {
            place.state = State::Found(Some(leader.into()));
            if first {
                place.not_before_ms = now_ms;
            }
        }
        None
    }

    /// A message of a stream is larger than this client takes: asked for again, it would come again. Returns what to tell the
    /// program.
    pub fn on_too_large(&mut self, stream: u64, why: &str) -> Option<Error> {
        let open = self.places.iter_mut().filter(|(_, place)| place.state == State::Open(stream));
        let ended = open.map(|((topic, partition), place)| {
            place.state = State::Ended;
            format!("{topic}-{partition}")
        });
        let ended: Vec<String> = ended.collect();
        (!ended.is_empty()).then(|| {
            let ended = ended.join(", ");
            Error::new(
                Reason::TooLarge,
                format!("an answer with records of one of {ended} is too large to be read: {why}"),
            )
        })
    }

    /// A stream ended, in whatever way; nothing of it comes any more.
    pub fn on_broken(&mut self, stream: u64, now_ms: u64) {
        let Some((to, _)) = self.streams.remove(&stream) else { return };
        let mut open = false;
        for place in self.places.values_mut().filter(|place| place.state == State::Open(stream)) {
            place.lose(now_ms);
            open = true;
        }
        if let Some(to) = to.filter(|_| open) {
            *self.broken.entry(to).or_default() += 1;
        }
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }
}

impl Place {
    fn new(start: Start) -> Self {
        Self { start, position: None, state: State::Lost, failures: 0, not_before_ms: 0 }
    }

    fn lose(&mut self, now_ms: u64) {
        self.state = State::Lost;
        self.not_before_ms = now_ms + pause_ms(self.failures);
        self.failures = self.failures.saturating_add(1);
    }
}

/// Whether what a broker does not know is long missing.
fn may_pass(missing: &mut BTreeMap<(Arc<str>, Option<i32>), u64>, what: (Arc<str>, Option<i32>), now_ms: u64) -> bool {
    now_ms.saturating_sub(*missing.entry(what).or_insert(now_ms)) < MISSING_MS
}

fn pause_ms(failures: u32) -> u64 {
    RETRY_FIRST_MS.saturating_mul(1 << failures.min(10)).min(RETRY_MOST_MS)
}
