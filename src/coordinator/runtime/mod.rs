//! Runs coordinators' state machines over the partitions of an internal topic.
//!
//! A [`Machine`] is pure; a shard owns one and is its only caller: it loads the machine by replaying the partition from
//! log start to end, hands it one request at a time, appends the records that it yields as record batches, and reports
//! commits. Several appends are in flight at a time: the machine folds what it appends at once and parks the replies.
//! When an append fails for good the machine is thrown away and loaded again.
//!
//! Invariants: one shard per partition in this process; records reach the log in the order in which the machine made
//! them; no reply leaves before the machine lets it go; queues, in-flight appends and parked replies are bounded
//! ([`limits`]). A crash leaves the log, which is the whole state. An idle shard holds no timer but its machine's
//! earliest deadline, so it costs nothing.

pub mod limits;
mod load;
mod log;
mod machine;
mod metrics;
mod rewrite;
mod service;
mod shard;

pub use self::log::{Commit, CoordinatorLog, LogChunk, LogFailure};
pub use self::machine::{Effects, Machine, Now, RawRecord, ReplyTo, Ticket};
pub use self::metrics::RuntimeMetrics;
pub use self::service::{Runtime, ShardGone};
