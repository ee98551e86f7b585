//! The real process, killed: at every named point of the code, and at random under load.
//!
//! The points need the feature `failpoints`: `cargo test --features failpoints --test crash` (`make test LANES=crash`).
//! `ESKER_KILL_CYCLES` sets the number of random kills, `ESKER_SEED` repeats a run's choices. `ESKER_KILL_STORE=s3` has them on
//! the S3 server of `tests/support/minio.sh run` instead of a directory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod check;
mod load;
#[cfg(feature = "failpoints")]
mod points;
#[path = "../support/process.rs"]
#[allow(dead_code, reason = "shared with the fault tests")]
mod process;
mod random;
#[path = "../support/wire.rs"]
#[allow(dead_code, reason = "shared with the fault tests")]
mod wire;

use std::path::Path;

/// What could not be committed after a crash; on an intact disk there is never anything.
fn assert_nothing_lost(data_dir: &Path) {
    let lost = data_dir.join("lost");
    let files: Vec<_> = std::fs::read_dir(&lost).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    assert!(files.is_empty(), "{files:?}");
}
