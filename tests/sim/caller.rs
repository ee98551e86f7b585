//! A gRPC client over simulated connections: HTTP/2 and the services of `esker::frontend::grpc` are the real ones, only the
//! bytes between them are carried by [`Net`]. It repeats nothing by itself.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use esker::frontend::grpc::forward::Dial;
use esker::protocol::batch::{BatchHeader, Record, records};
use esker::protocol::grpc::v1::admin_client::AdminClient;
use esker::protocol::grpc::v1::consumer_client::ConsumerClient;
use esker::protocol::grpc::v1::fetch_from::Start;
use esker::protocol::grpc::v1::fetch_request::Kind as Asked;
use esker::protocol::grpc::v1::fetch_response::Kind as Told;
use esker::protocol::grpc::v1::producer_client::ProducerClient;
use esker::protocol::grpc::v1::{
    Acks, ConsumeRequest, ConsumeResponse, DescribeTopicRequest, Error, FetchCredit, FetchData, FetchFrom, FetchOpen,
    FetchRequest, FetchResponse, Header, InitProducerRequest, Leader, ProduceRequest, ProduceResponse, ProducerState,
    Reason, Record as GrpcRecord,
};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Status, Streaming};
use uuid::Uuid;

use crate::client::{Failure, Fetched, TIMED_OUT, whole_batches};
use crate::net::{Net, Port};
use crate::node::{address, machine_at};
use crate::world::{Place, SIDES, World};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const PING_INTERVAL: Duration = Duration::from_secs(4);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Clients differ in their patience.
const PATIENCE_S: [u64; 2] = [8, 40];
/// Requests that wait to be sent; there are never more under way.
const PIPELINE: usize = 16;

/// How connections are made from one place to others' gRPC doors.
pub fn dial(world: &World, net: &Net, from: Place) -> Dial {
    let (world, net) = (world.clone(), net.clone());
    Arc::new(move |endpoint: Endpoint| {
        let (world, net) = (world.clone(), net.clone());
        endpoint.connect_with_connector_lazy(tower::service_fn(move |to: Uri| {
            let (world, net) = (world.clone(), net.clone());
            async move {
                let machine = to.host().and_then(machine_at).ok_or(io::ErrorKind::NotFound)?;
                Ok::<_, io::Error>(TokioIo::new(net.connect(&world, from, machine, Port::Grpc).await?))
            }
        }))
    })
}

/// How a client uses the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A call for each batch, and reads, at any broker: it passes on what others lead.
    Calls,
    /// Streams that stay open, at the leader.
    Stream,
    /// Reads up to the end that is there at the moment.
    ToTheEnd,
}

/// A stream of batches.
struct Writing {
    requests: mpsc::Sender<ProduceRequest>,
    answers: Streaming<ProduceResponse>,
}

/// A stream that is read.
struct Reading {
    requests: mpsc::Sender<FetchRequest>,
    answers: Streaming<FetchResponse>,
    next: i64,
    watermark: i64,
    raw: bool,
    /// Credit that was used and not given back yet.
    used: u64,
}

/// See the module.
pub struct Caller {
    world: World,
    brokers: Vec<i32>,
    dial: Dial,
    way: Way,
    patience: Duration,
    channels: BTreeMap<i32, Channel>,
    leaders: BTreeMap<(String, i32), i32>,
    topic_ids: BTreeMap<String, Uuid>,
    calls: u64,
    writing: Option<Writing>,
    reading: Option<Reading>,
}

