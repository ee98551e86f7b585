//! The shell around the machine: one task drives it, one task per leader carries requests and answers.
//!
//! Bounds: records wait within `buffer_bytes`; a leader has at most [`MAX_REQUESTS`] requests. Cancelled or dropped, nothing is
//! left running.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::machine::{Effect, MAX_REQUESTS, Machine, Outcome, Settings};
use super::sticky::Sticky;
use super::{Delivered, Delivery, Record};
use crate::base::{Backoff, HashMap};
use crate::client::connections::MAX_MESSAGE_BYTES;
use crate::client::metadata::TopicView;
use crate::client::{Error, Reason, Shared};
use crate::protocol::batch::NewRecord;
use crate::protocol::grpc::v1::producer_client::ProducerClient;
use crate::protocol::grpc::v1::{InitProducerRequest, ProduceRequest, ProduceResponse};
use crate::protocol::partitioner::partition_of_key;

/// Answers that wait for the driver.
const EVENTS: usize = 1_024;
/// Largest record: brokers refuse larger messages (`grpc.max_message_bytes`, 16 MiB unless changed), and with them all that
/// their stream carries.
const MAX_RECORD_BYTES: usize = 15 << 20;
/// Topics whose place of records without keys is remembered.
const MAX_TOPICS: usize = 10_000;

type Token = oneshot::Sender<Result<Delivered, Error>>;

#[derive(Debug)]
pub struct Service {
    inner: Arc<Inner>,
    _end: DropGuard,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    settings: Settings,
    buffer_bytes: usize,
    room: Semaphore,
    machine: Mutex<Machine<Token>>,
    /// The machine has news.
    news: Notify,
    /// Batches have an outcome.
    progress: Notify,
    topics: Mutex<HashMap<Arc<str>, Sticky>>,
}

enum Event {
    Identity(Result<i64, Error>),
    Leaders(Arc<str>, Result<Arc<TopicView>, Error>),
    Answer(u64, Outcome),
    /// The stream to this leader ended; nothing of it comes any more.
    Broken(Arc<str>),
}

impl Service {
    pub fn start(shared: Arc<Shared>, settings: Settings, buffer_bytes: usize) -> Self {
        let inner = Arc::new(Inner {
            shared,
            settings,
            buffer_bytes,
            room: Semaphore::new(buffer_bytes),
            machine: Mutex::new(Machine::new(settings)),
            news: Notify::new(),
            progress: Notify::new(),
            topics: Mutex::default(),
        });
        let end = CancellationToken::new();
        tokio::spawn(drive(inner.clone(), end.clone()));
        Self { inner, _end: end.drop_guard() }
    }

    pub async fn send(&self, topic: &str, record: Record) -> Result<Delivery, Error> {
        let inner = &self.inner;
        let bytes = record.size_bytes();
        let limit_bytes = inner.buffer_bytes.min(MAX_RECORD_BYTES);
        if bytes > limit_bytes {
            let why = format!("a record of {bytes} bytes is over the producer's limit of {limit_bytes} bytes");
            return Err(Error::new(Reason::TooLarge, why));
        }
        let view = inner.partitions_of(topic).await?;
        let view = match record.partition {
            // It may have been given more partitions since.
            Some(partition) if usize::try_from(partition).is_ok_and(|at| at >= view.leaders.len()) => {
                inner.shared.refresh(topic).await?
            }
            _ => view,
        };
        // `buffer_bytes` is a 32-bit number.
        let permit = inner.room.acquire_many(bytes as u32).await;
        permit.map_err(|_| Error::unavailable("the producer is closed"))?.forget();
        let (token, outcome) = oneshot::channel();
        let Record { key, value, headers, timestamp_ms, partition } = record;
        let headers = headers.into_iter().map(|(name, value)| (name.into(), value)).collect();
        let timestamp = timestamp_ms.unwrap_or_else(|| inner.shared.clock.wall_ms());
        let (name, partition) = inner.place(topic, partition, key.as_deref(), bytes, &view);
        let record = NewRecord { timestamp, key, value, headers };
        let now_ms = inner.shared.clock.boot_ms();
        if inner.machine.lock().push(&name, partition, record, bytes, token, now_ms) {
            inner.news.notify_one();
        }
        Ok(Delivery { outcome })
    }

