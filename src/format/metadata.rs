//! The values of the metadata store, as JSON with a version: small, few, and readable with any etcd client.
//!
//! Every value is one JSON object with a field `v`, its format version. A reader ignores fields it does not know and
//! refuses a version above its own ([`MetadataError::Newer`]). Keys are in `cluster/keys.rs`; `docs/formats/metadata.md`
//! describes both. Nothing here is written per segment or per batch.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::base::SessionId;

/// Partitions whose assignments share one value (`assignments/<topic id>/<chunk>`).
///
/// Bounds both the number of keys (a restart rewrites all of them, 128 per transaction) and the size of a value: 100
/// assignments are about 10 KiB, far below the 1.5 MiB of a request.
pub const PARTITIONS_PER_CHUNK: usize = 100;

/// A stored value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// Written by a newer Esker.
    #[error(
        "metadata value '{key}' has format version {found}, this Esker knows versions up to {known}: run the version that \
         wrote it, or a newer one"
    )]
    Newer {
        /// The key.
        key: String,
        /// Its version.
        found: u32,
        /// Newest version that can be read.
        known: u32,
    },
    /// Not the JSON that belongs there.
    #[error("metadata value '{key}' is damaged: {reason}")]
    Damaged {
        /// The key.
        key: String,
        /// Where it stopped making sense.
        reason: String,
    },
}

/// One kind of value.
pub trait MetadataValue: Serialize + DeserializeOwned {
    /// Newest version, and the newest that can be read.
    const VERSION: u32 = 1;

    /// Version that this value needs: the lowest that says all of it.
    fn version(&self) -> u32 {
        Self::VERSION
    }

    /// The bytes to store.
    fn encode(&self) -> Bytes {
        #[derive(Serialize)]
        struct Versioned<'a, T> {
            v: u32,
            #[serde(flatten)]
            value: &'a T,
        }
        // Invariant: these structs have text keys and no failing serializer, so JSON encoding cannot fail.
        let bytes = serde_json::to_vec(&Versioned { v: self.version(), value: self });
        Bytes::from(bytes.unwrap_or_default())
    }

    /// Reads the value stored under `key` (which only serves the error).
    fn decode(key: &str, bytes: &[u8]) -> Result<Self, MetadataError> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        let damaged =
            |error: serde_json::Error| MetadataError::Damaged { key: key.to_owned(), reason: error.to_string() };
        let version: Version = serde_json::from_slice(bytes).map_err(damaged)?;
        if version.v > Self::VERSION {
            return Err(MetadataError::Newer { key: key.to_owned(), found: version.v, known: Self::VERSION });
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }
}

/// Who this cluster is. Written once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// The cluster's id; the data directory and the bucket carry the same.
    pub cluster_id: String,
    /// When, in milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// Added to the metadata store's revisions to make session epochs. 0 unless the store was rebuilt from the bucket: then
    /// above every epoch that was seen there (docs/adr/0006). Version 2 if it is not 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch_base: u64,
}

/// The claim of a process on a broker id; on the session's lease. Its create revision is the session's epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRecord {
    /// Id of the data directory that the process has locked: a claim with one's own is of a dead predecessor.
    pub directory_id: Uuid,
    /// Host of the process, for people.
    pub host: String,
    /// Its process id, for people.
    pub pid: u32,
    /// When, in milliseconds since the Unix epoch.
    pub started_ms: i64,
}

/// A live broker; on the session's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerRecord {
    /// Its session.
    #[serde(with = "session_text")]
    pub session: SessionId,
    /// Where Kafka clients connect.
    pub host: String,
    /// Where Kafka clients connect.
    pub port: u16,
    /// Its zone, if it was told one.
    pub rack: Option<String>,
    /// Other doors by name (`grpc`, `http`), as `host:port`.
    #[serde(default)]
    pub endpoints: BTreeMap<String, String>,
    /// It gives its partitions away and takes none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
}

