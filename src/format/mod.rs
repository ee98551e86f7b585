//! Floor 1: every durable byte: versioned, checksummed, golden-tested (`tests/golden`), described in `docs/formats`.
//!
//! | file | object | document |
//! |---|---|---|
//! | [`prelude`] | first 64 bytes of every object and write-ahead file | `docs/formats/object.md` |
//! | [`frame`] | one entry of a segment or write-ahead file | `docs/formats/segment.md` |
//! | [`segment`] | footer and trailer of a segment | `docs/formats/segment.md` |
//! | [`entry`] | what a frame means | `docs/formats/segment.md` |
//! | [`state`] | state of one partition | `docs/formats/checkpoint.md` |
//! | [`checkpoint`] | states of all partitions of a session | `docs/formats/checkpoint.md` |
//! | [`keys`] | object keys | `docs/formats/object.md` |
//! | [`catalogue`] | backups of the catalogue | `docs/formats/catalogue.md` |
//! | [`metadata`] | values of the metadata store | `docs/formats/metadata.md` |
//! | [`metalog`] | file of the embedded metadata store | `docs/formats/metadata.md` |
//! | [`identity`] | whom a directory or bucket belongs to | `docs/formats/identity.md` |
//!
//! Decoding never panics and never allocates more than the input's own length justifies: counts are checked against the
//! bytes that are left.

pub mod catalogue;
pub mod checkpoint;
pub mod codec;
pub mod entry;
pub mod error;
pub mod frame;
pub mod identity;
pub mod keys;
pub mod metadata;
pub mod metalog;
pub mod prelude;
pub mod runs;
pub mod segment;
pub mod state;

#[cfg(test)]
mod tests;

pub use error::FormatError;
