//! `esker produce`: lines become records.

use std::collections::{BTreeMap, VecDeque};
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use futures::FutureExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};

use super::output::{pretty, say};
use super::{Remote, told};
use crate::client::producer::Acks;
use crate::client::{Compression, Delivered, Delivery, Error, Producer, Record};

/// Longest line, in bytes.
const MAX_LINE_BYTES: usize = 64 << 20;
/// Records whose outcome is not known yet; the next one waits.
const MAX_OPEN: usize = 100_000;
/// How often the progress bar is drawn, in milliseconds.
const DRAW_MS: u64 = 100;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProduceCommand {
    remote: Remote,
    topic: String,
    files: Vec<String>,
    key_separator: Option<String>,
    headers: Vec<(String, String)>,
    partition: Option<i32>,
    compression: Compression,
    acks: Acks,
}

/// The command as it is typed.
pub fn command() -> Command {
    let files = Arg::new("file").value_name("FILE").num_args(0..).help("Read these instead of stdin; - is stdin");
    let headers = Arg::new("header")
        .long("header")
        .short('H')
        .value_name("NAME=VALUE")
        .action(ArgAction::Append)
        .value_parser(header)
        .help("A header of every record; may be repeated");
    Command::new("produce")
        .about("Write lines to a topic, a record each")
        .arg(Arg::new("topic").value_name("TOPIC").required(true).help("Created if it is not there and brokers are set to"))
        .arg(files)
        .arg(
            Arg::new("key-separator")
                .long("key-separator")
                .short('k')
                .value_name("TEXT")
                .value_parser(clap::builder::NonEmptyStringValueParser::new())
                .help("What separates key and value in a line; a line without it has no key"),
        )
        .arg(headers)
        .arg(
            Arg::new("partition")
                .long("partition")
                .short('p')
                .value_name("NUMBER")
                .value_parser(value_parser!(i32).range(0..))
                .help("All records go there [default: by key]"),
        )
        .arg(
            Arg::new("compression")
                .long("compression")
                .short('z')
                .value_name("CODEC")
                .value_parser(["none", "gzip", "snappy", "lz4", "zstd"])
                .default_value("none")
                .help("How batches are compressed"),
        )
        .arg(
            Arg::new("acks")
                .long("acks")
                .value_name("WHOSE")
                .value_parser(["all", "1"])
                .default_value("all")
                .help("all: committed in the object store; 1: on the leader's disk"),
        )
        .args(Remote::arguments())
        .after_help(
            "Each line is written once, whatever breaks meanwhile; the command ends when all are acknowledged.\n\nExamples:\n  \
             echo hello | esker produce greetings\n  esker produce events events.log -z zstd\n  \
             printf 'ann:1\\nbob:2\\n' | esker produce points -k : -H source=shell",
        )
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// What was typed.
pub fn parse(matches: &ArgMatches, variables: &BTreeMap<String, String>) -> Option<ProduceCommand> {
    let codecs = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    let codec = matches.get_one::<String>("compression")?;
    Some(ProduceCommand {
        remote: Remote::parse(matches, variables),
        topic: matches.get_one::<String>("topic")?.clone(),
        files: matches.get_many::<String>("file").into_iter().flatten().cloned().collect(),
        key_separator: matches.get_one::<String>("key-separator").cloned(),
        headers: matches.get_many("header").into_iter().flatten().cloned().collect(),
        partition: matches.get_one::<i32>("partition").copied(),
        compression: codecs.into_iter().find(|one| one.name() == codec)?,
        acks: if matches.get_one::<String>("acks")? == "1" { Acks::Leader } else { Acks::All },
    })
}

/// What was acknowledged.
#[derive(Default)]
struct Written {
    records: u64,
    bytes: u64,
    /// First and last offset of each partition.
    partitions: BTreeMap<i32, (i64, i64)>,
}

/// Does it.
pub async fn run(command: ProduceCommand) -> anyhow::Result<()> {
    let client = command.remote.client()?;
    // Whether anybody is there is known at once, not when the first record is given up.
    client.admin().describe_cluster().await.map_err(told)?;
    let producer = client.producer().compression(command.compression).acks(command.acks).build();
    let mut sending = Sending { command: &command, producer, open: VecDeque::new(), written: Written::default() };
    let bar = progress(&command.files).await;
    let inputs = if command.files.is_empty() { vec!["-".to_owned()] } else { command.files.clone() };
    for input in &inputs {
        let place = if input == "-" { "stdin" } else { input };
        let mut reader: Box<dyn AsyncBufRead + Unpin> = match input.as_str() {
            "-" => Box::new(BufReader::with_capacity(1 << 16, tokio::io::stdin())),
            path => {
                let file = tokio::fs::File::open(path).await.with_context(|| format!("{path} cannot be read"))?;
                Box::new(BufReader::with_capacity(1 << 16, file))
            }
        };
        let mut line = Vec::new();
        for number in 1_u64.. {
            let read = next_line(&mut reader, &mut line).await;
            if !read.with_context(|| format!("{place}, line {number}"))? {
                break;
            }
            if let Some(bar) = &bar {
                bar.inc(line.len() as u64 + 1);
            }
            sending.line(&line, place, number).await?;
            line.clear();
        }
    }
    sending.producer.flush().await;
    let mut told_all = Ok(());
    while let Some((place, delivery, bytes)) = sending.open.pop_front() {
        told_all = told_all.and(sending.written.note(&place, delivery.await, bytes));
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    told_all?;
    let Written { records, bytes, partitions } = sending.written;
    let partition = |(partition, (first, last)): (&i32, &(i64, i64))| json!({ "partition": partition, "first_offset": first, "last_offset": last });
    let result = json!({
        "topic": command.topic,
        "records": records,
        "bytes": bytes,
        "partitions": partitions.iter().map(partition).collect::<Vec<_>>(),
    });
    let plural = if records == 1 { "" } else { "s" };
    say(&if command.remote.json {
        pretty(&result)
    } else {
        format!("{records} record{plural} written to {}\n", command.topic)
    })
}

struct Sending<'a> {
    command: &'a ProduceCommand,
    producer: Producer,
    /// In the order of sending: where each comes from, and how many bytes it has.
    open: VecDeque<(String, Delivery, u64)>,
    written: Written,
}

impl Sending<'_> {
    async fn line(&mut self, line: &[u8], place: &str, number: u64) -> anyhow::Result<()> {
        let place = format!("{place}, line {number}");
        let record = record_of(self.command, line);
        let delivery = self.producer.send(&self.command.topic, record).await.map_err(told).context(place.clone())?;
        self.open.push_back((place, delivery, line.len() as u64));
        while let Some((place, delivery, bytes)) = self.open.front_mut() {
            let outcome = delivery.now_or_never();
            let (place, bytes) = (place.clone(), *bytes);
            match outcome {
                Some(outcome) => {
                    self.open.pop_front();
                    self.written.note(&place, outcome, bytes)?;
                }
                None if self.open.len() > MAX_OPEN => {
                    if let Some((place, delivery, bytes)) = self.open.pop_front() {
                        self.written.note(&place, delivery.await, bytes)?;
                    }
                }
                None => break,
            }
        }
        Ok(())
    }
}

