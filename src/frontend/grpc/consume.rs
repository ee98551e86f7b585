//! `esker.v1.Consumer/Consume`: this broker is a group's member for a client.
//!
//! [`Member`] decides; the task of a call sends its requests to the group's coordinator, reads with [`super::reading`], and tells
//! the client. What the client is told waits in a short queue, so that a client that does not read never keeps the member from
//! its heartbeats; data waits where it is read.
//!
//! Invariant: data of an assignment follows its `assigned`, and none comes after the `revoking` that ends it.
//!
//! A client that goes away is not waited for: the member leaves, which takes at most [`LEAVE_LIMIT_MS`], and the task ends. A
//! crash, or a stop of the broker, leaves a member that the coordinator forgets after the session timeout.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use kafka_protocol::error::ResponseError as Kafka;
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::{GroupId, HeartbeatResponse, LeaveGroupRequest, OffsetFetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use tonic::{Status, Streaming};

use super::coordination::{Asker, Coordinators, Question};
use super::deadline;
use super::errors::{explain_kafka, invalid, to_status, with_detail};
use super::metrics::Seat;
use super::offsets::{Ask as Where, At, Patience};
use super::reading::{Gone, Library, Options, Outlet, PATIENCE_MS, Place, Reading, Reset, Told as Read, failure};
use crate::broker::{ListedOffset, partition_of};
use crate::coordinator::member::protocol::Assignment;
use crate::coordinator::member::{Ask, Effect, Input, Member, Membership, Position, Told, Trouble};
use crate::partition::Isolation;
use crate::protocol::grpc::v1::consume_open::Reset as AskedReset;
use crate::protocol::grpc::v1::consume_request::Kind as Asked;
use crate::protocol::grpc::v1::consume_response::Kind as Telling;
use crate::protocol::grpc::v1::{
    ConsumeAssigned, ConsumeCommitted, ConsumeOpen, ConsumeRequest, ConsumeResponse, ConsumeRevoking, Error,
    PartitionOffset, Reason,
};

/// Most topics of one member.
const MAX_TOPICS: usize = 1_000;
/// Most partitions of one commit.
const MAX_COMMITTED: usize = 10_000;
/// What the client was not told yet; a client that lets it grow to this is let go.
const MAX_UNTOLD: usize = 256;
/// Session timeout of a client that names none, in milliseconds.
const SESSION_TIMEOUT_MS: u64 = 10_000;
/// Wait for `ConsumeReleased` of a client that names none, in milliseconds.
const RELEASE_TIMEOUT_MS: u64 = 5_000;
/// Longest wait of that kind, in milliseconds.
const MAX_RELEASE_TIMEOUT_MS: u64 = 600_000;
/// Joining waits for the group's slowest member, in milliseconds.
const JOIN_LIMIT_MS: u64 = 330_000;
/// Longest wait for an answer to anything else, in milliseconds.
const ANSWER_LIMIT_MS: u64 = 10_000;
/// Longest time of leaving, in milliseconds.
const LEAVE_LIMIT_MS: u64 = 3_000;
/// The member looks at the time, and at its topics, this often, in milliseconds.
const LOOK_MS: u64 = 1_000;
/// A partition that was dealt out and is not known here yet is waited for this long, in milliseconds.
const UNKNOWN_PATIENCE_MS: u64 = 2_000;
/// Pause between two looks for it, in milliseconds.
const UNKNOWN_PAUSE_MS: u64 = 50;

/// What the answer to a question is for the member, and what it brings along.
enum Answer {
    Plain(Input),
    /// Where to read, and what the client is told of those that are not read.
    Places(Ask, Result<(Vec<Place>, Vec<Read>), Error>),
}

type Running<T> = BoxFuture<'static, T>;

/// See the module.
pub struct Consume {
    library: Library,
    coordinators: Coordinators,
    asker: Asker,
    open: ConsumeOpen,
    outlet: Arc<Outlet<ConsumeResponse>>,
    member: Member,
    answers: FuturesUnordered<Running<Answer>>,
    reading: Option<Running<Result<(), Gone>>>,
    /// What will be read when the client was told of it.
    next: Option<Vec<Place>>,
    /// The newest answer about places.
    found: (Vec<Place>, Vec<Read>),
    untold: VecDeque<ConsumeResponse>,
    /// What the client is told when the member has left.
    last: Option<Status>,
    /// A place among the broker's members, until the member has left.
    seat: Option<Seat>,
}

/// What a call wants, checked.
pub fn check(open: &ConsumeOpen) -> Result<(), Status> {
    if open.group.is_empty() {
        return Err(invalid("a member names its `group`"));
    }
    if open.topics.is_empty() || open.topics.len() > MAX_TOPICS {
        return Err(invalid(format!("a member names 1 to {MAX_TOPICS} topics")));
    }
    if AskedReset::try_from(open.reset).is_err() {
        return Err(invalid("`reset` is none of those that there are"));
    }
    Ok(())
}

fn or_default(ms: u32, default_ms: u64) -> u64 {
    if ms == 0 { default_ms } else { u64::from(ms) }
}

impl Consume {
    /// A member as `open` wants it, which passed [`check`].
    pub fn new(
        library: Library,
        coordinators: Coordinators,
        asker: Asker,
        mut open: ConsumeOpen,
        outlet: Outlet<ConsumeResponse>,
        seat: Seat,
    ) -> Self {
        open.topics.sort();
        open.topics.dedup();
        let member = Member::new(Membership {
            group: open.group.clone(),
            topics: open.topics.clone(),
            instance_id: open.instance_id.clone(),
            session_timeout_ms: or_default(open.session_timeout_ms, SESSION_TIMEOUT_MS),
            release_timeout_ms: or_default(open.release_timeout_ms, RELEASE_TIMEOUT_MS).min(MAX_RELEASE_TIMEOUT_MS),
        });
        Self {
            library,
            coordinators,
            asker,
            open,
            outlet: Arc::new(outlet),
            member,
            answers: FuturesUnordered::new(),
            reading: None,
            next: None,
            found: (Vec::new(), Vec::new()),
            untold: VecDeque::new(),
            last: None,
            seat: Some(seat),
        }
    }

    /// From joining to leaving, which is at `limit` at the latest.
    pub async fn run(mut self, mut asked: Streaming<ConsumeRequest>, limit: Option<Duration>) {
        let mut limit = std::pin::pin!(deadline::within(limit, std::future::pending::<Infallible>()));
        // A member that is dropped leaves first: what its client is told, if it is there to hear it, comes last.
        let (mut listening, mut dropped) = (true, false);
        let mut input = Some(Input::Tick);
        loop {
            if let Some(input) = input.take()
                && let Some(how) = self.step(input)
            {
                return if dropped { self.say_last().await } else { self.say_how_it_ended(how, limit).await };
            }
            if self.untold.is_empty() && self.reading.is_none() {
                self.reading = self.next.take().map(|places| self.read(places));
            }
            let (outlet, pause) = (self.outlet.clone(), self.pause());
            tokio::select! {
                biased;
                said = over(&outlet, limit.as_mut()), if !dropped => {
                    (listening, dropped, input) = (false, true, Some(self.drop_client(said)));
                }
                slot = outlet.slot(), if !self.untold.is_empty() => {
                    if let (Ok(slot), Some(told)) = (slot, self.untold.pop_front()) {
                        slot.send(Ok(told));
                    }
                }
                Some(answer) = self.answers.next() => input = Some(self.heard(answer)),
                request = asked.message(), if listening => match request {
                    Ok(Some(ConsumeRequest { kind: Some(kind) })) => match self.take(kind) {
                        Ok(what) => input = what,
                        Err(status) => {
                            // What was asked for wrongly ends the call.
                            (listening, dropped, input) = (false, true, Some(self.drop_client(Some(status))));
                        }
                    },
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => {
                        listening = false;
                        outlet.close();
                        input = Some(Input::Closed);
                    }
                },
                read = poll(&mut self.reading), if self.reading.is_some() => {
                    self.reading = None;
                    input = Some(if read.is_ok() && self.open.stop_at_end { Input::AllRead } else { Input::Tick });
                }
                () = tokio::time::sleep(pause) => input = Some(Input::Tick),
            }
            let answers = self.untold.iter().filter(|told| matches!(told.kind, Some(Telling::Committed(_))));
            if self.untold.len() > MAX_UNTOLD && answers.count() > MAX_UNTOLD {
                let said = Some(to_status(&not_read()));
                (listening, dropped, input) = (false, true, Some(self.drop_client(said)));
            }
        }
    }

    /// The client gets nothing any more but `said`, when the member has left; the next input to that end.
    fn drop_client(&mut self, said: Option<Status>) -> Input {
        (self.reading, self.next, self.last) = (None, None, said);
        self.untold.clear();
        Input::Closed
    }

    fn pause(&self) -> Duration {
        let now_ms = self.library.clock.boot_ms();
        let due_ms = self.member.due_ms().map_or(LOOK_MS, |due| due.saturating_sub(now_ms));
        // A little is slept in any case: a due time that has passed is looked at once more, not for ever.
        Duration::from_millis(due_ms.clamp(1, LOOK_MS))
    }

    /// What the client asks for.
    fn take(&self, kind: Asked) -> Result<Option<Input>, Status> {
        match kind {
            Asked::Open(_) => Err(invalid("a consume is opened once")),
            Asked::Credit(more) => {
                self.outlet.give(more.bytes);
                Ok(None)
            }
            Asked::Commit(commit) if commit.offsets.len() > MAX_COMMITTED => {
                Err(invalid(format!("one commit names at most {MAX_COMMITTED} partitions")))
            }
            Asked::Commit(commit) => {
                let offsets = commit.offsets.into_iter().map(|place| Position {
                    topic: place.topic,
                    partition: place.partition,
                    offset: place.offset,
                    metadata: String::new(),
                });
                Ok(Some(Input::Commit { id: commit.id, offsets: offsets.collect() }))
            }
            Asked::Released(_) => Ok(Some(Input::Released)),
        }
    }

    fn heard(&mut self, answer: Answer) -> Input {
        match answer {
            Answer::Plain(input) => input,
            Answer::Places(ask, Ok((places, failed))) => {
                let position = |place: &Place| Position {
                    topic: place.topic.to_string(),
                    partition: place.index,
                    offset: place.offset,
                    metadata: String::new(),
                };
                let positions = places.iter().map(position).collect();
                self.found = (places, failed);
                Input::Positioned(ask, Ok(positions))
            }
            Answer::Places(ask, Err(error)) => {
                tracing::debug!(group = self.open.group, error = error.message, "no positions for a group's member");
                Input::Positioned(ask, Err(trouble(&error)))
            }
        }
    }

    /// One step of the member; how it ended, if it did.
    fn step(&mut self, input: Input) -> Option<Result<(), Kafka>> {
        let image = self.library.slot.current().image();
        let partitions = |topic: &str| image.topic(topic).map(|topic| topic.partitions.len() as i32);
        let effects = self.member.step(self.library.clock.boot_ms(), input, &partitions);
        let mut ended = None;
        for effect in effects {
            match effect {
                Effect::Join(ask, request) => {
                    self.ask(request, JOIN_LIMIT_MS, move |told| Input::Joined(ask, told));
                }
                Effect::Sync(ask, request) => {
                    self.ask(request, JOIN_LIMIT_MS, move |told| Input::Synced(ask, told));
                }
                Effect::Beat(ask, request) => {
                    let beaten = move |told: Result<HeartbeatResponse, Trouble>| {
                        Input::Beaten(ask, told.map(|told| told.error_code))
                    };
                    self.ask(request, ANSWER_LIMIT_MS, beaten);
                }
                Effect::Commit(ask, request) => {
                    self.ask(request, ANSWER_LIMIT_MS, move |told| Input::Committed(ask, told));
                }
                Effect::Position(ask, assignment) => self.position(ask, assignment),
                Effect::Leave(request) => self.leave(request),
                Effect::Read(_) => {
                    let (places, failed) = std::mem::take(&mut self.found);
                    self.untold.extend(failed.into_iter().map(wrap));
                    self.next = Some(places);
                }
                Effect::Stop => (self.reading, self.next) = (None, None),
                Effect::Tell(told) => self.untold.push_back(tell(told)),
                Effect::End(how) => ended = Some(how),
            }
        }
        ended
    }

    fn ask<Q: Question + 'static>(
        &self,
        question: Q,
        limit_ms: u64,
        then: impl FnOnce(Result<Q::Answer, Trouble>) -> Input + Send + 'static,
    ) {
        let (coordinators, asker, group) = (self.coordinators.clone(), self.asker.clone(), self.open.group.clone());
        self.answers.push(Box::pin(async move {
            let told = coordinators.ask(&group, &asker, &question, limit_ms).await;
            let told = told.map_err(|error| {
                tracing::debug!(group, error = error.message, "a group's coordinator did not answer its member");
                trouble(&error)
            });
            Answer::Plain(then(told))
        }));
    }

    fn leave(&mut self, request: LeaveGroupRequest) {
        // What was asked before does not matter any more.
        self.answers = FuturesUnordered::new();
        self.ask(request, LEAVE_LIMIT_MS, |_| Input::Left);
    }

    fn position(&self, ask: Ask, assignment: Assignment) {
        let (library, coordinators, asker) = (self.library.clone(), self.coordinators.clone(), self.asker.clone());
        let open = self.open.clone();
        self.answers.push(Box::pin(async move {
            let found = positions(&library, &coordinators, &asker, &open, &assignment).await;
            Answer::Places(ask, found)
        }));
    }

    fn read(&self, places: Vec<Place>) -> Running<Result<(), Gone>> {
        let (library, outlet) = (self.library.clone(), self.outlet.clone());
        let options =
            Options { isolation: isolation(&self.open), raw_batches: self.open.raw_batches, forwarded: false };
        Box::pin(async move { Reading::new(&library, options, &outlet).run(places).await })
    }

    /// The last word to a client that may not be there, or not read.
    async fn say_last(mut self) {
        self.seat = None;
        if let Some(status) = self.last.take() {
            let _ = self.outlet.say(Err(status)).await;
        }
    }

    async fn say_how_it_ended(
        mut self,
        how: Result<(), Kafka>,
        limit: impl Future<Output = Result<Infallible, Status>>,
    ) {
        (self.reading, self.seat) = (None, None);
        let outlet = self.outlet.clone();
        let rest = async {
            while let Some(told) = self.untold.pop_front() {
                if outlet.say(Ok(told)).await.is_err() {
                    return None;
                }
            }
            let explained = explain_kafka(how.err()?, &self.open.group);
            Some(match explained.reason() {
                Reason::Conflict => with_detail(tonic::Code::Aborted, &explained),
                _ => to_status(&explained),
            })
        };
        self.last = tokio::select! {
            biased;
            said = rest => said,
            passed = limit => passed.err(),
        };
        self.say_last().await;
    }
}

