//! Backups of the catalogue in the object store, for the day on which the metadata store is lost (docs/adr/0006).
//!
//! The controller, and nobody else, writes `catalogue/<revision>` some time after the catalogue has changed: what is saved
//! and when is decided in [`machine`], the rest is in [`service`]. It keeps the newest few.
//!
//! Invariants: a backup shows one revision of the metadata store, whole; at most one object is written per
//! [`INTERVAL_MS`]; a store that fails delays backups and nothing else. Two controllers at a time (one of them paused) write
//! the same bytes under the same key, or an older revision that sorts before the newer ones.
//!
//! A crash, or dropping the task, leaves an object more or less: each is whole or absent.

mod machine;
mod service;
#[cfg(test)]
mod tests;

pub use machine::{INTERVAL_MS, SETTLE_MS, Schedule, backup_of};
pub use service::{BACKUPS_KEPT, Backups};
