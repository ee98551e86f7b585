//! Metrics of the process: memory, CPU, open files, build. Read from `/proc` when they are asked for.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Adds `process_resident_memory_bytes`, `process_cpu_seconds_total`, `process_open_fds`, `process_threads` and
/// `esker_build_info`.
pub fn register_process_metrics(registry: &mut Registry) {
    registry.register_collector(Box::new(Process));
    let profile = if cfg!(debug_assertions) { "debug" } else { "optimised" };
    let info = Info::new(vec![("version", env!("CARGO_PKG_VERSION")), ("profile", profile)]);
    registry.register("esker_build", "What this binary was built from", info);
}

#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: Option<u64>| {
            let Some(value) = value else { return Ok(()) };
            let gauge = ConstGauge::new(value as i64);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)
        };
        gauge("process_resident_memory_bytes", "Resident memory in bytes", resident_bytes())?;
        gauge("process_open_fds", "Open file descriptors", open_fds())?;
        let stat = Stat::read();
        gauge("process_threads", "Threads", stat.as_ref().map(|stat| stat.threads))?;
        if let Some(stat) = stat {
            let counter = ConstCounter::new(stat.cpu_seconds);
            let help = "User and system CPU time in seconds";
            let metric = encoder.encode_descriptor("process_cpu_seconds", help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}

fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn open_fds() -> Option<u64> {
    // The listing itself is one of them.
    Some((fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1))
}

struct Stat {
    cpu_seconds: f64,
    threads: u64,
}

impl Stat {
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is the program's name in parentheses and may hold spaces; utime is the 12th after it.
        let (_, rest) = stat.rsplit_once(')')?;
        let field = |index: usize| rest.split_whitespace().nth(index)?.parse::<u64>().ok();
        let ticks = field(11)? + field(12)?;
        Some(Self { cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64, threads: field(17)? })
    }
}
