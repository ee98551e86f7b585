//! Keeps the log's partitions as the catalogue says: what this session is to lead is loaded and led, what is to go is given
//! away, what is gone is dropped (DESIGN 2.3 and 2.4).
//!
//! [`machine`] decides, [`loader`] reads the states of partitions from the streams of those who led them before, and the
//! task in [`service`] does the rest. A crash leaves nothing but work for whoever leads next: assignments change only after
//! what they rest on is committed.

mod loader;
mod machine;
mod moving;
mod service;

#[cfg(test)]
mod tests;

pub use loader::{Loader, NoPeers, Peers, Told, newest_state, state_or_empty};
pub use service::{Partitions, Status};
