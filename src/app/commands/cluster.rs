//! `esker cluster`: which brokers there are, what each has to do, and draining one.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use anyhow::bail;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::json;

use super::output::{pretty, say};
use super::table::aligned;
use super::{Remote, told};
use crate::client::admin::{Admin, Broker, ClusterDescription};

/// How often a drain is looked at, in milliseconds.
const LOOK_MS: u64 = 200;
/// Longest wait for a drain unless told otherwise, in seconds.
const DRAIN_TIMEOUT_S: &str = "300";

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterCommand {
    /// Print the cluster in a few lines.
    Status(Remote),
    /// Print a line per broker.
    Brokers(Remote),
    /// Drain a broker, or undo it.
    Drain {
        /// Whom to ask.
        remote: Remote,
        /// The broker.
        broker_id: i32,
        /// It takes partitions again.
        undo: bool,
        /// How long to wait until it leads nothing, in seconds; 0 does not wait.
        timeout_s: u64,
    },
}

/// The command as it is typed.
pub fn command() -> Command {
    let drain = Command::new("drain")
        .about("Have a broker give its partitions to the others and take none")
        .long_about(
            "Has a broker give its partitions to the others and take none, and waits until it leads nothing: then it can be \
             stopped without anybody noticing. It lasts until --undo or until the broker is started again. (A broker that \
             is told to stop with SIGTERM drains by itself.)",
        )
        .arg(Arg::new("broker").value_name("BROKER").required(true).value_parser(value_parser!(i32)).help("Its id"))
        .arg(Arg::new("undo").long("undo").action(ArgAction::SetTrue).help("It takes partitions again"))
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("SECONDS")
                .default_value(DRAIN_TIMEOUT_S)
                .value_parser(value_parser!(u64))
                .help("How long to wait until it leads nothing; 0 does not wait"),
        )
        .after_help(
            "Examples:\n  esker cluster drain 3 && systemctl stop esker\n  esker cluster drain 3 --timeout 0\n  esker cluster \
             drain 3 --undo",
        );
    let status = Command::new("status").about("Print how the cluster is").after_help(
        "Examples:\n  esker cluster status\n  esker cluster status --json -b broker-1:9094 | jq .controller_id",
    );
    let brokers = Command::new("brokers")
        .about("List the live brokers")
        .after_help("Examples:\n  esker cluster brokers\n  esker cluster brokers --json | jq -r '.[].endpoints.grpc'");
    Command::new("cluster")
        .about("Look at a cluster's brokers; drain one")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .args(Remote::arguments())
        .subcommand(status)
        .subcommand(brokers)
        .subcommand(drain)
        .after_help(
            "Examples:\n  esker cluster status\n  esker cluster brokers --json -b broker-1:9094,broker-2:9094\n  \
             esker cluster drain 3 && systemctl stop esker",
        )
}

/// What was typed; `None` if it is no sub-command of this one.
pub fn parse(matches: &ArgMatches, variables: &BTreeMap<String, String>) -> Option<ClusterCommand> {
    let (name, matches) = matches.subcommand()?;
    let remote = || Remote::parse(matches, variables);
    match name {
        "status" => Some(ClusterCommand::Status(remote())),
        "brokers" => Some(ClusterCommand::Brokers(remote())),
        "drain" => Some(ClusterCommand::Drain {
            remote: remote(),
            broker_id: *matches.get_one("broker")?,
            undo: matches.get_flag("undo"),
            timeout_s: *matches.get_one("timeout")?,
        }),
        _ => None,
    }
}

