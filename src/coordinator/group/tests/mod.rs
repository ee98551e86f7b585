//! Tests of the group coordinator: the records' bytes, scripted traces, properties.

mod bench;
mod join;
mod records;
