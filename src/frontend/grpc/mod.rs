//! Floor 7: gRPC: what operators ask ([`admin`]) and what other brokers ask ([`peers`]); server reflection and
//! `grpc.health.v1`, so that `grpcurl` and load balancers need nothing else.
//!
//! Errors are gRPC statuses; [`errors`] says which. A call works with the one broker session that was there when it began.
//!
//! Invariant: at most `grpc.max_connections` connections are open (more wait in the listen queue), each with at most
//! [`MAX_STREAMS`] calls under way; one whose other end is gone is found by pings and closed.
//!
//! Nothing is stored: a crash or a cancelled call leaves nothing behind.

pub mod admin;
mod errors;
mod incoming;
pub mod peers;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::ServingStatus;

use crate::broker::BrokerSlot;
use crate::protocol::grpc::DESCRIPTORS;
use crate::protocol::grpc::internal::peer_server::PeerServer;
use crate::protocol::grpc::v1::admin_server::AdminServer;

/// Calls under way on one connection; clients wait before they begin more.
const MAX_STREAMS: u32 = 256;
/// A quiet connection is pinged this often, in milliseconds.
const PING_INTERVAL_MS: u64 = 20_000;
/// A connection whose ping is not answered for this long is closed, in milliseconds.
const PING_TIMEOUT_MS: u64 = 10_000;

/// Serves until `stop`; calls under way are then answered before the connections close.
///
/// Errors: the listener failed; or the built-in descriptors are unreadable, which a test rules out.
pub async fn serve(
    listener: TcpListener,
    max_connections: usize,
    slot: BrokerSlot,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::Serving).await;
    health.set_service_status("esker.v1.Admin", ServingStatus::Serving).await;
    let descriptors = [DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];
    let reflection = descriptors
        .into_iter()
        .fold(tonic_reflection::server::Builder::configure(), |builder, set| {
            builder.register_encoded_file_descriptor_set(set)
        })
        .build_v1()
        .inspect_err(|error| tracing::error!(%error, "gRPC server reflection is off"))
        .ok();
    let admin = AdminServer::new(admin::Admin::new(slot.clone()));
    let peer = PeerServer::new(peers::Peer::new(slot)).max_encoding_message_size(peers::MAX_ANSWER_BYTES);
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(Duration::from_millis(PING_INTERVAL_MS)))
        .http2_keepalive_timeout(Some(Duration::from_millis(PING_TIMEOUT_MS)))
        .tcp_nodelay(true)
        .add_service(health_service)
        .add_optional_service(reflection)
        .add_service(admin)
        .add_service(peer)
        .serve_with_incoming_shutdown(incoming::limited(listener, max_connections), stop.cancelled_owned())
        .await
}