impl Written {
    fn note(&mut self, place: &str, outcome: Result<Delivered, Error>, bytes: u64) -> anyhow::Result<()> {
        let at = match outcome {
            Ok(at) => at,
            Err(error) if error.may_have_happened() => {
                return Err(told(error).context(format!("{place}: not acknowledged, it may be written all the same")));
            }
            Err(error) => return Err(told(error).context(format!("{place}: not written"))),
        };
        self.records += 1;
        self.bytes += bytes;
        if let Some(offset) = at.offset {
            let span = self.partitions.entry(at.partition).or_insert((offset, offset));
            *span = (span.0.min(offset), span.1.max(offset));
        }
        Ok(())
    }
}

fn record_of(command: &ProduceCommand, line: &[u8]) -> Record {
    let separator = command.key_separator.as_deref().map(str::as_bytes);
    let cut = separator.and_then(|separator| {
        let at = line.windows(separator.len()).position(|window| window == separator)?;
        Some((&line[..at], &line[at + separator.len()..]))
    });
    let (key, value) = cut.map_or((None, line), |(key, value)| (Some(key), value));
    let mut record = Record::new(Bytes::copy_from_slice(value));
    record.key = key.map(Bytes::copy_from_slice);
    record.partition = command.partition;
    command.headers.iter().fold(record, |record, (name, value)| record.header(name.clone(), value.clone()))
}

/// Reads a line without its end into `line`, which is empty; `false` at the end of the input.
async fn next_line(reader: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> anyhow::Result<bool> {
    let mut any = false;
    loop {
        let buffer = reader.fill_buf().await?;
        if buffer.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(buffer.len());
        if line.len() + taken > MAX_LINE_BYTES {
            bail!("it is longer than {} MiB", MAX_LINE_BYTES >> 20);
        }
        line.extend_from_slice(&buffer[..taken]);
        reader.consume(taken + usize::from(end.is_some()));
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// A bar for people; with an estimate if the inputs' sizes are known.
async fn progress(files: &[String]) -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() || (files.is_empty() && std::io::stdin().is_terminal()) {
        return None;
    }
    let mut total = Some(0);
    for file in files {
        let size = tokio::fs::metadata(file).await.ok().filter(std::fs::Metadata::is_file).map(|file| file.len());
        total = total.zip(size).map(|(total, size)| total + size);
    }
    let total = total.filter(|total| *total > 0);
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}, {bytes_per_sec}"),
    };
    bar.set_style(ProgressStyle::with_template(template).map_err(|error| anyhow!(error)).ok()?);
    bar.enable_steady_tick(Duration::from_millis(DRAW_MS));
    Some(bar)
}

#[cfg(test)]
#[path = "produce/tests.rs"]
mod tests;
