//! Floor 8: the command line and the composition root: everything is made here and handed down.
//!
//! Exit codes: 0 done, 1 failed, 2 usage.

mod cli;
mod commands;
mod data_dir;
mod home;
mod identity;
mod life;
mod listen;
mod logging;
mod metadata_store;
pub mod node;
pub mod options;
mod patience;
mod reach;
mod restore;
mod serve;
mod signals;
mod takeover;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::ExitCode;

use cli::{Action, UsageError};

const FAILED: u8 = 1;
const USAGE: u8 = 2;

/// Does what the arguments say.
pub fn main() -> ExitCode {
    // Variables that are not text cannot be ours.
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match cli::parse(arguments, &variables, |path| std::fs::read_to_string(path)) {
        Ok(Action::Print(text)) => exit_code(commands::output::say(&text)),
        Ok(Action::Serve(loaded)) => exit_code(serve::run(&loaded)),
        Ok(Action::Cluster(command)) => exit_code(commands::run(commands::cluster::run(command))),
        Ok(Action::Topic(command)) => exit_code(commands::run(commands::topic::run(command))),
        Ok(Action::Group(command)) => exit_code(commands::run(commands::group::run(command))),
        Ok(Action::Produce(command)) => exit_code(commands::run(commands::produce::run(command))),
        Ok(Action::Consume(command)) => exit_code(commands::run_to_its_end(commands::consume::run(command))),
        Ok(Action::Doctor(request)) => exit_code(commands::run(commands::doctor::run(*request))),
        Ok(Action::Fsck(request)) => exit_code(commands::run(commands::fsck::run(*request))),
        Ok(Action::Inspect(request)) => exit_code(commands::run(commands::inspect::run(*request))),
        Ok(Action::Bench(command)) => exit_code(commands::bench::run(command)),
        Ok(Action::Restore(request)) => exit_code(restore::run(&request)),
        Err(UsageError(text)) => {
            eprint!("{text}");
            ExitCode::from(USAGE)
        }
    }
}

fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}
