//! Floor 4: the read path: from an offset to whole, verified batches.
//!
//! - [`reader`]: one partition: memory of the log, then stored objects through the page cache;
//! - [`session`]: many partitions at once, waiting for more without polling;
//! - [`timestamps`]: offsets by time;
//! - [`local_first`]: this broker's own write-ahead files before the store;
//! - [`index`]: which batches lie where in an object, from its footer;
//! - [`spans`]: which batches to take and how to read them (pure).
//!
//! Invariant: nothing at or past a plan's limit (high watermark, or last stable offset) is returned; view, limit and aborted
//! transactions of an answer come from one snapshot of the log.
//! Invariant: the batches of an answer follow each other without gap or overlap, whichever source each came from; a
//! source that breaks this gives an error, never a silent skip. (A log whose objects are compacted will have to say so.)
//! Invariant: bytes from a store are returned only after every checksum over them held. A mismatch is read once more,
//! past the cache; only then is it corruption, of that object and offset, and no other partition's concern.
//! Invariant: the first batch of the first partition that has one is returned whatever its size, so that a consumer always
//! gets on (Kafka's rule, KIP-74).
//!
//! Nothing here is durable, so a crash leaves nothing. Every future can be dropped at any await: loads of pages and
//! indexes go on in their own tasks, a waiting fetch leaves its place and its subscription.

pub mod error;
pub mod index;
pub mod local_first;
pub mod log_view;
pub mod metrics;
pub mod reader;
pub mod session;
pub mod source;
pub mod spans;
pub mod timestamps;

pub use error::FetchError;
pub use index::Indexes;
pub use local_first::LocalFirst;
pub use log_view::LogView;
pub use metrics::Metrics;
pub use reader::{ReadResult, Reader, Settings};
pub use session::{FetchRequest, Fetches, PartitionFetch, PartitionRequest};
pub use source::StoreSource;
pub use timestamps::TimestampHit;

#[cfg(test)]
mod tests;
