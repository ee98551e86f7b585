//! A member of a consumer group on behalf of a client that does not speak Kafka: the consumer's side of the classic protocol.
//!
//! [`machine`] decides; whoever drives it sends its requests to the group's coordinator, reads what it says, and tells the client.
//! [`protocol`] are the bytes that members send each other, [`range`] how partitions are dealt out. Kafka's own clients may be
//! members of the same group.

pub mod api;
pub mod machine;
pub mod protocol;
pub mod range;
#[cfg(test)]
mod tests;

pub use api::{Ask, Effect, Input, Membership, Position, Told, Trouble};
pub use machine::Member;
