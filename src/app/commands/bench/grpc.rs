//! Load through the gRPC door: a produce stream to the leader for each writer, a fetch with credit for each reader.

use std::time::Duration;

use anyhow::{anyhow, bail};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::BenchCommand;
use super::load::{Place, Worker, under_way};
use crate::protocol::batch::BatchHeader;
use crate::protocol::grpc::v1::admin_client::AdminClient;
use crate::protocol::grpc::v1::consumer_client::ConsumerClient;
use crate::protocol::grpc::v1::fetch_request::Kind as Asked;
use crate::protocol::grpc::v1::fetch_response::Kind as Told;
use crate::protocol::grpc::v1::producer_client::ProducerClient;
use crate::protocol::grpc::v1::{
    Acks, Compression, CreateTopicRequest, DescribeTopicRequest, FetchCredit, FetchFrom, FetchOpen, FetchRequest,
    ProduceRequest,
};

/// Longest wait for a connection, in milliseconds.
const CONNECT_TIMEOUT_MS: u64 = 3_000;
/// Bytes that the broker may send before they are read.
const WINDOW_BYTES: u32 = 8 << 20;
/// Bytes of answers that a reader lets the broker be ahead by.
const CREDIT_BYTES: u64 = 8 << 20;
/// Longest wait for a new topic's leaders, in milliseconds, and how often they are asked for.
const LEADERS_MS: u64 = 10_000;
const LOOK_MS: u64 = 50;

async fn connect(address: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| anyhow!("'{address}' is no host:port: {error}"))?
        .connect_timeout(Duration::from_millis(CONNECT_TIMEOUT_MS))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .tcp_nodelay(true);
    endpoint.connect().await.map_err(|error| anyhow!("no broker answers ({address}: {})", root_cause(&error)))
}

/// Makes the topic if it is to be written and not there, and finds its leaders.
pub async fn prepare(command: &BenchCommand) -> anyhow::Result<Vec<Place>> {
    let mut admin = AdminClient::new(connect(&command.bootstrap).await?);
    if !command.consume {
        let request = CreateTopicRequest {
            name: command.topic.clone(),
            partitions: command.partitions,
            ..CreateTopicRequest::default()
        };
        match admin.create_topic(request).await {
            Ok(_) => {}
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => return Err(explain(&status)),
        }
    }
    for _ in 0..LEADERS_MS / LOOK_MS {
        let request = DescribeTopicRequest { name: command.topic.clone() };
        let told = admin.describe_topic(request).await.map_err(|status| explain(&status))?.into_inner();
        let place = |one: crate::protocol::grpc::v1::PartitionInfo| {
            Some(Place { partition: one.partition, leader: one.leader?.grpc_endpoint })
        };
        let count = told.partitions.len();
        let places: Vec<Place> = told.partitions.into_iter().filter_map(place).collect();
        if places.len() == count && count > 0 {
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
    let mut producer = ProducerClient::new(connect(&place.leader).await?).max_encoding_message_size(usize::MAX);
    // There is always room for as many as may be under way.
    let (requests, receiver) = mpsc::channel(command.depth);
    let template = ProduceRequest {
        topic: command.topic.clone(),
        partition: Some(place.partition),
        acks: if command.acks_all { Acks::All } else { Acks::Leader }.into(),
        ..ProduceRequest::default()
    };
    let template = if command.as_records {
        let compression = Compression::try_from(i32::from(command.compression.id())).unwrap_or_default();
        ProduceRequest { records: worker.prebuilt.records.clone(), compression: compression.into(), ..template }
    } else {
        ProduceRequest { batch: worker.prebuilt.batch.clone(), ..template }
    };
    let (under_way, mut waiting) = under_way(command.depth);
    let sending = async {
        let requests = requests;
        worker
            .send_all(under_way, |id| {
                let (request, requests) = (ProduceRequest { id, ..template.clone() }, requests.clone());
                async move { requests.send(request).await.map_err(|_| anyhow!("the stream has ended")) }
            })
            .await
    };
    let answers = async {
        let opened = producer.produce_stream(ReceiverStream::new(receiver)).await;
        let mut answers = opened.map_err(|status| explain(&status))?.into_inner();
        while let Some(since_us) = waiting.next().await {
            let answer = answers.message().await.map_err(|status| explain(&status))?;
            let answer = answer.ok_or_else(|| anyhow!("the broker has ended the stream"))?;
            if let Some(error) = answer.appended.into_iter().find_map(|appended| appended.error) {
                bail!("partition {}: {}", place.partition, error.message);
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
        let mut consumer = ConsumerClient::new(connect(&place.leader).await?).max_decoding_message_size(usize::MAX);
        let from =
            FetchFrom { topic: worker.command.topic.clone(), partition: place.partition, ..FetchFrom::default() };
        let open = FetchOpen {
            partitions: vec![from],
            stop_at_end: true,
            raw_batches: !worker.command.as_records,
            credit_bytes: CREDIT_BYTES,
            ..FetchOpen::default()
        };
        let (requests, receiver) = mpsc::channel(16);
        requests.send(FetchRequest { kind: Some(Asked::Open(open)) }).await?;
        let opened = consumer.fetch(ReceiverStream::new(receiver)).await;
        let mut answers = opened.map_err(|status| explain(&status))?.into_inner();
        let mut asked_us = worker.clock.boot_us();
        loop {
            let answer = tokio::select! {
                biased;
                () = worker.stop.cancelled() => return Ok(()),
                answer = answers.message() => answer.map_err(|status: Status| explain(&status))?,
            };
            let data = match answer.and_then(|answer| answer.kind) {
                Some(Told::Data(data)) => data,
                Some(Told::Failure(failure)) => {
                    bail!("partition {}: {}", failure.partition, failure.error.unwrap_or_default().message)
                }
                Some(Told::End(_)) | None => break,
            };
            let records = data.records.len() as u64 + count(&data.batches);
            let now_us = worker.clock.boot_us();
            worker.progress.add(records, data.bytes, now_us.saturating_sub(asked_us));
            asked_us = now_us;
            if !worker.may_read_on(records) {
                return Ok(());
            }
            let credit = FetchCredit { bytes: data.bytes };
            // A stream that has ended says so in its next answer.
            let _ = requests.send(FetchRequest { kind: Some(Asked::Credit(credit)) }).await;
        }
    }
    Ok(())
}

/// Records of whole batches, one after the other.
pub fn count(mut batches: &[u8]) -> u64 {
    let mut records = 0;
    while let Some(header) = BatchHeader::decode(batches) {
        records += u64::try_from(header.records_count).unwrap_or(0);
        let Some(rest) = batches.get(header.total_bytes()..) else { break };
        batches = rest;
    }
    records
}

/// A status as an error for people.
fn explain(status: &Status) -> anyhow::Error {
    match status.code() {
        Code::Unavailable => anyhow!("{} (it may work in a moment)", status.message()),
        Code::Unimplemented => anyhow!("the broker does not know this call: it is no Esker broker of this version"),
        _ => anyhow!("{}", status.message()),
    }
}

/// The innermost reason: the outer ones only say that something failed.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
