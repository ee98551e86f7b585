//! `esker completions`.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::harness::{esker, helps};

#[test]
fn scripts_know_every_command() {
    helps(&["completions"], &["bash", "zsh", "fish"]);
    for shell in ["bash", "zsh", "fish"] {
        esker(&["completions", shell]).ok().has(&["esker", "cluster", "drain", "completions"]);
    }
    esker(&["completions", "dos"]).fails(2, "[possible values: bash");
    esker(&["completions"]).fails(2, "<SHELL>");
}

#[test]
fn bash_completes_commands_and_flags() {
    let script = esker(&["completions", "bash"]).ok().stdout;
    let completed = |words: &[&str]| {
        let last = words.len() - 1;
        let ask = format!(
            "\nCOMP_WORDS=({}); COMP_CWORD={last}; _esker esker '{}' ''; printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
            words.join(" "),
            words[last]
        );
        let mut bash = Command::new("bash").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        bash.stdin.take().unwrap().write_all(format!("{script}{ask}").as_bytes()).unwrap();
        String::from_utf8(bash.wait_with_output().unwrap().stdout).unwrap()
    };
    assert_eq!(completed(&["esker", "clus"]), "cluster\n");
    assert_eq!(completed(&["esker", "cluster", "dr"]), "drain\n");
    assert!(completed(&["esker", "serve", "--flush-l"]).contains("--flush-linger\n"));
}
