//! Load through the Kafka door: pipelined Produce requests to the leader for each writer, one Fetch after the other for each
//! reader. No more of a client than that.

use std::time::Duration;

use anyhow::{anyhow, bail};
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use kafka_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::BenchCommand;
use super::grpc::count;
use super::load::{Place, Worker, under_way};
use crate::protocol::batch::BatchHeader;

const METADATA_VERSION: i16 = 8;
const CREATE_TOPICS_VERSION: i16 = 5;
const PRODUCE_VERSION: i16 = 9;
const FETCH_VERSION: i16 = 11;
/// Longest wait for a connection, in milliseconds.
const CONNECT_TIMEOUT_MS: u64 = 3_000;
/// Longest wait for an acknowledgement, in milliseconds.
const PRODUCE_TIMEOUT_MS: i32 = 30_000;
/// Most bytes of one Fetch.
const FETCH_BYTES: i32 = 8 << 20;
/// Longest reply that is believed, in bytes.
const REPLY_BYTES: u32 = 256 << 20;
/// Longest wait for a new topic's leaders, in milliseconds, and how often they are asked for.
const LEADERS_MS: u64 = 10_000;
const LOOK_MS: u64 = 50;
/// Kafka's error codes that are no failure here.
const TOPIC_EXISTS: i16 = 36;
const UNKNOWN_TOPIC: i16 = 3;
const LEADER_NOT_AVAILABLE: i16 = 5;

struct Sender {
    to: OwnedWriteHalf,
    correlation: i32,
}

struct Receiver {
    from: OwnedReadHalf,
}

async fn connect(address: &str) -> anyhow::Result<(Sender, Receiver)> {
    let connecting = TcpStream::connect(address);
    let connected = tokio::time::timeout(Duration::from_millis(CONNECT_TIMEOUT_MS), connecting).await;
    let stream = connected
        .map_err(|_| anyhow!("no broker answers ({address}: timed out)"))?
        .map_err(|error| anyhow!("no broker answers ({address}: {error})"))?;
    stream.set_nodelay(true)?;
    let (from, to) = stream.into_split();
    Ok((Sender { to, correlation: 0 }, Receiver { from }))
}

impl Sender {
    async fn send<R: Request>(&mut self, version: i16, request: &R) -> anyhow::Result<()> {
        self.correlation = self.correlation.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str("esker-bench")));
        let api = ApiKey::try_from(R::KEY).map_err(|()| anyhow!("no such API"))?;
        let mut frame = BytesMut::with_capacity(4 + request.compute_size(version)? + 64);
        frame.put_i32(0);
        header.encode(&mut frame, api.request_header_version(version))?;
        request.encode(&mut frame, version)?;
        let length = i32::try_from(frame.len() - 4)?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        Ok(self.to.write_all(&frame).await?)
    }
}

impl Receiver {
    async fn receive<R: Request>(&mut self, version: i16) -> anyhow::Result<R::Response> {
        let ended = |error: std::io::Error| anyhow!("the broker has closed the connection ({error})");
        let length = self.from.read_u32().await.map_err(ended)?;
        if length > REPLY_BYTES {
            bail!("a reply of {length} bytes: this is no Kafka door");
        }
        let mut frame = BytesMut::zeroed(length as usize);
        self.from.read_exact(&mut frame).await.map_err(ended)?;
        let mut frame: Bytes = frame.freeze();
        let api = ApiKey::try_from(R::KEY).map_err(|()| anyhow!("no such API"))?;
        ResponseHeader::decode(&mut frame, api.response_header_version(version))?;
        R::Response::decode(&mut frame, version)
    }
}

fn topic_name(command: &BenchCommand) -> TopicName {
    TopicName(StrBytes::from_string(command.topic.clone()))
}

/// Makes the topic if it is to be written and not there, and finds its leaders.
pub async fn prepare(command: &BenchCommand) -> anyhow::Result<Vec<Place>> {
    let (mut sender, mut receiver) = connect(&command.bootstrap).await?;
    if !command.consume {
        let topic = CreatableTopic::default()
            .with_name(topic_name(command))
            .with_num_partitions(command.partitions)
            .with_replication_factor(-1);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(PRODUCE_TIMEOUT_MS);
        sender.send(CREATE_TOPICS_VERSION, &request).await?;
        let reply = receiver.receive::<CreateTopicsRequest>(CREATE_TOPICS_VERSION).await?;
        if let Some(made) = reply.topics.iter().find(|made| ![0, TOPIC_EXISTS].contains(&made.error_code)) {
            let why = made.error_message.as_ref().map_or("", |why| why.as_str());
            bail!("the topic {} could not be made (error {}): {why}", command.topic, made.error_code);
        }
    }
    for _ in 0..LEADERS_MS / LOOK_MS {
        let wanted = MetadataRequestTopic::default().with_name(Some(topic_name(command)));
        let request = MetadataRequest::default().with_topics(Some(vec![wanted])).with_allow_auto_topic_creation(false);
        sender.send(METADATA_VERSION, &request).await?;
        let reply = receiver.receive::<MetadataRequest>(METADATA_VERSION).await?;
        let topic = reply.topics.first().ok_or_else(|| anyhow!("no metadata of {}", command.topic))?;
        match topic.error_code {
            UNKNOWN_TOPIC if command.consume => bail!("there is no topic {}", command.topic),
            0 | UNKNOWN_TOPIC | LEADER_NOT_AVAILABLE => {}
            code => bail!("metadata of {}: error {code}", command.topic),
        }
        let place = |one: &kafka_protocol::messages::metadata_response::MetadataResponsePartition| {
            let leader = reply.brokers.iter().find(|broker| broker.node_id == one.leader_id)?;
            Some(Place { partition: one.partition_index, leader: format!("{}:{}", leader.host, leader.port) })
        };
        let places: Vec<Place> = topic.partitions.iter().filter_map(place).collect();
        if !places.is_empty() && places.len() == topic.partitions.len() {
            return Ok(places);
        }
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
    }
    bail!("not every partition of {} has a leader", command.topic)
}

