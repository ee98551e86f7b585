//! Record batch v2 (magic 2): the unit that producers send, the log stores and consumers receive, byte for byte.
//!
//! Base offset and partition leader epoch lie outside the batch's CRC, so the broker assigns them in place without
//! touching, decompressing or re-checksumming the records. Source: Kafka's `DefaultRecordBatch`, KIP-98.
//!
//! - [`header`]: the 61 bytes in front of the records;
//! - [`check`]: whether a produced record set may enter the log;
//! - [`mod@records`]: the records inside, decompressed;
//! - [`builder`]: batches written by the broker itself (and by tests);
//! - [`compression`] and [`varint`]: the two encodings underneath.
//!
//! Everything here is pure. Bytes come from the network, so no length found in them is believed before it is compared
//! with what is there, and nothing here panics on them.

pub mod builder;
pub mod check;
pub mod compression;
pub mod header;
pub mod records;
pub mod varint;

#[cfg(test)]
mod tests;

pub use builder::{BatchBuilder, NewRecord, build_batch};
pub use check::{BatchError, BatchRules, CheckedBatch, check_batch, crc_of};
pub use compression::Compression;
pub use header::{BatchHeader, HEADER_BYTES};
pub use records::{MAX_DECOMPRESSED_BYTES, Record, RecordError, Records, records, records_within};
