//! `esker.v1.Consumer`: reading partitions, and then waiting for more.
//!
//! A task per call reads ahead of the client by one answer at most; the next one is read when the client has taken the last
//! and has credit left. Nothing is stored: a call that breaks is opened again where the client stands.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::errors::{explain, invalid};
use super::records::{MESSAGE_BYTES, from_batches, joined};
use crate::base::TopicPartition;
use crate::broker::{Broker, BrokerError, BrokerSlot, OffsetSpec};
use crate::fetch::session::NO_LEADER_EPOCH;
use crate::fetch::{FetchRequest as Read, PartitionRequest, ReadResult};
use crate::partition::Isolation;
use crate::protocol::grpc::v1;
use crate::protocol::grpc::v1::fetch_from::Start;
use crate::protocol::grpc::v1::fetch_request::Kind as Asked;
use crate::protocol::grpc::v1::fetch_response::Kind as Told;
use crate::protocol::grpc::v1::{
    Error, FetchData, FetchEnd, FetchFailure, FetchOpen, FetchRequest, FetchResponse, Reason,
};

/// Most bytes of batches in one answer, unless one batch alone has more.
const ANSWER_BYTES: usize = 1 << 20;
/// A wait for more records is begun anew after this long, in milliseconds.
const WAIT_MS: u64 = 10_000;
/// Most partitions of one call.
const MAX_PARTITIONS: usize = 10_000;

/// See the module.
#[derive(Debug, Clone)]
pub struct Consumer {
    slot: BrokerSlot,
}

impl Consumer {
    /// Reads from the broker in `slot`.
    pub fn new(slot: BrokerSlot) -> Self {
        Self { slot }
    }
}

#[tonic::async_trait]
impl v1::consumer_server::Consumer for Consumer {
    type FetchStream = Pin<Box<dyn Stream<Item = Result<FetchResponse, Status>> + Send>>;
    type ConsumeStream = Pin<Box<dyn Stream<Item = Result<v1::ConsumeResponse, Status>> + Send>>;

    async fn consume(
        &self,
        _: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        Err(Status::unimplemented("this broker does not serve Consume yet"))
    }

