//! Floor 3: the log: append, cut, upload, commit, fold, index.
//!
//! [`Log`] is the shell; decisions are in the pure machine beneath it. See `docs/ARCHITECTURE.md`.

pub mod api;

pub use api::*;
