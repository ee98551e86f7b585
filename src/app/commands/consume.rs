//! `esker consume`: records become lines.

mod format;
pub mod from;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::pin::Pin;

use anyhow::bail;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use futures::{FutureExt as _, Stream, StreamExt as _};

use self::format::Format;
use self::from::From;
use super::topic::by_partition;
use super::{Remote, told};
use crate::client::{Client, ConsumerRecord, Error, Isolation, Reset, Start};

/// What is written at once while more is there, in bytes.
const WRITE_BYTES: usize = 64 << 10;

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub struct ConsumeCommand {
    remote: Remote,
    topics: Vec<String>,
    partitions: Vec<i32>,
    from: Option<From>,
    group: Option<String>,
    format: Format,
    count: Option<u64>,
    stop_at_end: bool,
    isolation: Isolation,
}

/// The command as it is typed.
pub fn command() -> Command {
    let from = Arg::new("from")
        .long("from")
        .short('o')
        .value_name("WHERE")
        .allow_hyphen_values(true)
        .value_parser(from::parse)
        .help("beginning, end, an offset, -N (the last N of each partition), a time (RFC 3339, or @ and milliseconds) [default: beginning; with --group where it stands]");
    let partitions = Arg::new("partition")
        .long("partition")
        .short('p')
        .value_name("NUMBER")
        .action(ArgAction::Append)
        .value_parser(value_parser!(i32).range(0..))
        .help("Only this one; may be repeated");
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    Command::new("consume")
        .about("Print the records of a topic, and wait for more")
        .arg(Arg::new("topic").value_name("TOPIC").required(true).num_args(1..).help("One topic, or several"))
        .arg(from)
        .arg(partitions)
        .arg(
            Arg::new("group")
                .long("group")
                .short('G')
                .value_name("GROUP")
                .conflicts_with("partition")
                .help("Read as a member of this consumer group, and commit"),
        )
        .arg(
            Arg::new("format")
                .long("format")
                .short('f')
                .value_name("FORMAT")
                .value_parser(format::parse)
                .conflicts_with("json")
                .help("As kcat's: %t topic, %p partition, %o offset, %k key, %s value, %h headers, %T time in ms, %K and %S lengths, \\n \\t [default: %s\\n]"),
        )
        .arg(
            Arg::new("count")
                .long("count")
                .short('c')
                .value_name("COUNT")
                .value_parser(value_parser!(u64).range(1..))
                .help("End after so many records"),
        )
        .arg(flag("exit", "End when what is there now is printed").short('e'))
        .arg(flag("read-committed", "Only what no open or aborted transaction holds"))
        .args(Remote::arguments())
        .after_help(
            "With --json each record is a line of JSON. Ctrl-C ends it; with --group what was printed is committed.\n\nExamples:\n  \
             esker consume events\n  esker consume events -e -o -10 -f '%p@%o %k: %s\\n'\n  \
             esker consume events --from 2026-01-31T12:00:00Z -c 100 --json\n  esker consume events --group readers",
        )
}

/// What was typed.
pub fn parse(matches: &ArgMatches, variables: &BTreeMap<String, String>) -> Option<ConsumeCommand> {
    let remote = Remote::parse(matches, variables);
    let format = match matches.get_one::<Format>("format") {
        Some(format) => format.clone(),
        None if remote.json => Format::Json,
        None => Format::value_and_line_feed(),
    };
    Some(ConsumeCommand {
        remote,
        topics: matches.get_many::<String>("topic")?.cloned().collect(),
        partitions: matches.get_many::<i32>("partition").into_iter().flatten().copied().collect(),
        from: matches.get_one::<From>("from").copied(),
        group: matches.get_one::<String>("group").cloned(),
        format,
        count: matches.get_one::<u64>("count").copied(),
        stop_at_end: matches.get_flag("exit"),
        isolation: if matches.get_flag("read-committed") {
            Isolation::ReadCommitted
        } else {
            Isolation::ReadUncommitted
        },
    })
}

