//! `esker.v1.Producer`: writing records.
//!
//! Records become batches and take the same way as those of Kafka clients. What was appended is not taken back: a call that is
//! cancelled, or whose connection breaks, may have written its records.
//!
//! Batches go to the leaders of their partitions by [`super::producing`], in order for each partition of a call.
//!
//! Invariant: at most [`PIPELINE`] requests of a stream wait for their answers; the next one is not read before. What calls
//! hold of batches is bounded ([`Held`]); beyond that streams are not read, and requests wait as long as they may take. A client
//! that does not read its answers holds no room with what is done.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use futures::stream::{FuturesOrdered, FuturesUnordered};
use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::deadline;
use super::errors::{explain, status, to_status};
use super::forward::Forward;
use super::metrics::Metrics;
use super::producing::{End, Held, Job, PIPELINE, Refused, Room, Share, ToPartition, Ways, lane};
use super::records::{compression, to_batch};
use crate::base::{Clock, TopicPartition};
use crate::broker::{Broker, BrokerSlot, Topic};
use crate::partition::Acks;
use crate::protocol::batch::BatchHeader;
use crate::protocol::grpc::v1;
use crate::protocol::grpc::v1::{Appended, Error, ProduceRequest, ProduceResponse, Reason};
use crate::protocol::partitioner::partition_of_key;

/// Answers of a stream that wait to be sent: what is done at the same time goes out in one piece.
const ANSWERS_AT_ONCE: usize = 64;
/// Partitions that a stream writes to at a time.
const MAX_LANES: usize = 4_096;
/// Longest wait for an answer unless the request says otherwise, in milliseconds.
const DEFAULT_TIMEOUT_MS: u64 = 30_000;
/// Longest wait that a request may ask for, in milliseconds: its records are held so long.
const MAX_TIMEOUT_MS: u64 = 120_000;

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
    metrics: Metrics,
    /// Where records without keys go next.
    turn: AtomicU32,
    /// Room for batches on their way, in bytes.
    held: Held,
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

impl Producer {
    /// Writes to the broker in `slot`, and through `forward` to others with requests of at most `max_message_bytes`.
    pub fn new(
        slot: BrokerSlot,
        clock: Clock,
        max_message_bytes: usize,
        forward: Arc<Forward>,
        metrics: Metrics,
    ) -> Self {
        let (turn, held) = (AtomicU32::new(0), Held::new(metrics.clone()));
        Self { shared: Arc::new(Shared { slot, clock, max_message_bytes, forward, metrics, turn, held }) }
    }
}

#[tonic::async_trait]
impl v1::producer_server::Producer for Producer {
    type ProduceStreamStream = Pin<Box<dyn Stream<Item = Result<ProduceResponse, Status>> + Send>>;

    async fn produce(&self, request: Request<ProduceRequest>) -> Result<Response<ProduceResponse>, Status> {
        let forwarded = Forward::was_forwarded(request.metadata());
        let answer = self.shared.clone().unary(request.into_inner(), forwarded).await?;
        Ok(Response::new(answer))
    }

