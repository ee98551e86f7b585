#![allow(clippy::unwrap_used, reason = "tests")]

mod contract;
mod fake;
mod hybrid;
mod properties;
mod read_ahead;
mod reader;
