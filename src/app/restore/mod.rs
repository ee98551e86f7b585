//! `esker cluster restore`: rebuilds a metadata store that was lost from what the bucket holds (docs/adr/0006).
//!
//! Order: the metadata store must know no cluster; then every stream is sealed, so that no broker of the old life can commit
//! any more, and read; then the object `cluster` names the new epochs, so that none can begin a session with the old ones;
//! then the metadata store is written, its record `cluster` last. [`machine`] decides what it is to hold.
//!
//! A crash, or an error, anywhere leaves a bucket that is read as before and a metadata store that no broker accepts: the
//! command is run again. Records are never written or deleted here.

mod bucket;
mod machine;
mod report;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use clap::{Arg, ArgAction, ArgMatches, Command};
use prometheus_client::registry::Registry;
use uuid::Uuid;

use self::bucket::{Bucket, Seals};
use self::machine::{Gathered, Known, Plan, plan};
use self::report::{Report, State};
use super::commands::Remote;
use super::commands::output::say;
use super::data_dir::DataDir;
use super::logging::{self, Progress};
use super::metadata_store::Metadata;
use super::{identity, options, serve};
use crate::base::{Clock, Rng};
use crate::cluster::KeySpace;
use crate::cluster::rebuild::{check_empty, rebuild};
use crate::config::{Loaded, MetadataSetting, ObjectStoreSetting, Settings};
use crate::meta::MetaStore;
use crate::objstore;

/// What was asked for.
#[derive(Debug)]
pub struct Request {
    loaded: Loaded,
    options: Options,
}

/// When to change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Consent {
    /// Never: only tell what would be done.
    Never,
    /// Once a person has seen that.
    Asked,
    /// At once.
    Given,
}

/// What was asked for besides settings.
#[derive(Debug)]
struct Options {
    /// When to change anything.
    consent: Consent,
    /// Tell it in JSON.
    json: bool,
    /// Go on without streams that cannot be read.
    skip_damaged: bool,
    /// Names for topics that no backup knows.
    names: BTreeMap<Uuid, String>,
}

/// The command without the settings that it takes.
pub fn command() -> Command {
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let names = Arg::new("name-topic")
        .long("name-topic")
        .value_name("ID=NAME")
        .action(ArgAction::Append)
        .help("Name of a topic that is in the bucket but in no backup (else it is called restored-ID)");
    Command::new("restore")
        .about("Rebuild a lost metadata store from the bucket; no broker may run")
        .arg(flag("dry-run", "Only tell what would be restored"))
        .arg(flag("yes", "Do not ask before anything is changed"))
        .arg(flag("skip-damaged", "Go on without streams that cannot be read: what they alone hold is lost"))
        .arg(names)
        // It asks no broker: hides the flag that the other commands of `cluster` have.
        .arg(Arg::new(Remote::BOOTSTRAP).long(Remote::BOOTSTRAP).short('b').hide(true))
        .after_help(
            "Examples:\n  esker cluster restore --dry-run --object-store s3://bucket/prefix --metadata etcd://etcd-1:2379\n  esker \
             cluster restore --yes --object-store s3://bucket/prefix --metadata etcd://etcd-1:2379\n\nSee docs/OPERATIONS.md, \
             \"Losing etcd\".",
        )
}

/// Whether the command takes this setting.
pub fn takes(setting: &str) -> bool {
    let names = ["data_dir", "object_store", "metadata", "cluster", "log", "log_format"];
    names.contains(&setting) || setting.starts_with("etcd.") || setting.starts_with("store.")
}

impl Request {
    /// From what was typed. Errors: a sentence for people.
    pub fn new(loaded: Loaded, matches: &ArgMatches) -> Result<Self, String> {
        if matches.contains_id(Remote::BOOTSTRAP) {
            return Err("--bootstrap: this command asks no broker; none may run".to_owned());
        }
        let mut names = BTreeMap::new();
        for text in matches.get_many::<String>("name-topic").into_iter().flatten() {
            let (id, name) = text.split_once('=').ok_or(format!("--name-topic '{text}': write ID=NAME"))?;
            let id = id.parse().map_err(|_| format!("--name-topic '{text}': '{id}' is no topic id"))?;
            names.insert(id, name.to_owned());
        }
        let flag = |name: &str| matches.get_flag(name);
        let consent = match (flag("dry-run"), flag("yes")) {
            (true, _) => Consent::Never,
            (false, true) => Consent::Given,
            (false, false) => Consent::Asked,
        };
        let options = Options { consent, json: flag("json"), skip_damaged: flag("skip-damaged"), names };
        Ok(Self { loaded, options })
    }
}

/// Does it.
pub fn run(request: &Request) -> anyhow::Result<()> {
    let settings = &request.loaded.settings;
    logging::start(&settings.tracing).map_err(|problem| anyhow!(problem))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("esker").build()?;
    runtime.block_on(restore(settings, &request.options))
}

