//! Floor 1: the wires: Kafka's framing, versions, messages (crate `kafka-protocol`) and record batch v2; the messages of
//! `proto/`.

pub mod batch;
pub mod grpc;
pub mod partitioner;
pub mod shape;
