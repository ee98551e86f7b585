//! A Kafka client over simulated connections: finds leaders, asks, gives up in time. It repeats nothing by itself.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use esker::protocol::batch::{BatchHeader, Record, records};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use kafka_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use kafka_protocol::messages::{
    ApiKey, DeleteTopicsRequest, FindCoordinatorRequest, InitProducerIdRequest, MetadataResponse, RequestHeader,
    ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;

use crate::net::{Net, Port, Stream};
use crate::node::machine_at;
use crate::run::Mutant;
use crate::world::{Place, SIDES, World};

/// A reply that does not come for this long does not come; clients differ in their patience.
const REPLY_TIMEOUTS_S: [u64; 2] = [8, 40];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How a request without an answer in time is told.
pub const TIMED_OUT: &str = "timed out";
const METADATA_VERSION: i16 = 12;
/// With the new leader in refusals (KIP-951).
const PRODUCE_VERSION: i16 = 10;
const FETCH_VERSION: i16 = 16;

/// A request without a usable answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No answer: whether it was carried out is not known.
    NoAnswer(String),
    /// Kafka's error code.
    Code(i16),
    /// A reason of the gRPC door, and whether it says that another try may succeed.
    Told { reason: &'static str, retriable: bool },
}

impl Failure {
    /// An idempotent producer's batch does not follow its last one.
    pub fn is_out_of_order(&self) -> bool {
        matches!(self, Self::Code(45) | Self::Told { reason: "REASON_OUT_OF_ORDER_SEQUENCE", .. })
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::NoAnswer(error.kind().to_string())
    }
}

pub fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn check(code: i16) -> Result<(), Failure> {
    if code == 0 { Ok(()) } else { Err(Failure::Code(code)) }
}

/// What a fetch of one partition brought.
#[derive(Debug)]
pub struct Fetched {
    pub topic_id: Uuid,
    /// The leader's, which the broker has checked; gRPC does not tell it.
    pub epoch: Option<i32>,
    pub high_watermark: i64,
    /// What the same client was told before, if it was more.
    pub fell_from: Option<i64>,
    pub log_start: i64,
    pub records: Vec<Record>,
}

/// One batch after the other; the last one may be cut off by the size limit, and is left out then.
pub fn whole_batches(mut bytes: Bytes) -> Vec<Bytes> {
    let mut found = Vec::new();
    while let Some(length) = BatchHeader::decode(&bytes).map(|header| header.total_bytes())
        && length <= bytes.len()
    {
        found.push(bytes.split_to(length));
    }
    found
}

/// The machine that leads, and its epoch.
#[derive(Debug, Clone, Copy)]
struct Leader {
    machine: i32,
    epoch: i32,
}

struct Connection {
    stream: Stream,
    correlation: i32,
}

impl Connection {
    async fn send<R: Request>(&mut self, version: i16, request: &R) -> io::Result<()> {
        self.correlation += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str("sim")));
        let api = ApiKey::try_from(R::KEY).expect("a request has an API");
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        header.encode(&mut frame, api.request_header_version(version)).expect("a header encodes");
        request.encode(&mut frame, version).expect("a request encodes");
        let length = frame.len() as i32 - 4;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame).await
    }

    async fn receive<R: Request>(&mut self, version: i16) -> io::Result<R::Response> {
        let length = self.stream.read_u32().await?;
        let mut frame = vec![0; length as usize];
        self.stream.read_exact(&mut frame).await?;
        let mut frame = Bytes::from(frame);
        let api = ApiKey::try_from(R::KEY).expect("a request has an API");
        ResponseHeader::decode(&mut frame, api.response_header_version(version)).expect("the reply's header decodes");
        Ok(R::Response::decode(&mut frame, version).expect("the reply decodes"))
    }
}

/// See the module.
pub struct Client {
    world: World,
    net: Net,
    brokers: Vec<i32>,
    mutant: Mutant,
    connections: BTreeMap<i32, Connection>,
    side: Place,
    patience: Duration,
    leaders: BTreeMap<(String, i32), Leader>,
    topic_ids: BTreeMap<String, Uuid>,
    /// The newest leader epoch of each partition; older news are not believed, as in Kafka's clients.
    epochs: BTreeMap<(String, i32), i32>,
    watermarks: BTreeMap<(String, i32), i64>,
}

impl Client {
    pub fn new(world: &World, net: &Net, brokers: &[i32], mutant: Mutant) -> Self {
        Self {
            world: world.clone(),
            net: net.clone(),
            brokers: brokers.to_vec(),
            mutant,
            connections: BTreeMap::new(),
            patience: Duration::from_secs(REPLY_TIMEOUTS_S[world.rng().below(2) as usize]),
            side: Place::Clients(world.rng().below(u64::from(SIDES)) as u8),
            leaders: BTreeMap::new(),
            topic_ids: BTreeMap::new(),
            epochs: BTreeMap::new(),
            watermarks: BTreeMap::new(),
        }
    }

    /// Any of the brokers.
    pub fn any_broker(&self) -> i32 {
        self.brokers[self.world.rng().below(self.brokers.len() as u64) as usize]
    }

