//! Requests that go on to another broker: the leader of their partition.
//!
//! Invariant: a request is forwarded once at most; at the second broker the leader must be found or the first one is told.
//! Connections are kept for brokers that live, and only for them. A broker that hangs is found by pings, so that whoever waits
//! for it hears of it. Dropping a call cancels it at the other broker, too.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use parking_lot::Mutex;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::base::HashMap;
use crate::cluster::{ClusterImage, GRPC_ENDPOINT};
use crate::protocol::grpc::internal::peer_client::PeerClient;
use crate::protocol::grpc::v1::admin_client::AdminClient;
use crate::protocol::grpc::v1::consumer_client::ConsumerClient;
use crate::protocol::grpc::v1::producer_client::ProducerClient;
use crate::protocol::grpc::v1::{ProduceRequest, ProduceResponse};
use crate::protocol::grpc::{internal, v1};

/// Says that a request was forwarded.
const FORWARDED: &str = "esker-forwarded";
/// Longest wait for a connection, in milliseconds.
const CONNECT_TIMEOUT_MS: u64 = 1_000;
/// A connection in use is pinged this often, in milliseconds.
const PING_INTERVAL_MS: u64 = 2_000;
/// A connection whose ping is not answered for this long is closed, in milliseconds.
const PING_TIMEOUT_MS: u64 = 3_000;
/// Bytes that one call may be sent before they are read.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes that all calls of a connection may be sent before they are read. Readers take what comes at once, so that one of
/// them never holds up the others.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// What goes through a connection: a broker with many streams under way still answers questions, heartbeats above all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Calls {
    /// Streams that stay.
    Long,
    /// Questions and answers.
    Short,
}

/// Makes the connection to another broker's door when the first call goes through it; the simulator has its own way.
pub type Dial = Arc<dyn Fn(Endpoint) -> Channel + Send + Sync>;

/// Connections to other brokers' gRPC doors.
pub struct Forward {
    dial: Dial,
    channels: Mutex<HashMap<(String, Calls), Channel>>,
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

    /// Has the broker at `endpoint` write the records of many requests.
    pub async fn produce_stream(
        &self,
        endpoint: &str,
        requests: impl Stream<Item = ProduceRequest> + Send + 'static,
        image: &ClusterImage,
        max_message_bytes: usize,
    ) -> Result<Streaming<ProduceResponse>, Status> {
        let channel = self.channel(endpoint, Calls::Long, image)?;
        let mut client = ProducerClient::new(channel).max_encoding_message_size(max_message_bytes);
        Ok(client.produce_stream(marked(requests)).await?.into_inner())
    }

    /// Has the broker at `endpoint` read partitions that it leads.
    pub async fn fetch(
        &self,
        endpoint: &str,
        requests: impl Stream<Item = v1::FetchRequest> + Send + 'static,
        image: &ClusterImage,
    ) -> Result<Streaming<v1::FetchResponse>, Status> {
        // What a batch holds is bounded where it is written.
        let mut client =
            ConsumerClient::new(self.channel(endpoint, Calls::Long, image)?).max_decoding_message_size(usize::MAX);
        Ok(client.fetch(marked(requests)).await?.into_inner())
    }

    /// Asks the broker at `endpoint` for offsets of partitions that it leads.
    pub async fn list_offsets(
        &self,
        endpoint: &str,
        request: v1::ListOffsetsRequest,
        image: &ClusterImage,
    ) -> Result<v1::ListOffsetsResponse, Status> {
        let mut client = AdminClient::new(self.channel(endpoint, Calls::Short, image)?);
        Ok(client.list_offsets(marked(request)).await?.into_inner())
    }

    /// Has the broker at `endpoint` move the log start of partitions that it leads.
    pub async fn delete_records(
        &self,
        endpoint: &str,
        request: v1::DeleteRecordsRequest,
        image: &ClusterImage,
    ) -> Result<v1::DeleteRecordsResponse, Status> {
        let mut client = AdminClient::new(self.channel(endpoint, Calls::Short, image)?);
        Ok(client.delete_records(marked(request)).await?.into_inner())
    }

    /// Has the broker at `endpoint` answer as a coordinator; answers are at most `max_answer_bytes` long.
    pub async fn coordinate(
        &self,
        endpoint: &str,
        request: internal::CoordinateRequest,
        image: &ClusterImage,
        max_answer_bytes: usize,
    ) -> Result<bytes::Bytes, Status> {
        let channel = self.channel(endpoint, Calls::Short, image)?;
        let mut client = PeerClient::new(channel).max_decoding_message_size(max_answer_bytes);
        Ok(client.coordinate(marked(request)).await?.into_inner().response)
    }

    fn channel(&self, endpoint: &str, calls: Calls, image: &ClusterImage) -> Result<Channel, Status> {
        let mut channels = self.channels.lock();
        let of = (endpoint.to_owned(), calls);
        if let Some(channel) = channels.get(&of) {
            return Ok(channel.clone());
        }
        channels
            .retain(|(at, _), _| image.brokers.values().any(|broker| broker.endpoints.get(GRPC_ENDPOINT) == Some(at)));
        let at = Endpoint::from_shared(format!("http://{endpoint}"))
            .map_err(|error| Status::internal(format!("the leader's address '{endpoint}' is no host:port: {error}")))?;
        let at = at
            .connect_timeout(Duration::from_millis(CONNECT_TIMEOUT_MS))
            .http2_keep_alive_interval(Duration::from_millis(PING_INTERVAL_MS))
            .keep_alive_timeout(Duration::from_millis(PING_TIMEOUT_MS))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .tcp_nodelay(true);
        let channel = (self.dial)(at);
        channels.insert(of, channel.clone());
        Ok(channel)
    }
}

/// A request that is not to be forwarded again.
fn marked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(FORWARDED, tonic::metadata::MetadataValue::from_static("1"));
    request
}