/// Does it.
pub async fn run(command: ClusterCommand) -> anyhow::Result<()> {
    match command {
        ClusterCommand::Status(remote) => {
            let cluster = remote.client()?.admin().describe_cluster().await.map_err(told)?;
            say(&if remote.json { as_json(&cluster) } else { status_text(&cluster) })
        }
        ClusterCommand::Brokers(remote) => {
            let cluster = remote.client()?.admin().describe_cluster().await.map_err(told)?;
            let list = || serde_json::Value::from(cluster.brokers.iter().map(broker_json).collect::<Vec<_>>());
            say(&if remote.json { pretty(&list()) } else { brokers_text(&cluster) })
        }
        ClusterCommand::Drain { remote, broker_id, undo, timeout_s } => {
            let admin = remote.client()?.admin();
            let mut left = admin.drain_broker(broker_id, undo).await.map_err(told)?;
            if !undo && timeout_s > 0 {
                let limit = Duration::from_secs(timeout_s);
                let Ok(drained) = tokio::time::timeout(limit, drained(&admin, broker_id)).await else {
                    bail!(
                        "broker {broker_id} still leads partitions after {timeout_s} s; it goes on draining: see 'esker \
                         cluster status'"
                    );
                };
                left = drained?;
            }
            let said = match (undo, left) {
                (true, _) => format!("broker {broker_id} takes partitions again\n"),
                (false, 0) => format!("broker {broker_id} leads nothing; it can be stopped\n"),
                (false, left) => format!("broker {broker_id} drains; {left} partitions are left\n"),
            };
            let result = json!({ "broker_id": broker_id, "draining": !undo, "partitions": left });
            say(&if remote.json { pretty(&result) } else { said })
        }
    }
}

/// Waits until the broker leads nothing; a broker that is gone leads nothing. People see how many are left.
async fn drained(admin: &Admin, broker_id: i32) -> anyhow::Result<u64> {
    let watched = std::io::stderr().is_terminal();
    let bar = watched.then(|| indicatif::ProgressBar::new(0).with_message("partitions left"));
    loop {
        let cluster = admin.describe_cluster().await.map_err(told)?;
        let left = cluster.brokers.iter().find(|broker| broker.id == broker_id).map_or(0, |broker| broker.partitions);
        if let Some(bar) = &bar {
            bar.set_length(bar.length().unwrap_or(0).max(left));
            bar.set_position(bar.length().unwrap_or(0) - left);
        }
        if left == 0 {
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
            return Ok(0);
        }
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
    }
}

fn status_text(cluster: &ClusterDescription) -> String {
    let controller = cluster.controller_id.map_or("none at the moment".to_owned(), |id| format!("broker {id}"));
    let offline = match cluster.offline_partitions {
        0 => "all have a live leader".to_owned(),
        some => format!("{some} without a live leader"),
    };
    let moving: u64 = cluster.brokers.iter().map(|broker| broker.leaving_partitions).sum();
    format!(
        "cluster     {}\ncontroller  {controller}\nbrokers     {}\ntopics      {}\npartitions  {} ({offline}, {moving} moving)\n\n{}",
        cluster.cluster_id,
        cluster.brokers.len(),
        cluster.topics,
        cluster.partitions,
        brokers_text(cluster)
    )
}

fn brokers_text(cluster: &ClusterDescription) -> String {
    let rows: Vec<Vec<String>> = cluster
        .brokers
        .iter()
        .map(|broker| {
            let state = match (broker.draining, broker.partitions) {
                (true, 0) => "drained",
                (true, _) => "draining",
                (false, _) => "serving",
            };
            vec![
                broker.id.to_string(),
                format!("{}:{}", broker.host, broker.port),
                broker.zone.clone().unwrap_or_else(|| "-".to_owned()),
                state.to_owned(),
                broker.partitions.to_string(),
                broker.leaving_partitions.to_string(),
            ]
        })
        .collect();
    aligned(&["BROKER", "KAFKA", "ZONE", "STATE", "PARTITIONS", "LEAVING"], &rows)
}

fn as_json(cluster: &ClusterDescription) -> String {
    pretty(&json!({
        "cluster_id": cluster.cluster_id,
        "metadata_revision": cluster.metadata_revision,
        "controller_id": cluster.controller_id,
        "topics": cluster.topics,
        "partitions": cluster.partitions,
        "offline_partitions": cluster.offline_partitions,
        "brokers": cluster.brokers.iter().map(broker_json).collect::<Vec<_>>(),
    }))
}

fn broker_json(broker: &Broker) -> serde_json::Value {
    let endpoints: BTreeMap<&String, &String> = broker.endpoints.iter().collect();
    json!({
        "id": broker.id,
        "session_epoch": broker.session_epoch,
        "host": broker.host,
        "port": broker.port,
        "zone": broker.zone,
        "endpoints": endpoints,
        "draining": broker.draining,
        "partitions": broker.partitions,
        "leaving_partitions": broker.leaving_partitions,
    })
}

#[cfg(test)]
#[path = "cluster/tests.rs"]
mod tests;