/// `google.rpc.Status`, as far as it is looked at here.
#[derive(Clone, PartialEq, prost::Message)]
struct Details {
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// What a call that failed says: an error of the broker's, or that there is no answer.
pub fn failed(status: &Status) -> (Failure, Option<Leader>) {
    let details = Details::decode(status.details()).map(|found| found.details).unwrap_or_default();
    let error = details.first().and_then(|detail| Error::decode(detail.value.as_slice()).ok());
    error.map_or_else(|| (Failure::NoAnswer(format!("{:?}", status.code())), None), refused)
}

pub fn refused(error: Error) -> (Failure, Option<Leader>) {
    let reason = error.reason();
    // A broker that has not heard of a new topic does not know better.
    let retriable = error.retriable || reason == Reason::UnknownTopic;
    (Failure::Told { reason: reason.as_str_name(), retriable }, error.leader)
}

/// The records of an answer to who reads at `offset`, and where it reads on.
pub fn records_of(data: &FetchData, raw: bool, offset: i64) -> (Vec<Record>, i64) {
    let mut found = Vec::new();
    if raw {
        assert!(data.records.is_empty(), "records were not asked for");
        for batch in whole_batches(data.batches.clone()) {
            let all = records(&batch).expect("a batch that was served is well-formed");
            found.extend(all.map(|record| record.expect("a record that was served is well-formed")));
        }
        found.retain(|record| record.offset >= offset);
    } else {
        found.extend(data.records.iter().map(|record| Record {
            offset: record.offset,
            timestamp: record.timestamp_ms.expect("a record that is read has a time"),
            key: record.key.clone(),
            value: record.value.clone(),
            headers: Vec::new(),
        }));
    }
    let after = found.last().map_or(offset, |record| record.offset + 1);
    assert_eq!(data.next_offset, after, "reading goes on behind the last record");
    (found, after)
}

pub fn gone() -> Failure {
    Failure::NoAnswer("the stream has ended".to_owned())
}

impl Caller {
    pub fn new(world: &World, net: &Net, brokers: &[i32], way: Way) -> Self {
        let side = Place::Clients(world.rng().below(u64::from(SIDES)) as u8);
        Self {
            world: world.clone(),
            brokers: brokers.to_vec(),
            dial: dial(world, net, side),
            way,
            patience: Duration::from_secs(PATIENCE_S[world.rng().below(2) as usize]),
            channels: BTreeMap::new(),
            leaders: BTreeMap::new(),
            topic_ids: BTreeMap::new(),
            calls: 0,
            writing: None,
            reading: None,
        }
    }

    fn channel(&mut self, machine: i32) -> Channel {
        let (dial, at) = (&self.dial, address(machine));
        let make = || {
            let endpoint = Endpoint::from_shared(format!("http://{at}:9094")).expect("an address makes a URI");
            let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).http2_keep_alive_interval(PING_INTERVAL);
            dial(endpoint.keep_alive_timeout(PING_TIMEOUT).keep_alive_while_idle(true))
        };
        self.channels.entry(machine).or_insert_with(make).clone()
    }

    fn any_broker(&self) -> i32 {
        self.brokers[self.world.rng().below(self.brokers.len() as u64) as usize]
    }

    /// What comes in time; else the broker's connection is given up.
    async fn in_time<T>(&mut self, machine: i32, asked: impl Future<Output = Result<T, Status>>) -> Result<T, Failure> {
        if let Ok(answer) = tokio::time::timeout(self.patience, asked).await {
            return answer.map_err(|status| failed(&status).0);
        }
        self.channels.remove(&machine);
        Err(Failure::NoAnswer(TIMED_OUT.to_owned()))
    }

    /// Goes where a refusal has sent it, or asks again.
    fn follow(&mut self, topic: &str, partition: i32, leader: Option<Leader>) {
        let key = (topic.to_owned(), partition);
        let named = leader.and_then(|leader| machine_at(leader.grpc_endpoint.split(':').next()?));
        match named {
            Some(machine) => self.leaders.insert(key, machine),
            None => self.leaders.remove(&key),
        };
    }

    /// The machine that leads a partition.
    async fn leader(&mut self, topic: &str, partition: i32) -> Result<i32, Failure> {
        let key = (topic.to_owned(), partition);
        if let Some(leader) = self.leaders.get(&key).filter(|_| self.topic_ids.contains_key(topic)) {
            return Ok(*leader);
        }
        self.look_up(topic).await?;
        self.leaders.get(&key).copied().ok_or_else(|| Failure::NoAnswer("nobody leads".to_owned()))
    }

    /// Learns a topic's id and leaders.
    pub async fn look_up(&mut self, topic: &str) -> Result<(), Failure> {
        let asked = self.any_broker();
        let mut admin = AdminClient::new(self.channel(asked));
        let request = DescribeTopicRequest { name: topic.to_owned() };
        let found = self.in_time(asked, async { Ok(admin.describe_topic(request).await?.into_inner()) }).await?;
        let id = found.topic.and_then(|topic| topic.id.parse().ok()).expect("a topic has an id");
        self.topic_ids.insert(topic.to_owned(), id);
        for known in found.partitions {
            self.follow(topic, known.partition, known.leader);
        }
        Ok(())
    }

    /// Opens a stream of a group's member, at any broker.
    pub async fn consume(
        &mut self,
        requests: mpsc::Receiver<ConsumeRequest>,
    ) -> Result<Streaming<ConsumeResponse>, Failure> {
        let asked = self.any_broker();
        let mut consumer = ConsumerClient::new(self.channel(asked));
        self.in_time(asked, async { Ok(consumer.consume(ReceiverStream::new(requests)).await?.into_inner()) }).await
    }

