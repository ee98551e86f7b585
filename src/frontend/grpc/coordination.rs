//! The way to a group's coordinator, wherever it is.
//!
//! Requests are Kafka's, in the one version of each that is spoken here. [`Coordinators`] finds the broker that coordinates a
//! group and asks it, by `Peer.Coordinate` if it is another one; [`dispatch`] is the other end. While a coordinator moves or
//! loads the question is asked again, for a bounded time: a request may then take effect twice, which Kafka's are made for.
//!
//! Nothing is kept; dropping a question cancels it at the other broker, too.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError as Kafka;
use kafka_protocol::messages::{
    ApiKey, DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    FindCoordinatorRequest, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest, OffsetFetchResponse,
    SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

use super::errors::explain_kafka;
use super::forward::Forward;
use super::offsets::{PAUSE_MS, lost};
use super::peers::MAX_ANSWER_BYTES;
use crate::base::Clock;
use crate::broker::{Broker, BrokerSlot};
use crate::cluster::{ClusterImage, GRPC_ENDPOINT};
use crate::coordinator::group::Caller;
use crate::protocol::grpc::internal::CoordinateRequest;
use crate::protocol::grpc::v1::{Error, Leader, Reason};
use crate::protocol::shape;

/// Who asks, as Kafka shows it.
#[derive(Debug, Clone, Default)]
pub struct Asker {
    /// What the client calls itself; member ids begin with it.
    pub client_id: String,
    /// A slash and its address.
    pub client_host: String,
}

/// A request to a coordinator.
pub trait Question: Encodable + Decodable + Send + Sync {
    /// Its answer.
    type Answer: Encodable + Decodable + Send;
    /// Which it is.
    const API: ApiKey;
    /// In the version that is spoken here.
    const VERSION: i16;
    /// An error of the answer that says that the coordinator is elsewhere, or not ready; 0 for none.
    fn moving(answer: &Self::Answer) -> i16;
    /// Answers it here.
    fn answer(self, broker: &Broker, asker: &Asker) -> impl Future<Output = Self::Answer> + Send;
}

/// The first of `codes` that goes away when the right broker is asked, or the same one later.
fn first_moving(codes: impl IntoIterator<Item = i16>) -> i16 {
    let moving = |code: &i16| {
        let error = Kafka::try_from_code(*code);
        matches!(error, Some(Kafka::NotCoordinator | Kafka::CoordinatorNotAvailable | Kafka::CoordinatorLoadInProgress))
    };
    codes.into_iter().find(moving).unwrap_or(0)
}

macro_rules! question {
    ($api:ident $version:literal, $request:ident -> $response:ident,
     |$told:ident| $codes:expr, |$broker:ident, $asker:ident, $asked:ident| $answer:expr) => {
        impl Question for $request {
            type Answer = $response;
            const API: ApiKey = ApiKey::$api;
            const VERSION: i16 = $version;
            fn moving($told: &$response) -> i16 {
                first_moving($codes)
            }
            async fn answer(self, $broker: &Broker, $asker: &Asker) -> $response {
                let $asked = self;
                $answer
            }
        }
    };
}

question!(JoinGroup 9, JoinGroupRequest -> JoinGroupResponse, |told| [told.error_code],
|broker, asker, asked| {
    let Asker { client_id, client_host } = asker.clone();
    broker.groups().join_group(Caller { client_id, client_host, api_version: Self::VERSION }, asked).await
});
question!(SyncGroup 5, SyncGroupRequest -> SyncGroupResponse, |told| [told.error_code],
    |broker, _asker, asked| broker.groups().sync_group(asked).await);
question!(Heartbeat 4, HeartbeatRequest -> HeartbeatResponse, |told| [told.error_code],
    |broker, _asker, asked| broker.groups().heartbeat(asked).await);
question!(LeaveGroup 5, LeaveGroupRequest -> LeaveGroupResponse, |told| [told.error_code],
    |broker, _asker, asked| broker.groups().leave_group(Self::VERSION, asked).await);
question!(OffsetCommit 9, OffsetCommitRequest -> OffsetCommitResponse,
    |told| told.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.error_code),
    |broker, _asker, asked| broker.offset_commit(Self::VERSION, asked).await);
