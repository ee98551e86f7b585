//! Backups of the catalogue: the objects under `catalogue/`, from which a lost metadata store is rebuilt.
//!
//! Text that a person can read: three lines, then one JSON object.
//!
//! ```text
//! esker catalogue
//! format: 1
//! check: 0f3a99c1             CRC-32C of every byte below this line, as hex
//! {"revision":42,"cluster_id":"5bF3nJ2pQxqk1o0yZ8dGwA",…}
//! ```
//!
//! It holds what cannot be learnt from the streams. It holds nothing per segment or per batch, and no time of writing: equal
//! catalogues have equal bytes. `docs/formats/catalogue.md` describes it.

#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::FormatError;
use super::codec::crc32c;
use super::metadata::{DeletionRecord, TopicRecord, session_text};
use crate::base::SessionId;

/// Newest format version this build writes and reads.
pub const VERSION: u16 = 1;
/// A backup is never longer than this, in bytes; more is not read. 100 000 partitions of 20 000 topics take about 6 MB.
pub const MAX_BYTES: u64 = 256 << 20;

const TITLE: &str = "esker catalogue";
const WHAT: &str = "catalogue backup";

/// The catalogue at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueBackup {
    /// Revision of the metadata store that it shows, counted as session epochs are (so that it grows across restores).
    pub revision: u64,
    /// The cluster's id.
    pub cluster_id: String,
    /// When the cluster was made, in milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// Producer ids below this one were given to some broker.
    pub next_producer_id: i64,
    /// Topics in the order of their names.
    pub topics: Vec<SavedTopic>,
    /// Deleted topics whose objects may still exist, in the order of their ids.
    pub deletions: Vec<SavedDeletion>,
    /// Sessions on record, in order.
    pub sessions: Vec<SavedSession>,
}

/// A topic, and how far its leader epochs have come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedTopic {
    /// Its record.
    #[serde(flatten)]
    pub topic: TopicRecord,
    /// Leader epoch of each partition, by index.
    pub leader_epochs: Vec<i32>,
}

/// A deleted topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedDeletion {
    /// The id that it had.
    pub id: Uuid,
    /// Its record.
    #[serde(flatten)]
    pub deletion: DeletionRecord,
}

/// A session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSession {
    /// Its id.
    #[serde(with = "session_text")]
    pub session: SessionId,
    /// Where its stream was sealed; `None` if it was not.
    pub sealed: Option<u64>,
}

impl CatalogueBackup {
    /// Whether both hold the same, whatever revisions they show.
    pub fn same_content(&self, other: &Self) -> bool {
        let Self { revision: _, cluster_id, created_ms, next_producer_id, topics, deletions, sessions } = self;
        *cluster_id == other.cluster_id
            && *created_ms == other.created_ms
            && *next_producer_id == other.next_producer_id
            && *topics == other.topics
            && *deletions == other.deletions
            && *sessions == other.sessions
    }

    /// The bytes of the object.
    pub fn encode(&self) -> Bytes {
        // Invariant: these structs have text keys and no failing serializer, so JSON encoding cannot fail.
        let mut body = serde_json::to_vec(self).unwrap_or_default();
        body.push(b'\n');
        let mut text = format!("{TITLE}\nformat: {VERSION}\ncheck: {:08x}\n", crc32c(&body)).into_bytes();
        text.extend_from_slice(&body);
        Bytes::from(text)
    }

    /// Reads a whole object. The version is looked at before anything else, so that a newer one is called newer.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut rest = bytes;
        let mut line = || {
            let end = rest.iter().position(|byte| *byte == b'\n').ok_or(FormatError::Truncated(WHAT))?;
            let line = std::str::from_utf8(&rest[..end]).map_err(|_| FormatError::WrongMagic("a catalogue backup"))?;
            rest = &rest[end + 1..];
            Ok(line)
        };
        if line()? != TITLE {
            return Err(FormatError::WrongMagic("a catalogue backup"));
        }
        let version = line()?.strip_prefix("format: ").ok_or(FormatError::Invalid(WHAT))?;
        let found: u16 = version.parse().map_err(|_| FormatError::Invalid(WHAT))?;
        if found > VERSION {
            return Err(FormatError::Newer { what: "the catalogue backup", found, supported: VERSION });
        }
        let check = line()?.strip_prefix("check: ").ok_or(FormatError::Invalid(WHAT))?.to_owned();
        if format!("{:08x}", crc32c(rest)) != check {
            return Err(FormatError::Checksum(WHAT));
        }
        let backup: Self = serde_json::from_slice(rest).map_err(|_| FormatError::Invalid(WHAT))?;
        let shaped = |saved: &SavedTopic| saved.leader_epochs.len() == saved.topic.partitions as usize;
        if backup.topics.iter().all(shaped) { Ok(backup) } else { Err(FormatError::Invalid(WHAT)) }
    }
}
