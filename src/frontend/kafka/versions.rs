//! The one table of what is served: API, lowest and highest version, handler.
//!
//! Ranges: everything that Kafka 4.x clients, librdkafka 1.x and 2.x, franz-go, Sarama, kafka-python and kafkajs
//! negotiate. Lowest versions are those that Kafka 4.0 kept (KIP-896) or older where old clients need them. Produce is
//! advertised from version 0: librdkafka compresses only if it sees that; versions 0 to 2 are decoded by hand and taken
//! where they carry record batches of format 2.

use std::pin::Pin;
use std::sync::OnceLock;

use bytes::{BufMut, BytesMut};
use futures::Future;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse};
use kafka_protocol::protocol::Encodable;

use super::call::{Call, CallError, finish};
use super::frame::Reply;
use super::{Session, admin, configs, describe, errors, fetch, groups, metadata, offsets, topics};

/// What a handler leaves to do.
pub(super) enum Step {
    /// Send this.
    Reply(Reply),
}

type Running<'a> = Pin<Box<dyn Future<Output = Result<Step, CallError>> + Send + 'a>>;

/// A row of the table.
pub(super) struct Api {
    /// The API.
    pub key: ApiKey,
    /// Its name, as Kafka spells it.
    pub name: &'static str,
    /// Lowest version served.
    pub min: i16,
    /// Highest version served.
    pub max: i16,
    /// Waits for something to happen: given up when the client goes away.
    pub long_poll: bool,
    /// Does not wait for earlier replies; handled by `produce::begin`.
    pub pipelined: bool,
    /// The handler.
    pub run: for<'a> fn(&'a Session, Call) -> Running<'a>,
}

macro_rules! api {
    ($key:ident, $min:literal..=$max:literal, $handler:path) => {
        api!(@row $key, $min, $max, false, {
            fn run(session: &Session, mut call: Call) -> Running<'_> {
                Box::pin(async move {
                    let request = call.decode()?;
                    let response = $handler(session, &call, request).await;
                    call.encode(&response).map(Step::Reply)
                })
            }
            run
        })
    };
    ($key:ident, $min:literal..=$max:literal, long_poll $handler:path) => {
        Api { long_poll: true, ..api!($key, $min..=$max, $handler) }
    };
    (@row $key:ident, $min:literal, $max:literal, $long:literal, $run:expr) => {
        Api {
            key: ApiKey::$key,
            name: stringify!($key),
            min: $min,
            max: $max,
            long_poll: $long,
            pipelined: false,
            run: $run,
        }
    };
}

/// In the order of their keys.
pub(super) const APIS: &[Api] = &[
    Api {
        key: ApiKey::Produce,
        name: "Produce",
        min: 0,
        max: 13,
        long_poll: false,
        pipelined: true,
        run: |_, call| Box::pin(async move { Err(CallError::UnknownVersion { api: call.api, version: call.version }) }),
    },
    Api {
        key: ApiKey::Fetch,
        name: "Fetch",
        min: 4,
        max: 17,
        long_poll: true,
        pipelined: false,
        run: |session, call| Box::pin(async move { fetch::fetch(session, call).await.map(Step::Reply) }),
    },
    api!(ListOffsets, 1..=10, offsets::list_offsets),
    api!(Metadata, 0..=13, metadata::metadata),
    api!(OffsetCommit, 2..=9, groups::offset_commit),
    api!(OffsetFetch, 1..=9, groups::offset_fetch),
    api!(FindCoordinator, 0..=5, groups::find_coordinator),
    api!(JoinGroup, 0..=9, long_poll groups::join_group),
    api!(Heartbeat, 0..=4, groups::heartbeat),
    api!(LeaveGroup, 0..=5, groups::leave_group),
    api!(SyncGroup, 0..=5, long_poll groups::sync_group),
    api!(DescribeGroups, 0..=6, groups::describe_groups),
    api!(ListGroups, 0..=5, groups::list_groups),
    api!(ApiVersions, 0..=4, api_versions_handler),
    api!(CreateTopics, 2..=7, topics::create_topics),
    api!(DeleteTopics, 1..=6, topics::delete_topics),
    api!(DeleteRecords, 0..=2, admin::delete_records),
    api!(InitProducerId, 0..=5, admin::init_producer_id),
    api!(OffsetForLeaderEpoch, 2..=4, offsets::offset_for_leader_epoch),
    api!(DescribeConfigs, 1..=4, configs::describe_configs),
    api!(AlterConfigs, 0..=2, configs::alter_configs),
    api!(DescribeLogDirs, 1..=4, describe::describe_log_dirs),
    api!(CreatePartitions, 0..=3, topics::create_partitions),
    api!(DeleteGroups, 0..=2, groups::delete_groups),
    api!(IncrementalAlterConfigs, 0..=1, configs::incremental_alter_configs),
    api!(OffsetDelete, 0..=0, groups::offset_delete),
    api!(DescribeCluster, 0..=2, describe::describe_cluster),
    api!(DescribeProducers, 0..=0, describe::describe_producers),
    api!(DescribeTopicPartitions, 0..=0, describe::describe_topic_partitions),
];