question!(OffsetFetch 9, OffsetFetchRequest -> OffsetFetchResponse,
    |told| told.groups.iter().map(|group| group.error_code),
    |broker, _asker, asked| broker.groups().offset_fetch(Self::VERSION, asked).await);
question!(OffsetDelete 0, OffsetDeleteRequest -> OffsetDeleteResponse, |told| [told.error_code],
    |broker, _asker, asked| broker.groups().offset_delete(asked).await);
question!(ListGroups 4, ListGroupsRequest -> ListGroupsResponse, |told| [told.error_code],
    |broker, _asker, asked| broker.groups().list_groups(asked).await);
question!(DescribeGroups 5, DescribeGroupsRequest -> DescribeGroupsResponse,
    |told| told.groups.iter().map(|group| group.error_code),
    |broker, _asker, asked| broker.groups().describe_groups(Self::VERSION, asked).await);
question!(DeleteGroups 2, DeleteGroupsRequest -> DeleteGroupsResponse,
    |told| told.results.iter().map(|result| result.error_code),
    |broker, _asker, asked| broker.groups().delete_groups(asked).await);

/// Answers a request that another broker sent, or this one.
///
/// Errors: it cannot be read, or is none of those above in their versions; what is wrong with it.
pub async fn dispatch(
    broker: &Broker,
    api_key: i16,
    version: i16,
    asker: &Asker,
    request: Bytes,
) -> Result<Bytes, String> {
    let api = ApiKey::try_from(api_key).map_err(|()| format!("there is no API {api_key}"))?;
    shape::check(api, version, &request).map_err(|error| format!("{api:?} version {version}: {error}"))?;
    match api {
        ApiKey::JoinGroup => answer::<JoinGroupRequest>(broker, version, asker, request).await,
        ApiKey::SyncGroup => answer::<SyncGroupRequest>(broker, version, asker, request).await,
        ApiKey::Heartbeat => answer::<HeartbeatRequest>(broker, version, asker, request).await,
        ApiKey::LeaveGroup => answer::<LeaveGroupRequest>(broker, version, asker, request).await,
        ApiKey::OffsetCommit => answer::<OffsetCommitRequest>(broker, version, asker, request).await,
        ApiKey::OffsetFetch => answer::<OffsetFetchRequest>(broker, version, asker, request).await,
        ApiKey::OffsetDelete => answer::<OffsetDeleteRequest>(broker, version, asker, request).await,
        ApiKey::ListGroups => answer::<ListGroupsRequest>(broker, version, asker, request).await,
        ApiKey::DescribeGroups => answer::<DescribeGroupsRequest>(broker, version, asker, request).await,
        ApiKey::DeleteGroups => answer::<DeleteGroupsRequest>(broker, version, asker, request).await,
        other => Err(format!("{other:?} does not concern groups")),
    }
}

async fn answer<Q: Question>(
    broker: &Broker,
    version: i16,
    asker: &Asker,
    mut request: Bytes,
) -> Result<Bytes, String> {
    if version != Q::VERSION {
        return Err(format!("{:?} is spoken in version {}, not {version}", Q::API, Q::VERSION));
    }
    let question = Q::decode(&mut request, version).map_err(|error| error.to_string())?;
    encode(&question.answer(broker, asker).await, version)
}

