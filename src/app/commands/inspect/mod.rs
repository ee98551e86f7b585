//! `esker inspect`: prints any durable object in words.
//!
//! It only reads. [`describe`] turns bytes into a description, [`text`] prints that for people, [`stream`] walks streams; here is
//! where the bytes come from.

use std::fmt::Write as _;

mod describe;
mod metadata;
mod state;
mod stream;
#[cfg(test)]
mod tests;
mod text;

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use clap::builder::PossibleValue;
use clap::{Arg, ArgAction, ArgMatches, Command};
use futures::TryStreamExt;
use prometheus_client::registry::Registry;
use serde_json::json;

use self::describe::{Content, Description};
use super::output::{pretty, say};
use super::table::aligned;
use super::{places, words};
use crate::app::metadata_store::Metadata;
use crate::app::serve;
use crate::base::{Clock, Rng, SessionId};
use crate::cluster::KeySpace;
use crate::config::{Loaded, MetadataSetting, Settings};
use crate::format::keys;
use crate::objstore::key::check_key;

/// Longest file or object that is read, in bytes: twice the longest segment.
const MAX_BYTES: u64 = 4 << 30;
/// Progress of a walk.
const WALK: &str = "{wide_bar} {pos}/{len} objects, {per_sec}, {eta} left";

/// What was asked for.
#[derive(Debug)]
pub struct Request {
    settings: Settings,
    kind: Kind,
    name: Option<String>,
    json: bool,
    records: bool,
    runs: bool,
}

/// What is to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Object,
    Segment,
    Run,
    Checkpoint,
    Seal,
    Catalogue,
    Wal,
    Stream,
    Metadata,
}

const KINDS: [(&str, Kind, &str); 9] = [
    ("object", Kind::Object, "any object or file; its first bytes say what it is"),
    ("segment", Kind::Segment, "a segment of a stream: batches and control entries"),
    ("run", Kind::Run, "a compacted run: batches of one topic, gathered from segments"),
    ("checkpoint", Kind::Checkpoint, "the states of a session's partitions"),
    ("seal", Kind::Seal, "the end of a stream"),
    ("catalogue", Kind::Catalogue, "a backup of the catalogue; without NAME the newest"),
    (
        "wal",
        Kind::Wal,
        "a write-ahead file, which may end anywhere; without NAME a list of those in the data directory",
    ),
    ("stream", Kind::Stream, "a session's stream from its first object to its seal; without NAME a list of all"),
    ("metadata", Kind::Metadata, "what the metadata store holds; NAME is a file of it, or a part of keys"),
];

/// The command without the settings that it takes.
pub fn command() -> Command {
    let kinds = KINDS.iter().map(|(name, _, help)| PossibleValue::new(*name).help(*help));
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    Command::new("inspect")
        .about("Print any stored object in words")
        .long_about(
            "Prints any stored object in words. It only reads, also beside a running broker. An object that is damaged is \
             described up to where it is broken; the exit code is then 1.",
        )
        .arg(
            Arg::new("kind")
                .value_name("KIND")
                .required(true)
                .value_parser(clap::builder::PossibleValuesParser::new(kinds))
                .help("What to look at"),
        )
        .arg(
            Arg::new("name")
                .value_name("NAME")
                .help("A file; or a key of the object store; or a session like 1-42 (broker id and epoch)"),
        )
        .arg(flag("records", "Also print the records of each batch"))
        .arg(flag("runs", "Also print where each partition's batches are"))
        .arg(flag("json", "Print the result as JSON"))
        .after_help(
            "Examples:\n  esker inspect stream\n  esker inspect stream 1-42 --object-store s3://bucket/prefix\n  esker inspect \
             segment --records log/1-00000000000000000042/00000000000000000000.seg\n  esker inspect wal \
             esker-data/lost/*.seg\n  esker inspect metadata\n  esker inspect object --json ./downloaded | jq .problems",
        )
}

impl Request {
    /// From what was typed. Errors: a sentence for people.
    pub fn new(loaded: Loaded, matches: &ArgMatches) -> Result<Self, String> {
        let kind = matches.get_one::<String>("kind");
        let kind = KINDS.iter().find(|(name, _, _)| kind.is_some_and(|typed| typed == name));
        let (typed, kind, _) = kind.ok_or("KIND is missing")?;
        let name = matches.get_one::<String>("name").cloned();
        if name.is_none() && matches!(kind, Kind::Object | Kind::Segment | Kind::Run | Kind::Checkpoint | Kind::Seal) {
            return Err(format!("inspect {typed} needs the NAME of a key or a file"));
        }
        let flag = |name: &str| matches.get_flag(name);
        let (json, records, runs) = (flag("json"), flag("records"), flag("runs"));
        Ok(Self { settings: loaded.settings, kind: *kind, name, json, records, runs })
    }
}

