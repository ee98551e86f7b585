//! Floor 5: Kafka's coordinators, each a fold over the records of an internal topic.
//!
//! - [`runtime`] drives one state machine per partition of the internal topic: loads it from the log, serialises its
//!   inputs, appends the records that it yields, and lets a reply go only when what it promises is committed.
//! - [`group`] is the classic consumer group coordinator over `__consumer_offsets`;
//! - [`member`] is the other side of it: a member on behalf of a client that does not speak Kafka.

pub mod group;
pub mod member;
pub mod runtime;
