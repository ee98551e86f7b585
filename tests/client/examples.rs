//! The programs in `examples/` run.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use super::process::Setup;

/// Where cargo puts the examples; builds them first, with the profile of this test.
fn examples() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let folder = test.parent().unwrap().parent().unwrap();
        let profile = match folder.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--locked", "--examples", "--profile", profile]);
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        // What cargo tells a test of its package, build scripts of dependencies take for a change: half of them would be
        // compiled again now, and once more by the next lane.
        for (name, _) in std::env::vars() {
            if ["CARGO_PKG_", "CARGO_MANIFEST_", "OUT_DIR"].iter().any(|told| name.starts_with(told)) {
                build.env_remove(name);
            }
        }
        assert!(build.status().unwrap().success());
        folder.join("examples")
    })
}

fn example(name: &str, arguments: &[&str], bootstrap: &str) -> Child {
    Command::new(examples().join(name))
        .args(arguments)
        .env("ESKER_BOOTSTRAP", bootstrap)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn the_program_in_the_readme_writes_and_tails() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, doors) = Setup::new(folder.path(), &[]).start();
    let mut child = example("tail", &[], &doors.grpc.to_string());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "0 hello");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn lines_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, doors) = Setup::new(folder.path(), &[]).start();
    let mut child = example("produce", &["t"], &doors.grpc.to_string());
    child.stdin.take().unwrap().write_all(b"one 1\ntwo 2\none 3\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "3 records are written to t\n");
    assert!(output.status.success());
}

#[test]
fn a_group_reads_and_commits() {
    let folder = tempfile::tempdir().unwrap();
    let (_broker, doors) = Setup::new(folder.path(), &[]).start();
    let bootstrap = doors.grpc.to_string();
    let mut writer = example("produce", &["t"], &bootstrap);
    writer.stdin.take().unwrap().write_all(b"one\ntwo\n").unwrap();
    assert!(writer.wait_with_output().unwrap().status.success());
    for expected in ["t-0@0 one\nt-0@1 two\n", ""] {
        let output = example("group", &["t", "readers"], &bootstrap).wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }
}