/// Does it.
pub async fn run(request: Request) -> anyhow::Result<()> {
    match (request.kind, &request.name) {
        (Kind::Stream, name) => request.stream(name.as_deref()).await,
        (Kind::Metadata, Some(name)) if is_file(name) => request.describe(name).await,
        (Kind::Metadata, prefix) => request.metadata(prefix.as_deref()).await,
        (Kind::Wal, None) => request.wal_files(),
        (Kind::Catalogue, None) => {
            let (store, url) = places::object_store(&request.settings).await?;
            let listed: Vec<_> = store.list(keys::CATALOGUE_PREFIX, None).try_collect().await?;
            let newest = listed.iter().rev().find(|meta| keys::parse_catalogue(&meta.key).is_some());
            let newest = newest.ok_or_else(|| anyhow!("there is no backup of the catalogue in {url}"))?;
            request.describe(&newest.key).await
        }
        (_, Some(name)) => request.describe(name).await,
        (_, None) => Err(anyhow!("which one? give the NAME of a key or a file")),
    }
}

impl Request {
    /// Prints, and fails if something is broken.
    fn tell(&self, text: &str, json: impl FnOnce() -> serde_json::Value, problems: &[String]) -> anyhow::Result<()> {
        say(&if self.json { pretty(&json()) } else { text.to_owned() })?;
        match problems {
            [] => Ok(()),
            [only] => bail!("{only}"),
            [first, more @ ..] => bail!("{first} (and {} more)", more.len()),
        }
    }

    async fn describe(&self, name: &str) -> anyhow::Result<()> {
        let bytes = self.read(name).await?;
        let mut description = describe::describe(name, &bytes, self.records);
        self.judge(&mut description);
        let text = text::text(&description, self.runs);
        self.tell(&text, || serde_json::to_value(&description).unwrap_or_default(), &description.problems)
    }

    /// Whether it is what was asked for. A write-ahead file may end anywhere.
    fn judge(&self, description: &mut Description) {
        let fits = match (&description.content, self.kind) {
            (_, Kind::Object | Kind::Stream) | (Content::Unknown, _) => true,
            (Content::Segment(_), kind) => matches!(kind, Kind::Segment | Kind::Wal),
            (Content::Run(_), kind) => kind == Kind::Run,
            (Content::Checkpoint(_), kind) => kind == Kind::Checkpoint,
            (Content::Seal(_), kind) => kind == Kind::Seal,
            (Content::Catalogue { .. }, kind) => kind == Kind::Catalogue,
            (Content::Metalog(_), kind) => kind == Kind::Metadata,
            (Content::Identity { .. }, _) => false,
        };
        if !fits {
            let asked = KINDS.iter().find(|(_, kind, _)| *kind == self.kind).map_or("", |(name, _, _)| name);
            description.problems.push(format!("this is something else than a {asked}"));
        }
        if self.kind == Kind::Wal
            && let Content::Segment(segment) = &description.content
            && !segment.has_footer
        {
            description.problems.clear();
            description
                .notes
                .insert(0, "not finished: the next start takes its whole frames and cuts off the rest".into());
        }
    }

    /// A file if there is one of that name, otherwise an object.
    async fn read(&self, name: &str) -> anyhow::Result<Bytes> {
        let too_long = |bytes: u64| anyhow!("'{name}' has {bytes} bytes, more than anything that Esker writes");
        if is_file(name) {
            let length = std::fs::metadata(name).with_context(|| format!("'{name}'"))?.len();
            if length > MAX_BYTES {
                return Err(too_long(length));
            }
            return Ok(std::fs::read(name).with_context(|| format!("'{name}'"))?.into());
        }
        if check_key(name).is_err() {
            bail!("there is no file '{name}', and it is no key of the object store either");
        }
        let (store, url) = places::object_store(&self.settings).await?;
        let length = store.size(name).await.with_context(|| format!("no such file, and in {url}"))?;
        if length > MAX_BYTES {
            return Err(too_long(length));
        }
        Ok(store.get(name).await?)
    }

    async fn stream(&self, session: Option<&str>) -> anyhow::Result<()> {
        let session = session
            .map(|text| session_id(text).ok_or_else(|| anyhow!("'{text}' is no session; write 1-42")))
            .transpose()?;
        let (store, _) = places::object_store(&self.settings).await?;
        let told = match session {
            None => stream::all(&store).await?,
            Some(session) => {
                let bar = places::bar(WALK);
                let progress = |done: usize, all: usize| {
                    bar.set_length(all as u64);
                    bar.set_position(done as u64);
                };
                stream::one(&store, session, self.runs, progress).await?
            }
        };
        self.tell(&told.text, || told.json, &told.problems)
    }