    pub async fn init_producer(&mut self) -> Result<(i64, i16), Failure> {
        let asked = self.any_broker();
        let mut producer = ProducerClient::new(self.channel(asked));
        let answer = async { Ok(producer.init_producer(InitProducerRequest {}).await?.into_inner()) };
        let given = self.in_time(asked, answer).await?;
        Ok((given.producer_id, given.producer_epoch as i16))
    }

    /// A batch as it is, or as records.
    fn request(&mut self, topic: &str, partition: i32, acks: i16, batch: &Bytes) -> ProduceRequest {
        self.calls += 1;
        let acks = if acks == 1 { Acks::Leader } else { Acks::All };
        let mut request = ProduceRequest {
            id: self.calls,
            topic: topic.to_owned(),
            partition: Some(partition),
            acks: acks.into(),
            timeout_ms: 6_000,
            ..ProduceRequest::default()
        };
        if self.world.happens(0.5) {
            request.batch = batch.clone();
            return request;
        }
        let header = BatchHeader::decode(batch).expect("a batch that was built has a header");
        request.producer = header.has_producer_id().then(|| ProducerState {
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch.into(),
            base_sequence: header.base_sequence,
        });
        for record in records(batch).expect("a batch that was built can be read") {
            let Record { key, value, timestamp, headers, .. } = record.expect("a record that was built can be read");
            let name = |name: &Bytes| String::from_utf8_lossy(name).into_owned();
            request.records.push(GrpcRecord {
                key,
                value,
                headers: headers.iter().map(|(key, value)| Header { key: name(key), value: value.clone() }).collect(),
                timestamp_ms: Some(timestamp),
                offset: 0,
            });
        }
        request
    }

    /// The base offset that the answer to request `id` tells.
    fn taken(&mut self, topic: &str, partition: i32, id: u64, answer: &ProduceResponse) -> Result<i64, Failure> {
        assert_eq!(answer.id, id, "answers come in the order of their requests");
        let [appended] = &answer.appended[..] else { panic!("one part for one partition: {answer:?}") };
        assert_eq!(appended.partition, partition);
        let Some(error) = appended.error.clone() else { return Ok(appended.base_offset) };
        let (failure, leader) = refused(error);
        self.follow(topic, partition, leader);
        Err(failure)
    }

