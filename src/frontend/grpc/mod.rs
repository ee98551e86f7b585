//! Floor 7: gRPC: writing ([`producer`]), reading ([`consumer`]), what operators ask ([`admin`]) and what other brokers ask
//! ([`peers`]); server reflection and `grpc.health.v1`, so that `grpcurl` and load balancers need nothing else.
//!
//! Any broker answers any call: [`forward`] is the way to the others. Partitions are read by [`reading`] wherever they are led,
//! [`offsets`] asks leaders, [`coordination`] the coordinators of groups; [`consume`] is a group's member for a client.
//!
//! Errors are gRPC statuses; [`errors`] says which. A call works with the one broker session that was there when it began.
//!
//! Invariant: at most `grpc.max_connections` connections are open (more wait in the listen queue), of one address at most
//! `grpc.max_connections_per_ip` (more are closed), each with at most [`MAX_STREAMS`] calls under way; one whose other end is
//! gone is found by pings and closed. At most `grpc.max_members` members of consumer groups are kept.
//!
//! Nothing is stored: a crash or a cancelled call leaves nothing behind.

pub mod admin;
mod consume;
pub mod consumer;
mod coordination;
mod deadline;
mod errors;
pub mod forward;
mod groups;
mod incoming;
pub mod metrics;
mod offsets;
pub mod peers;
pub mod producer;
mod producing;
mod reading;
mod records;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic_health::ServingStatus;

use self::forward::{Dial, Forward};
use crate::base::Clock;
use crate::broker::BrokerSlot;
use crate::config::GrpcSettings;
use crate::protocol::grpc::DESCRIPTORS;
use crate::protocol::grpc::internal::peer_server::PeerServer;
use crate::protocol::grpc::v1::admin_server::AdminServer;
use crate::protocol::grpc::v1::consumer_server::ConsumerServer;
use crate::protocol::grpc::v1::producer_server::ProducerServer;

/// Calls under way on one connection; clients wait before they begin more.
const MAX_STREAMS: u32 = 1_024;
/// Bytes that one call may send before they are read.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes that all calls of a connection may send before they are read.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Longest HTTP/2 frame that is taken: a batch comes in few pieces, each of which costs a system call or two at both ends.
const FRAME_BYTES: u32 = 256 << 10;
/// A quiet connection is pinged this often, in milliseconds.
const PING_INTERVAL_MS: u64 = 20_000;
/// A connection whose ping is not answered for this long is closed, in milliseconds.
const PING_TIMEOUT_MS: u64 = 10_000;

/// Serves until `stop`; calls under way are then answered before the connections close.
///
/// Errors: the listener failed; or the built-in descriptors are unreadable, which a test rules out.
pub async fn serve(
    listener: TcpListener,
    settings: &GrpcSettings,
    slot: BrokerSlot,
    clock: Clock,
    metrics: metrics::Metrics,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let connections =
        incoming::limited(listener, settings.max_connections, settings.max_connections_per_ip, metrics.clone());
    serve_all(connections, settings, slot, clock, metrics, Forward::new(Forward::over_tcp()), stop).await
}

/// The same over connections of any kind, which are not counted; other brokers are reached by `dial`.
///
/// Errors: as [`serve`].
pub async fn serve_connections<C>(
    connections: impl Stream<Item = io::Result<C>>,
    settings: &GrpcSettings,
    slot: BrokerSlot,
    clock: Clock,
    dial: Dial,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let metrics = metrics::Metrics::default();
    serve_all(connections, settings, slot, clock, metrics, Forward::new(dial), stop).await
}

async fn serve_all<C>(
    connections: impl Stream<Item = io::Result<C>>,
    settings: &GrpcSettings,
    slot: BrokerSlot,
    clock: Clock,
    metrics: metrics::Metrics,
    forward: Forward,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let forward = Arc::new(forward);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::Serving).await;
    for service in ["esker.v1.Admin", "esker.v1.Consumer", "esker.v1.Producer"] {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
    // Tools speak one of the two.
    let (newer, older) = (readable(reflection().build_v1()), readable(reflection().build_v1alpha()));
    let offsets = offsets::Offsets::new(slot.clone(), forward.clone(), clock.clone());
    let coordinators = coordination::Coordinators::new(slot.clone(), forward.clone(), clock.clone());
    let groups = groups::Groups::new(coordinators.clone(), offsets.clone());
    let admin = AdminServer::new(admin::Admin::new(slot.clone(), offsets.clone(), groups));
    let limit = settings.max_message_bytes;
    let producer = producer::Producer::new(slot.clone(), clock.clone(), limit, forward.clone(), metrics.clone());
    let producer = ProducerServer::new(producer).max_decoding_message_size(limit);
    let seats = metrics::Seats::new(settings.max_members, metrics.clone());
    let library = reading::Library { slot: slot.clone(), forward, offsets, clock, metrics };
    // What a batch holds is bounded where it is written.
    let consumer = ConsumerServer::new(consumer::Consumer::new(library, coordinators, seats))
        .max_encoding_message_size(usize::MAX);
    let peer = PeerServer::new(peers::Peer::new(slot)).max_encoding_message_size(peers::MAX_ANSWER_BYTES);
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(Duration::from_millis(PING_INTERVAL_MS)))
        .http2_keepalive_timeout(Some(Duration::from_millis(PING_TIMEOUT_MS)))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .tcp_nodelay(true)
        .add_service(health_service)
        .add_optional_service(newer)
        .add_optional_service(older)
        .add_service(admin)
        .add_service(producer)
        .add_service(consumer)
        .add_service(peer)
        .serve_with_incoming_shutdown(connections, stop.cancelled_owned())
        .await
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    let sets = [DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];
    let builder = tonic_reflection::server::Builder::configure();
    sets.into_iter().fold(builder, tonic_reflection::server::Builder::register_encoded_file_descriptor_set)
}

/// Without reflection the rest is served all the same.
fn readable<S>(built: Result<S, tonic_reflection::server::Error>) -> Option<S> {
    built.inspect_err(|error| tracing::error!(%error, "gRPC server reflection is off")).ok()
}