async fn restore(settings: &Settings, options: &Options) -> anyhow::Result<()> {
    if settings.broker.object_store == ObjectStoreSetting::Memory {
        bail!("objects in memory end with their process: there is nothing to restore from");
    }
    let (clock, rng, mut metrics) = (Clock::system(), Rng::system(), Registry::default());
    // Locked, so that no broker runs on it: embedded metadata is in there.
    let embedded = settings.broker.metadata == MetadataSetting::Embedded;
    let data_dir = embedded.then(|| DataDir::open(&settings.broker.data_dir, None)).transpose()?;
    let path = data_dir.as_ref().map_or(settings.broker.data_dir.as_path(), DataDir::path);
    let metadata = Metadata::open(settings, path, &clock, &rng, &mut metrics).await?;
    let keys = KeySpace::of_cluster(serve::cluster_name(settings));
    check_empty(&metadata.store, &keys).await?;
    let url = options::store_url(&settings.broker.object_store)?;
    let store = objstore::open(&url, options::store(&settings.store, &clock, &rng, &mut metrics)).await?;
    let work = Work {
        bucket: Bucket { store, name: format!("the object store {url}"), rng },
        meta: metadata.store.clone(),
        keys,
        clock,
        options,
    };
    let result = work.run(&url, data_dir.as_ref().and_then(DataDir::cluster_id)).await;
    metadata.close().await;
    result
}

/// What a restore works with.
struct Work<'a> {
    bucket: Bucket,
    meta: Arc<dyn MetaStore>,
    keys: KeySpace,
    clock: Clock,
    options: &'a Options,
}

impl Work<'_> {
    async fn run(&self, url: &str, directory: Option<&str>) -> anyhow::Result<()> {
        let mut notes = Vec::new();
        let known = Known { names: self.options.names.clone(), ..self.bucket.known(&mut notes).await? };
        let report = |state, gathered: &Gathered, plan: &Plan| {
            let report = Report { state, store: url, known: &known, gathered, plan, notes: &notes };
            if self.options.json { format!("{:#}\n", report.json()) } else { report.text() }
        };
        if self.options.consent != Consent::Given {
            let (gathered, plan) = self.plan(&known, Seals::Leave).await?;
            check_directory(directory, &plan)?;
            let text = report(State::Found, &gathered, &plan);
            if self.options.consent == Consent::Never {
                return say(&text);
            }
            eprint!("{text}");
            confirm()?;
        }
        let (gathered, plan) = self.plan(&known, Seals::Write).await?;
        check_directory(directory, &plan)?;
        self.write(&plan).await?;
        say(&report(State::Restored, &gathered, &plan))
    }

    async fn plan(&self, known: &Known, seals: Seals) -> anyhow::Result<(Gathered, Plan)> {
        let progress = Progress::start();
        let phase = |done: usize, all: usize| progress.phase(format!("reading streams: {done} of {all}"));
        let gathered = self.bucket.gather(known, seals, phase).await;
        progress.finish();
        let gathered = gathered?;
        if !self.options.skip_damaged && !gathered.unreadable.is_empty() {
            let all: Vec<String> = gathered.unreadable.values().map(|error| format!("\n  {error}")).collect();
            bail!(
                "{} streams cannot be read:{}\nRestore these objects from a copy of the bucket, or go on without them with \
                 --skip-damaged: partitions whose newest state is in them come back in an older one, or empty",
                all.len(),
                all.concat()
            );
        }
        let plan = plan(known, &gathered, self.clock.wall_ms()).map_err(|problem| anyhow!(problem))?;
        Ok((gathered, plan))
    }

    async fn write(&self, plan: &Plan) -> anyhow::Result<()> {
        let cluster = &plan.cluster;
        // Again: somebody may have been faster. What follows shuts out brokers of another metadata store.
        check_empty(&self.meta, &self.keys).await?;
        let marked = identity::mark_again(&*self.bucket.store, &cluster.cluster_id, cluster.epoch_base).await;
        marked.context("the bucket could not be marked; run this again")?;
        let rebuilt = rebuild(&self.meta, &self.keys, &plan.rebuilt, self.clock.wall_ms()).await;
        rebuilt.context("the metadata store is not whole; run this again")
    }
}

/// A data directory that belongs to another cluster is not touched.
fn check_directory(directory: Option<&str>, plan: &Plan) -> anyhow::Result<()> {
    match directory {
        Some(found) if found != plan.cluster.cluster_id => bail!(
            "the data directory belongs to cluster {found}, the object store to {}: use the ones that go together, or an \
             empty --data-dir",
            plan.cluster.cluster_id
        ),
        _ => Ok(()),
    }
}

/// Asks on a terminal.
fn confirm() -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!("nothing was changed: say --yes, or --dry-run to only look");
    }
    eprint!("Seal every stream and write this to the metadata store? No broker may run. [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("nothing was changed");
    }
    Ok(())
}
