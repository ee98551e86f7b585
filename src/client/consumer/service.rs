//! The shell around the machine: one task drives it, one task per stream reads answers and gives credit.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::buffer::{Credit, Gone, MESSAGES, Reader, Writer, buffer};
use super::machine::{Effect, Machine, Wanted};
use super::{Isolation, Options};
use crate::base::HashMap;
use crate::client::connections::MAX_MESSAGE_BYTES;
use crate::client::metadata::TopicView;
use crate::client::{Error, Shared};
use crate::protocol::grpc::detail;
use crate::protocol::grpc::v1::consumer_client::ConsumerClient;
use crate::protocol::grpc::v1::fetch_from::Start as From;
use crate::protocol::grpc::v1::fetch_request::Kind as Asked;
use crate::protocol::grpc::v1::fetch_response::Kind as Told;
use crate::protocol::grpc::v1::{FetchCredit, FetchOpen, FetchRequest};

enum Event {
    Leaders(Arc<str>, Result<Arc<TopicView>, Error>),
    Told(u64, Told),
    Broken(u64),
    TooLarge(u64, String),
}

/// Reads until `end`.
pub fn start(shared: Arc<Shared>, wanted: Vec<Wanted>, options: Options, end: CancellationToken) -> Reader {
    let (writer, reader) = buffer(options.credit_bytes, MESSAGES);
    let (events, happened) = mpsc::channel(1);
    let machine = Machine::new(wanted, options.stop_at_end);
    let driver = Driver { shared, machine, options, writer, credits: HashMap::default(), events, end: end.clone() };
    tokio::spawn(async move {
        tokio::select! {
            () = end.cancelled() => {}
            _ = driver.run(happened) => {}
        }
        // Streams that are left end with their driver.
        end.cancel();
    });
    reader
}

struct Driver {
    shared: Arc<Shared>,
    machine: Machine,
    options: Options,
    writer: Writer,
    credits: HashMap<u64, Arc<Credit>>,
    events: mpsc::Sender<Event>,
    end: CancellationToken,
}

impl Driver {
    async fn run(mut self, mut happened: mpsc::Receiver<Event>) -> Result<(), Gone> {
        loop {
            let now_ms = self.shared.clock.boot_ms();
            let (effects, wake_ms) = self.machine.poll(now_ms);
            for effect in effects {
                if effect == Effect::End {
                    return Ok(());
                }
                self.perform(effect).await?;
            }
            let pause = Duration::from_millis(wake_ms.map_or(60_000, |wake_ms| wake_ms.saturating_sub(now_ms)));
            tokio::select! {
                Some(event) = happened.recv() => self.on(event).await?,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn on(&mut self, event: Event) -> Result<(), Gone> {
        let now_ms = self.shared.clock.boot_ms();
        match event {
            Event::Leaders(topic, view) => {
                let leaders = view.as_ref().map(|view| view.leaders.as_slice()).map_err(Clone::clone);
                for effect in self.machine.on_leaders(&topic, leaders, now_ms) {
                    self.perform(effect).await?;
                }
            }
            Event::Told(stream, Told::Data(data)) => {
                let wanted = self.machine.on_data(stream, &data.topic, data.partition, data.next_offset);
                let credit = self.credits.get(&stream).cloned().unwrap_or_default();
                if let Some((topic, from)) = wanted {
                    self.writer.data(topic, from, data, credit).await?;
                }
            }
            Event::Told(stream, Told::End(end)) => {
                self.machine.on_end(stream, &end.topic, end.partition, end.next_offset);
            }
            Event::Told(stream, Told::Failure(failure)) => {
                let error = Error::of_answer(failure.error.unwrap_or_default());
                let fatal = self.machine.on_failure(stream, &failure.topic, failure.partition, error, now_ms);
                if let Some(error) = fatal {
                    self.writer.failed(error).await?;
                }
            }
            Event::TooLarge(stream, why) => {
                if let Some(error) = self.machine.on_too_large(stream, &why) {
                    self.writer.failed(error).await?;
                }
                self.credits.remove(&stream);
                self.machine.on_broken(stream, now_ms);
            }
            Event::Broken(stream) => {
                self.credits.remove(&stream);
                self.machine.on_broken(stream, now_ms);
            }
        }
        Ok(())
    }

    async fn perform(&mut self, effect: Effect) -> Result<(), Gone> {
        match effect {
            Effect::End => {}
            Effect::Fail(error) => self.writer.failed(error).await?,
            Effect::FindLeaders { topic } => {
                let shared = self.shared.clone();
                self.spawn(async move {
                    let view = shared.refresh(&topic).await;
                    Event::Leaders(topic, view)
                });
            }
            Effect::Open { stream, to, from, to_learn } => {
                let credit = Arc::new(Credit::default());
                self.credits.insert(stream, credit.clone());
                let read_committed = self.options.isolation == Isolation::ReadCommitted;
                let share = self.options.credit_bytes / self.machine.streams().max(1);
                // Whole batches may begin before what was asked for, which is only known of offsets; and what is aborted can
                // only be told apart by the broker.
                let exact = from.iter().all(|one| matches!(one.start, Some(From::Offset(_))));
                let open = FetchOpen {
                    partitions: from,
                    stop_at_end: self.options.stop_at_end || to_learn,
                    read_committed,
                    raw_batches: exact && !read_committed,
                    credit_bytes: share.max(1) as u64,
                };
                let (shared, events) = (self.shared.clone(), self.events.clone());
                self.spawn(async move {
                    match read(&shared, to.as_deref(), stream, open, &credit, &events).await {
                        Ok(()) => Event::Broken(stream),
                        // Brokers say this of offsets, with a detail; without one it is this end that refused a message.
                        Err(status) if status.code() == Code::OutOfRange && detail(&status).is_none() => {
                            Event::TooLarge(stream, status.message().to_owned())
                        }
                        Err(status) => {
                            tracing::debug!(?to, %status, "a stream of records broke");
                            Event::Broken(stream)
                        }
                    }
                });
            }
        }
        Ok(())
    }

    /// One event, unless the consumer ends first.
    fn spawn(&self, work: impl Future<Output = Event> + Send + 'static) {
        let (events, end) = (self.events.clone(), self.end.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                event = work => drop(events.send(event).await),
            }
        });
    }
}

/// One stream to its end.
async fn read(
    shared: &Shared,
    to: Option<&str>,
    stream: u64,
    open: FetchOpen,
    credit: &Credit,
    events: &mpsc::Sender<Event>,
) -> Result<(), Status> {
    let (at, current) = shared.connections.current();
    let address = to.unwrap_or(current);
    let channel = shared.connections.to(address).map_err(|error| Status::internal(error.to_string()))?;
    let mut client = ConsumerClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let (requests, receiver) = mpsc::channel(2);
    let _ = requests.send(FetchRequest { kind: Some(Asked::Open(open)) }).await;
    let opened = client.fetch(ReceiverStream::new(receiver)).await;
    if opened.is_err() && to.is_none() {
        shared.connections.next_after(at);
    }
    let mut answers = opened?.into_inner();
    loop {
        tokio::select! {
            answer = answers.message() => match answer? {
                None => return Ok(()),
                Some(answer) => {
                    let Some(told) = answer.kind else { continue };
                    if events.send(Event::Told(stream, told)).await.is_err() {
                        return Ok(());
                    }
                }
            },
            Ok(permit) = requests.reserve(), if credit.is_due() => {
                permit.send(FetchRequest { kind: Some(Asked::Credit(FetchCredit { bytes: credit.take() })) });
            }
            () = credit.more.notified() => {}
        }
    }
}
