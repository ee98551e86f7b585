//! Limits of the runtime. At each of them a caller waits or gets a retriable error; nothing grows.

/// Requests that wait for one shard; a further caller waits for room.
pub const QUEUE_REQUESTS: usize = 1024;
/// Requests of one shard that are parked for their reply; a further one gets `COORDINATOR_NOT_AVAILABLE`.
pub const MAX_PARKED_REPLIES: usize = 100_000;
/// Appends of one shard that are not committed; requests that would append more get `COORDINATOR_NOT_AVAILABLE`.
pub const MAX_IN_FLIGHT_APPENDS: usize = 1024;
/// Bytes of those appends.
pub const MAX_IN_FLIGHT_BYTES: usize = 16 << 20;
/// Records are gathered into batches of about this many bytes; a larger record is a batch by itself.
pub const BATCH_BYTES: usize = 1 << 20;
/// Shards that load at the same time.
pub const MAX_CONCURRENT_LOADS: usize = 8;
/// Pause before an append that found no room, or a load that failed, is tried again, in milliseconds.
pub const RETRY_PAUSE_MS: u64 = 200;
/// A log below this many bytes is not rewritten.
pub const REWRITE_MIN_BYTES: u64 = 4 << 20;
/// A log is rewritten when it is this many times as large as its live state.
pub const REWRITE_FACTOR: u64 = 4;
/// Gauges are brought up to date at most once in this many milliseconds, and only after something happened.
pub const GAUGES_INTERVAL_MS: u64 = 5_000;
