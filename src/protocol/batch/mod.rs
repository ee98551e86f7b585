//! Record batch v2 (magic 2): the unit that producers send, the log stores and consumers receive, byte for byte.
//!
//! Base offset and partition leader epoch lie outside the batch's CRC, so the broker assigns them in place without
//! touching, decompressing or re-checksumming the records. Source: Kafka's `DefaultRecordBatch`, KIP-98.

pub mod header;

pub use header::{BatchHeader, HEADER_BYTES};
