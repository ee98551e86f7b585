//! Listening, and the limits on connections: of all, and of one address.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::metrics::CloseLabels;
use super::{Front, connection};
use crate::base::per_ip::PerIp;

/// Pause after a failed accept (out of file descriptors, mostly), in milliseconds.
const ACCEPT_PAUSE_MS: u64 = 100;

/// The address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for Kafka clients on {address}: {reason}; {advice}")]
pub struct BindError {
    /// The address as it was given.
    pub address: String,
    /// What the machine said.
    pub reason: io::Error,
    advice: &'static str,
}

impl BindError {
    fn new(address: &str, reason: io::Error) -> Self {
        let advice = match reason.kind() {
            io::ErrorKind::AddrInUse => "stop the process that has the port, or choose another with --kafka-listen",
            io::ErrorKind::PermissionDenied => "ports below 1024 need privileges: choose another with --kafka-listen",
            io::ErrorKind::AddrNotAvailable => "this machine has no such address: give one it has with --kafka-listen",
            _ => "give --kafka-listen as host:port",
        };
        Self { address: address.to_owned(), reason, advice }
    }
}

/// Listens on `address` (`host:port`; port 0 lets the machine choose).
pub async fn bind(address: &str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|reason| BindError::new(address, reason))
}

/// Accepts and serves connections until `stop`, then lets replies that are due go out and returns.
pub async fn serve(listener: TcpListener, front: Arc<Front>, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let room = Arc::new(Semaphore::new(front.settings.max_connections));
    let per_ip = PerIp::new(front.settings.max_connections_per_ip);
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(hidden) = front.gates.accept.open(front.clock.boot_ms()) {
                    tracing::warn!(%error, hidden, "cannot accept a Kafka connection");
                }
                tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                continue;
            }
        };
        front.metrics.accepted.inc();
        let Some(of_address) = per_ip.acquire(peer.ip()) else {
            refused(&front, peer, "max_connections_per_ip", front.settings.max_connections_per_ip);
            continue;
        };
        let Ok(of_all) = room.clone().try_acquire_owned() else {
            refused(&front, peer, "max_connections", front.settings.max_connections);
            continue;
        };
        prepare(&stream);
        let (front, stop) = (front.clone(), stop.clone());
        connections.spawn(async move {
            serve_halves(front, stream.into_split(), peer, stop).await;
            drop((of_all, of_address));
        });
    }
    connections.close();
    connections.wait().await;
}

/// Serves one connection that came another way than by a listener: two halves of any stream of bytes.
pub async fn serve_halves<R, W>(front: Arc<Front>, halves: (R, W), peer: SocketAddr, stop: CancellationToken)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    front.metrics.connections.inc();
    let _open = OpenConnection(front.clone());
    connection::run(front, halves, peer, stop).await;
}

/// Counts and tells of a connection that is closed at once, since the limit `kafka.<setting>` is reached.
fn refused(front: &Front, peer: SocketAddr, setting: &'static str, limit: usize) {
    front.metrics.refused.get_or_create(&CloseLabels { reason: setting }).inc();
    if let Some(hidden) = front.gates.refused.open(front.clock.boot_ms()) {
        tracing::warn!(%peer, limit, hidden, "refused a Kafka connection: kafka.{setting} is reached");
    }
}

/// Counts a connection as open until it is dropped, whichever way it ends.
struct OpenConnection(Arc<Front>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.metrics.connections.dec();
    }
}

fn prepare(stream: &TcpStream) {
    // Both only help: a connection works without them.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(stream).set_keepalive(true);
}

/// The address that clients are told when none was given: where the listener is.
pub fn advertised(given: Option<&str>, listening: SocketAddr) -> String {
    given.map_or_else(|| listening.to_string(), str::to_owned)
}