    async fn connection(&mut self, broker: i32) -> Result<&mut Connection, Failure> {
        if !self.connections.contains_key(&broker) {
            let connected = self.net.connect(&self.world, self.side, broker, Port::Kafka);
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, connected).await;
            let stream = connected.map_err(|_| Failure::NoAnswer("not connected".to_owned()))??;
            self.connections.insert(broker, Connection { stream, correlation: 0 });
        }
        self.connections.get_mut(&broker).ok_or(Failure::NoAnswer("gone".to_owned()))
    }

    /// Asks one broker; without an answer the connection is given up.
    pub async fn call<R: Request>(&mut self, broker: i32, version: i16, request: &R) -> Result<R::Response, Failure> {
        let patience = self.patience;
        let asked = async {
            let connection = self.connection(broker).await?;
            connection.send(version, request).await?;
            Ok::<_, Failure>(connection.receive::<R>(version).await?)
        };
        let answer = tokio::time::timeout(patience, asked).await;
        let answer = answer.unwrap_or_else(|_| Err(Failure::NoAnswer(TIMED_OUT.to_owned())));
        if answer.is_err() {
            self.connections.remove(&broker);
        }
        answer
    }

    /// Forgets who leads the partition.
    fn forget(&mut self, topic: &str, partition: i32) {
        self.leaders.remove(&(topic.to_owned(), partition));
    }

    /// Forgets everything of a topic that may be another one by now.
    pub fn forget_topic(&mut self, topic: &str) {
        self.leaders.retain(|(name, _), _| name != topic);
        self.epochs.retain(|(name, _), _| name != topic);
        self.watermarks.retain(|(name, _), _| name != topic);
        self.topic_ids.remove(topic);
    }

    /// Takes note of a leader, unless a newer one is known.
    fn learn(&mut self, topic: &str, partition: i32, leader: Leader) {
        let key = (topic.to_owned(), partition);
        let newest = self.epochs.entry(key.clone()).or_insert(leader.epoch);
        if leader.epoch >= *newest {
            *newest = leader.epoch;
            self.leaders.insert(key, leader);
        }
    }

    /// Goes where a refusal has sent it, or asks again.
    fn follow(&mut self, topic: &str, partition: i32, leader: Option<Leader>) {
        self.forget(topic, partition);
        if let Some(leader) = leader {
            self.learn(topic, partition, leader);
        }
    }

    /// The id of a topic whose leaders are known.
    pub fn topic_id(&self, topic: &str) -> Option<Uuid> {
        self.topic_ids.get(topic).copied()
    }

    /// What one broker knows of a topic: Kafka's error code and its id.
    pub async fn describe(&mut self, broker: i32, topic: &str) -> Result<(i16, Uuid), Failure> {
        let reply = self.metadata(broker, topic).await?;
        let found = reply.topics.first().ok_or(Failure::Code(3))?;
        Ok((found.error_code, found.topic_id))
    }

    async fn metadata(&mut self, broker: i32, topic: &str) -> Result<MetadataResponse, Failure> {
        let wanted = MetadataRequestTopic::default().with_name(Some(topic_name(topic)));
        let request = MetadataRequest::default().with_topics(Some(vec![wanted])).with_allow_auto_topic_creation(false);
        self.call(broker, METADATA_VERSION, &request).await
    }

    /// Who leads a partition.
    async fn leader(&mut self, topic: &str, partition: i32) -> Result<Leader, Failure> {
        if let Some(leader) = self.leaders.get(&(topic.to_owned(), partition)) {
            return Ok(*leader);
        }
        let broker = self.any_broker();
        let reply = self.metadata(broker, topic).await?;
        let found = reply.topics.first().ok_or(Failure::Code(3))?;
        check(found.error_code)?;
        self.topic_ids.insert(topic.to_owned(), found.topic_id);
        for known in &found.partitions {
            let leader = reply.brokers.iter().find(|broker| broker.node_id == known.leader_id);
            if let Some(machine) = leader.and_then(|leader| machine_at(&leader.host)).filter(|_| known.error_code == 0)
            {
                self.learn(topic, known.partition_index, Leader { machine, epoch: known.leader_epoch });
            }
        }
        self.leaders.get(&(topic.to_owned(), partition)).copied().ok_or(Failure::Code(5))
    }

    pub async fn create_topic(&mut self, name: &str, partitions: i32) -> Result<Uuid, Failure> {
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(1);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(5_000);
        let broker = self.any_broker();
        let reply = self.call(broker, 7, &request).await?;
        check(reply.topics[0].error_code).map(|()| reply.topics[0].topic_id)
    }

    pub async fn delete_topic(&mut self, name: &str) -> Result<(), Failure> {
        let request = DeleteTopicsRequest::default().with_topic_names(vec![topic_name(name)]).with_timeout_ms(5_000);
        let broker = self.any_broker();
        check(self.call(broker, 5, &request).await?.responses[0].error_code)
    }

    /// A new producer's id and epoch.
    pub async fn init_producer(&mut self) -> Result<(i64, i16), Failure> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let broker = self.any_broker();
        let reply = self.call(broker, 4, &request).await?;
        check(reply.error_code)?;
        Ok((reply.producer_id.0, reply.producer_epoch))
    }

    /// Sends batches one after the other without waiting, then collects the answers: base offsets.
    pub async fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        acks: i16,
        batches: &[Bytes],
    ) -> Vec<Result<i64, Failure>> {
        let leader = match self.leader(topic, partition).await {
            Ok(leader) => leader.machine,
            Err(failure) => return vec![Err(failure); batches.len()],
        };
        let (mut answers, mut named, patience) = (Vec::new(), None, self.patience);
        let asked = async {
            let connection = self.connection(leader).await?;
            for batch in batches {
                let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch.clone()));
                let data = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data]);
                let request =
                    ProduceRequest::default().with_acks(acks).with_timeout_ms(6_000).with_topic_data(vec![data]);
                connection.send(PRODUCE_VERSION, &request).await?;
            }
            if acks == 0 {
                return Ok(());
            }
            for _ in batches {
                let reply = connection.receive::<ProduceRequest>(PRODUCE_VERSION).await?;
                let answer = &reply.responses[0].partition_responses[0];
                let (now, nodes) = (&answer.current_leader, &reply.node_endpoints);
                let leader = nodes.iter().find(|node| node.node_id == now.leader_id);
                let machine = leader.and_then(|leader| machine_at(&leader.host));
                named = machine.map(|machine| Leader { machine, epoch: now.leader_epoch }).or(named);
                answers.push(check(answer.error_code).map(|()| answer.base_offset));
            }
            Ok::<(), Failure>(())
        };
        let done = tokio::time::timeout(patience, asked).await;
        let failure = match done {
            Ok(Ok(())) if answers.iter().all(Result::is_ok) => None,
            Ok(Ok(())) => Some(Failure::NoAnswer("never used".to_owned())),
            Ok(Err(failure)) => Some(failure),
            Err(_) => Some(Failure::NoAnswer(TIMED_OUT.to_owned())),
        };
        if let Some(failure) = failure {
            if answers.len() < batches.len() {
                self.connections.remove(&leader);
            }
            self.follow(topic, partition, named);
            answers.resize(batches.len(), Err(failure));
        } else if acks == 0 {
            answers.resize(batches.len(), Ok(-1));
        }
        answers
    }

    /// Records from `offset` on; an empty answer comes after at most `wait_ms`.
    pub async fn fetch(&mut self, topic: &str, partition: i32, offset: i64, wait_ms: i32) -> Result<Fetched, Failure> {
        let leader = self.leader(topic, partition).await?;
        let wanted = FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(offset)
            .with_current_leader_epoch(leader.epoch)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(8_000);
        let topic_id = self.topic_ids.get(topic).copied().unwrap_or_default();
        let wanted = FetchTopic::default().with_topic_id(topic_id).with_partitions(vec![wanted]);
        let request = FetchRequest::default()
            .with_max_wait_ms(wait_ms)
            .with_min_bytes(1)
            .with_max_bytes(1 << 20)
            .with_session_epoch(-1)
            .with_topics(vec![wanted]);
        let reply = self.call(leader.machine, FETCH_VERSION, &request).await;
        if reply.is_err() {
            self.forget(topic, partition);
        }
        let reply = reply?;
        check(reply.error_code)?;
        let answer = &reply.responses[0].partitions[0];
        if answer.error_code != 0 {
            let now = &answer.current_leader;
            let named = reply.node_endpoints.iter().find(|node| node.node_id == now.leader_id);
            let machine = named.and_then(|named| machine_at(&named.host));
            self.follow(topic, partition, machine.map(|machine| Leader { machine, epoch: now.leader_epoch }));
            return Err(Failure::Code(answer.error_code));
        }
        let (high_watermark, log_start) = (answer.high_watermark, answer.log_start_offset);
        let before = self.watermarks.insert((topic.to_owned(), partition), high_watermark);
        let fell_from = before.filter(|before| *before > high_watermark);
        let mut found = Vec::new();
        for batch in whole_batches(answer.records.clone().unwrap_or_default()) {
            if self.mutant == Mutant::Skip && self.world.happens(0.01) {
                continue;
            }
            for record in records(&batch).expect("a batch that was served is well-formed") {
                let record = record.expect("a record that was served is well-formed");
                if record.offset >= offset {
                    found.push(record);
                }
            }
        }
        let epoch = Some(leader.epoch);
        Ok(Fetched { topic_id, epoch, high_watermark, fell_from, log_start, records: found })
    }

    /// Who coordinates a group.
    pub async fn coordinator(&mut self, group: &str) -> Result<i32, Failure> {
        let request = FindCoordinatorRequest::default().with_key(text(group));
        let broker = self.any_broker();
        let reply = self.call(broker, 2, &request).await?;
        check(reply.error_code)?;
        machine_at(&reply.host).ok_or(Failure::Code(15))
    }
}
