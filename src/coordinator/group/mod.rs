//! Kafka's classic consumer groups over `__consumer_offsets`.
//!
//! [`GroupCoordinator`] is what the broker calls. [`GroupMachine`] is the pure state machine of one shard; `records` are its durable bytes, `store` their fold.
//! KIP-848 (`ConsumerGroupHeartbeat`) is not served and must not be advertised.

mod admin;
mod api;
mod classic;
mod context;
mod find;
pub mod limits;
mod machine;
mod metrics;
mod offsets;
pub mod records;
mod service;
pub mod store;
mod timers;
mod versions;

#[cfg(test)]
mod tests;

pub use self::api::{Caller, Input, Reply};
pub use self::find::{Coordinating, KeyType, find_coordinator, partition_for};
pub use self::machine::GroupMachine;
pub use self::metrics::{GroupMetrics, SkipLabel, StateLabel};
pub use self::service::{CoordinatorMetrics, GroupCoordinator};
