//! The Kafka front door: frames in, frames out; versions and errors are translated here, decisions are the broker's.
//!
//! - [`server`] listens and limits connections, of all and ([`crate::base::per_ip`]) of one address; [`connection`] orders requests and replies of one;
//! - [`versions`] is the table of what is served: API, versions, handler;
//! - [`call`] decodes a request (after [`crate::protocol::shape`] has walked its bytes) and encodes its reply;
//! - the other files are the handlers, by area; [`errors`] maps typed errors to Kafka's codes.
//!
//! Bytes from the network never panic: lengths are checked before anything is allocated, unknown APIs and versions and
//! malformed requests close the connection with a log line (rate limited) and a metric, as Kafka does. A crash loses
//! nothing that a reply promised, since replies wait for what they promise. Cancellation (a client that goes away) stops
//! long polls; a request that changes something runs to its end.

mod call;
mod connection;
pub mod errors;
mod frame;
mod gate;
pub mod metrics;
pub mod server;
mod versions;

mod admin;
mod configs;
mod describe;
mod endpoints;
mod fetch;
mod fetch_reply;
mod fetch_session;
mod groups;
mod metadata;
mod offsets;
mod produce;
mod topics;

#[cfg(test)]
pub(super) mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;

pub use endpoints::EXTERNAL_ENDPOINT;
pub use server::{BindError, advertised, bind, serve, serve_halves};

use self::fetch_session::FetchSessions;
use crate::base::{Clock, Rng};
use crate::broker::{Broker, BrokerSlot};
use crate::config::KafkaSettings;

/// What all connections share.
#[derive(Debug)]
pub struct Front {
    broker: BrokerSlot,
    settings: KafkaSettings,
    metrics: metrics::Metrics,
    sessions: Arc<FetchSessions>,
    /// Bytes of requests at work, all connections together.
    inflight: Arc<Semaphore>,
    gates: gate::Gates,
    clock: Clock,
    rng: Rng,
    /// Its clients are told the brokers' external addresses.
    external: bool,
}

impl Front {
    /// A front door to whatever broker is in the slot.
    pub fn new(
        broker: BrokerSlot,
        settings: KafkaSettings,
        registry: &mut Registry,
        clock: Clock,
        rng: Rng,
    ) -> Arc<Self> {
        Arc::new(Self {
            broker,
            metrics: metrics::Metrics::register(registry),
            sessions: Arc::new(FetchSessions::new(settings.max_fetch_sessions)),
            inflight: Arc::new(Semaphore::new(settings.inflight_bytes)),
            gates: gate::Gates::default(),
            settings,
            clock,
            rng,
            external: false,
        })
    }

    /// The same front door for the second listener: its clients are told the external addresses of brokers that have one.
    pub fn external(&self) -> Arc<Self> {
        Arc::new(Self {
            broker: self.broker.clone(),
            settings: self.settings.clone(),
            metrics: self.metrics.clone(),
            sessions: self.sessions.clone(),
            inflight: self.inflight.clone(),
            gates: gate::Gates::default(),
            clock: self.clock.clone(),
            rng: self.rng.clone(),
            external: true,
        })
    }
}

/// One request, as handlers see it: who asks, and the broker that was there when it came.
#[derive(Debug)]
struct Session {
    front: Arc<Front>,
    broker: Arc<Broker>,
    peer: SocketAddr,
}

impl Session {
    fn new(front: Arc<Front>, peer: SocketAddr) -> Self {
        let broker = front.broker.current();
        Self { front, broker, peer }
    }

    fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Counts an error code sent to the client.
    fn count_error(&self, api: &'static str, code: i16) {
        if code != 0 {
            self.front.metrics.errors.get_or_create(&metrics::ErrorLabels { api, code }).inc();
        }
    }
}
