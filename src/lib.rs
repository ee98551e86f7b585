//! Esker: a Kafka-compatible broker that keeps its streams in object storage.
//!
//! The modules are floors: each imports only strictly lower ones (`tests/tidy.rs` enforces it). `docs/ARCHITECTURE.md`
//! is the map.

pub mod base;

pub mod config;
pub mod format;
pub mod protocol;

pub mod cache;
pub mod client;
pub mod meta;
pub mod objstore;
pub mod wal;

pub mod cluster;
pub mod partition;

pub mod fetch;

pub mod coordinator;
pub mod upkeep;

pub mod broker;

pub mod frontend;

pub mod app;