    async fn produce_stream(
        &self,
        request: Request<Streaming<ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let forwarded = Forward::was_forwarded(request.metadata());
        let limit = deadline::of(request.metadata());
        let (sender, receiver) = mpsc::channel(ANSWERS_AT_ONCE);
        let last = sender.clone();
        let call = pipeline(self.shared.clone(), request.into_inner(), sender, forwarded);
        let under_way = self.shared.metrics.stream();
        tokio::spawn(async move {
            if let Err(status) = deadline::within(limit, call).await {
                // Nobody may be there to hear it.
                let _ = last.send(Err(status)).await;
            }
            drop(under_way);
        });
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

/// The way of one call: a lane for each partition.
struct Lanes {
    shared: Arc<Shared>,
    ways: Arc<Ways>,
    /// Came from another broker: what was refused of each partition, by the names that are asked for.
    refused: Option<BTreeMap<(String, i32), Arc<Refused>>>,
    open: BTreeMap<TopicPartition, mpsc::Sender<Job>>,
    running: FuturesUnordered<BoxFuture<'static, ()>>,
}

/// A request whose batches are made and have no room yet.
struct Prepared {
    id: u64,
    deadline_ms: u64,
    acks: Acks,
    topic: Arc<Topic>,
    parts: Vec<Part>,
}

/// A request with its room; or one that found none, and why.
type WithRoom = Result<(Prepared, Room), (Prepared, Error)>;

impl Prepared {
    /// Waits for room as long as the request may take.
    async fn with_room(self, share: Share, clock: Clock) -> WithRoom {
        let bytes = self.parts.iter().map(|part| part.batch.len()).sum();
        let left_ms = self.deadline_ms.saturating_sub(clock.boot_ms());
        match share.take(bytes, left_ms).await {
            Ok(room) => Ok((self, room)),
            Err(error) => Err((self, error)),
        }
    }

    /// The answer to a request that was not begun.
    fn refused(self, error: &Error) -> ProduceResponse {
        let refused = |part: Part| Appended {
            partition: part.partition,
            base_offset: -1,
            records: part.records,
            error: Some(error.clone()),
        };
        ProduceResponse { id: self.id, appended: self.parts.into_iter().map(refused).collect() }
    }
}

impl Lanes {
    fn new(shared: Arc<Shared>, forwarded: bool) -> Self {
        let ways = Ways::new(shared.slot.clone(), shared.forward.clone(), shared.max_message_bytes, forwarded);
        let (open, running) = (BTreeMap::new(), FuturesUnordered::new());
        Self { shared, ways: Arc::new(ways), refused: forwarded.then(BTreeMap::new), open, running }
    }

    /// What was refused of a partition that another broker passes batches on for.
    fn refused(&mut self, topic: &str, partition: i32) -> Option<Arc<Refused>> {
        let refused = self.refused.as_mut()?;
        Some(refused.entry((topic.to_owned(), partition)).or_default().clone())
    }

    /// Puts a request's batches on their way; the future is its answer.
    fn begin(&mut self, prepared: Prepared, room: Room) -> BoxFuture<'static, ProduceResponse> {
        let Prepared { id, deadline_ms, acks, topic, parts } = prepared;
        // The request's room is given back with its last batch that is done.
        let room = Arc::new(room);
        let mut due = Vec::with_capacity(parts.len());
        for Part { partition, records, batch } in parts {
            let (answer, told) = oneshot::channel();
            let producer = BatchHeader::decode(&batch).map(|header| header.producer_id).filter(|id| *id >= 0);
            // Brokers number their attempts where clients put what they like.
            let attempt = if self.refused.is_some() { id } else { 0 };
            let job = Job { batch, acks, producer, attempt, deadline_ms, number: 0, answer, room: Some(room.clone()) };
            // A lane has room for all requests of a call; one that ended would drop the job, and with it its answer.
            let _ = self.lane(&topic, partition).try_send(job);
            due.push(async move {
                match told.await {
                    Ok(Ok(base_offset)) => Appended { partition, base_offset, records, error: None },
                    Ok(Err(error)) => Appended { partition, base_offset: -1, records, error: Some(error) },
                    Err(_) => Appended { partition, base_offset: -1, records, error: Some(Error::default()) },
                }
            });
        }
        async move { ProduceResponse { id, appended: join_all(due).await } }.boxed()
    }

    fn lane(&mut self, topic: &Arc<Topic>, partition: i32) -> &mpsc::Sender<Job> {
        let id = topic.partition(partition);
        if !self.open.contains_key(&id) {
            let end = self.refused(&topic.name, partition).map_or(End::Near, End::Far);
            let (sender, jobs) = mpsc::channel(PIPELINE);
            let way = ToPartition { ways: self.ways.clone(), topic: topic.clone(), partition };
            self.running.push(lane(way, self.shared.clock.clone(), end, jobs).boxed());
            self.open.insert(id, sender);
        }
        &self.open[&id]
    }

    /// Keeps the lanes going; never resolves.
    async fn run(&mut self) -> Infallible {
        loop {
            if self.running.next().await.is_none() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Answers a stream's requests in their order, each begun before the next is read. Ends with the stream, with its first
/// error, or when nobody takes the answers any more.
async fn pipeline(
    shared: Arc<Shared>,
    mut requests: Streaming<ProduceRequest>,
    answers: mpsc::Sender<Result<ProduceResponse, Status>>,
    forwarded: bool,
) {
    let mut lanes = Lanes::new(shared.clone(), forwarded);
    let share = shared.held.share();
    let mut due: FuturesOrdered<BoxFuture<'static, ProduceResponse>> = FuturesOrdered::new();
    // An answer for which there is no room yet, and a request for which there is none.
    let mut unsent: Option<ProduceResponse> = None;
    let mut next: Option<BoxFuture<'static, WithRoom>> = None;
    let mut open = true;
    while open || next.is_some() || !due.is_empty() || unsent.is_some() {
        // Another broker never has more, and relies on what is remembered of refusals.
        if due.is_empty() && next.is_none() && !forwarded && lanes.open.len() >= MAX_LANES {
            lanes = Lanes::new(shared.clone(), forwarded);
        }
        let reads =
            open && next.is_none() && due.len() < PIPELINE && lanes.open.len() < MAX_LANES + usize::from(forwarded);
        tokio::select! {
            biased;
            // What is done gives its room back meanwhile.
            place = answers.reserve(), if unsent.is_some() => match (place, unsent.take()) {
                (Ok(place), Some(answer)) => place.send(Ok(answer)),
                _ => return,
            },
            Some(answer) = due.next(), if unsent.is_none() => match answers.try_send(Ok(answer)) {
                Ok(()) => {}
                Err(TrySendError::Full(answer)) => unsent = answer.ok(),
                Err(TrySendError::Closed(_)) => return,
            },
            with_room = waited_for(&mut next) => match with_room {
                Ok((prepared, room)) => due.push_back(lanes.begin(prepared, room)),
                Err((prepared, error)) => {
                    due.push_back(std::future::ready(prepared.refused(&error)).boxed());
                }
            },
            // What was taken goes on before more is.
            never = lanes.run() => match never {},
            request = requests.message(), if reads => match request {
                Ok(Some(request)) => {
                    let (id, asked) = (request.id, request.partition.unwrap_or(-1));
                    let topic = if forwarded { request.topic.clone() } else { String::new() };
                    match shared.prepare(request).await {
                        Ok(prepared) => next = Some(prepared.with_room(share.clone(), shared.clock.clone()).boxed()),
                        Err(error) => {
                            if let Some(refused) = lanes.refused(&topic, asked) {
                                refused.note(id, &error);
                            }
                            // No broker has that many partitions in one call.
                            if lanes.refused.as_ref().is_some_and(|refused| refused.len() > MAX_LANES) {
                                return;
                            }
                            let failed = Appended { partition: asked, error: Some(error), ..Appended::default() };
                            due.push_back(std::future::ready(ProduceResponse { id, appended: vec![failed] }).boxed());
                        }
                    }
                }
                Ok(None) => open = false,
                Err(status) => {
                    drop((lanes, due));
                    let _ = answers.send(Err(status)).await;
                    return;
                }
            },
            () = answers.closed() => return,
        }
    }
}

/// What comes of `next`, which is none afterwards; never, if it is none.
async fn waited_for<T>(next: &mut Option<BoxFuture<'_, T>>) -> T {
    let done = match next {
        Some(next) => next.await,
        None => std::future::pending().await,
    };
    *next = None;
    done
}

impl Shared {
    /// One request of its own.
    async fn unary(self: Arc<Self>, request: ProduceRequest, forwarded: bool) -> Result<ProduceResponse, Status> {
        let prepared = self.prepare(request).await.map_err(|error| to_status(&error))?;
        let with_room = prepared.with_room(self.held.share(), self.clock.clone()).await;
        let (prepared, room) = with_room.map_err(|(_, error)| to_status(&error))?;
        let mut lanes = Lanes::new(self, forwarded);
        let answer = lanes.begin(prepared, room);
        let ProduceResponse { id, appended } = tokio::select! {
            biased;
            answer = answer => answer,
            never = lanes.run() => match never {},
        };
        match appended.iter().find(|one| one.error.is_none()) {
            Some(_) => Ok(ProduceResponse { id, appended }),
            // Nothing was written.
            None => Err(to_status(&appended.into_iter().find_map(|one| one.error).unwrap_or_default())),
        }
    }

    async fn prepare(&self, request: ProduceRequest) -> Result<Prepared, Error> {
        let (id, deadline_ms) = (request.id, self.clock.boot_ms() + timeout_ms(&request));
        let (_, topic, acks, parts) = self.parts(request).await?;
        Ok(Prepared { id, deadline_ms, acks, topic, parts })
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
}

fn timeout_ms(request: &ProduceRequest) -> u64 {
    if request.timeout_ms == 0 { DEFAULT_TIMEOUT_MS } else { u64::from(request.timeout_ms).min(MAX_TIMEOUT_MS) }
}

fn state(of: v1::ProducerState) -> Result<(i64, i16, i32), &'static str> {
    let epoch = i16::try_from(of.producer_epoch).map_err(|_| "`producer_epoch` is a 16-bit number")?;
    if of.producer_id < 0 || epoch < 0 || of.base_sequence < 0 {
        return Err("`producer_id`, `producer_epoch` and `base_sequence` are not negative");
    }
    Ok((of.producer_id, epoch, of.base_sequence))
}
