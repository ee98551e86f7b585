//! `esker fsck`: checks that everything that is referenced is there and whole ([`crate::upkeep::fsck`] does the looking).
//!
//! It writes nothing, but with `--repair` deletes orphans. That is only done when nobody can be reading them: no broker runs,
//! nothing is wrong, nothing moved meanwhile, and the object is older than the grace period. Running brokers collect their
//! garbage themselves, with two looks a grace period apart, which a command that looks once cannot replace.

mod report;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use anyhow::bail;
use clap::{Arg, ArgAction, ArgMatches, Command};
use uuid::Uuid;

use self::report::Told;
use super::output::{pretty, say};
use super::places::{self, Meta};
use super::words::count;
use crate::cluster::Sessions;
use crate::config::Settings;
use crate::format::metadata::{MetadataValue, TopicRecord};
use crate::upkeep::fsck::{Examiner, Orphan, Report, remove};

/// Progress of the reading.
const READING: &str = "checking {wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";

/// What was asked for.
#[derive(Debug)]
pub struct Request {
    settings: Settings,
    quick: bool,
    repair: bool,
    json: bool,
}

/// Whether the command takes this setting.
pub fn takes(setting: &str) -> bool {
    places::takes(setting) || setting == "retention.delete_grace"
}

/// The command without the settings that it takes.
pub fn command() -> Command {
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    Command::new("fsck")
        .about("Check that all stored data is there and whole")
        .long_about(
            "Checks that all stored data is there and whole: every object that a partition's index or a recovery needs exists, \
             its checksums hold, and offsets have no gap and no overlap. Objects that nothing leads to are listed as orphans; \
             they are no fault. With etcd it may run beside brokers; with embedded metadata the broker must be stopped. It \
             reads everything, which on S3 costs a request per object and the traffic. The exit code is 1 if there is a fault.",
        )
        .arg(flag("quick", "Do not read objects: only whether they are there and long enough"))
        .arg(flag(
            "repair",
            "Delete orphans that are older than the grace period (--retention-delete-grace); only while no broker runs, and \
             only if nothing is wrong. Nothing else is ever changed",
        ))
        .arg(flag("json", "Print the result as JSON"))
        .after_help(
            "Examples:\n  esker fsck --data-dir /var/lib/esker\n  esker fsck --object-store s3://bucket/prefix --metadata \
             etcd://etcd-1:2379\n  esker fsck --quick --json | jq .faults\n\nWhat a fault means and what to do about it: \
             docs/OPERATIONS.md, \"Checking what is stored\".",
        )
}

impl Request {
    /// From what was typed.
    pub fn new(settings: Settings, matches: &ArgMatches) -> Self {
        let flag = |name: &str| matches.get_flag(name);
        Self { settings, quick: flag("quick"), repair: flag("repair"), json: flag("json") }
    }
}

/// Does it.
pub async fn run(request: Request) -> anyhow::Result<()> {
    let (store, url) = places::object_store(&request.settings).await?;
    let Meta { metadata, sessions, lock } = places::metadata(&request.settings).await?;
    let examiner = Examiner { store: store.clone(), sessions: sessions.clone(), quick: request.quick };
    let bar = places::bar(READING);
    let found = examiner
        .examine(|progress| {
            bar.set_length(progress.all_bytes);
            bar.set_position(progress.done_bytes);
        })
        .await;
    bar.finish_and_clear();
    let report = found?;
    let (mut removed, mut kept_back) = (Vec::new(), None);
    if request.repair {
        kept_back = if request.quick {
            Some("a quick look does not see damage; leave --quick away".to_owned())
        } else {
            why_not(&report, &sessions).await?
        };
        if kept_back.is_none() {
            let grace_ms = i64::try_from(request.settings.retention.delete_grace_ms).unwrap_or(i64::MAX);
            let before_ms = sessions.clock.wall_ms().saturating_sub(grace_ms);
            removed = remove(&store, report.orphans.as_deref().unwrap_or_default(), before_ms).await?;
        }
    }
    let names = topic_names(&sessions).await?;
    let told = Told { store: &url, report: &report, removed: &removed, names: &names, quick: request.quick };
    say(&if request.json { pretty(&told.json()) } else { told.text() })?;
    metadata.close().await;
    drop(lock);
    match (report.faults.len(), kept_back) {
        (0, None) => Ok(()),
        (0, Some(reason)) => bail!("nothing was removed: {reason}"),
        (some, _) => bail!("{} in what is stored", count(some, "fault")),
    }
}

/// Why orphans must not be deleted now.
async fn why_not(report: &Report, sessions: &Sessions) -> anyhow::Result<Option<String>> {
    let running = sessions.store.range(&sessions.keys.claims()).await?.entries.len();
    Ok(if running > 0 {
        Some(format!(
            "{} running; brokers collect garbage themselves, and only they know who still reads it",
            if running == 1 { "a broker is".to_owned() } else { format!("{running} brokers are") }
        ))
    } else if !report.faults.is_empty() {
        Some("something is wrong".to_owned())
    } else if report.cluster_id.is_none() || report.orphans.is_none() {
        Some("what is an orphan is not known".to_owned())
    } else {
        None
    })
}

async fn topic_names(sessions: &Sessions) -> anyhow::Result<HashMap<Uuid, String>> {
    let mut names = HashMap::new();
    for entry in sessions.store.range(&format!("{}topics/", sessions.keys.root())).await?.entries {
        if let Ok(record) = TopicRecord::decode(&entry.key, &entry.value) {
            names.insert(record.id, record.name);
        }
    }
    Ok(names)
}

/// Bytes of all of them.
fn bytes_of(orphans: &[Orphan]) -> u64 {
    orphans.iter().map(|orphan| orphan.bytes).sum()
}
