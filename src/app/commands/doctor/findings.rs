//! What measurements mean for a broker, and what to do about them. Pure: numbers come in, findings go out.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::super::words::size;

/// Median of an fsync above which producers with acks=1 feel it, in microseconds.
const SLOW_FSYNC_US: u64 = 20_000;
/// Sequential writing below which a broker is slower than its clients, in bytes per second.
const SLOW_WRITE_BYTES_PER_S: u64 = 50 << 20;
/// Median of a PUT above which every flush waits long, in microseconds.
const SLOW_PUT_US: u64 = 500_000;
/// Median of a read of the metadata store above which moves take long, in microseconds.
const SLOW_METADATA_US: u64 = 100_000;
/// A clock that is off by more than this is worth a word, in milliseconds.
const CLOCK_OFF_MS: u64 = 5_000;
/// A clock that is off by more than this has its requests refused by S3, in milliseconds.
const CLOCK_REFUSED_MS: u64 = 15 * 60 * 1000;
/// Files that a broker needs besides connections: write-ahead files, cache, libraries.
pub const OWN_FILES: u64 = 512;
/// With fewer files than this a broker does not start.
const LEAST_FILES: u64 = 256;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Fine,
    /// A broker runs, but not well or not safely.
    Warning,
    /// A broker would not start, or would not serve.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty if nothing.
    pub advice: String,
    /// Numbers, for programs.
    pub measured: Value,
}

impl Finding {
    /// As it should be.
    pub fn fine(check: &'static str, detail: impl Into<String>) -> Self {
        let (detail, advice) = (detail.into(), String::new());
        Self { check, level: Level::Fine, detail, advice, measured: Value::Null }
    }

    /// Worth a word.
    pub fn warning(check: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        let (detail, advice) = (detail.into(), advice.into());
        Self { check, level: Level::Warning, detail, advice, measured: Value::Null }
    }

    /// Stops a broker.
    pub fn problem(check: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Problem, ..Self::warning(check, detail, advice) }
    }

    /// With numbers for programs.
    pub fn with(self, measured: Value) -> Self {
        Self { measured, ..self }
    }
}

/// How many files this process may open, against what its settings promise to clients.
pub fn open_files(soft: Option<u64>, connections: u64) -> Finding {
    const CHECK: &str = "open files";
    let needed = connections + OWN_FILES;
    let raise = format!("raise it to {needed}: ulimit -n {needed}, or LimitNOFILE={needed} of a systemd unit");
    let Some(soft) = soft else { return Finding::fine(CHECK, "no limit") };
    let found = if soft < LEAST_FILES {
        Finding::problem(CHECK, format!("{soft} files may be open"), raise)
    } else if soft < needed {
        let detail = format!("{soft} files may be open; the settings allow {connections} connections");
        Finding::warning(CHECK, detail, format!("{raise}; or lower kafka.max_connections"))
    } else {
        Finding::fine(CHECK, format!("{soft} files may be open"))
    };
    found.with(json!({ "limit": soft, "needed": needed }))
}

/// Free space against what the settings may use.
pub fn free_space(free_bytes: u64, needed_bytes: u64) -> Finding {
    const CHECK: &str = "disk space";
    let detail = format!("{} are free; wal.disk and cache.disk may use {}", size(free_bytes), size(needed_bytes));
    let found = if free_bytes < needed_bytes {
        let advice = "lower wal.disk and cache.disk, or give the data directory a larger disk";
        Finding::warning(CHECK, detail, advice)
    } else {
        Finding::fine(CHECK, detail)
    };
    found.with(json!({ "free_bytes": free_bytes, "needed_bytes": needed_bytes }))
}

/// What the disk of the data directory does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpeed {
    /// Bytes that were written one after the other.
    pub written_bytes: u64,
    /// How long that and one fsync took, in microseconds.
    pub write_us: u64,
    /// Time of each small write with fdatasync, in microseconds.
    pub syncs_us: Vec<u64>,
}

/// How fast the disk is.
pub fn disk_speed(speed: &DiskSpeed) -> Finding {
    const CHECK: &str = "disk speed";
    let rate = speed.written_bytes.saturating_mul(1_000_000) / speed.write_us.max(1);
    let (middle, worst) = (median(&speed.syncs_us), speed.syncs_us.iter().copied().max().unwrap_or(0));
    let detail = format!("fsync takes {} (longest {}), writing {} a second", ms(middle), ms(worst), size(rate));
    let found = if middle > SLOW_FSYNC_US {
        let advice = "acks=1 waits for an fsync: put the data directory on an SSD, or see wal.fsync";
        Finding::warning(CHECK, detail, advice)
    } else if rate < SLOW_WRITE_BYTES_PER_S {
        let advice = "every record is written here once: put the data directory on a faster disk";
        Finding::warning(CHECK, detail, advice)
    } else {
        Finding::fine(CHECK, detail)
    };
    found.with(json!({ "fsync_median_us": middle, "fsync_max_us": worst, "write_bytes_per_s": rate }))
}

