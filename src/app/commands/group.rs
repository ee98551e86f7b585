//! `esker group`: consumer groups: who is in them, how far they are, and moving them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::bail;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, value_parser};
use serde_json::{Value, json};

use super::consume::from::timestamp_ms;
use super::output::{pretty, say};
use super::table::aligned;
use super::topic::by_partition;
use super::{Remote, told};
use crate::client::admin::{Admin, GroupDescription, GroupMember, GroupOffset, GroupSummary, PartitionOffset};
use crate::client::{Isolation, Start};

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupCommand {
    remote: Remote,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    List,
    Describe { groups: Vec<String> },
    Reset { group: String, topics: Vec<String>, to: To, execute: bool },
    Delete { groups: Vec<String> },
}

/// Where offsets are moved to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Earliest,
    Latest,
    Offset(i64),
    TimestampMs(i64),
    ShiftBy(i64),
}

/// The command as it is typed.
pub fn command() -> Command {
    let groups = || Arg::new("group").value_name("GROUP").required(true).num_args(1..).help("Their names");
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let number = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("NUMBER").value_parser(value_parser!(i64)).help(help)
    };
    let reset = Command::new("reset")
        .about("Move a group's offsets; only shows what would be done, unless --execute is said")
        .arg(Arg::new("group").value_name("GROUP").required(true).help("Its name; it has no members"))
        .arg(
            Arg::new("topic")
                .long("topic")
                .value_name("TOPIC[:PARTITION,…]")
                .action(ArgAction::Append)
                .help("Only this topic, or these partitions of it; may be repeated [default: all that it has offsets of]"),
        )
        .arg(flag("to-earliest", "To the first record"))
        .arg(flag("to-latest", "Behind the last record"))
        .arg(number("to-offset", "To this offset, or the nearest that there is").value_parser(value_parser!(i64).range(0..)))
        .arg(
            Arg::new("to-timestamp")
                .long("to-timestamp")
                .value_name("TIME")
                .value_parser(time)
                .help("To the first record at or after this time: RFC 3339, or @ and milliseconds"),
        )
        .arg(number("shift-by", "By so many records on, or back if it is negative").allow_negative_numbers(true))
        .group(
            ArgGroup::new("to")
                .args(["to-earliest", "to-latest", "to-offset", "to-timestamp", "shift-by"])
                .required(true),
        )
        .arg(flag("execute", "Do it"))
        .after_help(
            "Examples:\n  esker group reset readers --to-earliest\n  esker group reset readers --topic events:0,1 --shift-by -100 \
             --execute\n  esker group reset readers --to-timestamp 2026-01-31T12:00:00Z --execute",
        );
    let describe = Command::new("describe")
        .about("Print a group's members, its offsets, and how far it is behind")
        .arg(groups())
        .after_help("Examples:\n  esker group describe readers\n  esker group describe readers --json");
    let delete = Command::new("delete")
        .about("Forget groups and their offsets; they have no members")
        .arg(groups())
        .after_help("Examples:\n  esker group delete readers\n  esker group delete readers writers --json");
    Command::new("group")
        .about("List, describe, move and delete consumer groups")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .args(Remote::arguments())
        .subcommand(
            Command::new("list")
                .about("List groups")
                .after_help("Examples:\n  esker group list\n  esker group list --json -b broker-1:9094"),
        )
        .subcommands([describe, reset, delete])
        .after_help(
            "Examples:\n  esker group list\n  esker group describe readers\n  esker group reset readers --to-latest --execute",
        )
}

fn time(text: &str) -> Result<i64, String> {
    timestamp_ms(text).ok_or_else(|| "write a time such as 2026-01-31T12:00:00Z, or @ and milliseconds".to_owned())
}

/// What was typed.
pub fn parse(matches: &ArgMatches, variables: &BTreeMap<String, String>) -> Option<GroupCommand> {
    let (name, matches) = matches.subcommand()?;
    let all = |name| matches.get_many::<String>(name).into_iter().flatten().cloned().collect::<Vec<_>>();
    let number = |name| matches.get_one::<i64>(name).copied();
    let what = match name {
        "list" => What::List,
        "describe" => What::Describe { groups: all("group") },
        "delete" => What::Delete { groups: all("group") },
        "reset" => {
            let to = match (number("to-offset"), number("to-timestamp"), number("shift-by")) {
                (Some(offset), ..) => To::Offset(offset),
                (_, Some(at_ms), _) => To::TimestampMs(at_ms),
                (.., Some(by)) => To::ShiftBy(by),
                _ if matches.get_flag("to-latest") => To::Latest,
                _ => To::Earliest,
            };
            let group = all("group").pop()?;
            What::Reset { group, topics: all("topic"), to, execute: matches.get_flag("execute") }
        }
        _ => return None,
    };
    Some(GroupCommand { remote: Remote::parse(matches, variables), what })
}

