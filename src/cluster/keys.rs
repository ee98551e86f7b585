//! The keys of the metadata store: this enum is their format document (with `docs/formats/metadata.md`).
//!
//! All keys start with a root, `/esker/<cluster name>/`, so that clusters can share one etcd.

use std::fmt;

use uuid::Uuid;

use crate::base::SessionId;

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// `cluster`: [`ClusterRecord`](crate::format::metadata::ClusterRecord), written once.
    Cluster,
    /// `controller`: [`ControllerRecord`](crate::format::metadata::ControllerRecord), on the controller's lease.
    Controller,
    /// `claims/<broker id>`: [`ClaimRecord`](crate::format::metadata::ClaimRecord), on the session's lease; the revision
    /// that wrote it makes the session's epoch ([`KeySpace::epoch`]).
    Claim(i32),
    /// `brokers/<broker id>`: [`BrokerRecord`](crate::format::metadata::BrokerRecord), on the session's lease.
    Broker(i32),
    /// `sessions/<session>`: [`SessionRecord`](crate::format::metadata::SessionRecord).
    Session(SessionId),
    /// `topics/<name>`: [`TopicRecord`](crate::format::metadata::TopicRecord).
    Topic(String),
    /// `assignments/<topic id>/<chunk, 5 digits>`: [`AssignmentChunk`](crate::format::metadata::AssignmentChunk).
    Assignments(Uuid, u32),
    /// `producer-ids`: [`ProducerIdRecord`](crate::format::metadata::ProducerIdRecord).
    ProducerIds,
    /// `deletions/<topic id>`: [`DeletionRecord`](crate::format::metadata::DeletionRecord).
    Deletion(Uuid),
    /// `rebuild`: [`RebuildRecord`](crate::format::metadata::RebuildRecord), while the store is filled from the bucket.
    Rebuild,
}

/// Everything under `assignments/` says who leads what.
const ASSIGNMENTS: &str = "assignments/";
/// Everything under `claims/` is a broker id in use.
const CLAIMS: &str = "claims/";
/// Everything under `sessions/` of one broker id sorts in the order of its lives.
const SESSIONS: &str = "sessions/";

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Controller => f.write_str("controller"),
            Self::Claim(broker_id) => write!(f, "{CLAIMS}{broker_id}"),
            Self::Broker(broker_id) => write!(f, "brokers/{broker_id}"),
            Self::Session(session) => write!(f, "{SESSIONS}{session}"),
            Self::Topic(name) => write!(f, "topics/{name}"),
            Self::Assignments(topic_id, chunk) => write!(f, "{ASSIGNMENTS}{topic_id}/{chunk:05}"),
            Self::ProducerIds => f.write_str("producer-ids"),
            Self::Rebuild => f.write_str("rebuild"),
            Self::Deletion(topic_id) => write!(f, "deletions/{topic_id}"),
        }
    }
}

impl Key {
    /// Reads a key without its root; `None` if it is none of these (a newer version's, perhaps).
    pub fn parse(text: &str) -> Option<Self> {
        let key = match text.split_once('/') {
            None => match text {
                "cluster" => Self::Cluster,
                "controller" => Self::Controller,
                "producer-ids" => Self::ProducerIds,
                "rebuild" => Self::Rebuild,
                _ => return None,
            },
            Some(("claims", id)) => Self::Claim(id.parse().ok()?),
            Some(("brokers", id)) => Self::Broker(id.parse().ok()?),
            Some(("sessions", session)) => Self::Session(session.parse().ok()?),
            Some(("topics", name)) => Self::Topic(name.to_owned()),
            Some(("assignments", rest)) => {
                let (topic_id, chunk) = rest.split_once('/')?;
                Self::Assignments(topic_id.parse().ok()?, chunk.parse().ok()?)
            }
            Some(("deletions", topic_id)) => Self::Deletion(topic_id.parse().ok()?),
            _ => return None,
        };
        (key.to_string() == text).then_some(key)
    }
}

/// No key has it: above all that a store counts to.
const NO_REVISION: u64 = i64::MAX as u64;

/// Where a cluster's keys are, and how its session epochs are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySpace {
    root: String,
    epoch_base: u64,
}

impl KeySpace {
    /// The keys of the cluster called `cluster_name`.
    pub fn of_cluster(cluster_name: &str) -> Self {
        Self { root: format!("/esker/{cluster_name}/"), epoch_base: 0 }
    }

    /// The same keys in a metadata store whose revisions make session epochs only when `epoch_base` is added: one that was
    /// rebuilt from the bucket (docs/adr/0006).
    pub fn with_epoch_base(self, epoch_base: u64) -> Self {
        Self { epoch_base, ..self }
    }

    /// What is added to revisions.
    pub fn epoch_base(&self) -> u64 {
        self.epoch_base
    }

    /// The session epoch that a claim written at `revision` makes.
    pub fn epoch(&self, revision: u64) -> u64 {
        self.epoch_base.saturating_add(revision)
    }

    /// The revision of a session's claim, for compares; one that no key has for sessions of before the store was rebuilt.
    pub fn claim_revision(&self, session: SessionId) -> u64 {
        session.epoch.checked_sub(self.epoch_base).filter(|revision| *revision > 0).unwrap_or(NO_REVISION)
    }

    /// What every key starts with.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The whole key.
    pub fn key(&self, key: &Key) -> String {
        format!("{}{key}", self.root)
    }

    /// Start of the keys of all claims.
    pub fn claims(&self) -> String {
        format!("{}{CLAIMS}", self.root)
    }

    /// Start of the keys of all assignments.
    pub fn assignments(&self) -> String {
        format!("{}{ASSIGNMENTS}", self.root)
    }

    /// Start of the keys of all sessions.
    pub fn sessions(&self) -> String {
        format!("{}{SESSIONS}", self.root)
    }

    /// Start of the keys of one broker id's sessions.
    pub fn sessions_of(&self, broker_id: i32) -> String {
        format!("{}{SESSIONS}{broker_id}-", self.root)
    }

    /// Reads a whole key.
    pub fn parse(&self, text: &str) -> Option<Key> {
        Key::parse(text.strip_prefix(&self.root)?)
    }
}
