//! Reading many partitions, wherever they are led.
//!
//! The partitions are grouped by leader, a leg each: this broker's own are read from its log ([`local`]), the others through
//! one Fetch call to each of their leaders ([`remote`]). A partition that a leg cannot read any more is handed back and given to
//! the leg of its new leader. While nobody leads it, it waits, for [`PATIENCE_MS`] at most; then the client is told.
//!
//! Invariant: a partition is in one leg, or waits; its offset moves when its data is given to the client's stream, and only
//! forward. So a client sees each record once and in order, however often the leader changes.
//!
//! Invariant: a leg holds at most one answer of this broker's own data, in memory of its own (a client that does not read on keeps
//! no page of the cache and no segment), or [`remote::WINDOW_BYTES`] of another's and the message that crossed that mark.
//!
//! All of it runs inside of one future: dropping it leaves nothing, at other brokers neither.

mod local;
pub mod outlet;
mod remote;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

pub use outlet::{Gone, Outlet};

use super::errors::{explain, leader};
use super::forward::Forward;
use super::metrics::Metrics;
use super::offsets::{Ask, At, Offsets, Patience};
use crate::base::{Clock, TopicPartition};
use crate::broker::{Broker, BrokerError, BrokerSlot};
use crate::cluster::{ClusterImage, Topic};
use crate::partition::{Isolation, LogError};
use crate::protocol::grpc::v1::{Error, FetchEnd, FetchFailure, Reason};

/// What a reader is told.
pub use crate::protocol::grpc::v1::fetch_response::Kind as Told;

/// A partition that cannot be read is tried again for this long, in milliseconds.
pub const PATIENCE_MS: u64 = 10_000;
/// A partition that was read for this long before is not thought to be in trouble since then, in milliseconds.
const CALM_MS: u64 = 3_000;
/// Pause before a partition is tried again, in milliseconds.
const PAUSE_MS: u64 = 100;

/// Where a partition is read on when its offset is not there (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// Nowhere: the client is told.
    Fail,
    /// At the first record.
    Earliest,
    /// At the end.
    Latest,
}

/// A partition that is read.
#[derive(Debug, Clone)]
pub struct Place {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub index: i32,
    /// The same with the topic's id: one of the same name that comes later is another topic.
    pub partition: TopicPartition,
    /// The next record.
    pub offset: i64,
    /// Where the reading ends, if it is to.
    pub until: Option<i64>,
    /// See there.
    pub reset: Reset,
    trouble_since_ms: Option<u64>,
    due_ms: u64,
}

impl Place {
    /// Partition `index` of `topic` from `offset` on.
    pub fn new(topic: &Topic, index: i32, offset: i64) -> Self {
        Self {
            topic: topic.name.as_str().into(),
            index,
            partition: topic.partition(index),
            offset,
            until: None,
            reset: Reset::Fail,
            trouble_since_ms: None,
            due_ms: 0,
        }
    }

    fn is_read(&self) -> bool {
        self.until.is_some_and(|until| self.offset >= until)
    }
}

/// How to read.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How far.
    pub isolation: Isolation,
    /// Batches as they are stored, in place of records.
    pub raw_batches: bool,
    /// Asked by another broker: what is not led here is its business.
    pub forwarded: bool,
}

/// What reading needs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Library {
    /// The broker that reads.
    pub slot: BrokerSlot,
    /// Ways to others.
    pub forward: Arc<Forward>,
    /// Offsets of partitions.
    pub offsets: Offsets,
    /// Time.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
}

/// One reading call.
pub struct Reading<'a, T> {
    library: &'a Library,
    options: Options,
    outlet: &'a Outlet<T>,
}

/// Who reads a partition: this broker, or the one of that id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    Own,
    Of(i32),
}

/// A leg that has ended, and why each of its partitions came back: none for no trouble of its own.
struct Ended {
    whose: Option<Whose>,
    began_ms: u64,
    back: Vec<(Place, Option<Error>)>,
}

type Leg<'a> = BoxFuture<'a, Result<Ended, Gone>>;