/// A session: a stream that may hold committed data. Not on a lease; it outlives its broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// When it was registered, in milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// Where its stream ends, once it is sealed.
    pub sealed: Option<Sealed>,
}

/// The end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Sequence number of the seal: segments `0..seq` are committed.
    pub seq: u64,
    /// When it was recorded, in milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// Who is the controller; on its session's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerRecord {
    /// The controller's session.
    #[serde(with = "session_text")]
    pub session: SessionId,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRecord {
    /// Its name (also in the key).
    pub name: String,
    /// Its id (KIP-516).
    pub id: Uuid,
    /// Number of partitions.
    pub partitions: u32,
    /// Replication factor as it was asked for; shown, without effect.
    pub replication_factor: i16,
    /// Overrides of topic configs.
    pub configs: BTreeMap<String, String>,
    /// When it was created, in milliseconds since the Unix epoch.
    pub created_ms: i64,
}

/// A stream that may hold the newest state of a partition, with the epoch under which its session led it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FromStream {
    /// The stream's session.
    #[serde(with = "session_text")]
    pub session: SessionId,
    /// Leader epoch under which that session had the partition.
    pub leader_epoch: i32,
    /// Sequence number of the stream's seal: its segments are `0..sealed_seq`.
    pub sealed_seq: u64,
}

/// Who leads a partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AssignmentRecord {
    /// The leading session.
    #[serde(with = "session_text")]
    pub session: SessionId,
    /// Grows with every change of leader; 0 at creation.
    pub leader_epoch: i32,
    /// Streams that the leader takes the state from, newest first; emptied when its own stream holds the state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<FromStream>,
    /// The session that is to lead next: the leader gives the partition away to it. Set and taken back by the controller.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_session_text")]
    pub target: Option<SessionId>,
    /// A stream is known to hold the partition's state: from then on no leader may begin with an empty one. Records of
    /// before this field lack it until the partition's next leader has the state.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub acquired: bool,
}

/// The assignments of up to [`PARTITIONS_PER_CHUNK`] consecutive partitions of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentChunk {
    /// In partition order; the first is partition `chunk × PARTITIONS_PER_CHUNK`.
    pub partitions: Vec<AssignmentRecord>,
}

/// The next producer id that nobody has taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerIdRecord {
    /// Ids below this one belong to some broker's block.
    pub next_id: i64,
}

/// A deleted topic whose objects may still exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletionRecord {
    /// Its name, for people.
    pub name: String,
    /// Number of partitions it had.
    pub partitions: u32,
    /// When, in milliseconds since the Unix epoch.
    pub deleted_ms: i64,
}

/// The store is being filled from the bucket; gone once it is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildRecord {
    /// When that began, in milliseconds since the Unix epoch.
    pub started_ms: i64,
}

impl MetadataValue for ClusterRecord {
    const VERSION: u32 = 2;

    fn version(&self) -> u32 {
        if self.epoch_base == 0 { 1 } else { 2 }
    }
}
impl MetadataValue for ClaimRecord {}
impl MetadataValue for BrokerRecord {}
impl MetadataValue for SessionRecord {}
impl MetadataValue for ControllerRecord {}
impl MetadataValue for TopicRecord {}
impl MetadataValue for AssignmentChunk {}
impl MetadataValue for ProducerIdRecord {}
impl MetadataValue for DeletionRecord {}
impl MetadataValue for RebuildRecord {}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

pub(super) mod session_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::base::SessionId;

    pub fn serialize<S: Serializer>(session: &SessionId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(session)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SessionId, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

mod optional_session_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::base::SessionId;

    #[expect(clippy::ref_option, reason = "serde calls it")]
    pub fn serialize<S: Serializer>(session: &Option<SessionId>, to: S) -> Result<S::Ok, S::Error> {
        match session {
            Some(session) => to.collect_str(session),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SessionId>, D::Error> {
        let text = Option::<std::borrow::Cow<'de, str>>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}