/// Times of requests to the object store, in microseconds each.
#[expect(clippy::struct_field_names, reason = "units are in names")]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreTimes {
    /// Writes.
    pub put_us: Vec<u64>,
    /// Reads.
    pub get_us: Vec<u64>,
    /// Listings.
    pub list_us: Vec<u64>,
    /// Deletions.
    pub delete_us: Vec<u64>,
}

/// How fast the object store is.
pub fn store_speed(times: &StoreTimes, linger_ms: u64) -> Finding {
    const CHECK: &str = "object store speed";
    let put = median(&times.put_us);
    let medians = [
        ("put", put),
        ("get", median(&times.get_us)),
        ("list", median(&times.list_us)),
        ("delete", median(&times.delete_us)),
    ];
    let each: Vec<String> = medians.iter().map(|(name, us)| format!("{name} {}", ms(*us))).collect();
    let detail = format!("{} (medians)", each.join(", "));
    let found = if put > SLOW_PUT_US {
        let advice = format!(
            "a write with acks=all takes flush.linger ({linger_ms} ms) and one put: is the bucket in this region, and is the way \
             to it direct?"
        );
        Finding::warning(CHECK, detail, advice)
    } else {
        Finding::fine(CHECK, detail)
    };
    let [put, get, list, delete] = medians.map(|(_, us)| us);
    found.with(json!({ "put_us": put, "get_us": get, "list_us": list, "delete_us": delete }))
}

/// How fast the metadata store answers.
pub fn metadata_speed(times_us: &[u64], detail: &str) -> Finding {
    const CHECK: &str = "metadata";
    let middle = median(times_us);
    let detail = format!("{detail}; a read takes {}", ms(middle));
    let found = if middle > SLOW_METADATA_US {
        let advice = "it is not in the way of data, but moves and starts take longer: put it on faster disks, nearer";
        Finding::warning(CHECK, detail, advice)
    } else {
        Finding::fine(CHECK, detail)
    };
    found.with(json!({ "read_us": middle }))
}

/// How far this machine's clock is from the store's: an object that was written between two looks at our clock says when the
/// store believes it was written, in whole seconds.
pub fn clock(before_ms: i64, after_ms: i64, store_ms: i64) -> Finding {
    const CHECK: &str = "clock";
    let earliest = before_ms - 1_000;
    let off_ms = match store_ms {
        early if early < earliest => early.abs_diff(earliest),
        late if late > after_ms => late.abs_diff(after_ms),
        _ => 0,
    };
    let side = if store_ms < before_ms { "ahead of" } else { "behind" };
    let advice = "set the clock (NTP): timestamps of records and retention go by it";
    let found = if off_ms >= CLOCK_REFUSED_MS {
        let detail = format!("it is {} s {side} the object store's", off_ms / 1000);
        Finding::problem(CHECK, detail, format!("{advice}, and S3 refuses requests that are signed with it"))
    } else if off_ms >= CLOCK_OFF_MS {
        Finding::warning(CHECK, format!("it is {} s {side} the object store's", off_ms / 1000), advice)
    } else {
        Finding::fine(CHECK, "it agrees with the object store's")
    };
    found.with(json!({ "off_ms": off_ms }))
}

/// The middle one; 0 of none.
fn median(times: &[u64]) -> u64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

fn ms(us: u64) -> String {
    if us < 10_000 { format!("{}.{:02} ms", us / 1000, us % 1000 / 10) } else { format!("{} ms", us / 1000) }
}

/// For people, each line ends with a line feed; in colours if asked for.
pub fn text(findings: &[Finding], colours: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let (word, colour) = match finding.level {
            Level::Fine => ("ok", "\u{1b}[32m"),
            Level::Warning => ("warning", "\u{1b}[33m"),
            Level::Problem => ("PROBLEM", "\u{1b}[31m"),
        };
        let (on, off) = if colours { (colour, "\u{1b}[0m") } else { ("", "") };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{on}{word:<7}{off}  {:<18}  {}", finding.check, finding.detail);
        if !finding.advice.is_empty() {
            let _ = writeln!(text, "{:<7}  {:<18}  → {}", "", "", finding.advice);
        }
    }
    let number = |level| findings.iter().filter(|finding| finding.level == level).count();
    let verdict = match (number(Level::Problem), number(Level::Warning)) {
        (0, 0) => "a broker runs well here".to_owned(),
        (0, warnings) => format!("a broker runs here; warnings: {warnings}"),
        (problems, warnings) => format!("a broker would not run here; problems: {problems}, warnings: {warnings}"),
    };
    let _ = writeln!(text, "\n{verdict}");
    text
}

/// For programs.
pub fn json(findings: &[Finding]) -> Value {
    let each = findings.iter().map(|finding| {
        let level = match finding.level {
            Level::Fine => "ok",
            Level::Warning => "warning",
            Level::Problem => "problem",
        };
        json!({
            "check": finding.check,
            "level": level,
            "detail": finding.detail,
            "advice": finding.advice,
            "measured": finding.measured,
        })
    });
    let healthy = findings.iter().all(|finding| finding.level != Level::Problem);
    json!({ "healthy": healthy, "findings": each.collect::<Vec<_>>() })
}
