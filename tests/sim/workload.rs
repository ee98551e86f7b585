//! Clients at work: producers of every kind, readers at the end of the log, a group that commits, topics that come and go.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use esker::base::TopicPartition;
use esker::protocol::batch::BatchBuilder;
use kafka_protocol::messages::GroupId;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};

use crate::caller::{Caller, Way};
use crate::client::{Client, Failure, Fetched, TIMED_OUT, text, topic_name};
use crate::history::{Acknowledged, History, Partition, RecordId};
use crate::ledger::Ledger;
use crate::net::Net;
use crate::run::Mutant;
use crate::world::{WALL_START_MS, World};

/// Kafka's codes for "try again": a leader, a coordinator or room is missing, or an answer.
const RETRIABLE: &[i16] = &[3, 5, 6, 7, 8, 9, 13, 14, 15, 16, 19, 20, 41, 56, 74, 75, 76, 89, 100];
/// A batch of an idempotent producer that is refused this often in a row, everything else being well, is stuck.
const STUCK_TRIES: u32 = 200;

/// This long after the trouble every request is answered in time.
const ANSWERED_MS: u64 = 20_000;

/// What every client has.
#[derive(Clone)]
pub struct Office {
    pub world: World,
    pub net: Net,
    pub brokers: Vec<i32>,
    pub history: History,
    /// No new work; what is open is brought to an end.
    pub enough: Arc<AtomicBool>,
    /// Clients that are at work.
    pub busy: Arc<AtomicUsize>,
    pub mutant: Mutant,
    pub ledger: Ledger,
    /// When the trouble was over, in milliseconds; 0 before.
    pub healed_ms: Arc<AtomicU64>,
    /// Pauses are so many times as long as usual.
    pub pace: u64,
}

/// Counts a client as busy until dropped.
pub struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Office {
    pub fn client(&self) -> Client {
        Client::new(&self.world, &self.net, &self.brokers, self.mutant)
    }

    pub fn caller(&self, way: Way) -> Caller {
        Caller::new(&self.world, &self.net, &self.brokers, way)
    }

    /// A client of one door or the other.
    pub fn hand(&self, way: Option<Way>) -> Hand {
        match way {
            None => Hand::Kafka(Box::new(self.client())),
            Some(way) => Hand::Grpc(Box::new(self.caller(way))),
        }
    }

    pub fn enough(&self) -> bool {
        self.enough.load(Ordering::SeqCst)
    }

    pub fn begin(&self) -> Busy {
        self.busy.fetch_add(1, Ordering::SeqCst);
        Busy(self.busy.clone())
    }

    pub async fn pause(&self, from_ms: u64, to_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.world.between(from_ms, to_ms) * self.pace)).await;
    }

    /// Whether a refusal may be met with another try; others are told.
    pub fn may_repeat(&self, who: &str, failure: &Failure) -> bool {
        let healed_ms = self.healed_ms.load(Ordering::SeqCst);
        if *failure == Failure::NoAnswer(TIMED_OUT.to_owned())
            && healed_ms > 0
            && self.world.now_ms() > healed_ms + ANSWERED_MS
        {
            self.history.wrong(format!("unanswered: {who} waits for a reply although all is well"));
        }
        let refusal = (self.world.now_ms(), who.to_owned(), format!("{failure:?}"));
        self.history.with(|known| known.refused.push(refusal));
        match failure {
            Failure::Code(code) if RETRIABLE.contains(code) => true,
            Failure::NoAnswer(_) | Failure::Told { retriable: true, .. } => true,
            Failure::Code(_) | Failure::Told { .. } => {
                self.history.wrong(format!("{who} was answered with {failure:?} at {} ms", self.world.now_ms()));
                false
            }
        }
    }
}

/// A client that writes and reads.
pub enum Hand {
    Kafka(Box<Client>),
    Grpc(Box<Caller>),
}

impl Hand {
    async fn init_producer(&mut self) -> Result<(i64, i16), Failure> {
        match self {
            Self::Kafka(client) => client.init_producer().await,
            Self::Grpc(caller) => caller.init_producer().await,
        }
    }

    async fn produce(&mut self, (topic, index): &Partition, acks: i16, batches: &[Bytes]) -> Vec<Result<i64, Failure>> {
        match self {
            Self::Kafka(client) => client.produce(topic, *index, acks, batches).await,
            Self::Grpc(caller) => caller.produce(topic, *index, acks, batches).await,
        }
    }

    async fn fetch(&mut self, (topic, index): &Partition, offset: i64, wait_ms: u64) -> Result<Fetched, Failure> {
        match self {
            Self::Kafka(client) => client.fetch(topic, *index, offset, wait_ms as i32).await,
            Self::Grpc(caller) => caller.fetch(topic, *index, offset, wait_ms).await,
        }
    }
}

