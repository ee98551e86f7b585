//! `esker completions`: scripts that teach a shell the flags of every command.

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;

const SHELL: &str = "shell";

/// The command as it is typed.
pub fn command() -> Command {
    let shell =
        Arg::new(SHELL).value_name("SHELL").required(true).value_parser(value_parser!(Shell)).help("Which shell");
    Command::new("completions")
        .about("Print a script with which a shell completes esker's commands and flags")
        .arg(shell)
        .after_help(
            "Examples:\n  esker completions bash > /etc/bash_completion.d/esker\n  esker completions zsh > \
             \"${fpath[1]}/_esker\"\n  esker completions fish > ~/.config/fish/completions/esker.fish",
        )
}

/// The script for what was typed; `whole` is the program's command with everything below it.
pub fn script(matches: &ArgMatches, mut whole: Command) -> String {
    let mut script = Vec::new();
    if let Some(shell) = matches.get_one::<Shell>(SHELL) {
        clap_complete::generate(*shell, &mut whole, "esker", &mut script);
    }
    String::from_utf8_lossy(&script).into_owned()
}
