//! `esker topic`: creating, looking at, changing and deleting topics.

use std::collections::BTreeMap;
use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Value, json};

use super::output::{pretty, say};
use super::table::aligned;
use super::{Remote, told};
use crate::client::admin::{Admin, ConfigChanges, NewTopic, PartitionOffset, TopicDescription, TopicSummary};
use crate::client::{Isolation, Start};

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicCommand {
    remote: Remote,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Create { names: Vec<String>, partitions: i32, configs: BTreeMap<String, String>, if_not_exists: bool },
    List { internal: bool },
    Describe { names: Vec<String> },
    Alter { name: String, set: BTreeMap<String, String>, unset: Vec<String>, partitions: Option<i32> },
    Delete { names: Vec<String>, yes: bool, if_exists: bool },
}

/// The command as it is typed.
pub fn command() -> Command {
    let names = |help: &'static str| Arg::new("topic").value_name("TOPIC").required(true).num_args(1..).help(help);
    let partitions = || {
        Arg::new("partitions")
            .long("partitions")
            .short('p')
            .value_name("NUMBER")
            .value_parser(value_parser!(i32).range(1..))
    };
    let pairs = |name: &'static str| {
        Arg::new(name).long(name).value_name("CONFIG=VALUE").action(ArgAction::Append).value_parser(pair)
    };
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let create = Command::new("create")
        .about("Create topics")
        .arg(names("Their names"))
        .arg(partitions().help("How many partitions each has [default: as the broker is set]"))
        .arg(pairs("config").help("A config by Kafka's name, such as retention.ms=86400000; may be repeated"))
        .arg(flag("if-not-exists", "A topic that is there is no error"))
        .after_help(
            "Examples:\n  esker topic create orders\n  esker topic create orders -p 12 --config retention.ms=86400000\n  \
             esker topic create orders payments --if-not-exists",
        );
    let list = Command::new("list")
        .about("List topics")
        .arg(flag("internal", "With those that brokers keep for themselves"))
        .after_help("Examples:\n  esker topic list\n  esker topic list --json -b broker-1:9094");
    let describe = Command::new("describe")
        .about("Print who leads a topic's partitions, their offsets, and its configs")
        .arg(names("Their names"))
        .after_help("Examples:\n  esker topic describe orders\n  esker topic describe orders --json");
    let alter = Command::new("alter")
        .about("Change a topic's configs, or give it more partitions")
        .arg(Arg::new("topic").value_name("TOPIC").required(true).help("Its name"))
        .arg(pairs("set").help("A config by Kafka's name gets a value; may be repeated"))
        .arg(
            Arg::new("unset")
                .long("unset")
                .value_name("CONFIG")
                .action(ArgAction::Append)
                .help("A config has its default again; may be repeated"),
        )
        .arg(partitions().help("How many partitions it has from now on: more than now"))
        .after_help(
            "Examples:\n  esker topic alter orders --set retention.ms=3600000 --unset max.message.bytes\n  \
             esker topic alter orders --partitions 24",
        );
    let delete = Command::new("delete")
        .about("Delete topics with all their records")
        .arg(names("Their names"))
        .arg(flag("yes", "Do not ask, as one is asked on a terminal"))
        .arg(flag("if-exists", "A topic that is not there is no error"))
        .after_help("Examples:\n  esker topic delete orders\n  esker topic delete orders payments --yes");
    Command::new("topic")
        .about("Create, list, describe, change and delete topics")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .args(Remote::arguments())
        .subcommands([create, list, describe, alter, delete])
        .after_help("Examples:\n  esker topic create orders -p 12\n  esker topic list\n  esker topic describe orders")
}

/// `NAME=VALUE`.
fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write CONFIG=VALUE")?;
    if name.is_empty() { Err("write CONFIG=VALUE".to_owned()) } else { Ok((name.to_owned(), value.to_owned())) }
}