/// The bytes of a record.
fn value_of((producer, number): RecordId) -> Bytes {
    let length = 20 + (number * 7919 + u64::from(producer) * 104_729) % 300;
    let mut value = format!("{producer}:{number}:");
    while (value.len() as u64) < length {
        value.push(char::from(b'a' + (number % 26) as u8));
    }
    value.into()
}

/// Whose record these bytes are, if every one of them is as it was sent.
pub fn identify(value: &[u8]) -> Option<RecordId> {
    let mut parts = std::str::from_utf8(value).ok()?.splitn(3, ':');
    let id: RecordId = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    (value_of(id) == value).then_some(id)
}

/// A producer of one partition.
pub struct Producer {
    pub number: u32,
    pub partition: Partition,
    pub idempotent: bool,
    pub acks: i16,
    /// How it uses the gRPC door; none if it is a Kafka client.
    pub way: Option<Way>,
}

struct Batch {
    first: u64,
    records: u64,
}

impl Producer {
    pub async fn run(self, office: Office) {
        let _busy = office.begin();
        let mut client = office.hand(self.way);
        let who = format!("producer {}", self.number);
        let mut identity = None;
        while self.idempotent && identity.is_none() {
            match client.init_producer().await {
                Ok(new) => identity = Some(new),
                Err(failure) if office.may_repeat(&who, &failure) => office.pause(50, 300).await,
                Err(_) => return,
            }
        }
        if self.idempotent {
            office.history.with(|known| known.idempotent.insert(self.number));
        }
        let mut open: VecDeque<Batch> = VecDeque::new();
        let (mut next, mut refused) = (0, 0);
        loop {
            while open.len() < 4 && !office.enough() && (open.is_empty() || office.world.happens(0.6)) {
                let records = office.world.between(1, 5);
                open.push_back(Batch { first: next, records });
                next += records;
            }
            if open.is_empty() {
                return;
            }
            let batches: Vec<Bytes> = open.iter().map(|batch| self.encode(batch, identity)).collect();
            office.history.with(|known| {
                let sent = known.sent.entry(self.partition.clone()).or_default();
                for batch in &open {
                    sent.extend((batch.first..batch.first + batch.records).map(|number| (self.number, number)));
                }
            });
            let (topic, index) = &self.partition;
            let answers = client.produce(&self.partition, self.acks, &batches).await;
            let told: Vec<String> =
                open.iter().zip(&answers).map(|(batch, a)| format!("{}:{a:?}", batch.first)).collect();
            office.world.trace(&who, format_args!("{topic}-{index}: {}", told.join(" ")));
            if self.idempotent && office.mutant == Mutant::Twice && office.world.happens(0.02) {
                client.produce(&self.partition, -1, &[self.encode(&open[0], None)]).await;
            }
            let mut failure = None;
            let mut done = 0;
            for (batch, answer) in open.iter().zip(&answers) {
                match answer {
                    Ok(offset) => {
                        self.acknowledge(&office, batch, *offset);
                        done += usize::from(failure.is_none());
                    }
                    Err(why) => failure = failure.or(Some(why.clone())),
                }
            }
            if !self.idempotent {
                // Sent once: what was refused may be there or not.
                done = open.len();
            }
            open.drain(..done);
            refused = if done > 0 { 0 } else { refused + 1 };
            match failure {
                // HTTP/2 costs a run more than the bare protocol.
                None if self.way.is_some() => office.pause(20, 400).await,
                None => office.pause(1, 100).await,
                // The ones before are not known to have arrived, or this one was written long ago.
                Some(why) if why.is_out_of_order() && self.idempotent && refused < STUCK_TRIES => {
                    office.pause(20, 200).await;
                }
                Some(why) if office.may_repeat(&who, &why) => office.pause(20, 300).await,
                Some(_) => return,
            }
        }
    }

    fn acknowledge(&self, office: &Office, batch: &Batch, offset: i64) {
        if offset < 0 {
            return;
        }
        let ids = (batch.first..batch.first + batch.records).map(|number| (self.number, number)).collect();
        let acknowledged = Acknowledged { partition: self.partition.clone(), offset, acks: self.acks, ids };
        office.history.with(|known| known.acknowledged.push(acknowledged));
    }

    fn encode(&self, batch: &Batch, identity: Option<(i64, i16)>) -> Bytes {
        let mut builder = BatchBuilder::new();
        if let Some((id, epoch)) = identity {
            builder = builder.producer(id, epoch, batch.first as i32);
        }
        for number in batch.first..batch.first + batch.records {
            builder = builder.key_value(WALL_START_MS, format!("{}", self.number), value_of((self.number, number)));
        }
        builder.build()
    }
}

