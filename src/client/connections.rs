//! Connections to brokers: one for each address that is needed, kept; and which of the bootstrap addresses is asked.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use super::error::root_cause;
use super::{Dial, Error, Reason, Shared};
use crate::base::{Backoff, HashMap};

/// Most bytes of one message that is taken: a batch may be as large as its topic allows.
pub(super) const MAX_MESSAGE_BYTES: usize = 256 << 20;
/// Connections that are kept; the next one empties the table first.
const MAX_CHANNELS: usize = 1_000;
/// A quiet connection is pinged this often, in milliseconds, so that a broker that vanished is noticed.
const PING_INTERVAL_MS: u64 = 5_000;
/// A connection whose ping is not answered for this long is closed, in milliseconds.
const PING_TIMEOUT_MS: u64 = 5_000;
/// Bytes that one call may be sent before they are read.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Bytes that all calls of a connection may be sent before they are read.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// See the module.
pub(super) struct Connections {
    bootstrap: Vec<String>,
    /// Position of the bootstrap address that is asked, modulo their number.
    at: AtomicUsize,
    connect_timeout: Duration,
    call_timeout_ms: u64,
    dial: Dial,
    channels: Mutex<HashMap<String, Channel>>,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("bootstrap", &self.bootstrap).finish_non_exhaustive()
    }
}

impl Connections {
    pub(super) fn new(
        bootstrap: &str,
        connect_timeout_ms: u64,
        call_timeout_ms: u64,
        dial: Dial,
    ) -> Result<Self, Error> {
        let listed = bootstrap.split(',').map(str::trim).filter(|one| !one.is_empty());
        let bootstrap: Vec<String> = listed.map(str::to_owned).collect();
        if bootstrap.is_empty() {
            return Err(Error::invalid("no broker's address is given"));
        }
        let connect_timeout = Duration::from_millis(connect_timeout_ms);
        let (at, channels) = (AtomicUsize::new(0), Mutex::default());
        let connections = Self { bootstrap, at, connect_timeout, call_timeout_ms, dial, channels };
        for address in &connections.bootstrap {
            connections.endpoint(address)?;
        }
        Ok(connections)
    }

    fn endpoint(&self, address: &str) -> Result<Endpoint, Error> {
        let has_port =
            address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        let endpoint = Endpoint::from_shared(format!("http://{address}")).ok().filter(|_| has_port);
        let endpoint = endpoint.ok_or_else(|| Error::invalid(format!("'{address}' is no host:port")))?;
        Ok(endpoint
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(Duration::from_millis(PING_INTERVAL_MS))
            .keep_alive_timeout(Duration::from_millis(PING_TIMEOUT_MS))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .tcp_nodelay(true))
    }

    /// The connection to the broker at `address`.
    pub(super) fn to(&self, address: &str) -> Result<Channel, Error> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        if channels.len() >= MAX_CHANNELS {
            channels.clear();
        }
        let channel = (self.dial)(self.endpoint(address)?);
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    /// The bootstrap address whose turn it is, and its place in the turns.
    pub(super) fn current(&self) -> (usize, &str) {
        let at = self.at.load(Ordering::Relaxed);
        (at, &self.bootstrap[at % self.bootstrap.len()])
    }

    /// The address of turn `at` did not answer: it is the next one's turn.
    pub(super) fn next_after(&self, at: usize) {
        let _ = self.at.compare_exchange(at, at.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Shared {
    /// Makes a call at a bootstrap address: of each in turn until one is reached; an error that may pass is tried again for
    /// as long as a call may take. A call whose answer was lost is made again.
    ///
    /// Errors: what the broker says; or nobody is reached, and the text says what each address said.
    pub(super) async fn call<T, F>(&self, mut make: impl FnMut(Channel) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let clock = &self.clock;
        let until_ms = clock.boot_ms().saturating_add(self.connections.call_timeout_ms);
        let mut refusals: Vec<(String, String)> = Vec::new();
        let mut failures = 0;
        loop {
            let left = Duration::from_millis(until_ms.saturating_sub(clock.boot_ms()));
            let (at, address) = self.connections.current();
            let channel = self.connections.to(address)?;
            let Ok(answer) = tokio::time::timeout(left, make(channel)).await else {
                self.connections.next_after(at);
                let waited_ms = self.connections.call_timeout_ms;
                return Err(Error::new(Reason::TimedOut, format!("{address} does not answer within {waited_ms} ms")));
            };
            match answer {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) if Error::is_transport(&status) => {
                    self.connections.next_after(at);
                    refusals.push((address.to_owned(), root_cause(&status)));
                    if refusals.len() >= self.connections.bootstrap.len() {
                        let each: Vec<String> = refusals.iter().map(|(who, why)| format!("{who}: {why}")).collect();
                        return Err(Error::unavailable(format!("no broker answers ({})", each.join("; "))));
                    }
                }
                Err(status) => {
                    let error = Error::of_status(&status);
                    failures += 1;
                    let pause = Backoff::default().pause(failures, &self.rng);
                    if !error.is_retriable() || pause >= left {
                        return Err(error);
                    }
                    refusals.clear();
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}
