//! Members of consumer groups through the gRPC door: a broker is the member, its client is told which partitions it has, reads,
//! commits, lets go. They are in the groups of [`crate::members`], beside Kafka clients.
//!
//! Asked beside what is asked of those: data is of partitions that the client was told last, in order from where it was told, and
//! none comes between `revoking` and the next `assigned`; each commit is answered once; one of partitions that have gone to others
//! does nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use esker::base::TopicPartition;
use esker::protocol::grpc::v1::consume_open::Reset;
use esker::protocol::grpc::v1::consume_request::Kind as Asked;
use esker::protocol::grpc::v1::consume_response::Kind as Told;
use esker::protocol::grpc::v1::{
    ConsumeAssigned, ConsumeCommit, ConsumeCommitted, ConsumeOpen, ConsumeReleased, ConsumeRequest, ConsumeResponse,
    FetchCredit, FetchData, PartitionOffset,
};
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::caller::{Caller, Way, failed, gone, records_of, refused};
use crate::client::{Failure, Fetched, TIMED_OUT};
use crate::history::{Commit, Partition};
use crate::members::{Member, may_be_found};
use crate::run::Mutant;
use crate::workload::{Office, Step, take_records};

const SESSION_TIMEOUT_MS: u32 = 6_000;
/// Requests that wait to be sent.
const REQUESTS: usize = 64;
/// Commits that are not answered yet.
const COMMITS: usize = 4;
/// A member that leaves is told so within this time.
const LEAVING: Duration = Duration::from_secs(30);

/// Why a call is over.
enum End {
    /// It has left, or gone without a word.
    Anew,
    /// Everything is read and committed.
    Done,
}

/// A partition that is read.
#[derive(Debug, Clone, Copy)]
struct Place {
    next: i64,
    watermark: i64,
    committed: i64,
}

/// One call of a member's client.
struct Call<'a> {
    office: &'a Office,
    caller: &'a Caller,
    member: &'a Member,
    who: &'a str,
    requests: mpsc::Sender<ConsumeRequest>,
    raw: bool,
    release_timeout_ms: u32,
    /// Whether the newest that it was told is `assigned`.
    holds: bool,
    generation: i32,
    /// Those it was told last.
    places: BTreeMap<Partition, Place>,
    ids: u64,
    /// Commits without an answer: which of the history's tries each is of its partitions.
    open: BTreeMap<u64, Vec<(Partition, usize)>>,
    /// Credit that was used and not given back yet.
    used: u64,
}

/// Is a member again and again, until everything is read.
pub async fn run(member: Member, office: Office) {
    let _busy = office.begin();
    let mut caller = office.caller(Way::Calls);
    let who = format!("{} gRPC member {}", member.group, member.number);
    // Some come back under the name that they had.
    let instance = (member.number == 0 && office.world.happens(0.5)).then(|| format!("{}-0", member.group));
    loop {
        let failure = match one_call(&member, &office, &mut caller, &who, instance.as_deref()).await {
            Ok(End::Done) => return,
            Ok(End::Anew) => {
                office.pause(50, 2_000).await;
                continue;
            }
            Err(failure) => failure,
        };
        office.world.trace(&who, format_args!("{failure:?}"));
        // A call that it gave up, of which the broker does not know that, may come back under its name.
        let fenced = instance.is_some() && matches!(failure, Failure::Told { reason: "REASON_CONFLICT", .. });
        if !fenced && !office.may_repeat(&who, &failure) {
            return;
        }
        office.pause(50, 300).await;
    }
}

async fn one_call(
    member: &Member,
    office: &Office,
    caller: &mut Caller,
    who: &str,
    instance: Option<&str>,
) -> Result<End, Failure> {
    let topics: BTreeSet<&String> = member.partitions.iter().map(|(topic, _)| topic).collect();
    for topic in &topics {
        if caller.topic_id(topic).is_nil() {
            caller.look_up(topic).await?;
        }
    }
    let (raw, release_timeout_ms) = (office.world.happens(0.5), office.world.between(300, 3_000) as u32);
    let open = ConsumeOpen {
        group: member.group.clone(),
        topics: topics.into_iter().cloned().collect(),
        reset: Reset::Earliest.into(),
        raw_batches: raw,
        credit_bytes: office.world.between(500, 20_000),
        instance_id: instance.map(str::to_owned),
        session_timeout_ms: SESSION_TIMEOUT_MS,
        release_timeout_ms,
        ..ConsumeOpen::default()
    };
    let (requests, receiver) = mpsc::channel(REQUESTS);
    let opened = requests.try_send(ConsumeRequest { kind: Some(Asked::Open(open)) });
    opened.expect("there is room for the first request");
    let answers = caller.consume(receiver).await?;
    let call = Call {
        office,
        caller,
        member,
        who,
        requests,
        raw,
        release_timeout_ms,
        holds: false,
        generation: -1,
        places: BTreeMap::new(),
        ids: 0,
        open: BTreeMap::new(),
        used: 0,
    };
    call.run(answers).await
}