    pub async fn flush(&self) {
        let until = self.inner.machine.lock().flush();
        self.inner.news.notify_one();
        loop {
            let progress = self.inner.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if self.inner.machine.lock().settled_before(until) {
                return;
            }
            progress.await;
        }
    }
}

impl Inner {
    /// What is known of a topic; asks for as long as a record may take.
    async fn partitions_of(&self, topic: &str) -> Result<Arc<TopicView>, Error> {
        let clock = &self.shared.clock;
        let until_ms = clock.boot_ms().saturating_add(self.settings.delivery_timeout_ms);
        let mut failures = 0;
        loop {
            let why = match self.shared.topic_to_write(topic).await {
                Ok(view) if view.leaders.is_empty() => {
                    Error::unavailable(format!("topic {topic} has no partitions yet"))
                }
                Ok(view) => return Ok(view),
                Err(error) => error,
            };
            failures += 1;
            let pause = Backoff::default().pause(failures, &self.shared.rng);
            if !why.is_retriable() || clock.boot_ms().saturating_add(pause.as_millis() as u64) >= until_ms {
                return Err(why);
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn place(
        &self,
        topic: &str,
        asked: Option<i32>,
        key: Option<&[u8]>,
        bytes: usize,
        view: &TopicView,
    ) -> (Arc<str>, i32) {
        let mut topics = self.topics.lock();
        let known = topics.get_key_value(topic).map(|(name, _)| name.clone());
        let name = known.unwrap_or_else(|| {
            if topics.len() >= MAX_TOPICS {
                topics.clear();
            }
            let name: Arc<str> = topic.into();
            topics.insert(name.clone(), Sticky::default());
            name
        });
        let partitions = view.leaders.len();
        let partition = match (asked, key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of_key(key, partitions as u32) as i32,
            (None, None) => {
                let sticky = topics.entry(name.clone()).or_default();
                sticky.place(bytes, self.settings.batch_bytes, partitions, &self.shared.rng)
            }
        };
        (name, partition)
    }

    /// Tells those who wait.
    fn settle(&self, partition: i32, tokens: Vec<Token>, bytes: usize, outcome: &Outcome) {
        self.room.add_permits(bytes);
        for (at, token) in (0..).zip(tokens) {
            let told = match outcome {
                Ok(base) => Ok(Delivered { partition, offset: base.map(|base| base + at) }),
                Err(error) => Err(error.clone()),
            };
            // Who dropped the delivery does not want to know.
            let _ = token.send(told);
        }
    }
}

/// Runs until the producer is dropped.
async fn drive(inner: Arc<Inner>, end: CancellationToken) {
    let (events, mut happened) = mpsc::channel(EVENTS);
    let mut driver = Driver { inner: inner.clone(), streams: HashMap::default(), events, end: end.clone() };
    loop {
        let now_ms = inner.shared.clock.boot_ms();
        let (effects, wake_ms) = inner.machine.lock().poll(now_ms);
        for effect in effects {
            driver.perform(effect);
        }
        let pause = Duration::from_millis(wake_ms.map_or(60_000, |wake_ms| wake_ms.saturating_sub(now_ms)));
        tokio::select! {
            () = end.cancelled() => break,
            () = inner.news.notified() => {}
            () = tokio::time::sleep(pause) => {}
            Some(event) = happened.recv() => {
                driver.on(event);
                while let Ok(event) = happened.try_recv() {
                    driver.on(event);
                }
            }
        }
    }
    inner.room.close();
    let closed = Error::unavailable("the producer was dropped before the record was acknowledged");
    let effects = inner.machine.lock().abandon(&closed);
    for effect in effects {
        driver.perform(effect);
    }
}

struct Driver {
    inner: Arc<Inner>,
    streams: HashMap<Arc<str>, mpsc::Sender<ProduceRequest>>,
    events: mpsc::Sender<Event>,
    end: CancellationToken,
}

impl Driver {
    fn on(&mut self, event: Event) {
        let now_ms = self.inner.shared.clock.boot_ms();
        let mut machine = self.inner.machine.lock();
        match event {
            Event::Identity(identity) => machine.on_identity(identity, now_ms),
            Event::Leaders(topic, view) => {
                let leaders = view.as_ref().map(|view| view.leaders.as_slice());
                machine.on_leaders(&topic, leaders, now_ms);
            }
            Event::Answer(request, outcome) => machine.on_answer(request, outcome, now_ms),
            Event::Broken(to) => {
                self.streams.remove(&to);
                machine.on_broken(&to, now_ms);
            }
        }
    }

    fn perform(&mut self, effect: Effect<Token>) {
        match effect {
            Effect::Done { partition, tokens, bytes, outcome } => {
                self.inner.settle(partition, tokens, bytes, &outcome);
                self.inner.progress.notify_waiters();
            }
            Effect::Identify => {
                let shared = self.inner.shared.clone();
                self.spawn(async move {
                    let asked = shared.call(|channel| async move {
                        ProducerClient::new(channel).init_producer(InitProducerRequest {}).await
                    });
                    Event::Identity(asked.await.map(|answer| answer.producer_id))
                });
            }
            Effect::FindLeaders { topic } => {
                let shared = self.inner.shared.clone();
                self.spawn(async move {
                    let view = shared.refresh(&topic).await;
                    Event::Leaders(topic, view)
                });
            }
            Effect::Send { to: None, request } => {
                let shared = self.inner.shared.clone();
                self.spawn(async move {
                    let id = request.id;
                    let (at, address) = shared.connections.current();
                    let answer = match shared.connections.to(address) {
                        Err(error) => Err(error),
                        Ok(channel) => match ProducerClient::new(channel).produce(request).await {
                            Ok(answer) => outcome(answer.into_inner()),
                            Err(status) => {
                                if Error::is_transport(&status) {
                                    shared.connections.next_after(at);
                                }
                                Err(Error::of_status(&status))
                            }
                        },
                    };
                    Event::Answer(id, answer)
                });
            }
            Effect::Send { to: Some(to), request } => {
                if !self.streams.contains_key(&to) {
                    let stream = self.open(to.clone());
                    self.streams.insert(to.clone(), stream);
                }
                let Some(stream) = self.streams.get(&to) else { return };
                // There is room for as many as the machine sends; a stream that ended says so.
                let _ = stream.try_send(request);
            }
        }
    }

    /// One event, unless the producer ends first.
    fn spawn(&self, work: impl Future<Output = Event> + Send + 'static) {
        let (events, end) = (self.events.clone(), self.end.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                event = work => drop(events.send(event).await),
            }
        });
    }

    /// A stream to a leader: its task ends with `Broken`.
    fn open(&self, to: Arc<str>) -> mpsc::Sender<ProduceRequest> {
        let (requests, receiver) = mpsc::channel(MAX_REQUESTS + 1);
        let (shared, events) = (self.inner.shared.clone(), self.events.clone());
        self.spawn(async move {
            carry(&shared, &to, receiver, &events).await;
            Event::Broken(to)
        });
        requests
    }
}

/// Carries requests to a leader and its answers back, until either side ends.
async fn carry(shared: &Shared, to: &str, requests: mpsc::Receiver<ProduceRequest>, events: &mpsc::Sender<Event>) {
    let Ok(channel) = shared.connections.to(to) else { return };
    let mut client = ProducerClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut answers = match client.produce_stream(ReceiverStream::new(requests)).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return tracing::debug!(to, %status, "a stream of records was refused"),
    };
    loop {
        match answers.message().await {
            Ok(Some(answer)) => {
                let event = Event::Answer(answer.id, outcome(answer));
                if events.send(event).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(status) => return tracing::debug!(to, %status, "a stream of records broke"),
        }
    }
}

/// What came of the one batch of a request.
fn outcome(answer: ProduceResponse) -> Outcome {
    match answer.appended.into_iter().next() {
        None => Err(Error::unavailable("the answer is empty")),
        Some(appended) => match appended.error {
            Some(error) => Err(Error::of_answer(error)),
            None => Ok((appended.base_offset >= 0).then_some(appended.base_offset)),
        },
    }
}
