//! Floor 1: Kafka's wire: framing, versions, messages (crate `kafka-protocol`) and record batch v2.

pub mod batch;
pub mod shape;
