//! Tests of the group coordinator: the records' bytes, scripted traces, properties, the whole over a log in memory.

mod bench;
mod fake_log;
mod join;
mod members;
mod offsets;
mod properties;
mod records;
mod service;
mod versions;