/// Does it.
pub async fn run(command: GroupCommand) -> anyhow::Result<()> {
    let GroupCommand { remote, what } = command;
    let admin = remote.client()?.admin();
    match what {
        What::List => {
            let list = admin.list_groups().await.map_err(told)?;
            for missing in &list.incomplete {
                eprintln!("not complete: {missing}");
            }
            if remote.json {
                let groups: Vec<Value> = list.groups.iter().map(summary_json).collect();
                return say(&pretty(&json!({ "groups": groups, "incomplete": list.incomplete })));
            }
            let row =
                |group: &GroupSummary| vec![group.group.clone(), group.state.clone(), or_dash(&group.protocol_type)];
            say(&aligned(&["GROUP", "STATE", "TYPE"], &list.groups.iter().map(row).collect::<Vec<_>>()))
        }
        What::Describe { groups } => {
            let (mut texts, mut values) = (Vec::new(), Vec::new());
            for group in groups {
                let described = admin.describe_group(&group).await.map_err(told)?;
                texts.push(described_text(&described));
                values.push(described_json(&described));
            }
            say(&if remote.json { pretty(&Value::from(values)) } else { texts.join("\n") })
        }
        What::Reset { group, topics, to, execute } => {
            let moves = plan(&admin, &group, &topics, to).await?;
            if moves.is_empty() {
                bail!("group {group} has no offsets to move; name topics with --topic");
            }
            if execute {
                let offset = |one: &Move| PartitionOffset {
                    topic: one.topic.clone(),
                    partition: one.partition,
                    offset: one.to,
                    leader_epoch: -1,
                    error: None,
                };
                let failed = admin.set_group_offsets(&group, moves.iter().map(offset).collect()).await.map_err(told)?;
                if let Some(first) = failed.first() {
                    let why = first.error.as_ref().map_or("no reason is given", |error| error.message.as_str());
                    bail!(
                        "{} of {} offsets were not moved; {}-{}: {why}",
                        failed.len(),
                        moves.len(),
                        first.topic,
                        first.partition
                    );
                }
            }
            if remote.json {
                let offsets: Vec<Value> = moves.iter().map(Move::json).collect();
                return say(&pretty(&json!({ "group": group, "executed": execute, "offsets": offsets })));
            }
            let rows: Vec<Vec<String>> = moves.iter().map(Move::row).collect();
            let said = if execute { "" } else { "\nnothing was changed: say --execute to do it\n" };
            say(&(aligned(&["TOPIC", "PARTITION", "FROM", "TO"], &rows) + said))
        }
        What::Delete { groups } => {
            let mut lines = Vec::new();
            for group in &groups {
                if let Err(error) = admin.delete_group(group).await {
                    say(if remote.json { String::new() } else { lines.concat() }.as_str())?;
                    return Err(told(error).context(format!("{group} was not deleted")));
                }
                lines.push(format!("deleted {group}\n"));
            }
            say(&if remote.json { pretty(&json!({ "deleted": groups })) } else { lines.concat() })
        }
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn summary_json(group: &GroupSummary) -> Value {
    json!({ "group": group.group, "state": group.state, "protocol_type": group.protocol_type })
}

/// Records between the committed offset and the end, if both are known.
fn lag(offset: &GroupOffset) -> Option<i64> {
    (offset.end_offset >= 0 && offset.committed_offset >= 0)
        .then(|| (offset.end_offset - offset.committed_offset).max(0))
}

/// `topic:0,1 other:2`
fn assignment(member: &GroupMember) -> String {
    let topic = |one: &crate::client::admin::TopicPartitions| {
        let partitions: Vec<String> = one.partitions.iter().map(ToString::to_string).collect();
        format!("{}:{}", one.topic, partitions.join(","))
    };
    or_dash(&member.assignment.iter().map(topic).collect::<Vec<_>>().join(" "))
}

fn described_text(group: &GroupDescription) -> String {
    let summary = group.summary.clone().unwrap_or_default();
    let coordinator = group.coordinator.as_ref().map_or("none".to_owned(), |one| format!("broker {}", one.broker_id));
    let total: i64 = group.offsets.iter().filter_map(lag).sum();
    let mut parts = vec![format!(
        "group        {}\nstate        {}\nassignor     {}\ncoordinator  {coordinator}\nlag          {total}\n",
        summary.group,
        summary.state,
        or_dash(&group.assignor)
    )];
    let member = |one: &GroupMember| {
        vec![
            one.member_id.clone(),
            or_dash(one.instance_id.as_deref().unwrap_or_default()),
            or_dash(&one.host),
            assignment(one),
        ]
    };
    if !group.members.is_empty() {
        let rows: Vec<Vec<String>> = group.members.iter().map(member).collect();
        parts.push(aligned(&["MEMBER", "INSTANCE", "HOST", "ASSIGNED"], &rows));
    }
    let shown = |known: Option<i64>| known.map_or("-".to_owned(), |number| number.to_string());
    let offset = |one: &GroupOffset| {
        let end = (one.end_offset >= 0).then_some(one.end_offset);
        let committed = one.committed_offset.to_string();
        vec![one.topic.clone(), one.partition.to_string(), committed, shown(end), shown(lag(one))]
    };
    if !group.offsets.is_empty() {
        let rows: Vec<Vec<String>> = group.offsets.iter().map(offset).collect();
        parts.push(aligned(&["TOPIC", "PARTITION", "COMMITTED", "END", "LAG"], &rows));
    }
    parts.join("\n")
}

fn described_json(group: &GroupDescription) -> Value {
    let member = |one: &GroupMember| {
        let assigned =
            |one: &crate::client::admin::TopicPartitions| json!({ "topic": one.topic, "partitions": one.partitions });
        json!({
            "member_id": one.member_id,
            "instance_id": one.instance_id,
            "client_id": one.client_id,
            "host": one.host,
            "assignment": one.assignment.iter().map(assigned).collect::<Vec<_>>(),
        })
    };
    let offset = |one: &GroupOffset| {
        json!({
            "topic": one.topic,
            "partition": one.partition,
            "committed_offset": one.committed_offset,
            "end_offset": (one.end_offset >= 0).then_some(one.end_offset),
            "lag": lag(one),
            "metadata": one.metadata,
        })
    };
    let mut value = summary_json(&group.summary.clone().unwrap_or_default());
    value["assignor"] = group.assignor.clone().into();
    value["coordinator"] = group.coordinator.as_ref().map(|one| one.broker_id).into();
    value["members"] = group.members.iter().map(member).collect();
    value["offsets"] = group.offsets.iter().map(offset).collect();
    value
}

/// One offset that is to be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Move {
    topic: String,
    partition: i32,
    from: Option<i64>,
    to: i64,
}

impl Move {
    fn row(&self) -> Vec<String> {
        let from = self.from.map_or("-".to_owned(), |from| from.to_string());
        vec![self.topic.clone(), self.partition.to_string(), from, self.to.to_string()]
    }

    fn json(&self) -> Value {
        json!({ "topic": self.topic, "partition": self.partition, "from": self.from, "to": self.to })
    }
}

/// `TOPIC` or `TOPIC:0,1`.
fn scope(text: &str) -> anyhow::Result<(String, Vec<i32>)> {
    let Some((topic, partitions)) = text.rsplit_once(':') else { return Ok((text.to_owned(), Vec::new())) };
    let numbers = partitions.split(',').map(str::parse).collect::<Result<Vec<i32>, _>>();
    match numbers {
        Ok(numbers) => Ok((topic.to_owned(), numbers)),
        Err(_) => bail!("'{text}': write TOPIC or TOPIC:PARTITION,…"),
    }
}

/// What is to be moved where. Offsets stay between the first record and the end.
async fn plan(admin: &Admin, group: &str, topics: &[String], to: To) -> anyhow::Result<Vec<Move>> {
    let committed = match admin.describe_group(group).await {
        Ok(described) if !described.members.is_empty() => {
            bail!("group {group} has members: stop them first");
        }
        Ok(described) => described.offsets,
        Err(error) if error.is_not_found() && !topics.is_empty() => Vec::new(),
        Err(error) => return Err(told(error)),
    };
    let known: BTreeMap<(String, i32), i64> =
        committed.into_iter().map(|one| ((one.topic, one.partition), one.committed_offset)).collect();
    let scopes = if topics.is_empty() {
        let mut scopes: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in known.keys() {
            scopes.entry(topic.clone()).or_default().push(*partition);
        }
        scopes.into_iter().collect()
    } else {
        topics.iter().map(|text| scope(text)).collect::<anyhow::Result<Vec<_>>>()?
    };
    let mut moves = Vec::new();
    let mut seen = BTreeSet::new();
    for (topic, partitions) in scopes {
        let ask = async |at| {
            let offsets =
                admin.list_offsets(&topic, &partitions, at, Isolation::ReadUncommitted).await.map_err(told)?;
            let mut found = BTreeMap::new();
            for (partition, offset) in by_partition(offsets) {
                match offset {
                    Ok(offset) => drop(found.insert(partition, offset)),
                    Err(why) => bail!("{topic}-{partition}: {why}"),
                }
            }
            Ok(found)
        };
        let (first, end) = (ask(Start::Earliest).await?, ask(Start::Latest).await?);
        let at_time = match to {
            To::TimestampMs(at_ms) => ask(Start::TimestampMs(at_ms)).await?,
            _ => BTreeMap::new(),
        };
        for (partition, end) in end {
            let first = first.get(&partition).copied().unwrap_or(0);
            let from = known.get(&(topic.clone(), partition)).copied();
            let wanted = match to {
                To::Earliest => first,
                To::Latest => end,
                To::Offset(offset) => offset,
                To::TimestampMs(_) => at_time.get(&partition).copied().filter(|offset| *offset >= 0).unwrap_or(end),
                To::ShiftBy(by) => match from {
                    Some(from) => from.saturating_add(by),
                    None => continue,
                },
            };
            if seen.insert((topic.clone(), partition)) {
                moves.push(Move { topic: topic.clone(), partition, from, to: wanted.clamp(first, end.max(first)) });
            }
        }
    }
    Ok(moves)
}
