#![allow(clippy::unwrap_used, reason = "tests")]

mod contract;
mod fake;
mod properties;
mod read_ahead;
mod single_flight;
