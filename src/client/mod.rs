//! Floor 2: the Rust client: writing, reading and operating a cluster through gRPC (`proto/esker/v1`).
//!
//! ```no_run
//! # async fn example() -> Result<(), esker::client::Error> {
//! use esker::client::{Client, Start};
//!
//! let client = Client::connect("127.0.0.1:9094")?;
//! let producer = client.producer().build();
//! let written = producer.send("greetings", "hello").await?.await?;
//! println!("hello is at offset {:?} of partition {}", written.offset, written.partition);
//! let mut records = client.consumer().topic("greetings").start(Start::Earliest).build();
//! while let Some(record) = records.recv().await? {
//!     println!("{}", record.text());
//! }
//! # Ok(()) }
//! ```
//!
//! A [`Client`] connects when something is asked of it, to the first bootstrap address that answers, and to the leaders of
//! partitions, which brokers name. It is a handle: clones share connections. What it does in the background runs on the
//! tokio runtime that it is used on.
//!
//! Invariants:
//! - a [`Producer`] keeps the order of `send` within a partition and, unless it is told otherwise, writes each record once,
//!   whatever breaks; a record whose fate is not known is reported as such ([`Error::may_have_happened`]);
//! - a [`Consumer`] gives each record of a partition once, in order, whatever breaks; what is buffered is bounded.
//!
//! Nothing is stored. A process that dies loses what it has not sent; what it sent and was not told of may be there.
//!
//! Only `app` uses this module of the crate; it imports nothing of the broker.

pub mod admin;
mod connections;
pub mod consumer;
mod error;
mod metadata;
pub mod producer;
mod record;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tonic::transport::{Channel, Endpoint};

use self::connections::Connections;
use self::metadata::Metadata;
use crate::base::{Clock, Rng};

pub use self::admin::Admin;
pub use self::consumer::{Consumer, GroupConsumer, Isolation, Reset, Start};
pub use self::error::{Error, Reason};
pub use self::producer::{Delivered, Delivery, Producer};
pub use self::record::{ConsumerRecord, Record};
pub use crate::protocol::batch::Compression;

/// Makes the connection to a broker when the first call goes through it.
pub type Dial = Arc<dyn Fn(Endpoint) -> Channel + Send + Sync>;

/// Where brokers are when nobody says otherwise.
pub const DEFAULT_BOOTSTRAP: &str = "127.0.0.1:9094";
/// Longest wait for a connection unless told otherwise, in milliseconds.
const CONNECT_TIMEOUT_MS: u64 = 3_000;
/// Longest time for one call of [`Admin`] with its repetitions unless told otherwise, in milliseconds.
const CALL_TIMEOUT_MS: u64 = 15_000;

/// Access to a cluster. Cheap to clone; clones share connections and what is known of the cluster.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    connections: Connections,
    metadata: Metadata,
    clock: Clock,
    rng: Rng,
}

/// How a [`Client`] connects.
#[must_use]
pub struct ClientBuilder {
    bootstrap: String,
    connect_timeout_ms: u64,
    call_timeout_ms: u64,
    dial: Dial,
    clock: Clock,
    rng: Rng,
}

impl Client {
    /// A client of the brokers at `bootstrap`: `host:port` of the gRPC door of one or several, separated by commas. It
    /// connects when something is asked of it.
    ///
    /// Errors ([`Reason::Invalid`]): an address is no `host:port`, or there is none.
    pub fn connect(bootstrap: &str) -> Result<Self, Error> {
        Self::builder(bootstrap).build()
    }

    /// A client of the brokers that the variable `ESKER_BOOTSTRAP` names, or of `127.0.0.1:9094`.
    ///
    /// Errors: as [`Client::connect`].
    pub fn from_env() -> Result<Self, Error> {
        Self::connect(std::env::var("ESKER_BOOTSTRAP").as_deref().unwrap_or(DEFAULT_BOOTSTRAP))
    }

    /// As [`Client::connect`], with more to say.
    pub fn builder(bootstrap: &str) -> ClientBuilder {
        ClientBuilder {
            bootstrap: bootstrap.to_owned(),
            connect_timeout_ms: CONNECT_TIMEOUT_MS,
            call_timeout_ms: CALL_TIMEOUT_MS,
            dial: Arc::new(|endpoint| endpoint.connect_lazy()),
            clock: Clock::system(),
            rng: Rng::system(),
        }
    }

    /// Settings of a [`Producer`] of this cluster.
    pub fn producer(&self) -> producer::ProducerBuilder {
        producer::ProducerBuilder::new(self.shared.clone())
    }

    /// Settings of a [`Consumer`] of this cluster, or of a member of a consumer group.
    pub fn consumer(&self) -> consumer::ConsumerBuilder {
        consumer::ConsumerBuilder::new(self.shared.clone())
    }

    /// What operators ask.
    pub fn admin(&self) -> Admin {
        Admin::new(self.shared.clone())
    }
}

impl ClientBuilder {
    /// Longest wait for a connection, in milliseconds; 3 000 unless told otherwise.
    pub fn connect_timeout_ms(mut self, timeout_ms: u64) -> Self {
        self.connect_timeout_ms = timeout_ms;
        self
    }

    /// Longest time for one call of [`Admin`] with its repetitions, in milliseconds; 15 000 unless told otherwise.
    pub fn call_timeout_ms(mut self, timeout_ms: u64) -> Self {
        self.call_timeout_ms = timeout_ms;
        self
    }

    /// Connections are made by `dial` instead of over TCP.
    pub fn dial(mut self, dial: Dial) -> Self {
        self.dial = dial;
        self
    }

    /// Time and randomness from here instead of from the machine.
    pub fn ambient(mut self, clock: Clock, rng: Rng) -> Self {
        (self.clock, self.rng) = (clock, rng);
        self
    }

    /// The client.
    ///
    /// Errors: as [`Client::connect`].
    pub fn build(self) -> Result<Client, Error> {
        let Self { bootstrap, connect_timeout_ms, call_timeout_ms, dial, clock, rng } = self;
        let connections = Connections::new(&bootstrap, connect_timeout_ms, call_timeout_ms, dial)?;
        Ok(Client { shared: Arc::new(Shared { connections, metadata: Metadata::default(), clock, rng }) })
    }
}

impl std::fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientBuilder").field("bootstrap", &self.bootstrap).finish_non_exhaustive()
    }
}