fn encode<T: Encodable>(message: &T, version: i16) -> Result<Bytes, String> {
    let mut bytes = BytesMut::new();
    message.encode(&mut bytes, version).map_err(|error| error.to_string())?;
    Ok(bytes.freeze())
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Coordinators {
    slot: BrokerSlot,
    forward: Arc<Forward>,
    clock: Clock,
}

impl Coordinators {
    /// Asks the broker in `slot`, and others through `forward`.
    pub fn new(slot: BrokerSlot, forward: Arc<Forward>, clock: Clock) -> Self {
        Self { slot, forward, clock }
    }

    /// Asks the coordinator of `group`, again for at most `limit_ms` while there is none.
    pub async fn ask<Q: Question>(
        &self,
        group: &str,
        asker: &Asker,
        question: &Q,
        limit_ms: u64,
    ) -> Result<Q::Answer, Error> {
        let began_ms = self.clock.boot_ms();
        loop {
            let left_ms = limit_ms.saturating_sub(self.clock.boot_ms().saturating_sub(began_ms));
            let answer = tokio::time::timeout(Duration::from_millis(left_ms), self.ask_once(group, asker, question));
            let error = match answer.await {
                Ok(Ok(answer)) => match Q::moving(&answer) {
                    0 => return Ok(answer),
                    code => explain_kafka(Kafka::try_from_code(code).unwrap_or(Kafka::UnknownServerError), group),
                },
                Ok(Err(error)) if error.retriable => error,
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(explain_kafka(Kafka::RequestTimedOut, group)),
            };
            if self.clock.boot_ms().saturating_sub(began_ms) + PAUSE_MS > limit_ms {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await;
        }
    }

    async fn ask_once<Q: Question>(&self, group: &str, asker: &Asker, question: &Q) -> Result<Q::Answer, Error> {
        let broker_id = self.find(group).await?.broker_id;
        self.ask_broker(broker_id, asker, question).await
    }

    /// Who coordinates `group`.
    pub async fn find(&self, group: &str) -> Result<Leader, Error> {
        let broker = self.slot.current();
        let request = FindCoordinatorRequest::default().with_key(StrBytes::from_string(group.to_owned()));
        let found = broker.find_coordinator(0, &request).await;
        if let Some(error) = Kafka::try_from_code(found.error_code).filter(|_| found.error_code != 0) {
            return Err(explain_kafka(error, group));
        }
        let broker_id = *found.node_id;
        let grpc_endpoint = endpoint(&broker.image(), broker_id).unwrap_or_default();
        Ok(Leader { broker_id, grpc_endpoint })
    }

    /// Asks this broker, once.
    pub async fn ask_broker<Q: Question>(
        &self,
        broker_id: i32,
        asker: &Asker,
        question: &Q,
    ) -> Result<Q::Answer, Error> {
        let own = |message: String| Error { reason: Reason::Invalid.into(), message, ..Error::default() };
        let bytes = encode(question, Q::VERSION).map_err(own)?;
        let broker = self.slot.current();
        let mut answer = if broker_id == broker.node_id() {
            dispatch(&broker, Q::API as i16, Q::VERSION, asker, bytes).await.map_err(own)?
        } else {
            let image = broker.image();
            let endpoint = endpoint(&image, broker_id).ok_or_else(|| Error {
                reason: Reason::Unavailable.into(),
                message: format!("broker {broker_id} cannot be reached by gRPC"),
                retriable: true,
                leader: None,
            })?;
            let request = CoordinateRequest {
                api_key: i32::from(Q::API as i16),
                version: i32::from(Q::VERSION),
                request: bytes,
                client_id: asker.client_id.clone(),
                client_host: asker.client_host.clone(),
            };
            let answered = self.forward.coordinate(&endpoint, request, &image, MAX_ANSWER_BYTES).await;
            answered.map_err(|status| match status.code() {
                tonic::Code::InvalidArgument => own(status.message().to_owned()),
                _ => lost(&status),
            })?
        };
        Q::Answer::decode(&mut answer, Q::VERSION).map_err(|error| own(error.to_string()))
    }

    /// Live brokers.
    pub fn brokers(&self) -> Vec<i32> {
        self.slot.current().image().brokers.keys().copied().collect()
    }
}

fn endpoint(image: &ClusterImage, broker_id: i32) -> Option<String> {
    image.brokers.get(&broker_id)?.endpoints.get(GRPC_ENDPOINT).cloned()
}