/// Does it, until it has ended or ctrl-C comes.
pub async fn run(command: ConsumeCommand) -> anyhow::Result<()> {
    let client = command.remote.client()?;
    let options = client.consumer().isolation(command.isolation).stop_at_end(command.stop_at_end);
    // Whether there are such topics is known at once, not when nothing comes.
    for topic in &command.topics {
        client.admin().describe_topic(topic).await.map_err(told)?;
    }
    match &command.group {
        None => {
            let mut consumer = options;
            for topic in &command.topics {
                for (partition, start) in starts(&client, &command, topic).await? {
                    consumer = match partition {
                        Some(partition) => consumer.partition_from(topic, partition, start),
                        None => consumer.start(start).topic(topic),
                    };
                }
            }
            match print(consumer.build(), &command).await {
                Err(Stopped::Unwritten(error)) => quietly(error),
                printed => printed.map_err(Stopped::into_error),
            }
        }
        Some(group) => {
            let reset = match command.from {
                None | Some(From::Beginning) => Reset::Earliest,
                Some(From::End) => Reset::Latest,
                Some(_) => bail!("with --group, --from is beginning or end: where to begin if the group has no offset"),
            };
            let mut member = options.group(group).topics(command.topics.clone()).reset(reset).build();
            match print(&mut member, &command).await {
                // What could not be written is not committed: whoever comes next reads it again.
                Err(Stopped::Unwritten(error)) => quietly(error),
                printed => {
                    let left = member.close().await.map_err(told);
                    printed.map_err(Stopped::into_error).and(left)
                }
            }
        }
    }
}

/// Where each partition of a topic is read from; without a number: all of them.
async fn starts(client: &Client, command: &ConsumeCommand, topic: &str) -> anyhow::Result<Vec<(Option<i32>, Start)>> {
    let each = |start| match command.partitions.as_slice() {
        [] => vec![(None, start)],
        some => some.iter().map(|partition| (Some(*partition), start)).collect(),
    };
    let last = match command.from.unwrap_or(From::Beginning) {
        From::Beginning => return Ok(each(Start::Earliest)),
        From::End => return Ok(each(Start::Latest)),
        From::Offset(offset) => return Ok(each(Start::Offset(offset))),
        From::TimestampMs(at_ms) => return Ok(each(Start::TimestampMs(at_ms))),
        From::Last(last) => last,
    };
    let admin = client.admin();
    let offsets = async |at| {
        let offsets = admin.list_offsets(topic, &command.partitions, at, command.isolation).await.map_err(told)?;
        anyhow::Ok(by_partition(offsets))
    };
    let (first, end) = (offsets(Start::Earliest).await?, offsets(Start::Latest).await?);
    let mut found = Vec::new();
    for (partition, end) in end {
        let first = first.get(&partition).cloned().unwrap_or(Ok(0));
        match first.and_then(|first| Ok(first.max(end? - last))) {
            Ok(offset) => found.push((Some(partition), Start::Offset(offset))),
            Err(why) => bail!("partition {partition} of {topic}: {why}"),
        }
    }
    Ok(found)
}

/// Why printing ended before its time.
enum Stopped {
    /// Records that were taken could not be written.
    Unwritten(std::io::Error),
    Failed(anyhow::Error),
}

impl Stopped {
    fn into_error(self) -> anyhow::Error {
        match self {
            Self::Unwritten(error) => error.into(),
            Self::Failed(error) => error,
        }
    }
}

/// That nobody reads on (`| head`) is no error.
fn quietly(error: std::io::Error) -> anyhow::Result<()> {
    if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error.into()) }
}

fn write(lines: &mut Vec<u8>) -> Result<(), Stopped> {
    let mut stdout = std::io::stdout();
    stdout.write_all(lines).and_then(|()| stdout.flush()).map_err(Stopped::Unwritten)?;
    lines.clear();
    Ok(())
}

/// Prints records as they come. A group's member commits what it was asked to give when it is asked for more, so all of that is
/// written before.
async fn print<S>(mut records: S, command: &ConsumeCommand) -> Result<(), Stopped>
where
    S: Stream<Item = Result<ConsumerRecord, Error>> + Unpin,
{
    let mut lines = Vec::new();
    let mut left = command.count.unwrap_or(u64::MAX);
    let mut interrupted: Pin<Box<dyn Future<Output = std::io::Result<()>>>> = Box::pin(tokio::signal::ctrl_c());
    while left > 0 {
        if command.group.is_some() {
            write(&mut lines)?;
        }
        let next = match records.next().now_or_never() {
            Some(next) if lines.len() < WRITE_BYTES => next,
            ready => {
                write(&mut lines)?;
                let next = async {
                    match ready {
                        Some(next) => next,
                        None => records.next().await,
                    }
                };
                tokio::select! {
                    biased;
                    interrupted = &mut interrupted => return interrupted.map_err(|error| Stopped::Failed(error.into())),
                    next = next => next,
                }
            }
        };
        match next {
            None => break,
            Some(Ok(record)) => command.format.write(&record, &mut lines),
            Some(Err(error)) => {
                // What came before it is printed all the same.
                write(&mut lines)?;
                return Err(Stopped::Failed(told(error)));
            }
        }
        left -= 1;
    }
    write(&mut lines)
}

#[cfg(test)]
#[path = "consume/tests.rs"]
mod tests;
