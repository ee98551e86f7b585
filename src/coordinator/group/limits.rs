//! Limits that are not settings.

/// `offsets.commit.timeout.ms` of Kafka: how long a reply waits for its records to be committed, in milliseconds.
pub const COMMIT_TIMEOUT_MS: u64 = 5000;
/// How long a new member's first `JoinGroup` may be parked before the member is dropped, in milliseconds.
pub const NEW_MEMBER_JOIN_TIMEOUT_MS: i32 = 5 * 60 * 1000;
/// Members of one group that were given an id and have not come back with it. Not in Kafka.
pub const MAX_PENDING_MEMBERS: usize = 10_000;
/// Protocols that one member may offer. Not in Kafka; clients offer a handful.
pub const MAX_PROTOCOLS_PER_MEMBER: usize = 1_000;
/// Largest encoded group metadata record, in bytes; a larger one fails the rebalance with `UNKNOWN_SERVER_ERROR`, as one
/// above `message.max.bytes` does in Kafka.
pub const MAX_GROUP_RECORD_BYTES: usize = 4 << 20;
/// Longest name that is kept (group, member, instance, client, protocol), in bytes: what a record's string can hold.
pub const MAX_NAME_BYTES: usize = i16::MAX as usize;
/// How often the removal of a deleted topic's offsets is tried while a shard is loading.
pub const TOPICS_DELETED_TRIES: usize = 50;
