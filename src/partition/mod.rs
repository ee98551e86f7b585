//! Floor 3: the log: append, cut, upload, commit, fold, index.
//!
//! [`Log`] is the shell; decisions are in the pure machine beneath it. See `docs/ARCHITECTURE.md`.

pub mod api;
pub mod fold;
mod leadership;
pub mod limits;
pub mod live;
pub mod machine;
pub mod metrics;
pub mod pace;
pub mod producers;
pub mod recovery;
pub mod seal;
pub mod segment_buffer;
pub mod service;
pub mod stream;
pub mod tail;
mod uploader;
mod wal_cache;
mod wal_writer;

pub use api::*;
pub use leadership::PendingChange;
pub use limits::LogLimits;
pub use metrics::LogMetrics;
pub use service::{Log, LogOptions, LogStartError, PendingAppend, Permit, Progress, Subscription, WalFsync};