/// What sends batches as they are due.
pub async fn write(worker: &Worker) -> anyhow::Result<()> {
    let command = &worker.command;
    let place = worker.places.first().ok_or_else(|| anyhow!("there is no partition to write to"))?;
    let (mut sender, mut receiver) = connect(&place.leader).await?;
    let data =
        PartitionProduceData::default().with_index(place.partition).with_records(Some(worker.prebuilt.batch.clone()));
    let data = TopicProduceData::default().with_name(topic_name(command)).with_partition_data(vec![data]);
    let request = ProduceRequest::default()
        .with_acks(if command.acks_all { -1 } else { 1 })
        .with_timeout_ms(PRODUCE_TIMEOUT_MS)
        .with_topic_data(vec![data]);
    let (under_way, mut waiting) = under_way(command.depth);
    let sending = async {
        // One at a time: the lock is never waited for.
        let sender = tokio::sync::Mutex::new(&mut sender);
        worker.send_all(under_way, |_| async { sender.lock().await.send(PRODUCE_VERSION, &request).await }).await
    };
    let answers = async {
        while let Some(since_us) = waiting.next().await {
            let reply = receiver.receive::<ProduceRequest>(PRODUCE_VERSION).await?;
            for one in reply.responses.iter().flat_map(|topic| &topic.partition_responses) {
                if one.error_code != 0 {
                    let why = one.error_message.as_ref().map_or("", |why| why.as_str());
                    bail!("partition {}: error {} {why}", one.index, one.error_code);
                }
            }
            worker.acknowledged(since_us, &waiting);
        }
        Ok(())
    };
    tokio::try_join!(sending, answers).map(|_| ())
}

/// What reads its partitions up to their ends.
pub async fn read(worker: &Worker) -> anyhow::Result<()> {
    for place in &worker.places {
        let (mut sender, mut receiver) = connect(&place.leader).await?;
        let (mut offset, mut end) = (0, None);
        while end.is_none_or(|end| offset < end) {
            let wanted = FetchPartition::default()
                .with_partition(place.partition)
                .with_fetch_offset(offset)
                .with_current_leader_epoch(-1)
                .with_partition_max_bytes(FETCH_BYTES);
            let wanted = FetchTopic::default().with_topic(topic_name(&worker.command)).with_partitions(vec![wanted]);
            let request = FetchRequest::default()
                .with_max_wait_ms(500)
                .with_min_bytes(1)
                .with_max_bytes(FETCH_BYTES)
                .with_session_epoch(-1)
                .with_topics(vec![wanted]);
            let asked_us = worker.clock.boot_us();
            sender.send(FETCH_VERSION, &request).await?;
            let reply = receiver.receive::<FetchRequest>(FETCH_VERSION).await?;
            let answer = reply.responses.first().and_then(|topic| topic.partitions.first());
            let answer = answer.ok_or_else(|| anyhow!("a reply without the partition"))?;
            if answer.error_code != 0 {
                bail!("partition {}: error {}", place.partition, answer.error_code);
            }
            // What was there when it began is read.
            let end = *end.get_or_insert(answer.high_watermark);
            let bytes = answer.records.clone().unwrap_or_default();
            if bytes.is_empty() && offset < end {
                bail!("partition {}: nothing at {offset} although {end} is the end", place.partition);
            }
            offset = next_offset(&bytes).unwrap_or(end);
            let latency_us = worker.clock.boot_us().saturating_sub(asked_us);
            let records = count(&bytes);
            worker.progress.add(records, bytes.len() as u64, latency_us);
            if !worker.may_read_on(records) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Behind the last whole batch.
fn next_offset(mut batches: &[u8]) -> Option<i64> {
    let mut next = None;
    while let Some(header) = BatchHeader::decode(batches)
        && let Some(rest) = batches.get(header.total_bytes()..)
    {
        next = Some(header.last_offset() + 1);
        batches = rest;
    }
    next
}