    /// The embedded store's file is read as it is, beside a broker too: what is torn at its end is not finished yet.
    async fn metadata(&self, prefix: Option<&str>) -> anyhow::Result<()> {
        let broker = &self.settings.broker;
        let wanted = |key: &str| prefix.is_none_or(|prefix| key.contains(prefix));
        let (mut problems, notes, revision, mut entries) = if broker.metadata == MetadataSetting::Embedded {
            let path = broker.data_dir.join("meta").join("metadata.log");
            let bytes = std::fs::read(&path).with_context(|| {
                format!(
                    "the embedded metadata store '{}' (--data-dir names another, --metadata etcd://… another kind)",
                    path.display()
                )
            })?;
            let found = describe::describe(&path.display().to_string(), &bytes.into(), false);
            match found.content {
                Content::Metalog(log) => (found.problems, found.notes, log.revision, log.entries),
                _ => (found.problems, found.notes, 0, Vec::new()),
            }
        } else {
            let (clock, rng, mut registry) = (Clock::system(), Rng::system(), Registry::default());
            let store = Metadata::open(&self.settings, &broker.data_dir, &clock, &rng, &mut registry).await?;
            let keys = KeySpace::of_cluster(serve::cluster_name(&self.settings));
            let found = store.store.range(keys.root()).await?;
            let mut problems = Vec::new();
            let stored = found.entries.iter();
            let stored = stored.map(|entry| {
                metadata::stored(&entry.key, entry.mod_revision, entry.lease, &entry.value, &mut problems)
            });
            let entries = stored.collect();
            (problems, Vec::new(), found.revision, entries)
        };
        entries.retain(|entry| wanted(&entry.key));
        if entries.is_empty() && problems.is_empty() {
            problems.push("no key of the metadata store fits: nothing is there".to_owned());
        }
        let mut shown = format!("revision  {revision}\nkeys      {}\n", entries.len());
        for note in &notes {
            let _ = writeln!(shown, "note      {note}");
        }
        for problem in &problems {
            let _ = writeln!(shown, "DAMAGED   {problem}");
        }
        shown.push('\n');
        shown.push_str(&text::values(&entries));
        let json = || json!({ "revision": revision, "entries": entries, "notes": notes, "problems": problems });
        self.tell(&shown, json, &problems)
    }

    /// Files that wait in the data directory: of streams that are being written, and lost ones.
    fn wal_files(&self) -> anyhow::Result<()> {
        let data_dir = &self.settings.broker.data_dir;
        places::must_exist("data directory", data_dir, "--data-dir")?;
        let mut files = Vec::new();
        for dir in ["wal", "lost"] {
            find_files(&data_dir.join(dir), &mut files)?;
        }
        files.sort();
        let (mut rows, mut values) = (Vec::new(), Vec::new());
        for path in files {
            let bytes = Bytes::from(std::fs::read(&path).with_context(|| path.display().to_string())?);
            let name = path.display().to_string();
            let description = describe::describe(&name, &bytes, false);
            let (state, frames) = match &description.content {
                Content::Segment(segment) if segment.has_footer => ("finished", segment.frames.len()),
                Content::Segment(segment) => ("growing, or cut by a crash", segment.frames.len()),
                _ => ("nothing whole in it", 0),
            };
            rows.push(vec![name.clone(), words::size(description.bytes), frames.to_string(), state.to_owned()]);
            values.push(json!({ "file": name, "bytes": description.bytes, "frames": frames, "state": state }));
        }
        self.tell(&aligned(&["FILE", "BYTES", "FRAMES", "STATE"], &rows), || values.into(), &[])
    }
}

fn is_file(name: &str) -> bool {
    Path::new(name).is_file()
}

/// Segments below a directory, at most one directory deep; none if it is not there.
fn find_files(dir: &Path, into: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let listed = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        listed => listed.with_context(|| dir.display().to_string())?,
    };
    for entry in listed {
        let path = entry?.path();
        if path.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                into.push(entry?.path());
            }
        } else {
            into.push(path);
        }
    }
    into.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    Ok(())
}

/// `1-42`, or with all its zeros.
fn session_id(text: &str) -> Option<SessionId> {
    let (broker_id, epoch) = text.trim_end_matches('/').split_once('-')?;
    Some(SessionId { broker_id: broker_id.parse().ok()?, epoch: epoch.parse().ok()? })
}