/// What a reader makes of an answer.
pub enum Step {
    /// Its next position, and the records before it.
    To(i64, Vec<RecordId>),
    /// It cannot go on: the history says why.
    Wrong,
}

/// Judges what a fetch from `position` brought.
pub fn take_records(office: &Office, who: &str, partition: &Partition, position: i64, fetched: &Fetched) -> Step {
    let end = fetched.high_watermark;
    office.history.with(|known| known.topics.insert(partition.0.clone(), fetched.topic_id));
    let wrong = |what: String| {
        office.history.wrong(format!("{who}: {what}"));
        Step::Wrong
    };
    let committed = office.ledger.end(TopicPartition::new(fetched.topic_id, partition.1));
    if end > committed {
        return wrong(format!("uncommitted: high watermark {end}, {committed} is committed"));
    }
    if let Some(before) = fetched.fell_from {
        return wrong(format!("high watermark {end} after {before}, epoch {:?}", fetched.epoch));
    }
    if let Some(epoch) = fetched.epoch {
        office.history.with(|known| {
            let told = known.watermarks.entry(partition.clone()).or_default();
            let (least, most) = told.entry(epoch).or_insert((end, end));
            (*least, *most) = ((*least).min(end), (*most).max(end));
        });
    }
    if fetched.log_start != 0 {
        return wrong(format!("the log starts at {}", fetched.log_start));
    }
    let (mut next, mut ids) = (position, Vec::new());
    for record in &fetched.records {
        if record.offset != next || record.offset >= end {
            return wrong(format!("offset {} at {next}, high watermark {end}", record.offset));
        }
        let Some(id) = record.value.as_deref().and_then(identify) else {
            return wrong(format!("a damaged record at {next}"));
        };
        office.history.with(|known| known.seen.entry((partition.clone(), next)).or_default().insert(id));
        ids.push(id);
        next += 1;
    }
    Step::To(next, ids)
}

/// Reads a partition from its start, and what comes, until enough and `to_the_end` says so. Through the gRPC door it then
/// also waits for all that is committed.
pub async fn read(office: Office, name: &'static str, partition: Partition, to_the_end: bool, way: Option<Way>) {
    let _busy = office.begin();
    let mut client = office.hand(way);
    let (topic, index) = &partition;
    let who = format!("{name} of {topic}-{index}");
    let mut position = 0;
    let mut found: Vec<(i64, RecordId)> = Vec::new();
    loop {
        if !to_the_end && office.enough() && is_at_the_end(&office, &client, &partition, position) {
            return;
        }
        let fetched = match client.fetch(&partition, position, 300 * office.pace).await {
            Ok(fetched) => fetched,
            Err(failure) => {
                office.world.trace(&who, format_args!("at {position}: {failure:?}"));
                if !office.may_repeat(&who, &failure) {
                    return;
                }
                office.pause(20, 200).await;
                continue;
            }
        };
        match take_records(&office, &who, &partition, position, &fetched) {
            Step::To(next, ids) => {
                found.extend((position..).zip(ids));
                position = next;
            }
            Step::Wrong => return,
        }
        office.world.trace(
            &who,
            format_args!("{} records up to {position} of {}", fetched.records.len(), fetched.high_watermark),
        );
        if to_the_end && position >= fetched.high_watermark {
            office.history.with(|known| {
                let all = if way.is_none() { &mut known.found } else { &mut known.found_by_grpc };
                all.insert(partition.clone(), found);
            });
            return;
        }
    }
}

/// Kafka's readers ask for what there is; a stream may only seem to wait for more.
fn is_at_the_end(office: &Office, client: &Hand, (topic, index): &Partition, position: i64) -> bool {
    match client {
        Hand::Kafka(_) => true,
        Hand::Grpc(caller) => position >= office.ledger.end(TopicPartition::new(caller.topic_id(topic), *index)),
    }
}

fn group_id(group: &str) -> GroupId {
    GroupId(text(group))
}

/// Commits growing offsets, and after `enough` looks up what is kept.
pub async fn commit(office: Office, group: String, topic: String) {
    let _busy = office.begin();
    let mut client = office.client();
    let (mut tried, mut kept) = (0, -1);
    while !office.enough() {
        tried += 1;
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(0)
            .with_committed_offset(tried)
            .with_committed_leader_epoch(-1);
        let wanted = OffsetCommitRequestTopic::default().with_name(topic_name(&topic)).with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(group_id(&group))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![wanted]);
        let answer = match client.coordinator(&group).await {
            Ok(broker) => match client.call(broker, 7, &request).await {
                Ok(reply) => match reply.topics[0].partitions[0].error_code {
                    0 => Ok(()),
                    code => Err(Failure::Code(code)),
                },
                Err(failure) => Err(failure),
            },
            Err(failure) => Err(failure),
        };
        office.world.trace(&group, format_args!("commits {tried}: {answer:?}"));
        match answer {
            Ok(()) => kept = tried,
            Err(failure) if office.may_repeat(&group, &failure) => {}
            Err(_) => return,
        }
        office.pause(50, 400).await;
    }
    office.history.with(|known| known.committed.insert(group.clone(), (kept, tried)));
    loop {
        match committed(&mut client, &group, &topic).await {
            Ok(found) if found < kept || found > tried => {
                office.history.wrong(format!("{group}: offset {found}, but {kept} was committed, {tried} tried"));
                return;
            }
            Err(failure) if office.may_repeat(&group, &failure) => office.pause(50, 200).await,
            Ok(_) | Err(_) => return,
        }
    }
}

