//! What people type besides `esker serve`: commands that ask a running cluster through gRPC (`esker cluster …`), and tools
//! that look for themselves.
//!
//! Results go to stdout, as aligned text or with `--json` as one JSON value; progress and errors go to stderr.

pub mod bench;
pub mod cluster;
pub mod completions;
pub mod consume;
pub mod doctor;
pub mod fsck;
pub mod group;
pub mod inspect;
pub mod output;
mod places;
pub mod produce;
pub mod table;
pub mod topic;
mod words;

pub use places::takes as tool_takes;

use std::collections::BTreeMap;
use std::future::Future;

use anyhow::anyhow;
use clap::{Arg, ArgAction, ArgMatches};

use crate::client::{Client, DEFAULT_BOOTSTRAP, Error, Reason};

/// What to do when nobody answers.
const NOBODY: &str = "name one that runs with --bootstrap or ESKER_BOOTSTRAP (the gRPC port, 9094 unless changed)";
/// Name of an argument that all commands have.
const JSON: &str = "json";
/// Longest wait for one answer, in milliseconds.
const CALL_TIMEOUT_MS: u64 = 15_000;

/// What every command is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// gRPC doors of brokers, `host:port`; the first that answers is asked.
    pub bootstrap: Vec<String>,
    /// The result as JSON.
    pub json: bool,
}

impl Remote {
    /// Name of the argument that says whom to ask.
    pub const BOOTSTRAP: &str = "bootstrap";

    /// The arguments that [`Remote::parse`] reads.
    pub fn arguments() -> [Arg; 2] {
        let bootstrap = Arg::new(Self::BOOTSTRAP).long(Self::BOOTSTRAP).short('b').value_name("HOST:PORT,…").help(
            format!("gRPC address of a broker, or of several [default: {DEFAULT_BOOTSTRAP}] [env: ESKER_BOOTSTRAP]"),
        );
        let json = Arg::new(JSON).long(JSON).action(ArgAction::SetTrue).help("Print the result as JSON");
        [bootstrap.global(true), json.global(true)]
    }

    /// What was typed, or is in `ESKER_BOOTSTRAP`.
    pub fn parse(matches: &ArgMatches, variables: &BTreeMap<String, String>) -> Self {
        let typed = matches.get_one::<String>(Self::BOOTSTRAP).or_else(|| variables.get("ESKER_BOOTSTRAP"));
        let text = typed.map_or(DEFAULT_BOOTSTRAP, String::as_str);
        let bootstrap = text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect();
        Self { bootstrap, json: matches.get_flag(JSON) }
    }

    /// A client of these brokers.
    ///
    /// Errors: an address is no `host:port`.
    fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::builder(&self.bootstrap.join(",")).call_timeout_ms(CALL_TIMEOUT_MS).build()?)
    }
}

/// Runs a command to its end on a small runtime of its own, or until ctrl-C: then it is dropped where it waits, which
/// clears what is on the terminal.
pub fn run(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        tokio::select! {
            biased;
            result = command => result,
            interrupted = tokio::signal::ctrl_c() => match interrupted {
                Ok(()) => Err(anyhow!("interrupted")),
                Err(error) => Err(error.into()),
            },
        }
    });
    runtime.shutdown_background();
    result
}

/// Runs a command to its end on a small runtime of its own; what ctrl-C does is the command's.
pub fn run_to_its_end(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(command);
    runtime.shutdown_background();
    result
}

/// What the client says, for people: with what to do about it.
fn told(error: Error) -> anyhow::Error {
    if error.reason() == Reason::Unavailable && error.to_string().starts_with("no broker answers") {
        return anyhow!("{error}; {NOBODY}");
    }
    error.into()
}
