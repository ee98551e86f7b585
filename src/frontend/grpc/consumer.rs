//! `esker.v1.Consumer`: reading partitions, and then waiting for more.
//!
//! A task per call reads ahead of the client ([`super::reading`] says how far); it ends with the call. Nothing is stored: a call
//! that breaks is opened again where the client stands.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::consume::{self, Consume};
use super::coordination::{Asker, Coordinators};
use super::deadline;
use super::errors::{explain, invalid, to_status};
use super::forward::Forward;
use super::metrics::Seats;
use super::offsets::{Ask, At, Patience};
use super::reading::{Gone, Library, Options, Outlet, PATIENCE_MS, Place, Reading, Told, failure};
use crate::broker::partition_of;
use crate::partition::Isolation;
use crate::protocol::grpc::v1;
use crate::protocol::grpc::v1::consume_request::Kind as Joining;
use crate::protocol::grpc::v1::fetch_from::Start;
use crate::protocol::grpc::v1::fetch_request::Kind as Asked;
use crate::protocol::grpc::v1::{ConsumeRequest, Error, FetchFrom, FetchOpen, FetchRequest, FetchResponse, Reason};

/// Most partitions of one call.
const MAX_PARTITIONS: usize = 10_000;
/// What group members that are kept here call themselves.
const CLIENT_ID: &str = "esker-grpc";

/// See the module.
#[derive(Debug, Clone)]
pub struct Consumer {
    library: Library,
    coordinators: Coordinators,
    seats: Seats,
}

impl Consumer {
    /// Reads with what is in `library`; members of groups ask `coordinators` and have `seats`.
    pub fn new(library: Library, coordinators: Coordinators, seats: Seats) -> Self {
        Self { library, coordinators, seats }
    }
}

#[tonic::async_trait]
impl v1::consumer_server::Consumer for Consumer {
    type FetchStream = Pin<Box<dyn Stream<Item = Result<FetchResponse, Status>> + Send>>;
    type ConsumeStream = Pin<Box<dyn Stream<Item = Result<v1::ConsumeResponse, Status>> + Send>>;

