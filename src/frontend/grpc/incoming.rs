//! Connections as they come: at most so many at once, and of one address.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::Connected;

use super::metrics::Metrics;
use crate::base::per_ip::{PerIp, Permit};

/// Pause after a failed accept (out of file descriptors, mostly), in ms.
const ACCEPT_PAUSE_MS: u64 = 100;

/// The listener's connections; while `max_connections` are open the next one waits in the listen queue. Of one address at most
/// `max_per_ip` (0 for any number): the next one is closed.
pub fn limited(
    listener: TcpListener,
    max_connections: usize,
    max_per_ip: usize,
    metrics: Metrics,
) -> impl Stream<Item = io::Result<Connection>> {
    let room = Arc::new(Semaphore::new(max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let door = (listener, room, PerIp::new(max_per_ip), metrics);
    futures::stream::unfold(door, async |(listener, room, per_ip, metrics)| {
        let of_all = room.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    metrics.accepted.inc();
                    let Some(of_address) = per_ip.acquire(peer.ip()) else {
                        metrics.refuse("max_connections_per_ip");
                        tracing::debug!(%peer, "refused a gRPC connection: grpc.max_connections_per_ip is reached");
                        continue;
                    };
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, %peer, "a gRPC connection stays with delayed small packets");
                    }
                    metrics.connections.inc();
                    let place = Place { open: metrics.connections.clone(), _room: (of_all, of_address) };
                    return Some((Ok(Connection { stream, peer, _place: place }), (listener, room, per_ip, metrics)));
                }
                Err(error) => {
                    tracing::warn!(%error, "a gRPC connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                }
            }
        }
    })
}

/// A place among the allowed connections.
#[derive(Debug)]
struct Place {
    open: Gauge,
    _room: (OwnedSemaphorePermit, Permit),
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// A connection that holds its place among the allowed ones.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    _place: Place,
}

impl Connected for Connection {
    type ConnectInfo = SocketAddr;

    fn connect_info(&self) -> SocketAddr {
        self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
