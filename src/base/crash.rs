//! Named crash points: places where a crash test ends the process as `kill -9` would.
//!
//! Without the feature `failpoints` a point is nothing at all. With it, `ESKER_CRASH_AT=name` or `name:n` aborts the
//! process at the first (or n-th) time that the point is reached. `tests/crash` goes through every name in [`POINTS`].

/// Every point, in the order in which a record meets them.
pub const POINTS: &[&str] = &[
    "wal-before-write",
    "wal-after-write",
    "wal-after-sync",
    "upload-before-create",
    "upload-after-create",
    "commit-before-reply",
    "checkpoint-before-put",
    "checkpoint-after-put",
    "recovery-after-upload",
    "recovery-before-seal",
    "recovery-after-seal",
    "recovery-before-mark",
    "takeover-after-register",
    "takeover-after-assign",
    "takeover-after-acquired",
    "collect-before-delete",
    "compact-before-create",
    "compact-after-create",
    "compact-after-commit",
];

/// Ends the process here if the crash test says so.
#[cfg(feature = "failpoints")]
pub fn point(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static SEEN: AtomicU64 = AtomicU64::new(0);
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("ESKER_CRASH_AT").ok()?;
        Some(match text.split_once(':') {
            Some((name, times)) => (name.to_owned(), times.parse().unwrap_or(1)),
            None => (text, 1),
        })
    });
    if let Some((wanted, times)) = wanted
        && wanted == name
        && SEEN.fetch_add(1, Ordering::SeqCst) + 1 == *times
    {
        eprintln!("crash point {name} reached");
        std::process::abort();
    }
}

/// Nothing: crash points are not built in.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn point(_name: &'static str) {}
