//! What a member of a group is made of, what happens to it, and what follows.

use kafka_protocol::error::ResponseError as Kafka;
use kafka_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest,
    OffsetCommitResponse, SyncGroupRequest, SyncGroupResponse,
};

use super::protocol::Assignment;

/// Who joins what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The group.
    pub group: String,
    /// The topics that are wanted; they need not exist yet.
    pub topics: Vec<String>,
    /// Kafka's `group.instance.id`.
    pub instance_id: Option<String>,
    /// Silent for this long, a member is dead, in milliseconds.
    pub session_timeout_ms: u64,
    /// Longest wait for the client to let go, in milliseconds.
    pub release_timeout_ms: u64,
}

/// Number of a question, for its answer.
pub type Ask = u64;

/// Why a question has no answer of Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Asked again it may have one.
    Passing,
    /// It will not.
    Lasting,
}

/// A place in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The next record.
    pub offset: i64,
    /// What the client puts beside it.
    pub metadata: String,
}

/// What happens to a member.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// Answer to [`Effect::Join`].
    Joined(Ask, Result<JoinGroupResponse, Trouble>),
    /// Answer to [`Effect::Sync`].
    Synced(Ask, Result<SyncGroupResponse, Trouble>),
    /// Answer to [`Effect::Beat`], as Kafka's error code.
    Beaten(Ask, Result<i16, Trouble>),
    /// Answer to [`Effect::Position`].
    Positioned(Ask, Result<Vec<Position>, Trouble>),
    /// Answer to [`Effect::Commit`].
    Committed(Ask, Result<OffsetCommitResponse, Trouble>),
    /// Answer to [`Effect::Leave`], whatever it is.
    Left,
    /// The client commits.
    Commit {
        /// Chosen by the client.
        id: u64,
        /// The next record of each partition.
        offsets: Vec<Position>,
    },
    /// The client has let go.
    Released,
    /// All that was to be read was read.
    AllRead,
    /// The client says no more, or has gone.
    Closed,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send this to the coordinator.
    Join(Ask, JoinGroupRequest),
    /// Send this to the coordinator.
    Sync(Ask, SyncGroupRequest),
    /// Send this to the coordinator.
    Beat(Ask, HeartbeatRequest),
    /// Find out where these partitions are read from.
    Position(Ask, Assignment),
    /// Send this to the coordinator.
    Commit(Ask, OffsetCommitRequest),
    /// Send this to the coordinator.
    Leave(LeaveGroupRequest),
    /// Read these, in place of what is read.
    Read(Vec<Position>),
    /// Read no more.
    Stop,
    /// Tell the client.
    Tell(Told),
    /// It is over: in order, or for this reason.
    End(Result<(), Kafka>),
}

/// What the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// These partitions are the client's.
    Assigned {
        /// The member's id.
        member_id: String,
        /// The group's generation.
        generation: i32,
        /// The partitions, and where each is read from.
        partitions: Vec<Position>,
    },
    /// They are not any more.
    Revoking,
    /// A commit is done.
    Committed {
        /// As the client chose it.
        id: u64,
        /// What was not committed, and why.
        failed: Vec<(String, i32, Kafka)>,
    },
}