    async fn fetch(&self, request: Request<Streaming<FetchRequest>>) -> Result<Response<Self::FetchStream>, Status> {
        let mut asked = request.into_inner();
        let Some(Asked::Open(open)) = asked.message().await?.and_then(|first| first.kind) else {
            return Err(invalid("the first message of a fetch is `open`"));
        };
        if open.partitions.is_empty() || open.partitions.len() > MAX_PARTITIONS {
            return Err(invalid(format!("a fetch names 1 to {MAX_PARTITIONS} partitions")));
        }
        let (answers, receiver) = mpsc::channel(1);
        let call = Call::new(self.slot.clone(), open, answers);
        tokio::spawn(async move {
            let gone = call.answers.clone();
            tokio::select! {
                () = gone.closed() => {}
                () = call.run(asked) => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }
}

/// A partition that is read.
struct Place {
    topic: Arc<str>,
    index: i32,
    partition: TopicPartition,
    offset: i64,
    /// Where the reading ends, if it is to.
    until: Option<i64>,
}

/// The client has gone, or reads no more.
struct Gone;

struct Call {
    slot: BrokerSlot,
    open: FetchOpen,
    isolation: Isolation,
    answers: mpsc::Sender<Result<FetchResponse, Status>>,
    places: Vec<Place>,
    /// Bytes that may still be sent; none if there is no limit.
    credit: Option<i128>,
}

impl Call {
    fn new(slot: BrokerSlot, open: FetchOpen, answers: mpsc::Sender<Result<FetchResponse, Status>>) -> Self {
        let isolation = if open.read_committed { Isolation::ReadCommitted } else { Isolation::ReadUncommitted };
        let credit = (open.credit_bytes > 0).then(|| i128::from(open.credit_bytes));
        Self { slot, open, isolation, answers, places: Vec::new(), credit }
    }

    async fn run(mut self, mut asked: Streaming<FetchRequest>) {
        if self.begin().await.is_err() {
            return;
        }
        while !self.places.is_empty() {
            match self.wait_for_credit(&mut asked).await {
                Ok(()) => {}
                Err(Some(status)) => {
                    let _ = self.answers.send(Err(status)).await;
                    return;
                }
                Err(None) => return,
            }
            if self.pass().await.is_err() {
                return;
            }
        }
    }

    /// Finds out where each partition begins.
    async fn begin(&mut self) -> Result<(), Gone> {
        let broker = self.slot.current();
        for from in std::mem::take(&mut self.open.partitions) {
            match self.place(&broker, &from).await {
                Ok(place) => {
                    self.places.push(place);
                    self.end_those_that_are_read().await?;
                }
                Err(error) => {
                    let error = explain(&error, &broker.image());
                    self.tell(failure(&from.topic, from.partition, -1, error)).await?;
                }
            }
        }
        Ok(())
    }

    async fn place(&self, broker: &Broker, from: &v1::FetchFrom) -> Result<Place, BrokerError> {
        let topic = broker.topic(&broker.image(), &from.topic)?;
        let end = async || broker.list_offset(&topic, from.partition, -1, OffsetSpec::Latest, self.isolation).await;
        let spec = match from.start {
            Some(Start::Offset(offset)) => Err(offset),
            Some(Start::TimestampMs(at)) => Ok(OffsetSpec::Timestamp(at)),
            Some(Start::Latest(true)) => Ok(OffsetSpec::Latest),
            Some(Start::Latest(false)) | None => Ok(OffsetSpec::Earliest),
        };
        let offset = match spec {
            Err(offset) => offset,
            Ok(spec) => match broker.list_offset(&topic, from.partition, -1, spec, self.isolation).await?.offset {
                // No record is that young.
                -1 => end().await?.offset,
                found => found,
            },
        };
        let until = if self.open.stop_at_end { Some(end().await?.offset) } else { None };
        let (index, partition) = (from.partition, topic.partition(from.partition));
        Ok(Place { topic: from.topic.as_str().into(), index, partition, offset, until })
    }

    /// One fetch of all partitions; what came of it goes to the client. The next pass begins with another partition.
    async fn pass(&mut self) -> Result<(), Gone> {
        let broker = self.slot.current();
        let left = self.credit.map_or(ANSWER_BYTES, |credit| usize::try_from(credit).unwrap_or(ANSWER_BYTES));
        let max_bytes = left.clamp(1, ANSWER_BYTES);
        let partitions = self.places.iter().map(|place| PartitionRequest {
            partition: place.partition,
            offset: place.offset,
            max_bytes,
            current_leader_epoch: NO_LEADER_EPOCH,
        });
        let partitions = partitions.collect();
        let read = Read { partitions, min_bytes: 1, max_bytes, max_wait_ms: WAIT_MS, isolation: self.isolation };
        let mut lost = Vec::new();
        for (at, fetched) in broker.fetch(&read).await.into_iter().enumerate() {
            match fetched.result {
                Ok(read) => self.take(at, read, &mut lost).await?,
                Err(error) => {
                    let place = &self.places[at];
                    let error = explain(&BrokerError::Read(error), &broker.image());
                    self.tell(failure(&place.topic, place.index, place.offset, error)).await?;
                    lost.push(at);
                }
            }
        }
        for at in lost.into_iter().rev() {
            self.places.remove(at);
        }
        self.end_those_that_are_read().await?;
        if self.places.len() > 1 {
            self.places.rotate_left(1);
        }
        Ok(())
    }

    async fn take(&mut self, at: usize, read: ReadResult, lost: &mut Vec<usize>) -> Result<(), Gone> {
        let place = &mut self.places[at];
        if read.batches.is_empty() {
            place.offset = place.offset.max(read.next_offset);
            return Ok(());
        }
        let bytes = read.bytes() as u64 + MESSAGE_BYTES;
        let (records, batches) = if self.open.raw_batches {
            (Vec::new(), joined(&read.batches))
        } else {
            match from_batches(&read.batches, place.offset) {
                Ok(records) => (records, Bytes::new()),
                Err(error) => {
                    let message = format!("records of {}-{} cannot be read: {error}", place.topic, place.index);
                    let error = Error { reason: Reason::Corrupt.into(), message, ..Error::default() };
                    let told = failure(&place.topic, place.index, place.offset, error);
                    lost.push(at);
                    return self.tell(told).await;
                }
            }
        };
        place.offset = read.next_offset;
        let data = FetchData {
            topic: place.topic.to_string(),
            partition: place.index,
            records,
            batches,
            bytes,
            next_offset: read.next_offset,
            high_watermark: read.limit,
        };
        if let Some(credit) = &mut self.credit {
            *credit -= i128::from(bytes);
        }
        self.tell(Told::Data(data)).await
    }

    async fn end_those_that_are_read(&mut self) -> Result<(), Gone> {
        let (read, open): (Vec<Place>, Vec<Place>) =
            self.places.drain(..).partition(|place| place.until.is_some_and(|until| place.offset >= until));
        self.places = open;
        for Place { topic, index, offset, .. } in read {
            self.tell(Told::End(FetchEnd { topic: topic.to_string(), partition: index, next_offset: offset })).await?;
        }
        Ok(())
    }

    async fn tell(&self, kind: Told) -> Result<(), Gone> {
        self.answers.send(Ok(FetchResponse { kind: Some(kind) })).await.map_err(|_| Gone)
    }

    /// Takes what credit has come; waits for some if there is none left. An error with a status is told; one without ends
    /// the call: nobody will give credit any more.
    async fn wait_for_credit(&mut self, asked: &mut Streaming<FetchRequest>) -> Result<(), Option<Status>> {
        let Some(mut credit) = self.credit else { return Ok(()) };
        while credit <= 0 {
            match asked.message().await {
                Ok(Some(FetchRequest { kind: Some(Asked::Credit(more)) })) => credit += i128::from(more.bytes),
                Ok(Some(_)) => return Err(Some(invalid("after `open` a fetch takes only `credit`"))),
                Ok(None) => return Err(None),
                Err(status) => return Err(Some(status)),
            }
        }
        self.credit = Some(credit);
        Ok(())
    }
}

fn failure(topic: &str, partition: i32, next_offset: i64, error: Error) -> Told {
    Told::Failure(FetchFailure { topic: topic.to_owned(), partition, next_offset, error: Some(error) })
}