/// What was typed.
pub fn parse(matches: &ArgMatches, variables: &BTreeMap<String, String>) -> Option<TopicCommand> {
    let (name, matches) = matches.subcommand()?;
    let names = || matches.get_many::<String>("topic").into_iter().flatten().cloned().collect::<Vec<_>>();
    let pairs = |name| matches.get_many::<(String, String)>(name).into_iter().flatten().cloned().collect();
    let partitions = || matches.get_one::<i32>("partitions").copied();
    let what = match name {
        "create" => What::Create {
            names: names(),
            partitions: partitions().unwrap_or(0),
            configs: pairs("config"),
            if_not_exists: matches.get_flag("if-not-exists"),
        },
        "list" => What::List { internal: matches.get_flag("internal") },
        "describe" => What::Describe { names: names() },
        "alter" => What::Alter {
            name: names().pop()?,
            set: pairs("set"),
            unset: matches.get_many::<String>("unset").into_iter().flatten().cloned().collect(),
            partitions: partitions(),
        },
        "delete" => {
            What::Delete { names: names(), yes: matches.get_flag("yes"), if_exists: matches.get_flag("if-exists") }
        }
        _ => return None,
    };
    Some(TopicCommand { remote: Remote::parse(matches, variables), what })
}

/// Does it.
pub async fn run(command: TopicCommand) -> anyhow::Result<()> {
    let TopicCommand { remote, what } = command;
    let admin = remote.client()?.admin();
    match what {
        What::Create { names, partitions, configs, if_not_exists } => {
            let (mut lines, mut made) = (Vec::new(), Vec::new());
            for name in names {
                let topic = NewTopic { name: name.clone(), partitions, configs: configs.clone(), validate_only: false };
                match admin.create_topic(topic).await {
                    Ok(topic) => {
                        lines.push(format!("created {name} with {} partitions\n", topic.partitions));
                        made.push(topic_json(&topic, true));
                    }
                    Err(error) if if_not_exists && error.is_already_exists() => {
                        lines.push(format!("{name} is there already\n"));
                        let there = admin.describe_topic(&name).await.map_err(told)?;
                        made.push(topic_json(&there.topic.unwrap_or_default(), false));
                    }
                    Err(error) => {
                        // What was done before stays done, and is said.
                        say(if remote.json { String::new() } else { lines.concat() }.as_str())?;
                        return Err(told(error).context(format!("{name} was not created")));
                    }
                }
            }
            say(&if remote.json { pretty(&Value::from(made)) } else { lines.concat() })
        }
        What::List { internal } => {
            let topics = admin.list_topics(internal).await.map_err(told)?;
            if remote.json {
                let list: Vec<Value> = topics.iter().map(topic_json_plain).collect();
                return say(&pretty(&Value::from(list)));
            }
            let row = |topic: &TopicSummary| vec![topic.name.clone(), topic.partitions.to_string(), topic.id.clone()];
            say(&aligned(&["TOPIC", "PARTITIONS", "ID"], &topics.iter().map(row).collect::<Vec<_>>()))
        }
        What::Describe { names } => {
            let (mut texts, mut values) = (Vec::new(), Vec::new());
            for name in names {
                let described = Described::ask(&admin, &name).await?;
                texts.push(described.text());
                values.push(described.json());
            }
            say(&if remote.json { pretty(&Value::from(values)) } else { texts.join("\n") })
        }
        What::Alter { name, set, unset, partitions } => {
            let configs = !set.is_empty() || !unset.is_empty();
            if !configs && partitions.is_none() {
                bail!("nothing to change: say --set, --unset or --partitions");
            }
            if configs {
                let changes = ConfigChanges { set, unset, validate_only: false };
                admin.alter_topic_configs(&name, changes).await.map_err(told)?;
            }
            if let Some(partitions) = partitions {
                let why =
                    if configs { "its configs are changed, its partitions are not" } else { "nothing was changed" };
                admin.create_partitions(&name, partitions, false).await.map_err(told).context(why)?;
            }
            let result = json!({ "topic": name, "configs_changed": configs, "partitions": partitions });
            say(&if remote.json { pretty(&result) } else { format!("changed {name}\n") })
        }
        What::Delete { names, yes, if_exists } => {
            if !yes && std::io::stdin().is_terminal() && std::io::stderr().is_terminal() && !confirmed(&names)? {
                bail!("nothing was deleted");
            }
            let (mut lines, mut gone) = (Vec::new(), Vec::new());
            for name in names {
                match admin.delete_topic(&name).await {
                    Ok(()) => {
                        lines.push(format!("deleted {name}\n"));
                        gone.push(Value::from(name));
                    }
                    Err(error) if if_exists && error.is_not_found() => lines.push(format!("{name} is not there\n")),
                    Err(error) => {
                        say(if remote.json { String::new() } else { lines.concat() }.as_str())?;
                        return Err(told(error).context(format!("{name} was not deleted")));
                    }
                }
            }
            say(&if remote.json { pretty(&json!({ "deleted": gone })) } else { lines.concat() })
        }
    }
}

