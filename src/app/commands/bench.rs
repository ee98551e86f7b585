//! `esker bench`: load by either door, and what came of it: throughput, and latencies as percentiles.
//!
//! The same batches, built before it begins, go through both doors with as many under way, so that the doors are compared and
//! not the clients. With a rate a latency counts from when the batch was due, not from when it was sent: a broker that holds
//! up the load does not hide what it does to those behind (coordinated omission).

mod grpc;
mod kafka;
mod load;
mod schedule;
mod stats;

use std::collections::BTreeMap;
use std::fmt;
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command, value_parser};
use tokio_util::sync::CancellationToken;

use self::load::Progress;
use self::stats::Summary;
use crate::base::{Clock, Rng};
use crate::protocol::batch::Compression;

/// Where the Kafka door is when nobody says.
const KAFKA_BOOTSTRAP: &str = "127.0.0.1:9092";
/// Where the gRPC door is when nobody says.
const GRPC_BOOTSTRAP: &str = "127.0.0.1:9094";
/// How often the line of progress is drawn, in milliseconds.
const DRAW_MS: u64 = 250;
/// After ctrl-C the answers that are due are waited for so long, in milliseconds.
const LAST_ANSWERS_MS: u64 = 3_000;

/// Which front door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Kafka's protocol.
    Kafka,
    /// `esker.v1`.
    Grpc,
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Kafka { "kafka" } else { "grpc" })
    }
}

/// What is to be done.
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchCommand {
    /// By which door.
    pub door: Door,
    /// `host:port` of a broker's door.
    pub bootstrap: String,
    /// Reads what is there; otherwise writes.
    pub consume: bool,
    /// The topic; made if there is none of the name.
    pub topic: String,
    /// Its partitions, if it is made.
    pub partitions: i32,
    /// Records to write or to read, at most; none: as many as there is time for.
    pub records: Option<u64>,
    /// Longest duration, in seconds.
    pub duration_s: Option<u64>,
    /// Bytes of a record's value.
    pub record_bytes: usize,
    /// Bytes of the records of a batch, about.
    pub batch_bytes: usize,
    /// Writers or readers at once, each with a connection of its own.
    pub workers: usize,
    /// Requests of each that are under way at most.
    pub depth: usize,
    /// Whether all is acknowledged from the object store (or only from the leader's disk).
    pub acks_all: bool,
    /// How batches are compressed.
    pub compression: Compression,
    /// Through gRPC as records, which the broker makes batches of; otherwise as batches.
    pub as_records: bool,
    /// Records per second of all together; none: as fast as it goes.
    pub rate: Option<u64>,
    /// The result as JSON.
    pub json: bool,
}

/// The command as it is typed.
pub fn command() -> Command {
    let number = |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value);
    let positive = || value_parser!(u64).range(1..);
    Command::new("bench")
        .about("Drive load through one of the doors and print throughput and latencies")
        .long_about(
            "Writes (produce) or reads (consume) a topic as fast as it goes, or at a rate, through the Kafka door or the gRPC \
             door, and prints throughput and percentiles of the latency. A latency is the time from sending a batch to its \
             acknowledgement, or with --rate from when it was due. Ctrl-C ends it early and prints what there is so far.",
        )
        .arg_required_else_help(true)
        .arg(
            Arg::new("what")
                .value_name("produce|consume")
                .required(true)
                .hide_possible_values(true)
                .value_parser(PossibleValuesParser::new(["produce", "consume"]))
                .help("Write, or read what is there"),
        )
        .arg(
            Arg::new("door")
                .long("door")
                .value_name("kafka|grpc")
                .default_value("grpc")
                .hide_possible_values(true)
                .value_parser(PossibleValuesParser::new(["kafka", "grpc"]))
                .help("The door to go through"),
        )
        .arg(Arg::new("bootstrap").long("bootstrap").short('b').value_name("HOST:PORT").help(format!(
            "Address of the door [default: {GRPC_BOOTSTRAP}, or {KAFKA_BOOTSTRAP} for kafka] [env for grpc: ESKER_BOOTSTRAP]"
        )))
        .arg(number("topic", "NAME").default_value("esker-bench").help("Topic; made if it is not there, and it stays"))
        .arg(
            number("partitions", "N")
                .default_value("6")
                .value_parser(value_parser!(i32).range(1..=10_000))
                .help("Partitions of the topic, if it is made"),
        )
        .arg(number("records", "N").value_parser(positive()).help("Records in all [default: 1000000 without --duration]"))
        .arg(number("duration", "SECONDS").value_parser(positive()).help("End after so long"))
        .arg(
            number("record-bytes", "BYTES")
                .default_value("1024")
                .value_parser(value_parser!(u64).range(1..=1_000_000))
                .help("Bytes of each record"),
        )
        .arg(
            number("batch-bytes", "BYTES")
                .default_value("131072")
                .value_parser(value_parser!(u64).range(1..=16_000_000))
                .help("Bytes of a batch, about; one record at least"),
        )
        .arg(
            number("producers", "N")
                .alias("consumers")
                .default_value("6")
                .value_parser(value_parser!(u64).range(1..=1_000))
                .help("Writers or readers, each with a connection and partitions of its own"),
        )
        .arg(
            number("depth", "N")
                .default_value("5")
                .value_parser(value_parser!(u64).range(1..=256))
                .help("Batches of each writer that wait for their acknowledgement"),
        )
        .arg(
            number("acks", "all|leader")
                .default_value("all")
                .hide_possible_values(true)
                .value_parser(PossibleValuesParser::new(["all", "leader"]))
                .help("When a batch is acknowledged: in the object store, or on the leader's disk"),
        )
        .arg(
            number("compression", "CODEC")
                .default_value("none")
                .value_parser(PossibleValuesParser::new(["none", "gzip", "snappy", "lz4", "zstd"]))
                .help("How batches are compressed"),
        )
        .arg(
            number("send", "batches|records")
                .default_value("batches")
                .hide_possible_values(true)
                .value_parser(PossibleValuesParser::new(["batches", "records"]))
                .help("Through gRPC: batches as they are stored, or records of which the broker makes batches"),
        )
        .arg(number("rate", "RECORDS/S").value_parser(positive()).help("Records per second of all writers together"))
        .arg(Arg::new("json").long("json").action(clap::ArgAction::SetTrue).help("Print the result as JSON"))
        .after_help(
            "Examples:\n  esker bench produce\n  esker bench produce --door kafka --records 500000 --acks leader\n  \
             esker bench produce --rate 2000 --duration 30 --batch-bytes 1024 --json\n  esker bench consume --door grpc",
        )
}

