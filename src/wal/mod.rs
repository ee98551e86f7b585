//! Floor 2: the local write-ahead files of one session: `<data dir>/wal/<session>/<seq, 20 digits>.seg`.
//!
//! A write-ahead file has a segment's own bytes from the first: prelude, frames, and at the end the footer. On a local
//! store the finished file becomes the object by a hard link, so the data is written once.
//!
//! Invariants: files are written one after the other, in seq order; each write goes to an explicit position, so repeating
//! a failed write is harmless; a file's name is durable before [`WalFile::sync`] returns.
//!
//! Crash: a file may end anywhere. [`mod@scan`] gives its whole frames; the torn rest is cut off. Cancellation: nothing here is
//! asynchronous but [`on_disk`], whose work runs to its end.
//!
//! It never decides what is committed: the object store does.

mod disk;
mod file;
mod scan;

pub use disk::{Disk, DiskFile, LocalDisk, on_disk};
pub use file::{WalDir, WalError, WalFile};
pub use scan::{Scan, ScannedEntry, scan, scan_bytes, scan_object};
