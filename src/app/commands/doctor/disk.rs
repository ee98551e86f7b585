//! How fast a disk is: a scratch file that is gone afterwards, also if this is cut short (it has no name). Blocks.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use super::findings::DiskSpeed;
use crate::base::{Clock, Rng};

/// Bytes that are written at most.
const WRITE_BYTES: u64 = 64 << 20;
/// Bytes of one write.
const CHUNK_BYTES: usize = 1 << 20;
/// Longest time that is spent on writing, in microseconds.
const WRITE_LIMIT_US: u64 = 1_500_000;
/// Small writes with fdatasync.
const SYNCS: usize = 50;
/// Longest time that is spent on them, in microseconds.
const SYNC_LIMIT_US: u64 = 1_500_000;
/// Bytes of a small write.
const SYNC_BYTES: usize = 4096;

/// Measures the disk of `dir`.
pub fn measure(dir: &Path, clock: &Clock, rng: &Rng) -> io::Result<DiskSpeed> {
    let mut file = scratch(dir, rng)?;
    let chunk = vec![0x5a; CHUNK_BYTES];
    let started_us = clock.boot_us();
    let mut written_bytes = 0;
    while written_bytes < WRITE_BYTES && clock.boot_us() - started_us < WRITE_LIMIT_US {
        file.write_all(&chunk)?;
        written_bytes += CHUNK_BYTES as u64;
    }
    file.sync_data()?;
    let write_us = clock.boot_us() - started_us;
    let mut syncs_us = Vec::new();
    let started_us = clock.boot_us();
    while syncs_us.len() < SYNCS && (syncs_us.is_empty() || clock.boot_us() - started_us < SYNC_LIMIT_US) {
        let before_us = clock.boot_us();
        file.write_all(&chunk[..SYNC_BYTES])?;
        file.sync_data()?;
        syncs_us.push(clock.boot_us() - before_us);
    }
    Ok(DiskSpeed { written_bytes, write_us, syncs_us })
}

/// A file without a name: the kernel frees it when it is closed, however that comes about.
fn scratch(dir: &Path, rng: &Rng) -> io::Result<File> {
    let path = dir.join(format!(".esker-doctor-{}", rng.uuid().simple()));
    let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Bytes that are free for this process.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(dir)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}
