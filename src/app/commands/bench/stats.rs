//! What was measured. Pure.

use hdrhistogram::Histogram;
use serde_json::json;

use super::{BenchCommand, Door};

/// Longest latency that is told exactly, in microseconds: an hour.
const MOST_US: u64 = 3_600_000_000;
/// Digits of a latency that are right.
const DIGITS: u8 = 3;

/// What one run has seen so far.
#[derive(Debug, Clone)]
pub struct Stats {
    /// Records acknowledged, or read.
    pub records: u64,
    /// Bytes of their batches.
    pub bytes: u64,
    /// Batches acknowledged, or answers read.
    pub batches: u64,
    latencies_us: Histogram<u64>,
}

impl Default for Stats {
    fn default() -> Self {
        let made = Histogram::new_with_bounds(1, MOST_US, DIGITS);
        // The bounds are constants that fit.
        let latencies_us = made.unwrap_or_else(|_| unreachable!("a histogram of 1 µs to an hour can be made"));
        Self { records: 0, bytes: 0, batches: 0, latencies_us }
    }
}

impl Stats {
    /// One batch of so many records and bytes, `latency_us` after it counts from.
    pub fn add(&mut self, records: u64, bytes: u64, latency_us: u64) {
        self.records += records;
        self.bytes += bytes;
        self.batches += 1;
        self.latencies_us.saturating_record(latency_us.max(1));
    }
}

/// The result.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    records: u64,
    batches: u64,
    seconds: f64,
    records_per_s: f64,
    megabytes_per_s: f64,
    /// p50, p90, p99, p99.9 and the largest, in milliseconds; none if nothing was measured.
    latencies_ms: Option<[f64; 5]>,
}

const NAMES: [&str; 5] = ["p50", "p90", "p99", "p99.9", "max"];

impl Summary {
    /// Of what was seen in `elapsed_us`.
    pub fn of(stats: &Stats, elapsed_us: u64) -> Self {
        let seconds = elapsed_us.max(1) as f64 / 1e6;
        let at = |share: f64| stats.latencies_us.value_at_quantile(share) as f64 / 1e3;
        let latencies = || [at(0.5), at(0.9), at(0.99), at(0.999), stats.latencies_us.max() as f64 / 1e3];
        Self {
            records: stats.records,
            batches: stats.batches,
            seconds,
            records_per_s: stats.records as f64 / seconds,
            megabytes_per_s: stats.bytes as f64 / seconds / 1e6,
            latencies_ms: (!stats.latencies_us.is_empty()).then(latencies),
        }
    }

    /// For people.
    pub fn text(&self, command: &BenchCommand) -> String {
        let done = if command.consume { "read" } else { "acknowledged" };
        let what = match (command.consume, command.door, command.as_records) {
            (true, door, _) => format!("{} readers through the {door} door", command.workers),
            (false, Door::Grpc, true) => format!("{} writers through the grpc door, as records", command.workers),
            (false, door, _) => format!("{} writers through the {door} door", command.workers),
        };
        let latencies = self.latencies_ms.map_or_else(
            || "nothing was measured".to_owned(),
            |all| {
                let told: Vec<String> = NAMES.iter().zip(all).map(|(name, ms)| format!("{name} {ms:.2}")).collect();
                format!("{} ms", told.join("  "))
            },
        );
        format!(
            "load        {what}\nrecords     {} {done} in {:.2} s, {} batches\nthroughput  {:.0} records/s, {:.1} MB/s\nlatency     {latencies}\n",
            self.records, self.seconds, self.batches, self.records_per_s, self.megabytes_per_s,
        )
    }

    /// For programs.
    pub fn json(&self, command: &BenchCommand) -> serde_json::Value {
        let latencies: serde_json::Map<String, serde_json::Value> = self
            .latencies_ms
            .map(|all| NAMES.iter().zip(all).map(|(name, ms)| ((*name).to_owned(), json!(ms))).collect())
            .unwrap_or_default();
        json!({
            "door": command.door.to_string(),
            "operation": if command.consume { "consume" } else { "produce" },
            "sent_as": if command.as_records { "records" } else { "batches" },
            "record_bytes": command.record_bytes,
            "batch_bytes": command.batch_bytes,
            "workers": command.workers,
            "records": self.records,
            "batches": self.batches,
            "seconds": self.seconds,
            "records_per_s": self.records_per_s,
            "mb_per_s": self.megabytes_per_s,
            "latency_ms": latencies,
        })
    }
}
