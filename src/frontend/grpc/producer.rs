//! `esker.v1.Producer`: writing records.
//!
//! Records become batches and take the same way as those of Kafka clients. What was appended is not taken back: a call that is
//! cancelled, or whose connection breaks, may have written its records.
//!
//! Invariant: at most [`PIPELINE`] requests of a stream wait for their answers; the next one is not read before.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use futures::stream::FuturesOrdered;
use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::errors::{detail, explain, leader, status, to_status};
use super::forward::Forward;
use super::records::{compression, to_batch};
use crate::base::Clock;
use crate::broker::{Broker, BrokerError, BrokerSlot, PendingProduce, Topic};
use crate::partition::Acks;
use crate::protocol::grpc::v1;
use crate::protocol::grpc::v1::{Appended, Error, ProduceRequest, ProduceResponse, Reason};
use crate::protocol::partitioner::partition_of_key;

/// Requests of one stream that wait for their answers.
const PIPELINE: usize = 256;
/// Longest wait for an answer unless the request says otherwise, in milliseconds.
const DEFAULT_TIMEOUT_MS: u64 = 30_000;
/// A leader that a request was passed on to has so much longer than it was told, in milliseconds: its own answer is better.
const FORWARD_GRACE_MS: u64 = 500;

/// See the module.
#[derive(Debug, Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    slot: BrokerSlot,
    clock: Clock,
    max_message_bytes: usize,
    forward: Arc<Forward>,
    /// Where records without keys go next.
    turn: AtomicU32,
}

/// One partition's part of a request.
struct Part {
    partition: i32,
    /// Which records of the request; empty for all.
    records: Vec<u32>,
    batch: Bytes,
}

/// Records that go to one partition, with their positions in the request.
type Placed = (Vec<u32>, Vec<v1::Record>);

/// An append of a part: what it is, and how it went so far.
type Begun = (i32, Vec<u32>, Result<PendingProduce, BrokerError>);

impl Producer {
    /// Writes to the broker in `slot`, and through `forward` to others with requests of at most `max_message_bytes`.
    pub fn new(slot: BrokerSlot, clock: Clock, max_message_bytes: usize, forward: Arc<Forward>) -> Self {
        let turn = AtomicU32::new(0);
        Self { shared: Arc::new(Shared { slot, clock, max_message_bytes, forward, turn }) }
    }
}

#[tonic::async_trait]
impl v1::producer_server::Producer for Producer {
    type ProduceStreamStream = Pin<Box<dyn Stream<Item = Result<ProduceResponse, Status>> + Send>>;

    async fn produce(&self, request: Request<ProduceRequest>) -> Result<Response<ProduceResponse>, Status> {
        let forwarded = Forward::was_forwarded(request.metadata());
        let answer = self.shared.unary(request.into_inner(), forwarded).await?;
        Ok(Response::new(answer))
    }

    async fn produce_stream(
        &self,
        request: Request<Streaming<ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(pipeline(self.shared.clone(), request.into_inner(), sender));
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    async fn init_producer(
        &self,
        _: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let broker = self.shared.slot.current();
        let producer_id = broker.init_producer_id(None).await.map_err(|error| status(&error, &broker.image()))?;
        Ok(Response::new(v1::InitProducerResponse { producer_id, producer_epoch: 0 }))
    }
}

/// Answers a stream's requests in their order, each begun before the next is read. Ends with the stream, with its first
/// error, or when nobody takes the answers any more.
async fn pipeline(
    shared: Arc<Shared>,
    mut requests: Streaming<ProduceRequest>,
    answers: mpsc::Sender<Result<ProduceResponse, Status>>,
) {
    let mut due: FuturesOrdered<BoxFuture<'static, ProduceResponse>> = FuturesOrdered::new();
    let mut open = true;
    while open || !due.is_empty() {
        tokio::select! {
            biased;
            Some(answer) = due.next() => if answers.send(Ok(answer)).await.is_err() { return },
            request = requests.message(), if open && due.len() < PIPELINE => match request {
                Ok(Some(request)) => due.push_back(shared.clone().begin(request).await),
                Ok(None) => open = false,
                Err(status) => {
                    let _ = answers.send(Err(status)).await;
                    return;
                }
            },
            () = answers.closed() => return,
        }
    }
}

impl Shared {
    /// One request of a stream: it has its place in the log on return; the future is its answer.
    async fn begin(self: Arc<Self>, request: ProduceRequest) -> BoxFuture<'static, ProduceResponse> {
        let (id, timeout_ms) = (request.id, timeout_ms(&request));
        let asked = request.partition.unwrap_or(-1);
        let begun = match self.parts(request).await {
            Ok((broker, topic, acks, parts)) => Self::append(&broker, &topic, acks, timeout_ms, parts).await,
            Err(error) => {
                let failed = Appended { partition: asked, error: Some(error), ..Appended::default() };
                return async move { ProduceResponse { id, appended: vec![failed] } }.boxed();
            }
        };
        async move { ProduceResponse { id, appended: self.wait(begun, timeout_ms).await } }.boxed()
    }