impl Call<'_> {
    async fn run(mut self, mut answers: Streaming<ConsumeResponse>) -> Result<End, Failure> {
        let office = self.office;
        loop {
            let wait = Duration::from_millis(office.world.between(20, 200) * office.pace);
            match tokio::time::timeout(wait, answers.message()).await {
                Err(_) => {}
                Ok(Err(status)) => return Err(failed(&status).0),
                Ok(Ok(None)) => {
                    self.wrong("its call ends as if it had left");
                    return Err(gone());
                }
                Ok(Ok(Some(answer))) => self.take(answer).await?,
            }
            if !self.holds {
                continue;
            }
            if office.world.happens(0.2) {
                self.commit();
            }
            if office.enough() {
                if self.is_done() {
                    office.world.trace(self.who, format_args!("is done"));
                    self.leave(answers).await?;
                    return Ok(End::Done);
                }
                self.commit();
            } else if office.world.happens(0.005) {
                if office.world.happens(0.5) {
                    self.leave(answers).await?;
                } else {
                    office.world.trace(self.who, format_args!("vanishes"));
                }
                return Ok(End::Anew);
            }
        }
    }

    fn wrong(&self, what: impl std::fmt::Display) {
        self.office.history.wrong(format!("{}: {what}", self.who));
    }

    fn ask(&self, kind: Asked) -> Result<(), Failure> {
        self.requests.try_send(ConsumeRequest { kind: Some(kind) }).map_err(|_| gone())
    }

    fn key(&self, partition: &Partition) -> (String, Partition) {
        (self.member.group.clone(), partition.clone())
    }

    async fn take(&mut self, answer: ConsumeResponse) -> Result<(), Failure> {
        match answer.kind.expect("an answer is of some kind") {
            Told::Assigned(assigned) => self.assigned(assigned),
            Told::Data(data) => return self.data(&data),
            Told::Failure(failure) => {
                // The others would go on; this one is read by nobody until the group deals out anew.
                return Err(refused(failure.error.expect("a failure says why")).0);
            }
            Told::Committed(committed) => self.committed(&committed),
            Told::Revoking(_) => return self.let_go().await,
            Told::End(_) => self.wrong("was told of an end that it did not ask for"),
        }
        Ok(())
    }

    fn assigned(&mut self, assigned: ConsumeAssigned) {
        let office = self.office;
        if self.holds {
            self.wrong("was given partitions before it was told to let go of others");
        }
        let ConsumeAssigned { generation, partitions, .. } = assigned;
        if generation < self.generation {
            self.wrong(format_args!("generation {generation} after {}", self.generation));
        }
        (self.holds, self.generation) = (true, generation);
        self.places.clear();
        for PartitionOffset { topic, partition, offset, .. } in partitions {
            let partition = (topic, partition);
            let forgets = office.mutant == Mutant::Forget && office.world.happens(0.1);
            let offset = if forgets { 0 } else { offset };
            let tried = office.history.with(|known| known.commits.get(&self.key(&partition)).cloned());
            let tried = tried.unwrap_or_default();
            // The generation began after whatever those before it have committed.
            let before = tried.iter().filter(|commit| commit.told == Some(true) && commit.generation <= generation);
            let before: Vec<Commit> = before.copied().collect();
            let found = |offset| may_be_found(&before, &tried, offset);
            if !found(offset) && (offset != 0 || !found(-1)) {
                let told: Vec<String> = tried.iter().rev().take(8).map(|commit| format!("{commit:?}")).collect();
                self.wrong(format_args!("offset {offset} of {partition:?} in {generation} after {}", told.join(", ")));
            }
            self.places.insert(partition, Place { next: offset, watermark: 0, committed: offset });
        }
        let mine: Vec<String> =
            self.places.iter().map(|((t, p), place)| format!("{t}-{p} at {}", place.next)).collect();
        office.world.trace(self.who, format_args!("generation {generation}: {}", mine.join(", ")));
    }

    fn data(&mut self, data: &FetchData) -> Result<(), Failure> {
        let partition = (data.topic.clone(), data.partition);
        let Some(place) = self.places.get(&partition).copied().filter(|_| self.holds) else {
            self.wrong(format_args!("data of {partition:?}, which it does not have"));
            return Err(gone());
        };
        let (records, _) = records_of(data, self.raw, place.next);
        let fetched = Fetched {
            topic_id: self.caller.topic_id(&data.topic),
            epoch: None,
            high_watermark: data.high_watermark,
            fell_from: Some(place.watermark).filter(|before| *before > data.high_watermark),
            log_start: 0,
            records,
        };
        let Step::To(next, _) = take_records(self.office, self.who, &partition, place.next, &fetched) else {
            return Err(gone());
        };
        let key = self.key(&partition);
        self.office.history.with(|known| known.delivered.entry(key).or_default().extend(place.next..next));
        self.places.insert(partition, Place { next, watermark: data.high_watermark, ..place });
        self.used += data.bytes;
        // Not every client gives credit at once; but one that holds all of it back gets nothing more.
        if self.used >= 500 || self.office.world.happens(0.5) {
            let bytes = std::mem::take(&mut self.used);
            self.ask(Asked::Credit(FetchCredit { bytes }))?;
        }
        Ok(())
    }

    /// Commits what is new, unless too much waits for answers.
    fn commit(&mut self) {
        let new = |(_, place): &(&Partition, &Place)| place.next != place.committed;
        let new: Vec<(Partition, i64)> = self.places.iter().filter(new).map(|(p, at)| (p.clone(), at.next)).collect();
        if new.is_empty() || self.open.len() >= COMMITS {
            return;
        }
        self.ids += 1;
        let offset = |(partition, offset): &(Partition, i64)| PartitionOffset {
            topic: partition.0.clone(),
            partition: partition.1,
            offset: *offset,
            leader_epoch: -1,
            error: None,
        };
        let commit = ConsumeCommit { id: self.ids, offsets: new.iter().map(offset).collect() };
        if self.ask(Asked::Commit(commit)).is_err() {
            return;
        }
        self.office.world.trace(self.who, format_args!("commits {new:?} as {}", self.ids));
        let mut open = Vec::new();
        for (partition, offset) in new {
            let commit = Commit { generation: self.generation, offset, told: None };
            let key = self.key(&partition);
            let number = self.office.history.with(|known| {
                let tried = known.commits.entry(key).or_default();
                tried.push(commit);
                tried.len() - 1
            });
            self.places.entry(partition.clone()).and_modify(|place| place.committed = offset);
            open.push((partition, number));
        }
        self.open.insert(self.ids, open);
    }

    fn committed(&mut self, committed: &ConsumeCommitted) {
        self.office.world.trace(self.who, format_args!("committed: {committed:?}"));
        // One that is refused is answered before those on their way.
        let Some(tries) = self.open.remove(&committed.id) else {
            return self.wrong(format_args!("an answer to commit {}, which waits for none", committed.id));
        };
        for (partition, number) in tries {
            let failed = committed.failed.iter().find(|one| one.topic == partition.0 && one.partition == partition.1);
            let key = self.key(&partition);
            let commit = self.office.history.with(|known| {
                let commit = &mut known.commits.get_mut(&key).expect("it was tried")[number];
                commit.told = Some(failed.is_none());
                *commit
            });
            if let Some(place) = self.places.get_mut(&partition)
                && failed.is_some()
                && commit.generation == self.generation
            {
                place.committed = -1;
            }
        }
    }

    /// Partitions go: most commit before, some do not care, some are too late.
    async fn let_go(&mut self) -> Result<(), Failure> {
        let office = self.office;
        if !std::mem::take(&mut self.holds) {
            self.wrong("is to let go of what it does not have");
        }
        let how = office.world.rng().below(10);
        office.world.trace(self.who, format_args!("lets go, {how}"));
        if how == 0 && !office.enough() {
            let late_ms = u64::from(self.release_timeout_ms) + office.world.between(0, 3_000);
            tokio::time::sleep(Duration::from_millis(late_ms)).await;
        }
        if how < 8 {
            self.commit();
        }
        self.ask(Asked::Released(ConsumeReleased {}))
    }

    fn is_done(&self) -> bool {
        let committed = |((topic, index), place): (&Partition, &Place)| {
            let end = self.office.ledger.end(TopicPartition::new(self.caller.topic_id(topic), *index));
            place.next >= end && place.committed == place.next
        };
        self.open.is_empty() && self.places.iter().all(committed) && self.member.group_is_done(self.office)
    }

    /// Closes its requests, and hears the rest.
    async fn leave(mut self, mut answers: Streaming<ConsumeResponse>) -> Result<(), Failure> {
        self.office.world.trace(self.who, format_args!("leaves"));
        let (requests, _) = mpsc::channel(REQUESTS);
        self.requests = requests;
        let rest = async {
            loop {
                match answers.message().await {
                    Ok(None) => return Ok(()),
                    Ok(Some(ConsumeResponse { kind: Some(Told::Committed(committed)) })) => self.committed(&committed),
                    // What else was on its way is read by whoever has the partitions next.
                    Ok(Some(_)) => {}
                    Err(status) => return Err(failed(&status).0),
                }
            }
        };
        let left = tokio::time::timeout(LEAVING, rest).await;
        left.unwrap_or_else(|_| Err(Failure::NoAnswer(TIMED_OUT.to_owned())))
    }
}