/// Asks on the terminal.
fn confirmed(names: &[String]) -> anyhow::Result<bool> {
    let mut stderr = std::io::stderr();
    write!(stderr, "Delete {} with all records? [y/N] ", names.join(", "))?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn topic_json_plain(topic: &TopicSummary) -> Value {
    json!({ "name": topic.name, "id": topic.id, "partitions": topic.partitions, "internal": topic.internal })
}

fn topic_json(topic: &TopicSummary, created: bool) -> Value {
    let mut value = topic_json_plain(topic);
    value["created"] = created.into();
    value
}

/// A topic with the offsets of its partitions, where they are known.
struct Described {
    topic: TopicDescription,
    first: BTreeMap<i32, Result<i64, String>>,
    end: BTreeMap<i32, Result<i64, String>>,
}

impl Described {
    async fn ask(admin: &Admin, name: &str) -> anyhow::Result<Self> {
        let topic = admin.describe_topic(name).await.map_err(told)?;
        let offsets = async |at| {
            let offsets = admin.list_offsets(name, &[], at, Isolation::ReadUncommitted).await.map_err(told)?;
            anyhow::Ok(by_partition(offsets))
        };
        let (first, end) = (offsets(Start::Earliest).await?, offsets(Start::Latest).await?);
        Ok(Self { topic, first, end })
    }

    fn text(&self) -> String {
        let summary = self.topic.topic.clone().unwrap_or_default();
        let shown = |offsets: &BTreeMap<i32, Result<i64, String>>, partition| match offsets.get(&partition) {
            Some(Ok(offset)) => offset.to_string(),
            Some(Err(_)) | None => "-".to_owned(),
        };
        let row = |one: &crate::client::admin::PartitionInfo| {
            let leader = one.leader.as_ref().map_or("none".to_owned(), |leader| leader.broker_id.to_string());
            let (first, end) = (shown(&self.first, one.partition), shown(&self.end, one.partition));
            vec![one.partition.to_string(), leader, one.leader_epoch.to_string(), first, end]
        };
        let rows: Vec<Vec<String>> = self.topic.partitions.iter().map(row).collect();
        let mut lines = vec![format!("topic       {}\nid          {}\n", summary.name, summary.id)];
        for config in self.topic.configs.iter().filter(|config| config.overridden) {
            lines.push(format!("config      {}={}\n", config.name, config.value.as_deref().unwrap_or_default()));
        }
        lines.concat() + "\n" + &aligned(&["PARTITION", "LEADER", "EPOCH", "FIRST", "END"], &rows)
    }

    fn json(&self) -> Value {
        let mut value = topic_json_plain(&self.topic.topic.clone().unwrap_or_default());
        let shown = |offsets: &BTreeMap<i32, Result<i64, String>>, partition| {
            offsets.get(&partition).and_then(|offset| offset.as_ref().ok()).copied()
        };
        let partition = |one: &crate::client::admin::PartitionInfo| {
            json!({
                "partition": one.partition,
                "leader": one.leader.as_ref().map(|leader| leader.broker_id),
                "leader_endpoint": one.leader.as_ref().map(|leader| leader.grpc_endpoint.clone()),
                "leader_epoch": one.leader_epoch,
                "first_offset": shown(&self.first, one.partition),
                "end_offset": shown(&self.end, one.partition),
            })
        };
        let config = |one: &crate::client::admin::Config| json!({ "name": one.name, "value": one.value, "overridden": one.overridden });
        value["partitions"] = self.topic.partitions.iter().map(partition).collect();
        value["configs"] = self.topic.configs.iter().map(config).collect();
        value
    }
}

/// Offsets by partition; errors in words.
pub(super) fn by_partition(offsets: Vec<PartitionOffset>) -> BTreeMap<i32, Result<i64, String>> {
    let each = offsets.into_iter().map(|one| match one.error {
        Some(error) => (one.partition, Err(error.message)),
        None => (one.partition, Ok(one.offset)),
    });
    each.collect()
}