    /// One request of its own: what others lead goes to them.
    async fn unary(&self, request: ProduceRequest, forwarded: bool) -> Result<ProduceResponse, Status> {
        let (id, timeout_ms) = (request.id, timeout_ms(&request));
        let (acks, name) = (request.acks, request.topic.clone());
        let (broker, topic, log_acks, parts) = self.parts(request).await.map_err(|error| to_status(&error))?;
        let image = broker.image();
        let elsewhere = |part: &Part| {
            let assignment = topic.assignment(part.partition)?;
            let there = leader(&image, topic.partition(part.partition))?;
            (assignment.session.broker_id != broker.node_id()).then_some(there)
        };
        let (mut here, mut away) = (Vec::new(), Vec::new());
        for part in parts {
            match elsewhere(&part).filter(|_| !forwarded) {
                Some(leader) => away.push((part, leader)),
                None => here.push(part),
            }
        }
        let begun = Self::append(&broker, &topic, log_acks, timeout_ms, here).await;
        let sent = away.into_iter().map(|(part, leader)| {
            let Part { partition, records: positions, batch } = part;
            let request = ProduceRequest {
                id,
                topic: name.clone(),
                partition: Some(partition),
                batch,
                acks,
                timeout_ms: u32::try_from(timeout_ms).unwrap_or(u32::MAX),
                ..ProduceRequest::default()
            };
            let image = &image;
            async move {
                let limit = self.max_message_bytes;
                let asked = self.forward.produce(&leader.grpc_endpoint, request, image, limit);
                let patience = Duration::from_millis(timeout_ms + FORWARD_GRACE_MS);
                let told = match tokio::time::timeout(patience, asked).await {
                    Ok(Ok(answer)) => answer.appended.into_iter().next().unwrap_or_default(),
                    Ok(Err(status)) => unheard(detail(&status).unwrap_or_else(|| lost(status.message()))),
                    Err(_) => unheard(lost("no answer in time")),
                };
                Appended { partition, records: positions, ..told }
            }
        });
        let (mut appended, sent) = tokio::join!(self.wait(begun, timeout_ms), join_all(sent));
        appended.extend(sent);
        appended.sort_by_key(|one| one.partition);
        match appended.iter().find(|one| one.error.is_none()) {
            Some(_) => Ok(ProduceResponse { id, appended }),
            // Nothing was written.
            None => Err(to_status(&appended.into_iter().find_map(|one| one.error).unwrap_or_default())),
        }
    }

    /// What of a request goes to which partition.
    async fn parts(&self, request: ProduceRequest) -> Result<(Arc<Broker>, Arc<Topic>, Acks, Vec<Part>), Error> {
        let refusal = |why: &str| Error { reason: Reason::Invalid.into(), message: why.to_owned(), ..Error::default() };
        let acks = match v1::Acks::try_from(request.acks) {
            Ok(v1::Acks::Unspecified | v1::Acks::All) => Acks::All,
            Ok(v1::Acks::Leader) => Acks::Leader,
            Err(_) => return Err(refusal("`acks` is none of those that there are")),
        };
        let codec = compression(request.compression).map_err(|why| refusal(&why))?;
        let broker = self.slot.current();
        if broker.image().topic(&request.topic).is_none() {
            broker.auto_create(vec![request.topic.clone()]).await;
        }
        let image = broker.image();
        let topic = broker.topic(&image, &request.topic).map_err(|error| explain(&error, &image))?;
        let whole = |partition, batch| vec![Part { partition, records: Vec::new(), batch }];
        let now_ms = self.clock.wall_ms();
        let parts = match (request.records.is_empty(), request.batch.is_empty()) {
            (true, true) => return Err(refusal("there are neither `records` nor a `batch`")),
            (false, false) => return Err(refusal("there are both `records` and a `batch`")),
            (true, false) => {
                whole(request.partition.ok_or_else(|| refusal("a `batch` needs its `partition`"))?, request.batch)
            }
            (false, true) => match (request.partition, request.producer) {
                (Some(partition), producer) => {
                    let producer = producer.map(state).transpose().map_err(refusal)?;
                    whole(partition, to_batch(request.records, now_ms, codec, producer))
                }
                (None, Some(_)) => return Err(refusal("an idempotent producer names the `partition`")),
                (None, None) => {
                    let parts = self.by_key(&broker, &topic, request.records).into_iter();
                    let packed = parts.map(|(partition, (positions, records))| {
                        let batch = to_batch(records, now_ms, codec, None);
                        Part { partition, records: positions, batch }
                    });
                    packed.collect()
                }
            },
        };
        Ok((broker, topic, acks, parts))
    }

