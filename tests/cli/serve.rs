//! `esker` alone and `esker serve`: help and mistakes. What a broker does is tested elsewhere.

use crate::harness::{Home, esker, esker_with, helps};

#[test]
fn esker_alone_prints_help() {
    let help = esker(&[]).ok().has(&["serve", "cluster", "completions", "Examples:\n  esker serve\n"]);
    assert_eq!(help.stderr, "");
    let version = esker(&["--version"]).ok();
    assert_eq!(version.stdout, format!("esker {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn serve_explains_every_setting() {
    helps(&["serve"], &["--data-dir", "--flush-linger", "ESKER_FLUSH_LINGER", "flush.linger", "Durations:"]);
    let short = esker(&["serve", "-h"]).ok();
    assert!(!short.stdout.contains("--flush-linger"), "{}", short.stdout);
}

#[test]
fn mistakes_are_named_with_where_they_are() {
    let home = Home::new();
    let file = home.path().join("esker.toml");
    std::fs::write(&file, "flush.linger = \"sometimes\"\nflush.lingr = \"5ms\"\n").unwrap();
    let file = file.to_str().unwrap();
    esker(&["brew"]).fails(2, "unrecognized subcommand 'brew'");
    esker(&["serve", "--flush-lingr", "5ms"]).fails(2, "a similar argument exists: '--flush-linger'");
    esker(&["serve", "--flush-linger", "5"]).fails(2, "flush.linger = '5' (from --flush-linger)");
    esker(&["serve", "--config", "/nowhere.toml"]).fails(2, "'/nowhere.toml' cannot be read");
    esker(&["serve", "--config", file]).fails(2, "(from ").fails(2, "flush.lingr");
    esker_with(&["serve"], &[("ESKER_METADATA", "zookeeper://x")], "").fails(2, "(from ESKER_METADATA)");
}
