//! What people type besides `esker serve`: commands that ask a running cluster through gRPC (`esker cluster …`), and tools
//! that look for themselves.
//!
//! Results go to stdout, as aligned text or with `--json` as one JSON value; progress and errors go to stderr.

pub mod cluster;
pub mod completions;
pub mod output;
pub mod table;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::{Arg, ArgAction, ArgMatches};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Where commands connect when they are not told.
const DEFAULT_BOOTSTRAP: &str = "127.0.0.1:9094";
/// Name of an argument that all commands have.
const JSON: &str = "json";
/// Longest wait for a connection, in milliseconds.
const CONNECT_TIMEOUT_MS: u64 = 3_000;
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

    /// A connection to the first broker that takes one.
    ///
    /// Errors: none does; the text says what each said.
    async fn connect(&self) -> anyhow::Result<Channel> {
        let mut refusals = Vec::new();
        for address in &self.bootstrap {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))
                .map_err(|error| anyhow!("'{address}' is no host:port: {error}"))?
                .connect_timeout(Duration::from_millis(CONNECT_TIMEOUT_MS))
                .timeout(Duration::from_millis(CALL_TIMEOUT_MS));
            match endpoint.connect().await {
                Ok(channel) => return Ok(channel),
                Err(error) => refusals.push(format!("{address}: {}", root_cause(&error))),
            }
        }
        bail!(
            "no broker answers ({}); name one that runs with --bootstrap or ESKER_BOOTSTRAP (the gRPC port, 9094 unless \
             changed)",
            refusals.join("; ")
        )
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

/// A status as an error for people.
fn explain(status: &Status) -> anyhow::Error {
    match status.code() {
        Code::Unavailable => anyhow!("{} (it may work in a moment)", status.message()),
        Code::Unimplemented => {
            anyhow!("the broker does not know this call: it is of another version, or no Esker broker")
        }
        _ => anyhow!("{}", status.message()),
    }
}

/// The innermost reason: the outer ones only say that something failed.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