    /// Each record where its key says; those without a key together, to a partition that this broker leads if it leads any.
    fn by_key(&self, broker: &Broker, topic: &Topic, records: Vec<v1::Record>) -> BTreeMap<i32, Placed> {
        let count = topic.partitions.len() as u32;
        let mut keyless = None;
        let mut of_key = |key: Option<&Bytes>| match key {
            Some(key) => partition_of_key(key, count) as i32,
            None => *keyless.get_or_insert_with(|| {
                let own =
                    |index: &i32| topic.assignment(*index).is_some_and(|one| one.session.broker_id == broker.node_id());
                let led: Vec<i32> = (0..count as i32).filter(own).collect();
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                let among = if led.is_empty() { (0..count as i32).collect() } else { led };
                among.get(turn as usize % among.len().max(1)).copied().unwrap_or(0)
            }),
        };
        let mut parts: BTreeMap<i32, Placed> = BTreeMap::new();
        for (position, record) in (0_u32..).zip(records) {
            let part = parts.entry(of_key(record.key.as_ref())).or_default();
            part.0.push(position);
            part.1.push(record);
        }
        if parts.len() == 1 {
            for (positions, _) in parts.values_mut() {
                positions.clear();
            }
        }
        parts
    }

    /// Appends the parts, in their order.
    async fn append(broker: &Broker, topic: &Topic, acks: Acks, timeout_ms: u64, parts: Vec<Part>) -> Vec<Begun> {
        let mut begun = Vec::with_capacity(parts.len());
        for Part { partition, records, batch } in parts {
            begun.push((partition, records, broker.produce(topic, partition, &batch, acks, timeout_ms).await));
        }
        begun
    }

    async fn wait(&self, begun: Vec<Begun>, timeout_ms: u64) -> Vec<Appended> {
        let waits = begun.into_iter().map(async |(partition, records, judged)| {
            let done = match judged {
                Ok(pending) => pending.wait(timeout_ms).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(appended) => Appended { partition, base_offset: appended.base_offset, records, error: None },
                Err(error) => {
                    let error = explain(&error, &self.slot.current().image());
                    Appended { partition, base_offset: -1, records, error: Some(error) }
                }
            }
        });
        join_all(waits).await
    }
}

/// The leader told nothing but this.
fn unheard(error: Error) -> Appended {
    Appended { error: Some(error), base_offset: -1, ..Appended::default() }
}

/// The leader did not answer in words of ours: it may have written the records.
fn lost(why: &str) -> Error {
    let message = format!("the partition's leader did not answer: {why}");
    Error { reason: Reason::Unavailable.into(), message, retriable: true, leader: None }
}

fn timeout_ms(request: &ProduceRequest) -> u64 {
    if request.timeout_ms == 0 { DEFAULT_TIMEOUT_MS } else { u64::from(request.timeout_ms) }
}

fn state(of: v1::ProducerState) -> Result<(i64, i16, i32), &'static str> {
    let epoch = i16::try_from(of.producer_epoch).map_err(|_| "`producer_epoch` is a 16-bit number")?;
    if of.producer_id < 0 || epoch < 0 || of.base_sequence < 0 {
        return Err("`producer_id`, `producer_epoch` and `base_sequence` are not negative");
    }
    Ok((of.producer_id, epoch, of.base_sequence))
}
