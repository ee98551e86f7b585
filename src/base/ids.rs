//! Identities: which session, which partition.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// One life of a broker. `epoch` is the metadata store's revision at registration (plus a base, in a store that was rebuilt
/// from the bucket), so for one `broker_id` it only grows.
///
/// Displays as `<broker_id>-<epoch>` with the epoch padded to 20 digits, which is how it appears in object keys; keys of
/// one broker's sessions therefore list in the order of their lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId {
    /// Kafka node id, 0 or more.
    pub broker_id: i32,
    /// Registration revision, 1 or more.
    pub epoch: u64,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:020}", self.broker_id, self.epoch)
    }
}

/// The text was not `<broker_id>-<epoch>`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a session id (expected <broker id>-<20-digit epoch>)")]
pub struct BadSessionId(pub String);

impl FromStr for SessionId {
    type Err = BadSessionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadSessionId(text.to_owned());
        let (broker_id, epoch) = text.split_once('-').ok_or_else(bad)?;
        let session =
            SessionId { broker_id: broker_id.parse().map_err(|_| bad())?, epoch: epoch.parse().map_err(|_| bad())? };
        if session.to_string() == text { Ok(session) } else { Err(bad()) }
    }
}

/// A partition, by the topic's id: a topic deleted and created again under the same name is another topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic's id (KIP-516).
    pub topic_id: Uuid,
    /// Partition index, 0 or more.
    pub partition: i32,
}

impl TopicPartition {
    /// Names partition `partition` of `topic_id`.
    pub const fn new(topic_id: Uuid, partition: i32) -> Self {
        Self { topic_id, partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic_id, self.partition)
    }
}
