//! `esker doctor`: would a broker run here with these settings, and what to do if not.
//!
//! It may run beside a broker. It writes one scratch file without a name in the data directory and scratch objects below
//! `probe/`, which it deletes; it makes no directory, and nothing in the metadata store. [`findings`] judges.

mod disk;
mod findings;
mod places;
#[cfg(test)]
mod tests;

use std::io::IsTerminal;

use anyhow::bail;
use clap::{Arg, ArgAction, ArgMatches, Command};

use self::findings::{Finding, Level};
use super::output::{pretty, say};
use super::words::count;
use crate::app::listen;
use crate::app::logging::Progress;
use crate::base::{Clock, Rng};
use crate::config::{Loaded, MetadataSetting, ObjectStoreSetting, Settings};

/// What was asked for.
#[derive(Debug)]
pub struct Request {
    loaded: Loaded,
    json: bool,
}

/// What the checks share.
pub struct Doctor<'a> {
    settings: &'a Settings,
    clock: Clock,
    rng: Rng,
    findings: Vec<Finding>,
    progress: Progress,
    /// A broker runs on the data directory.
    beside_broker: bool,
}

/// The command without the settings that it takes, which are those of `esker serve`.
pub fn command() -> Command {
    Command::new("doctor")
        .about("Check whether a broker would run well here, and say what to do if not")
        .long_about(
            "Checks settings, limits, data directory, disk, ports, object store, metadata and clock as a broker with the same \
             settings would find them, and says what to do about each finding. It takes a few seconds and may run beside a \
             broker. The exit code is 1 if something would stop a broker.",
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print the result as JSON"))
        .after_help(
            "Examples:\n  esker doctor\n  esker doctor --config /etc/esker.toml\n  esker doctor --object-store \
             s3://bucket/prefix --metadata etcd://etcd-1:2379 --json | jq '.findings[] | select(.level != \"ok\")'",
        )
}

impl Request {
    /// From what was typed.
    pub fn new(loaded: Loaded, matches: &ArgMatches) -> Self {
        Self { loaded, json: matches.get_flag("json") }
    }
}

/// Does it.
pub async fn run(request: Request) -> anyhow::Result<()> {
    let settings = &request.loaded.settings;
    let mut doctor = Doctor {
        settings,
        clock: Clock::system(),
        rng: Rng::system(),
        findings: Vec::new(),
        progress: Progress::start(),
        beside_broker: false,
    };
    doctor.check_settings(&request.loaded.warnings);
    doctor.check_open_files();
    doctor.check_data_dir().await;
    doctor.check_ports();
    let bucket = doctor.check_store().await;
    doctor.check_metadata(bucket).await;
    doctor.progress.finish();
    let findings = doctor.findings;
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    say(&if request.json { pretty(&findings::json(&findings)) } else { findings::text(&findings, colours) })?;
    match findings.iter().filter(|finding| finding.level == Level::Problem).count() {
        0 => Ok(()),
        problems => bail!("{} would stop a broker", count(problems, "problem")),
    }
}

impl Doctor<'_> {
    fn check_settings(&mut self, warnings: &[String]) {
        const CHECK: &str = "settings";
        let broker = &self.settings.broker;
        let embedded = broker.metadata == MetadataSetting::Embedded;
        let mut found: Vec<Finding> =
            warnings.iter().map(|warning| Finding::warning(CHECK, warning, "correct its name, or remove it")).collect();
        match &broker.object_store {
            ObjectStoreSetting::Memory => found.push(Finding::warning(
                CHECK,
                "objects and metadata are in memory",
                "everything is gone when the broker ends: give --object-store for more than a try",
            )),
            ObjectStoreSetting::S3 { .. } if embedded => found.push(Finding::warning(
                CHECK,
                "objects are in a bucket, but metadata is embedded",
                "one broker alone can use this bucket, and topics are lost with its disk (esker cluster restore finds most \
                 again): give --metadata etcd://… for a cluster",
            )),
            ObjectStoreSetting::File { dir } if !embedded => found.push(Finding::warning(
                CHECK,
                format!("a cluster's objects are in the directory '{}'", dir.display()),
                "that is right only if all brokers run on this machine or the directory is shared between them",
            )),
            _ => {}
        }
        if found.is_empty() {
            found.push(Finding::fine(CHECK, "they can be read and fit together"));
        }
        self.findings.extend(found);
    }

    fn check_open_files(&mut self) {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let Settings { kafka, grpc, http, .. } = self.settings;
        let connections = kafka.max_connections + grpc.max_connections + http.max_connections;
        self.findings.push(findings::open_files(limit, connections as u64));
    }

    fn check_ports(&mut self) {
        let Settings { kafka, grpc, http, .. } = self.settings;
        let external = kafka.external_listen.as_ref().map(|address| ("kafka.external_listen", address));
        let all = [("kafka.listen", &kafka.listen), ("grpc.listen", &grpc.listen), ("http.listen", &http.listen)];
        let mut free = Vec::new();
        for (setting, address) in all.into_iter().chain(external) {
            match listen::reserve(setting, address) {
                Ok(_) => free.push(address.as_str()),
                Err(error @ listen::ListenError::InUse { .. }) if self.beside_broker => {
                    self.findings.push(Finding::warning(
                        "ports",
                        error.to_string(),
                        "by the broker that runs on this data directory, most likely: then all is well",
                    ));
                }
                Err(error) => {
                    let advice = "a broker does not start without its ports";
                    self.findings.push(Finding::problem("ports", error.to_string(), advice));
                }
            }
        }
        if !free.is_empty() {
            self.findings.push(Finding::fine("ports", format!("{} can be listened on", free.join(", "))));
        }
    }
}
