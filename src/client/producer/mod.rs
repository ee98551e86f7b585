//! Writing records.

mod batch;
mod lane;
mod machine;
mod service;
mod sticky;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use self::machine::Settings;
use self::service::Service;
use super::{Compression, Error, Reason, Record, Shared};
use crate::protocol::grpc::v1;

/// Bounds of what a batch may hold, in bytes: a message must fit into what a broker takes.
const BATCH_BYTES: std::ops::RangeInclusive<usize> = 1_024..=8 << 20;
/// Longest wait for more records unless told otherwise, in milliseconds.
const LINGER_MS: u64 = 5;
/// What a batch holds unless told otherwise, in bytes.
const DEFAULT_BATCH_BYTES: usize = 256 << 10;
/// What waits in a producer unless told otherwise, in bytes.
const BUFFER_BYTES: usize = 32 << 20;
/// Longest time from `send` to an outcome unless told otherwise, in milliseconds.
const DELIVERY_TIMEOUT_MS: u64 = 120_000;

/// What an acknowledgement means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acks {
    /// The records are committed in the object store: they survive the loss of every broker.
    #[default]
    All,
    /// The leader's local disk holds them.
    Leader,
}

/// How a [`Producer`] works; from [`super::Client::producer`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ProducerBuilder {
    shared: Arc<Shared>,
    settings: Settings,
    buffer_bytes: usize,
}

impl ProducerBuilder {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let settings = Settings {
            acks: v1::Acks::All,
            compression: Compression::None,
            linger_ms: LINGER_MS,
            batch_bytes: DEFAULT_BATCH_BYTES,
            idempotent: true,
            delivery_timeout_ms: DELIVERY_TIMEOUT_MS,
        };
        Self { shared, settings, buffer_bytes: BUFFER_BYTES }
    }

    /// What an acknowledgement means; [`Acks::All`] unless told otherwise.
    pub fn acks(mut self, acks: Acks) -> Self {
        self.settings.acks = match acks {
            Acks::All => v1::Acks::All,
            Acks::Leader => v1::Acks::Leader,
        };
        self
    }

    /// How batches are compressed; not at all unless told otherwise.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.settings.compression = compression;
        self
    }

    /// How long a batch that is not full waits for more records, in milliseconds; 5 unless told otherwise, 0 sends at once.
    pub fn linger_ms(mut self, linger_ms: u64) -> Self {
        self.settings.linger_ms = linger_ms;
        self
    }

    /// What a batch holds at most, in bytes before compression: 1 KiB to 8 MiB, 256 KiB unless told otherwise. A larger
    /// record is a batch of its own. Topics have a limit, too (`max.message.bytes`, 1 MiB unless changed); a batch that is
    /// over it is sent in halves.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.settings.batch_bytes = bytes.clamp(*BATCH_BYTES.start(), *BATCH_BYTES.end());
        self
    }

    /// What may wait in this producer, in bytes of records; 32 MiB unless told otherwise. When so much waits
    /// [`Producer::send`] does, too.
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes.clamp(1, u32::MAX as usize);
        self
    }

    /// Whether records that are sent again are written once; they are unless told otherwise. Without it a record may be
    /// written twice, and later ones before it.
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.settings.idempotent = idempotent;
        self
    }

    /// Longest time from [`Producer::send`] to an outcome, in milliseconds, at least 1; 120 000 unless told otherwise.
    pub fn delivery_timeout_ms(mut self, timeout_ms: u64) -> Self {
        self.settings.delivery_timeout_ms = timeout_ms.max(1);
        self
    }

    /// The producer. Must be called on a tokio runtime, which then runs it.
    pub fn build(self) -> Producer {
        Producer { service: Service::start(self.shared, self.settings, self.buffer_bytes) }
    }
}

/// Writes records; made by [`ProducerBuilder::build`].
///
/// [`Producer::send`] puts a record into a batch and gives a [`Delivery`]; batches are sent in the background, to the leader of
/// their partition, several at a time, and again when something breaks. `&Producer` is enough to send, and it may be shared
/// in an `Arc`; the order of calls is the order in a partition.
///
/// Dropping it gives up what is not acknowledged: those deliveries end with an error, and what was on its way may be written.
/// [`Producer::close`] waits for everything.
#[derive(Debug)]
pub struct Producer {
    service: Service,
}

impl Producer {
    /// Takes a record. Waits until the buffer has room for it and, for the first record of a topic, until its partitions are
    /// known; brokers that are set to create the topic. The outcome is the [`Delivery`]'s; it need not be awaited.
    ///
    /// Errors: the topic or the partition is not there; the record is larger than the buffer or than 15 MiB.
    /// The record is then not sent. Cancelled, it is not sent either.
    pub async fn send(&self, topic: &str, record: impl Into<Record>) -> Result<Delivery, Error> {
        self.service.send(topic, record.into()).await
    }

    /// Sends what waits at once, and waits until each record that was taken before has its outcome.
    pub async fn flush(&self) {
        self.service.flush().await;
    }

    /// [`Producer::flush`], and then ends it.
    pub async fn close(self) {
        self.service.flush().await;
    }
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// Its partition.
    pub partition: i32,
    /// Its offset; `None` if the broker had written it before and has forgotten where.
    pub offset: Option<i64>,
}

/// A record on its way: a future of its outcome. Dropping it changes nothing.
///
/// Errors: it was refused, or its time was over. [`Error::may_have_happened`] says whether it may be written all the same.
#[derive(Debug)]
#[must_use = "the outcome of a record is only known here"]
pub struct Delivery {
    outcome: oneshot::Receiver<Result<Delivered, Error>>,
}

impl Future for Delivery {
    type Output = Result<Delivered, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = std::task::ready!(Pin::new(&mut self.outcome).poll(context));
        let ended = || Error::new(Reason::Unavailable, "the producer was dropped before the record was acknowledged");
        Poll::Ready(outcome.unwrap_or_else(|_| Err(ended().possibly_done())))
    }
}