/// Resolves when nobody takes answers any more, or at the call's limit, with what is to be said then.
async fn over(
    outlet: &Outlet<ConsumeResponse>,
    limit: Pin<&mut impl Future<Output = Result<Infallible, Status>>>,
) -> Option<Status> {
    tokio::select! {
        biased;
        () = outlet.gone() => None,
        passed = limit => passed.err(),
    }
}

fn not_read() -> Error {
    let message = format!("more than {MAX_UNTOLD} answers to commits wait for a client that does not read");
    Error { reason: Reason::Overloaded.into(), message, retriable: true, leader: None }
}

async fn poll<T>(running: &mut Option<Running<T>>) -> T {
    match running {
        Some(running) => running.await,
        None => std::future::pending().await,
    }
}

fn trouble(error: &Error) -> Trouble {
    if error.retriable { Trouble::Passing } else { Trouble::Lasting }
}

fn isolation(open: &ConsumeOpen) -> Isolation {
    if open.read_committed { Isolation::ReadCommitted } else { Isolation::ReadUncommitted }
}

/// Where the partitions of an assignment are read: from what the group has committed, or where `reset` says.
async fn positions(
    library: &Library,
    coordinators: &Coordinators,
    asker: &Asker,
    open: &ConsumeOpen,
    assignment: &Assignment,
) -> Result<(Vec<Place>, Vec<Read>), Error> {
    if assignment.values().all(Vec::is_empty) {
        return Ok((Vec::new(), Vec::new()));
    }
    let committed = committed(coordinators, asker, &open.group, assignment).await?;
    let (mut places, mut failed) = known(library, assignment).await;
    let reset = match open.reset() {
        AskedReset::Unspecified | AskedReset::Earliest => Reset::Earliest,
        AskedReset::Latest => Reset::Latest,
        AskedReset::None => Reset::Fail,
    };
    places.retain_mut(|place| {
        place.reset = reset;
        let offset = committed.get(&(place.topic.to_string(), place.index)).copied().filter(|offset| *offset >= 0);
        place.offset = offset.unwrap_or(-1);
        let lost = place.offset < 0 && reset == Reset::Fail;
        if lost {
            let message = format!("the group has no offset of {}-{}", place.topic, place.index);
            let error = Error { reason: Reason::OffsetOutOfRange.into(), message, ..Error::default() };
            failed.push(failure(&place.topic, place.index, -1, error));
        }
        !lost
    });
    let ask = |place: &Place, at| Where { topic: place.topic.clone(), partition: place.index, at };
    let at = if reset == Reset::Latest { At::Latest } else { At::Earliest };
    let mut asks: Vec<(usize, bool)> = Vec::new();
    for (number, place) in places.iter().enumerate() {
        if place.offset < 0 {
            asks.push((number, true));
        }
        if open.stop_at_end {
            asks.push((number, false));
        }
    }
    let questions: Vec<Where> =
        asks.iter().map(|(number, start)| ask(&places[*number], if *start { at } else { At::Latest })).collect();
    let told = library.offsets.list(&questions, isolation(open), Patience::Ms(PATIENCE_MS)).await;
    settle(&mut places, &mut failed, asks.into_iter().zip(told))?;
    Ok((places, failed))
}

