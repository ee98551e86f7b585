//! The command line: what was typed, to what is to be done.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal;

use clap::{Arg, ArgMatches, Command};

use super::commands::bench::{self, BenchCommand};
use super::commands::cluster::{self, ClusterCommand};
use super::commands::consume::{self, ConsumeCommand};
use super::commands::group::{self, GroupCommand};
use super::commands::produce::{self, ProduceCommand};
use super::commands::topic::{self, TopicCommand};
use super::commands::{completions, doctor, fsck, inspect, tool_takes};
use super::restore;
use crate::config::key::Kind;
use crate::config::keys::KEYS;
use crate::config::{Loaded, Sources, load};

/// Name of the flag (and, in capitals after `ESKER_`, of the variable) that names the settings file.
const CONFIG: &str = "config";

/// What to do.
#[derive(Debug)]
pub enum Action {
    /// Print this and end with success.
    Print(String),
    /// Run a broker.
    Serve(Box<Loaded>),
    /// Look at a cluster, or change it.
    Cluster(ClusterCommand),
    /// Create topics, look at them, change them.
    Topic(TopicCommand),
    /// Look at consumer groups, move them.
    Group(GroupCommand),
    /// Write lines to a topic.
    Produce(ProduceCommand),
    /// Print a topic's records.
    Consume(ConsumeCommand),
    /// Check whether a broker would run here.
    Doctor(Box<doctor::Request>),
    /// Check what is stored.
    Fsck(Box<fsck::Request>),
    /// Print a stored object in words.
    Inspect(Box<inspect::Request>),
    /// Measure.
    Bench(BenchCommand),
    /// Rebuild a lost metadata store.
    Restore(Box<restore::Request>),
}

/// Why nothing can be done: a message for people. Always a matter of usage (exit code 2).
#[derive(Debug)]
pub struct UsageError(pub String);

