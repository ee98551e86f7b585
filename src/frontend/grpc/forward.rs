//! Requests that go on to another broker: the leader of their partition.
//!
//! Invariant: a request is forwarded once at most; at the second broker the leader must be found or the client is told.
//! Connections are kept for brokers that live, and only for them.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::base::HashMap;
use crate::cluster::{ClusterImage, GRPC_ENDPOINT};
use crate::protocol::grpc::v1::producer_client::ProducerClient;
use crate::protocol::grpc::v1::{ProduceRequest, ProduceResponse};

/// Says that a request was forwarded.
const FORWARDED: &str = "esker-forwarded";

/// Makes the connection to another broker's door when the first call goes through it; the simulator has its own way.
pub type Dial = Arc<dyn Fn(Endpoint) -> Channel + Send + Sync>;

/// Connections to other brokers' gRPC doors.
pub struct Forward {
    dial: Dial,
    channels: Mutex<HashMap<String, Channel>>,
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward").field("channels", &self.channels).finish_non_exhaustive()
    }
}

impl Forward {
    /// With connections as `dial` makes them.
    pub fn new(dial: Dial) -> Self {
        Self { dial, channels: Mutex::default() }
    }

    /// Over TCP.
    pub fn over_tcp() -> Dial {
        Arc::new(|endpoint| endpoint.connect_lazy())
    }

    /// Whether a request came from another broker.
    pub fn was_forwarded(metadata: &MetadataMap) -> bool {
        metadata.contains_key(FORWARDED)
    }

    /// Has the broker at `endpoint` do it.
    pub async fn produce(
        &self,
        endpoint: &str,
        request: ProduceRequest,
        image: &ClusterImage,
        max_message_bytes: usize,
    ) -> Result<ProduceResponse, Status> {
        let channel = self.channel(endpoint, image)?;
        let mut client = ProducerClient::new(channel).max_encoding_message_size(max_message_bytes);
        let mut request = Request::new(request);
        request.metadata_mut().insert(FORWARDED, tonic::metadata::MetadataValue::from_static("1"));
        Ok(client.produce(request).await?.into_inner())
    }

    fn channel(&self, endpoint: &str, image: &ClusterImage) -> Result<Channel, Status> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(endpoint) {
            return Ok(channel.clone());
        }
        channels.retain(|at, _| image.brokers.values().any(|broker| broker.endpoints.get(GRPC_ENDPOINT) == Some(at)));
        let at = Endpoint::from_shared(format!("http://{endpoint}"))
            .map_err(|error| Status::internal(format!("the leader's address '{endpoint}' is no host:port: {error}")))?;
        let channel = (self.dial)(at);
        channels.insert(endpoint.to_owned(), channel.clone());
        Ok(channel)
    }
}
