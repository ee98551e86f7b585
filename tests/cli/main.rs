//! The command line as people and scripts use it: what each command prints, its `--json`, its errors and exit codes.
//!
//! One file per command. [`harness`] runs the binary and starts brokers on free ports.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod bench;
mod cluster;
mod completions;
mod consume;
mod doctor;
mod fsck;
mod group;
#[allow(dead_code, reason = "tests of one command do not need all of it")]
mod harness;
mod inspect;
#[path = "../support/process.rs"]
#[allow(dead_code, reason = "shared with tests that need more of it")]
mod process;
mod produce;
mod serve;
mod topic;
#[path = "../support/wire.rs"]
#[allow(dead_code, reason = "shared with tests that need more of it")]
mod wire;
mod written;