/// Reads the arguments (the program's name first) and the `ESKER_…` variables; `read_file` reads the settings file.
pub fn parse(
    arguments: Vec<OsString>,
    variables: &BTreeMap<String, String>,
    read_file: impl Fn(&str) -> std::io::Result<String>,
) -> Result<Action, UsageError> {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) if error.use_stderr() => return Err(UsageError(paint(&error.render(), &std::io::stderr()))),
        Err(help) => return Ok(Action::Print(paint(&help.render(), &std::io::stdout()))),
    };
    match matches.subcommand() {
        Some(("serve", matches)) => Ok(Action::Serve(Box::new(settings(matches, variables, read_file)?))),
        Some(("doctor", matches)) => {
            let request = doctor::Request::new(settings(matches, variables, read_file)?, matches);
            Ok(Action::Doctor(Box::new(request)))
        }
        Some(("fsck", matches)) => {
            let request = fsck::Request::new(settings(matches, variables, read_file)?.settings, matches);
            Ok(Action::Fsck(Box::new(request)))
        }
        Some(("inspect", matches)) => {
            let request = inspect::Request::new(settings(matches, variables, read_file)?, matches);
            Ok(Action::Inspect(Box::new(request.map_err(usage)?)))
        }
        Some(("completions", matches)) => Ok(Action::Print(completions::script(matches, command()))),
        Some(("bench", matches)) => Ok(Action::Bench(bench::parse(matches, variables))),
        Some(("cluster", matches)) => match matches.subcommand() {
            Some(("restore", matches)) => {
                let request = restore::Request::new(settings(matches, variables, read_file)?, matches);
                Ok(Action::Restore(Box::new(request.map_err(usage)?)))
            }
            _ => match cluster::parse(matches, variables) {
                Some(command) => Ok(Action::Cluster(command)),
                None => Ok(Action::Print(paint(&cluster_command().render_help(), &std::io::stdout()))),
            },
        },
        Some((name, matches)) => {
            let action = match name {
                "topic" => topic::parse(matches, variables).map(Action::Topic),
                "group" => group::parse(matches, variables).map(Action::Group),
                "produce" => produce::parse(matches, variables).map(Action::Produce),
                "consume" => consume::parse(matches, variables).map(Action::Consume),
                _ => None,
            };
            Ok(action.unwrap_or_else(|| Action::Print(paint(&command().render_help(), &std::io::stdout()))))
        }
        None => Ok(Action::Print(paint(&command().render_help(), &std::io::stdout()))),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn usage(problem: String) -> UsageError {
    UsageError(format!("error: {problem}\n"))
}

fn settings(
    matches: &ArgMatches,
    variables: &BTreeMap<String, String>,
    read_file: impl Fn(&str) -> std::io::Result<String>,
) -> Result<Loaded, UsageError> {
    // Not every command takes every setting.
    let given = |name| matches.try_get_one::<String>(name).ok().flatten().cloned();
    let flags = KEYS.iter().filter_map(|key| Some((key.name.to_owned(), given(key.name)?))).collect();
    let path = matches.get_one::<String>(CONFIG).or_else(|| variables.get("ESKER_CONFIG"));
    let text = match path {
        None => None,
        Some(path) => match read_file(path) {
            Ok(text) => Some((path.as_str(), text)),
            Err(error) => {
                return Err(UsageError(format!("error: the settings file '{path}' cannot be read: {error}\n")));
            }
        },
    };
    let file = text.as_ref().map(|(path, text)| (*path, text.as_str()));
    load(&Sources { flags: &flags, variables, file }).map_err(|error| {
        let lines: Vec<String> = error.0.iter().map(|problem| format!("error: {problem}\n")).collect();
        UsageError(lines.concat())
    })
}

/// With colours only where a person looks.
fn paint(text: &clap::builder::StyledStr, to: &impl IsTerminal) -> String {
    if to.is_terminal() { text.ansi().to_string() } else { text.to_string() }
}

fn command() -> Command {
    Command::new("esker")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Esker: a Kafka-compatible broker that keeps its streams in object storage")
        .disable_help_subcommand(true)
        .subcommand(serve_command())
        .subcommand(topic::command())
        .subcommand(produce::command())
        .subcommand(consume::command())
        .subcommand(group::command())
        .subcommand(cluster_command())
        .subcommand(with_settings(inspect::command(), tool_takes))
        .subcommand(with_settings(doctor::command(), |_| true))
        .subcommand(with_settings(fsck::command(), fsck::takes))
        .subcommand(bench::command())
        .subcommand(completions::command())
        .after_help(
            "Examples:\n  esker serve\n  esker serve --object-store s3://bucket/prefix --metadata etcd://etcd-1,etcd-2,etcd-3\n  \
             echo hello | esker produce greetings\n  esker consume greetings\n  esker cluster status\n\nEach command has examples of its own: esker COMMAND --help. Results go to stdout, the rest to \
             stderr.\nExit codes: 0 done, 1 failed, 2 not understood.",
        )
}

fn serve_command() -> Command {
    let command = Command::new("serve").about("Run a broker").after_help(
        "Sizes: 65536, 512KiB, 8MiB. Durations: 250ms, 30s, 5min, 7d.\n\
         Flags beat ESKER_… variables, which beat the file. See docs/configuration.md.\n\nExamples:\n  esker serve\n  \
         esker serve --data-dir /var/lib/esker --kafka-listen 0.0.0.0:9092 --advertise broker-1:9092\n  \
         esker serve --object-store s3://bucket/prefix --metadata etcd://etcd-1:2379,etcd-2:2379 --zone a",
    );
    with_settings(command, |_| true)
}

/// Commands that ask a running broker, and the one for when none can run.
fn cluster_command() -> Command {
    cluster::command().subcommand(with_settings(restore::command(), restore::takes))
}

/// The command with a flag for each setting that it takes, and one for the file.
fn with_settings(command: Command, takes: impl Fn(&str) -> bool) -> Command {
    let config = Arg::new(CONFIG).long(CONFIG).value_name("FILE").help("Settings in TOML [env: ESKER_CONFIG]");
    let mut command = command.args_override_self(true).arg(config);
    for key in KEYS.iter().filter(|key| takes(key.name)) {
        let bounds = match key.bounds_text() {
            bounds if bounds.is_empty() => String::new(),
            bounds => format!("; {bounds}"),
        };
        let short = format!("{} [default: {}]", key.doc, key.default_text());
        let long = format!(
            "{}\n[default: {}{bounds}] [env: {}] [file: {}]",
            key.doc,
            key.default_text(),
            key.variable(),
            key.name
        );
        let mut arg = Arg::new(key.name).long(key.flag()).value_name(key.hint()).help(short).long_help(long);
        if key.kind == Kind::Flag {
            arg = arg.num_args(0..=1).default_missing_value("true");
        }
        command = command.arg(arg.hide_short_help(!key.common));
    }
    command
}