/// The row of an API, if it is served in this version.
pub(super) fn find(api_key: i16, version: i16) -> Result<&'static Api, CallError> {
    static BY_KEY: OnceLock<Vec<Option<&'static Api>>> = OnceLock::new();
    let by_key = BY_KEY.get_or_init(|| {
        let mut rows = vec![None; 128];
        for api in APIS {
            rows[api.key as usize] = Some(api);
        }
        rows
    });
    let row = usize::try_from(api_key).ok().and_then(|key| by_key.get(key).copied().flatten());
    let api = row.ok_or(CallError::UnknownApi(api_key))?;
    if (api.min..=api.max).contains(&version) {
        Ok(api)
    } else {
        Err(CallError::UnknownVersion { api: api.key, version })
    }
}

/// The row of `ApiVersions`.
pub(super) fn api_versions() -> &'static Api {
    find(ApiKey::ApiVersions as i16, 0).expect("ApiVersions is in the table")
}

fn range(api: &Api) -> ApiVersion {
    ApiVersion::default().with_api_key(api.key as i16).with_min_version(api.min).with_max_version(api.max)
}

/// The answer to an `ApiVersions` request of a version from the future (KIP-511): version 0, with the versions of
/// `ApiVersions` itself, so that the client can ask again.
pub(super) fn unsupported_api_versions(correlation_id: i32) -> Result<Reply, CallError> {
    let response = ApiVersionsResponse::default()
        .with_error_code(errors::UNSUPPORTED_VERSION)
        .with_api_keys(vec![range(api_versions())]);
    let mut frame = BytesMut::new();
    frame.put_i32(0);
    frame.put_i32(correlation_id);
    let failed = |reason: String| CallError::Encode { api: ApiKey::ApiVersions, version: 0, reason };
    response.encode(&mut frame, 0).map_err(|error| failed(error.to_string()))?;
    finish(&mut frame, 0).map_err(failed)?;
    Ok(Reply::new([frame.freeze()]))
}

/// Software names and versions: letters and digits, then also dots and dashes, not at the end.
fn is_sane(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(text.chars().next())
        && edge(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
}

async fn api_versions_handler(session: &Session, call: &Call, request: ApiVersionsRequest) -> ApiVersionsResponse {
    if call.version >= 3 {
        let (name, version) = (&request.client_software_name, &request.client_software_version);
        if !is_sane(name) || !is_sane(version) {
            session.count_error("ApiVersions", errors::INVALID_REQUEST);
            return ApiVersionsResponse::default().with_error_code(errors::INVALID_REQUEST);
        }
        tracing::debug!(peer = %session.peer, client = %name, version = %version, "a Kafka client says hello");
    }
    ApiVersionsResponse::default().with_api_keys(APIS.iter().map(range).collect())
}
