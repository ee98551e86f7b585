//! Tests of the group coordinator: the records' bytes, scripted traces, properties.

mod bench;
mod fake_log;
mod join;
mod members;
mod records;
mod service;