impl<'a, T: Send + 'static> Reading<'a, T> {
    /// A call that tells through `outlet`.
    pub fn new(library: &'a Library, options: Options, outlet: &'a Outlet<T>) -> Self {
        Self { library, options, outlet }
    }

    /// Reads until every partition has ended or failed; for ever without an end.
    pub async fn run(&self, places: Vec<Place>) -> Result<(), Gone> {
        let mut waiting = places;
        let mut legs: FuturesUnordered<Leg<'_>> = FuturesUnordered::new();
        let mut running: BTreeMap<Whose, CancellationToken> = BTreeMap::new();
        loop {
            for told in take_read(&mut waiting) {
                legs.push(self.telling(told));
            }
            self.send_out(&mut waiting, &mut legs, &mut running);
            if waiting.is_empty() && legs.is_empty() {
                return Ok(());
            }
            let now_ms = self.library.clock.boot_ms();
            // Those that are due and still here wait for a leg that was called back.
            let next_ms = waiting.iter().map(|place| place.due_ms).filter(|due| *due > now_ms).min();
            let pause = next_ms.map(|due| Duration::from_millis(due - now_ms));
            tokio::select! {
                biased;
                Some(ended) = legs.next() => self.take_back(ended?, &mut running, &mut waiting, &mut legs),
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
        }
    }

    /// Gives those that are due to the legs of their leaders. A leg that is under way is called back first: it comes with its
    /// partitions, and a new one takes them all.
    fn send_out<'s>(
        &'s self,
        waiting: &mut Vec<Place>,
        legs: &mut FuturesUnordered<Leg<'s>>,
        running: &mut BTreeMap<Whose, CancellationToken>,
    ) {
        let now_ms = self.library.clock.boot_ms();
        let broker = self.library.slot.current();
        let image = broker.image();
        let mut groups: BTreeMap<Whose, (String, Vec<Place>)> = BTreeMap::new();
        for place in std::mem::take(waiting) {
            if place.due_ms > now_ms {
                waiting.push(place);
                continue;
            }
            match self.whose(&broker, &image, &place) {
                Ok((whose, _)) if running.contains_key(&whose) => {
                    running[&whose].cancel();
                    waiting.push(place);
                }
                Ok((whose, endpoint)) => groups.entry(whose).or_insert((endpoint, Vec::new())).1.push(place),
                Err(error) => {
                    let error = explain(&error, &image);
                    self.judge(place, error, now_ms, waiting, legs);
                }
            }
        }
        for (whose, (endpoint, places)) in groups {
            let stop = CancellationToken::new();
            running.insert(whose, stop.clone());
            legs.push(Box::pin(async move {
                let back = match whose {
                    Whose::Own => self.read_own(places, &stop).await?,
                    Whose::Of(leader) => self.read_of(leader, &endpoint, places, &stop).await?,
                };
                Ok(Ended { whose: Some(whose), began_ms: now_ms, back })
            }));
        }
    }

    /// Tells what costs no credit, beside the legs: one of them may be the next whose words are taken, and must go on for that.
    fn telling(&self, told: Told) -> Leg<'_> {
        Box::pin(async move {
            self.outlet.tell(told).await?;
            Ok(Ended { whose: None, began_ms: 0, back: Vec::new() })
        })
    }

    /// Who leads a partition, and where that is.
    fn whose(&self, broker: &Broker, image: &ClusterImage, place: &Place) -> Result<(Whose, String), BrokerError> {
        let topic = broker.topic(image, &place.topic)?;
        if topic.id != place.partition.topic_id {
            return Err(BrokerError::UnknownTopicId(place.partition.topic_id));
        }
        let unknown = || BrokerError::UnknownPartition { topic: topic.name.clone(), partition: place.index };
        let assignment = topic.assignment(place.index).ok_or_else(unknown)?;
        if self.options.forwarded || assignment.session.broker_id == broker.node_id() {
            return Ok((Whose::Own, String::new()));
        }
        match leader(image, place.partition) {
            Some(leader) => Ok((Whose::Of(leader.broker_id), leader.grpc_endpoint)),
            None => Err(LogError::NotLeader(place.partition).into()),
        }
    }

    fn take_back<'s>(
        &'s self,
        ended: Ended,
        running: &mut BTreeMap<Whose, CancellationToken>,
        waiting: &mut Vec<Place>,
        legs: &mut FuturesUnordered<Leg<'s>>,
    ) {
        if let Some(whose) = ended.whose {
            running.remove(&whose);
        }
        let mut lost = Vec::new();
        for (mut place, trouble) in ended.back {
            match trouble {
                None => {
                    place.due_ms = 0;
                    waiting.push(place);
                }
                Some(error) if error.reason() == Reason::OffsetOutOfRange && place.reset != Reset::Fail => {
                    lost.push(place);
                }
                Some(error) => self.judge(place, error, ended.began_ms, waiting, legs),
            }
        }
        if !lost.is_empty() {
            legs.push(Box::pin(self.find_again(lost)));
        }
    }

    /// Whether a partition in trouble, that was last taken up at `began_ms`, is tried again. If not, the client is told.
    fn judge<'s>(
        &'s self,
        mut place: Place,
        error: Error,
        began_ms: u64,
        waiting: &mut Vec<Place>,
        legs: &mut FuturesUnordered<Leg<'s>>,
    ) {
        let now_ms = self.library.clock.boot_ms();
        let calm = now_ms.saturating_sub(began_ms) >= CALM_MS;
        let since_ms = place.trouble_since_ms.filter(|_| !calm).unwrap_or(now_ms);
        if error.retriable && !self.options.forwarded && now_ms.saturating_sub(since_ms) < PATIENCE_MS {
            place.trouble_since_ms = Some(since_ms);
            place.due_ms = now_ms + PAUSE_MS;
            waiting.push(place);
        } else {
            legs.push(self.telling(failure(&place.topic, place.index, place.offset, error)));
        }
    }

    /// Partitions whose offset is not there: where their `reset` says.
    async fn find_again(&self, places: Vec<Place>) -> Result<Ended, Gone> {
        let began_ms = self.library.clock.boot_ms();
        let at = |place: &Place| if place.reset == Reset::Latest { At::Latest } else { At::Earliest };
        let asks: Vec<Ask> = places
            .iter()
            .map(|place| Ask { topic: place.topic.clone(), partition: place.index, at: at(place) })
            .collect();
        let found = self.library.offsets.list(&asks, self.options.isolation, Patience::Ms(PATIENCE_MS)).await;
        let back = places.into_iter().zip(found).map(|(mut place, found)| match found {
            Ok(found) => {
                tracing::debug!(topic = %place.topic, partition = place.index, from = place.offset, to = found.offset,
                    "a reader's offset is not there; it goes on elsewhere");
                place.offset = found.offset;
                (place, None)
            }
            Err(error) => (place, Some(error)),
        });
        Ok(Ended { whose: None, began_ms, back: back.collect() })
    }

    async fn end_those_that_are_read(&self, places: &mut Vec<Place>) -> Result<(), Gone> {
        for told in take_read(places) {
            self.outlet.tell(told).await?;
        }
        Ok(())
    }
}

/// Takes those out that are read to their end, and says so.
fn take_read(places: &mut Vec<Place>) -> Vec<Told> {
    if !places.iter().any(Place::is_read) {
        return Vec::new();
    }
    let (read, open): (Vec<Place>, Vec<Place>) = places.drain(..).partition(Place::is_read);
    *places = open;
    let end = |Place { topic, index, offset, .. }: Place| {
        Told::End(FetchEnd { topic: topic.to_string(), partition: index, next_offset: offset })
    };
    read.into_iter().map(end).collect()
}

/// Says that a partition is read no further.
pub fn failure(topic: &str, partition: i32, next_offset: i64, error: Error) -> Told {
    Told::Failure(FetchFailure { topic: topic.to_owned(), partition, next_offset, error: Some(error) })
}

/// Partitions that have no trouble of their own.
fn untroubled(places: Vec<Place>) -> Vec<(Place, Option<Error>)> {
    places.into_iter().map(|place| (place, None)).collect()
}