    /// Sends batches in their order: base offsets.
    pub async fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        acks: i16,
        batches: &[Bytes],
    ) -> Vec<Result<i64, Failure>> {
        let requests: Vec<_> = batches.iter().map(|batch| self.request(topic, partition, acks, batch)).collect();
        let mut answers = Vec::new();
        let done = if self.way == Way::Calls {
            self.call(topic, partition, requests, &mut answers).await
        } else {
            self.write(topic, partition, requests, &mut answers).await
        };
        if let Err(failure) = done {
            answers.resize(batches.len(), Err(failure));
        }
        answers
    }

    /// One call after the other at any broker, up to the first that fails.
    async fn call(
        &mut self,
        topic: &str,
        partition: i32,
        requests: Vec<ProduceRequest>,
        answers: &mut Vec<Result<i64, Failure>>,
    ) -> Result<(), Failure> {
        for request in requests {
            let (asked, id) = (self.any_broker(), request.id);
            let mut producer = ProducerClient::new(self.channel(asked));
            let answer = self.in_time(asked, async { Ok(producer.produce(request).await?.into_inner()) }).await?;
            let offset = self.taken(topic, partition, id, &answer)?;
            answers.push(Ok(offset));
        }
        Ok(())
    }

    /// Through a stream to the leader, without waiting in between.
    async fn write(
        &mut self,
        topic: &str,
        partition: i32,
        requests: Vec<ProduceRequest>,
        answers: &mut Vec<Result<i64, Failure>>,
    ) -> Result<(), Failure> {
        let leader = self.leader(topic, partition).await?;
        let mut producer = ProducerClient::new(self.channel(leader));
        let held = self.writing.take();
        let ids: Vec<u64> = requests.iter().map(|request| request.id).collect();
        let mut told = Vec::new();
        let all = self.in_time(leader, async {
            let mut writing = if let Some(writing) = held {
                writing
            } else {
                let (requests, receiver) = mpsc::channel(PIPELINE);
                let answers = producer.produce_stream(ReceiverStream::new(receiver)).await?.into_inner();
                Writing { requests, answers }
            };
            for request in requests {
                writing.requests.send(request).await.map_err(|_| Status::unavailable("closed"))?;
            }
            for _ in &ids {
                let answer = writing.answers.message().await?;
                told.push(answer.ok_or_else(|| Status::unavailable("ended"))?);
            }
            Ok(writing)
        });
        let all = all.await;
        for (id, answer) in ids.iter().zip(told) {
            answers.push(self.taken(topic, partition, *id, &answer));
        }
        match all {
            // Somebody else leads, or nobody: what was opened here is of no use.
            Ok(_) if self.leaders.get(&(topic.to_owned(), partition)) != Some(&leader) => Ok(()),
            Ok(writing) => {
                self.writing = Some(writing);
                Ok(())
            }
            Err(failure) => {
                self.follow(topic, partition, None);
                Err(failure)
            }
        }
    }

    /// The id of a topic that was read.
    pub fn topic_id(&self, topic: &str) -> Uuid {
        self.topic_ids.get(topic).copied().unwrap_or_default()
    }

    /// What comes next from `offset` on; nothing after `wait_ms`.
    pub async fn fetch(&mut self, topic: &str, partition: i32, offset: i64, wait_ms: u64) -> Result<Fetched, Failure> {
        let mut reading = match self.reading.take().filter(|reading| reading.next == offset) {
            Some(reading) => reading,
            None => self.open(topic, partition, offset).await?,
        };
        let wait = if self.way == Way::ToTheEnd { self.patience } else { Duration::from_millis(wait_ms) };
        let answer = match tokio::time::timeout(wait, reading.answers.message()).await {
            Err(_) if self.way == Way::ToTheEnd => Err(Failure::NoAnswer(TIMED_OUT.to_owned())),
            Err(_) => {
                let fetched = self.fetched(topic, reading.watermark.max(offset), Vec::new());
                self.reading = Some(reading);
                return Ok(fetched);
            }
            Ok(Err(status)) => Err(failed(&status).0),
            Ok(Ok(None)) => Err(gone()),
            Ok(Ok(Some(answer))) => Ok(answer.kind.expect("an answer is of some kind")),
        };
        let leader = match answer {
            Ok(Told::Data(data)) => return Ok(self.take(topic, offset, reading, &data)),
            Ok(Told::End(end)) => {
                assert_eq!(end.next_offset, offset, "the end is where the reader is");
                return Ok(self.fetched(topic, offset, Vec::new()));
            }
            Ok(Told::Failure(failure)) => {
                let (why, leader) = refused(failure.error.expect("a failure says why"));
                (why, leader)
            }
            Err(failure) => (failure, None),
        };
        self.follow(topic, partition, leader.1);
        Err(leader.0)
    }

    fn fetched(&self, topic: &str, high_watermark: i64, records: Vec<Record>) -> Fetched {
        let topic_id = self.topic_id(topic);
        Fetched { topic_id, epoch: None, high_watermark, fell_from: None, log_start: 0, records }
    }

    async fn open(&mut self, topic: &str, partition: i32, offset: i64) -> Result<Reading, Failure> {
        let leader = self.leader(topic, partition).await?;
        let asked = if self.way == Way::Stream { leader } else { self.any_broker() };
        let mut consumer = ConsumerClient::new(self.channel(asked));
        let raw = self.world.happens(0.5);
        let from = FetchFrom { topic: topic.to_owned(), partition, start: Some(Start::Offset(offset)) };
        let open = FetchOpen {
            partitions: vec![from],
            stop_at_end: self.way == Way::ToTheEnd,
            raw_batches: raw,
            credit_bytes: self.world.between(500, 20_000),
            ..FetchOpen::default()
        };
        let (requests, receiver) = mpsc::channel(PIPELINE);
        let opened = requests.try_send(FetchRequest { kind: Some(Asked::Open(open)) });
        opened.expect("there is room for the first request");
        let opened = async { Ok(consumer.fetch(ReceiverStream::new(receiver)).await?.into_inner()) };
        let answers = self.in_time(asked, opened).await?;
        Ok(Reading { requests, answers, next: offset, watermark: 0, raw, used: 0 })
    }

    fn take(&mut self, topic: &str, offset: i64, mut reading: Reading, data: &FetchData) -> Fetched {
        let (found, after) = records_of(data, reading.raw, offset);
        let fell_from = Some(reading.watermark).filter(|before| *before > data.high_watermark);
        reading.watermark = data.high_watermark;
        reading.next = after;
        reading.used += data.bytes;
        // Not every client gives credit at once; but one that holds all of it back gets nothing more.
        if reading.used >= 500 || self.world.happens(0.5) {
            let credit = FetchCredit { bytes: std::mem::take(&mut reading.used) };
            // Without room, or without anybody there, this stream is over: the next answer tells.
            if reading.requests.try_send(FetchRequest { kind: Some(Asked::Credit(credit)) }).is_ok() {
                self.reading = Some(reading);
            }
        } else {
            self.reading = Some(reading);
        }
        Fetched { fell_from, ..self.fetched(topic, data.high_watermark, found) }
    }
}
