//! How other brokers are reached: their streams through the object store, their processes through HTTP and gRPC.
//!
//! Every question has a time limit, and none is needed: streams and the metadata store say the same, later.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use crate::base::{Rng, SessionId, TopicPartition};
use crate::broker::{Peers, Told};
use crate::cluster::{GRPC_ENDPOINT, ProbeOutcome, Reach};
use crate::format::metadata::BrokerRecord;
use crate::frontend::grpc::peers;
use crate::objstore::ObjectStore;
use crate::partition::seal::seal_stream;
use crate::protocol::grpc::internal::TrafficRequest;
use crate::protocol::grpc::internal::peer_client::PeerClient;

/// See the module.
#[derive(Debug)]
pub struct Network {
    /// Where streams are.
    pub store: Arc<dyn ObjectStore>,
    /// Ids of seals.
    pub rng: Rng,
}

#[async_trait]
impl Reach for Network {
    async fn seal(&self, session: SessionId) -> Result<u64, String> {
        seal_stream(&self.store, &self.rng, session).await.map_err(|error| error.to_string())
    }

    async fn probe(&self, endpoint: &str, timeout_ms: u64) -> ProbeOutcome {
        match tokio::time::timeout(Duration::from_millis(timeout_ms), ask(endpoint)).await {
            Ok(Ok(())) => ProbeOutcome::Answered,
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => ProbeOutcome::Refused,
            Ok(Err(_)) | Err(_) => ProbeOutcome::Silent,
        }
    }

    async fn traffic(&self, endpoint: &str, timeout_ms: u64) -> Result<Vec<(TopicPartition, u64)>, String> {
        within(timeout_ms, async {
            let mut peer = peer(endpoint).await?;
            let answer = peer.traffic(TrafficRequest {}).await.map_err(|status| status.to_string())?;
            peers::rates_of(answer.into_inner())
        })
        .await
    }
}

#[async_trait]
impl Peers for Network {
    async fn released(
        &self,
        broker: &BrokerRecord,
        wanted: &[(TopicPartition, i32)],
        timeout_ms: u64,
    ) -> Result<Told, String> {
        let endpoint = broker.endpoints.get(GRPC_ENDPOINT).ok_or("it has no gRPC endpoint")?;
        within(timeout_ms, async {
            let mut peer = peer(endpoint).await?;
            let request = peers::ask_released(broker.session, wanted);
            let answer = peer.released(request).await.map_err(|status| status.to_string())?;
            peers::states_of(answer.into_inner())
        })
        .await
    }
}

async fn within<T>(timeout_ms: u64, answer: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let limit = Duration::from_millis(timeout_ms);
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(format!("no answer within {timeout_ms} ms")))
}

/// A connection of its own: questions are rare, and a broker that is gone leaves nothing behind.
async fn peer(endpoint: &str) -> Result<PeerClient<Channel>, String> {
    let at = Endpoint::from_shared(format!("http://{endpoint}")).map_err(|error| error.to_string())?;
    let channel = at.connect().await.map_err(|error| format!("{endpoint}: {error}"))?;
    Ok(PeerClient::new(channel).max_decoding_message_size(peers::MAX_ANSWER_BYTES))
}

/// One answered byte is a sign of life; what it says is for others to judge.
async fn ask(endpoint: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(endpoint).await?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut first = [0_u8; 1];
    stream.read_exact(&mut first).await?;
    Ok(())
}