/// Puts offsets where they belong: each with the number of its place, and whether it is the start or the end. A place that has
/// none, and will have none, is not read.
///
/// Errors: a place has none for the moment.
fn settle(
    places: &mut Vec<Place>,
    failed: &mut Vec<Read>,
    told: impl Iterator<Item = ((usize, bool), Result<ListedOffset, Error>)>,
) -> Result<(), Error> {
    let mut lost: BTreeMap<usize, Error> = BTreeMap::new();
    for ((number, start), told) in told {
        match (told, &mut places[number]) {
            (Ok(found), place) if start => place.offset = found.offset,
            (Ok(found), place) => place.until = Some(found.offset),
            (Err(error), _) if error.retriable => return Err(error),
            (Err(error), _) => drop(lost.insert(number, error)),
        }
    }
    let mut number = 0;
    places.retain(|place| {
        let error = lost.remove(&number);
        number += 1;
        failed.extend(error.iter().map(|error| failure(&place.topic, place.index, -1, error.clone())));
        error.is_none()
    });
    Ok(())
}

async fn committed(
    coordinators: &Coordinators,
    asker: &Asker,
    group: &str,
    assignment: &Assignment,
) -> Result<BTreeMap<(String, i32), i64>, Error> {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let topics = assignment.iter().map(|(topic, partitions)| {
        OffsetFetchRequestTopics::default().with_name(TopicName(text(topic))).with_partition_indexes(partitions.clone())
    });
    let of = OffsetFetchRequestGroup::default().with_group_id(GroupId(text(group))).with_topics(Some(topics.collect()));
    let question = OffsetFetchRequest::default().with_groups(vec![of]);
    let told = coordinators.ask(group, asker, &question, ANSWER_LIMIT_MS).await?;
    let told = told.groups.into_iter().next().unwrap_or_default();
    if let Some(error) = Kafka::try_from_code(told.error_code).filter(|_| told.error_code != 0) {
        return Err(explain_kafka(error, group));
    }
    let offsets = told.topics.iter().flat_map(|topic| {
        let of = |partition: i32| (topic.name.to_string(), partition);
        topic.partitions.iter().map(move |one| (of(one.partition_index), one.committed_offset))
    });
    Ok(offsets.collect())
}