    async fn consume(
        &self,
        request: Request<Streaming<ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let limit = deadline::of(request.metadata());
        let host = request.extensions().get::<SocketAddr>().map(|peer| format!("/{}", peer.ip().to_canonical()));
        let asker = Asker { client_id: CLIENT_ID.to_owned(), client_host: host.unwrap_or_default() };
        let mut requests = request.into_inner();
        let Some(Joining::Open(open)) = requests.message().await?.and_then(|first| first.kind) else {
            return Err(invalid("the first message of a consume is `open`"));
        };
        consume::check(&open)?;
        let seat = self.seats.take().ok_or_else(|| {
            let message = "this broker keeps as many group members as it may (grpc.max_members)".to_owned();
            to_status(&Error { reason: Reason::Overloaded.into(), message, retriable: true, leader: None })
        })?;
        let (answers, receiver) = mpsc::channel(1);
        let outlet = Outlet::new(answers, consume::wrap, open.credit_bytes);
        let member = Consume::new(self.library.clone(), self.coordinators.clone(), asker, open, outlet, seat);
        let under_way = self.library.metrics.stream();
        tokio::spawn(async move {
            member.run(requests, limit).await;
            drop(under_way);
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    async fn fetch(&self, request: Request<Streaming<FetchRequest>>) -> Result<Response<Self::FetchStream>, Status> {
        let forwarded = Forward::was_forwarded(request.metadata());
        let limit = deadline::of(request.metadata());
        let mut asked = request.into_inner();
        let Some(Asked::Open(open)) = asked.message().await?.and_then(|first| first.kind) else {
            return Err(invalid("the first message of a fetch is `open`"));
        };
        if open.partitions.is_empty() || open.partitions.len() > MAX_PARTITIONS {
            return Err(invalid(format!("a fetch names 1 to {MAX_PARTITIONS} partitions")));
        }
        let (answers, receiver) = mpsc::channel(1);
        let wrap = |told| FetchResponse { kind: Some(told) };
        let outlet = Outlet::new(answers, wrap, open.credit_bytes);
        let call = Call { library: self.library.clone(), open, forwarded, outlet };
        let under_way = self.library.metrics.stream();
        tokio::spawn(async move {
            if let Err(status) = deadline::within(limit, call.run(asked)).await {
                // Nobody may be there to hear it.
                let _ = call.outlet.say(Err(status)).await;
            }
            drop(under_way);
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }
}

struct Call {
    library: Library,
    open: FetchOpen,
    forwarded: bool,
    outlet: Outlet<FetchResponse>,
}

impl Call {
    async fn run(&self, asked: Streaming<FetchRequest>) {
        let read = async {
            let places = self.begin().await?;
            Reading::new(&self.library, self.options(), &self.outlet).run(places).await
        };
        tokio::select! {
            biased;
            () = self.outlet.gone() => {}
            status = self.listen(asked) => {
                // Nobody may be there to hear it.
                let _ = self.outlet.say(Err(status)).await;
            }
            _ = read => {}
        }
    }

    fn options(&self) -> Options {
        let isolation = if self.open.read_committed { Isolation::ReadCommitted } else { Isolation::ReadUncommitted };
        Options { isolation, raw_batches: self.open.raw_batches, forwarded: self.forwarded }
    }

    /// Takes credit, where it counts; the status of what went wrong.
    async fn listen(&self, mut asked: Streaming<FetchRequest>) -> Status {
        while self.outlet.is_limited() {
            match asked.message().await {
                Ok(Some(FetchRequest { kind: Some(Asked::Credit(more)) })) => self.outlet.give(more.bytes),
                Ok(Some(_)) => return invalid("after `open` a fetch takes only `credit`"),
                Ok(None) => {
                    self.outlet.close();
                    break;
                }
                Err(status) => return status,
            }
        }
        std::future::pending().await
    }

    /// Finds out where each partition begins and, if it is to, ends.
    async fn begin(&self) -> Result<Vec<Place>, Gone> {
        let broker = self.library.slot.current();
        let image = broker.image();
        let mut places = Vec::with_capacity(self.open.partitions.len());
        let mut asks: Vec<(usize, bool, Ask)> = Vec::new();
        for from in &self.open.partitions {
            let topic = broker.topic(&image, &from.topic);
            let found = topic.and_then(|topic| partition_of(&topic, from.partition).map(|_| topic));
            let topic = match found {
                Ok(topic) => topic,
                Err(error) => {
                    self.refuse(from, explain(&error, &image)).await?;
                    continue;
                }
            };
            let name: Arc<str> = from.topic.as_str().into();
            let ask = |at| Ask { topic: name.clone(), partition: from.partition, at };
            let mut start = |at| {
                asks.push((places.len(), true, ask(at)));
                0
            };
            let offset = match from.start {
                Some(Start::Offset(offset)) => offset,
                Some(Start::TimestampMs(at)) => start(At::Timestamp(at)),
                Some(Start::Latest(true)) => start(At::Latest),
                Some(Start::Latest(false)) | None => start(At::Earliest),
            };
            if self.open.stop_at_end {
                asks.push((places.len(), false, ask(At::Latest)));
            }
            places.push(Some(Place::new(&topic, from.partition, offset)));
        }
        let patience = if self.forwarded { Patience::Forwarded } else { Patience::Ms(PATIENCE_MS) };
        let questions: Vec<Ask> = asks.iter().map(|(_, _, ask)| ask.clone()).collect();
        let found = self.library.offsets.list(&questions, self.options().isolation, patience).await;
        for ((at, is_start, ask), found) in asks.into_iter().zip(found) {
            let Some(place) = &mut places[at] else { continue };
            match found {
                Ok(found) if is_start => place.offset = found.offset,
                Ok(found) => place.until = Some(found.offset),
                Err(error) => {
                    places[at] = None;
                    let told: Told = failure(&ask.topic, ask.partition, -1, error);
                    self.outlet.tell(told).await?;
                }
            }
        }
        Ok(places.into_iter().flatten().collect())
    }

    async fn refuse(&self, from: &FetchFrom, error: Error) -> Result<(), Gone> {
        self.outlet.tell(failure(&from.topic, from.partition, -1, error)).await
    }
}