async fn committed(client: &mut Client, group: &str, topic: &str) -> Result<i64, Failure> {
    let wanted = OffsetFetchRequestTopics::default().with_name(topic_name(topic)).with_partition_indexes(vec![0]);
    let wanted = OffsetFetchRequestGroup::default().with_group_id(group_id(group)).with_topics(Some(vec![wanted]));
    let broker = client.coordinator(group).await?;
    let reply = client.call(broker, 8, &OffsetFetchRequest::default().with_groups(vec![wanted])).await?;
    let found = &reply.groups[0];
    if found.error_code != 0 {
        return Err(Failure::Code(found.error_code));
    }
    let partition = &found.topics[0].partitions[0];
    if partition.error_code == 0 { Ok(partition.committed_offset) } else { Err(Failure::Code(partition.error_code)) }
}

/// Creates the topics that the others use.
pub async fn create_topics(office: &Office, topics: &[(String, i32)]) {
    let mut client = office.client();
    for (topic, partitions) in topics {
        loop {
            match client.create_topic(topic, *partitions).await {
                // There already: from a try whose answer was lost.
                Ok(_) | Err(Failure::Code(36)) => break,
                Err(failure) if office.may_repeat("create", &failure) => office.pause(100, 300).await,
                Err(_) => return,
            }
        }
    }
}

/// Names that are used again and again for topics that come and go.
const WASTE: u64 = 3;
const UNKNOWN_TOPIC: i16 = 3;
const TOPIC_EXISTS: i16 = 36;

/// Creates topics, writes to them and deletes them; a new one of an old name has nothing of the old one's. In the end all
/// are deleted, and no broker knows any of them.
pub async fn waste(office: Office) {
    let _busy = office.begin();
    let mut client = office.client();
    let mut acknowledged: BTreeSet<u64> = BTreeSet::new();
    let mut number = 0;
    while !office.enough() {
        number += 1;
        let name = format!("waste-{}", number % WASTE);
        let created = client.create_topic(&name, 2).await;
        client.forget_topic(&name);
        let batch = BatchBuilder::new().key_value(WALL_START_MS, format!("{number}"), vec![b'w'; 3_000]).build();
        let produced = client.produce(&name, 1, -1, &[batch]).await;
        if let Ok(id) = &created
            && client.topic_id(&name) == Some(*id)
            && let Ok(fetched) = client.fetch(&name, 1, 0, 20).await
        {
            for record in &fetched.records {
                let key = record.key.as_deref().map(String::from_utf8_lossy).and_then(|key| key.parse::<u64>().ok());
                if let Some(old) = key.filter(|key| acknowledged.contains(key)) {
                    office
                        .history
                        .wrong(format!("waste: topic {name} of {number} has record {old} of its predecessor"));
                }
            }
        }
        if produced[0].is_ok() {
            acknowledged.insert(number);
        }
        let deleted = client.delete_topic(&name).await;
        office.world.trace("waste", format_args!("{name}: {created:?} {produced:?} {deleted:?}"));
        for failure in [created.err(), deleted.err()].into_iter().flatten() {
            if failure != Failure::Code(TOPIC_EXISTS) {
                office.may_repeat("waste", &failure);
            }
        }
        office.pause(200, 2_000).await;
    }
    for name in (0..WASTE).map(|number| format!("waste-{number}")) {
        // What was asked long ago may still create it.
        loop {
            match client.delete_topic(&name).await {
                Ok(()) => {}
                Err(Failure::Code(UNKNOWN_TOPIC)) if nobody_knows(&office, &mut client, &name).await => break,
                Err(failure) if office.may_repeat("waste", &failure) => {}
                Err(_) => return,
            }
            office.pause(50, 300).await;
        }
    }
}

async fn nobody_knows(office: &Office, client: &mut Client, topic: &str) -> bool {
    for broker in &office.brokers {
        if !matches!(client.describe(*broker, topic).await, Ok((UNKNOWN_TOPIC, _))) {
            return false;
        }
    }
    true
}