/// What was typed.
pub fn parse(matches: &ArgMatches, variables: &BTreeMap<String, String>) -> BenchCommand {
    let text = |name: &str| matches.get_one::<String>(name).map_or("", String::as_str);
    let number = |name: &str| matches.get_one::<u64>(name).copied();
    let size = |name: &str| number(name).and_then(|number| usize::try_from(number).ok()).unwrap_or(1);
    let door = if text("door") == "kafka" { Door::Kafka } else { Door::Grpc };
    let typed = matches.get_one::<String>("bootstrap");
    let bootstrap = match door {
        Door::Kafka => typed.map_or(KAFKA_BOOTSTRAP, String::as_str),
        Door::Grpc => typed.or_else(|| variables.get("ESKER_BOOTSTRAP")).map_or(GRPC_BOOTSTRAP, String::as_str),
    };
    let (records, duration_s) = (number("records"), number("duration"));
    let codecs = [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    BenchCommand {
        door,
        // One of several is enough to begin with.
        bootstrap: bootstrap.split(',').next().unwrap_or_default().trim().to_owned(),
        consume: text("what") == "consume",
        topic: text("topic").to_owned(),
        partitions: matches.get_one("partitions").copied().unwrap_or(1),
        records: records.or(duration_s.is_none().then_some(1_000_000)),
        duration_s,
        record_bytes: size("record-bytes"),
        batch_bytes: size("batch-bytes"),
        workers: size("producers"),
        depth: size("depth"),
        acks_all: text("acks") == "all",
        compression: codecs.into_iter().find(|codec| codec.name() == text("compression")).unwrap_or(Compression::None),
        as_records: text("send") == "records",
        rate: number("rate"),
        json: matches.get_flag("json"),
    }
}

/// Does it, on all cores.
///
/// Errors: the door does not answer, or refuses something; what was measured until then is printed first.
pub fn run(command: BenchCommand) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(drive(command))
}

async fn drive(command: BenchCommand) -> anyhow::Result<()> {
    if command.as_records && command.door == Door::Kafka {
        bail!("--send records is for --door grpc: Kafka's protocol has batches only");
    }
    let (clock, rng) = (Clock::system(), Rng::system());
    let places = match command.door {
        Door::Kafka => kafka::prepare(&command).await?,
        Door::Grpc => grpc::prepare(&command).await?,
    };
    let (stop, progress) = (CancellationToken::new(), Progress::default());
    let began_us = clock.boot_us();
    let working = load::run(&command, places, &clock, &rng, &progress, &stop);
    tokio::pin!(working);
    let limit = Duration::from_secs(command.duration_s.unwrap_or(u64::MAX / 1_000_000));
    let drawing = draw(&progress, &clock, began_us, command.consume);
    let early = tokio::select! {
        done = &mut working => Some(done),
        () = drawing => None,
        () = tokio::time::sleep(limit) => None,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            None
        }
    };
    let outcome = if let Some(done) = early {
        done
    } else {
        stop.cancel();
        let last = tokio::time::timeout(Duration::from_millis(LAST_ANSWERS_MS), working).await;
        last.unwrap_or_else(|_| Err(anyhow!("some answers did not come")))
    };
    let summary = Summary::of(&progress.taken(), clock.boot_us().saturating_sub(began_us));
    print!("{}", if command.json { format!("{:#}\n", summary.json(&command)) } else { summary.text(&command) });
    outcome
}

/// A line that says how it goes, where a person looks; never ends.
async fn draw(progress: &Progress, clock: &Clock, began_us: u64, consume: bool) {
    let bar = std::io::stderr().is_terminal().then(indicatif::ProgressBar::new_spinner);
    loop {
        tokio::time::sleep(Duration::from_millis(DRAW_MS)).await;
        if let Some(bar) = &bar {
            let (records, bytes) = progress.so_far();
            let seconds = clock.boot_us().saturating_sub(began_us).max(1) as f64 / 1e6;
            let (rate, megabytes) = (records as f64 / seconds, bytes as f64 / seconds / 1e6);
            let done = if consume { "read" } else { "acknowledged" };
            bar.set_message(format!("{records} records {done}, {rate:.0} records/s, {megabytes:.1} MB/s"));
            bar.tick();
        }
    }
}

#[cfg(test)]
#[path = "bench/tests.rs"]
mod tests;
