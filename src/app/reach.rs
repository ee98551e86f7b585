//! How the controller reaches other brokers: their streams through the object store, their processes through HTTP.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::base::{Rng, SessionId};
use crate::cluster::{ProbeOutcome, Reach};
use crate::objstore::ObjectStore;
use crate::partition::seal::seal_stream;

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