/// The partitions that there are. Whoever dealt them out may have heard of a topic before this broker.
async fn known(library: &Library, assignment: &Assignment) -> (Vec<Place>, Vec<Read>) {
    let began_ms = library.clock.boot_ms();
    loop {
        let broker = library.slot.current();
        let image = broker.image();
        let (mut places, mut failed) = (Vec::new(), Vec::new());
        for (topic, index) in assignment.iter().flat_map(|(topic, all)| all.iter().map(move |one| (topic, *one))) {
            let found = broker.topic(&image, topic).and_then(|found| partition_of(&found, index).map(|_| found));
            match found {
                Ok(found) => places.push(Place::new(&found, index, -1)),
                Err(error) => failed.push(failure(topic, index, -1, super::errors::explain(&error, &image))),
            }
        }
        if failed.is_empty() || library.clock.boot_ms().saturating_sub(began_ms) >= UNKNOWN_PATIENCE_MS {
            return (places, failed);
        }
        tokio::time::sleep(Duration::from_millis(UNKNOWN_PAUSE_MS)).await;
    }
}

/// What reading says, as this call says it.
pub fn wrap(read: Read) -> ConsumeResponse {
    let kind = match read {
        Read::Data(data) => Telling::Data(data),
        Read::End(end) => Telling::End(end),
        Read::Failure(failure) => Telling::Failure(failure),
    };
    ConsumeResponse { kind: Some(kind) }
}

fn tell(told: Told) -> ConsumeResponse {
    let kind = match told {
        Told::Assigned { member_id, generation, partitions } => {
            let partitions = partitions.into_iter().map(|place| PartitionOffset {
                topic: place.topic,
                partition: place.partition,
                offset: place.offset,
                leader_epoch: -1,
                error: None,
            });
            Telling::Assigned(ConsumeAssigned { member_id, generation, partitions: partitions.collect() })
        }
        Told::Revoking => Telling::Revoking(ConsumeRevoking {}),
        Told::Committed { id, failed } => {
            let failed = failed.into_iter().map(|(topic, partition, error)| PartitionOffset {
                error: Some(explain_kafka(error, &format!("{topic}-{partition}"))),
                topic,
                partition,
                offset: -1,
                leader_epoch: -1,
            });
            Telling::Committed(ConsumeCommitted { id, failed: failed.collect() })
        }
    };
    ConsumeResponse { kind: Some(kind) }
}
