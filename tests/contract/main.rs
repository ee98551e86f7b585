//! One suite per trait, run on every implementation of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod meta;
mod objstore;
