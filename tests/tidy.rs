//! The house rules that a compiler does not know: floors, file sizes, pure files, documents that point at what is there.
//!
//! Run alone: `cargo test --test tidy`. Each rule is a function from sources to complaints, and has a test below that it
//! can fail.

#[path = "tidy/docs.rs"]
mod docs;
#[path = "tidy/source.rs"]
mod source;

use source::{Source, sources, words};

/// The floors (docs/ARCHITECTURE.md). A module imports only from strictly lower ones.
const FLOORS: &[(u8, &[&str])] = &[
    (0, &["base"]),
    (1, &["config", "protocol", "format"]),
    (2, &["objstore", "meta", "wal", "cache", "client"]),
    (3, &["cluster", "partition"]),
    (4, &["fetch"]),
    (5, &["coordinator", "upkeep"]),
    (6, &["lake", "broker"]),
    (7, &["pipelines", "frontend"]),
    (8, &["app"]),
];

/// Sideways imports that are allowed, with the reason.
const SIDEWAYS: &[(&str, &str)] = &[
    // Stored frames hold record batches: the batch header is one definition for the wire and for the segment.
    ("format", "protocol::batch"),
    // The page reader loads what the cache lacks; it knows the trait, not a store.
    ("cache", "objstore"),
];

/// Modules whose own children do not import each other.
const APART: &[&str] = &["frontend"];

/// Most lines of a production file; the longest matching prefix counts.
const MAX_LINES: &[(&str, usize)] = &[("src/", 600), ("src/partition/machine.rs", 650)];
/// Most lines of a file of tests.
const MAX_TEST_LINES: usize = 1_200;

/// Files that decide and nothing else: by name, wherever they are, and by path.
const PURE_NAMES: &[&str] = &["machine.rs", "fold.rs"];
const PURE_PATHS: &[&str] =
    &["src/base/ids.rs", "src/base/kind.rs", "src/config/", "src/format/", "src/protocol/", "src/partition/api.rs"];
/// What a pure file must not name: time, randomness, IO, tasks. (A `base::Rng` that is handed in is an argument.)
const AMBIENT: &[&str] = &[
    "Clock",
    "Instant",
    "SystemTime",
    "UNIX_EPOCH",
    "fastrand",
    "rand",
    "new_v4",
    "RandomState",
    "tokio",
    "fs",
    "net",
    "thread",
    "process",
    "env",
    "println",
    "eprintln",
    "print",
    "eprint",
    "dbg",
    "await",
    "async",
];
/// What nothing in `src` may contain.
const REFUSED: &[&str] = &["todo", "unimplemented", "dbg"];

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(_, names)| names.contains(&module)).map(|(floor, _)| *floor)
}

fn check_floors(file: &Source) -> Vec<String> {
    let module = file.module();
    let mut complaints = Vec::new();
    let Some(own) = module.first() else {
        // lib.rs and main.rs only name the modules; main may call app.
        for (line, path) in file.internal_paths() {
            complaints.push(format!("{}:{line}: the crate's root imports {path:?}", file.path));
        }
        if file.path == "src/main.rs" {
            for (at, _) in words(&file.code).filter(|(_, word)| *word == "esker") {
                if !file.code[at..].starts_with("esker::app") {
                    complaints.push(format!("{}:{}: main only calls app", file.path, file.line(at)));
                }
            }
        }
        return complaints;
    };
    let Some(own_floor) = floor(own) else {
        return vec![format!("{}: module '{own}' has no floor in tests/tidy.rs", file.path)];
    };
    for (line, path) in file.internal_paths() {
        let place = format!("{}:{line}", file.path);
        let Some(path) = path else {
            complaints.push(format!("{place}: `super` goes past the crate's root"));
            continue;
        };
        let Some(target) = path.first() else {
            complaints.push(format!("{place}: imports the whole crate"));
            continue;
        };
        if target == own {
            let (mine, theirs) = (module.get(1), path.get(1));
            if APART.contains(&own.as_str()) && mine.is_some() && theirs.is_some() && mine != theirs {
                complaints.push(format!("{place}: sideways import of {}", path.join("::")));
            }
            continue;
        }
        match floor(target) {
            None => complaints.push(format!("{place}: '{target}' is no module with a floor")),
            Some(other) if other == own_floor => {
                let named = path.join("::");
                if SIDEWAYS.iter().any(|(from, to)| from == own && named.starts_with(to)) {
                    continue;
                }
                complaints.push(format!("{place}: sideways import of {} (floor {other})", path.join("::")));
            }
            Some(other) if other > own_floor => {
                complaints.push(format!("{place}: upward import of {} (floor {other})", path.join("::")));
            }
            Some(_) => {}
        }
    }
    complaints
}

fn check_length(file: &Source) -> Vec<String> {
    let lines = file.text.lines().count();
    let limit = if file.is_test() {
        MAX_TEST_LINES
    } else {
        MAX_LINES
            .iter()
            .filter(|(prefix, _)| file.path.starts_with(prefix))
            .max_by_key(|(prefix, _)| prefix.len())
            .map_or(600, |(_, limit)| *limit)
    };
    if lines > limit { vec![format!("{}: {lines} lines, the limit is {limit}", file.path)] } else { Vec::new() }
}

fn is_pure(path: &str) -> bool {
    PURE_NAMES.iter().any(|name| path.rsplit('/').next() == Some(name))
        || PURE_PATHS.iter().any(|prefix| path.starts_with(prefix))
}

fn check_pure(file: &Source) -> Vec<String> {
    if !is_pure(&file.path) || file.is_test() {
        return Vec::new();
    }
    words(&file.code)
        .filter(|(_, word)| AMBIENT.contains(word))
        .map(|(at, word)| format!("{}:{}: '{word}' in a pure file", file.path, file.line(at)))
        .collect()
}

fn check_words(file: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (at, word) in words(&file.code) {
        let after = file.code[at + word.len()..].trim_start();
        let line = file.line(at);
        if REFUSED.contains(&word) && after.starts_with('!') {
            complaints.push(format!("{}:{line}: {word}! is left", file.path));
        }
        if word == "mod" {
            let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let inline = after[name.len()..].trim_start().starts_with('{');
            let before = file.code[..at].trim_end();
            if inline && (name.starts_with("test") || before.ends_with("#[cfg(test)]")) {
                complaints.push(format!("{}:{line}: tests live in a sibling file, not in `mod {name} {{`", file.path));
            }
        }
    }
    for (number, line) in file.text.lines().enumerate() {
        if line.contains("TODO") || line.contains("FIXME") || line.contains("XXX") {
            complaints.push(format!("{}:{}: a note to self is left", file.path, number + 1));
        }
    }
    complaints
}

#[track_caller]
fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn all(dir: &str, check: impl Fn(&Source) -> Vec<String>) -> Vec<String> {
    sources(dir).iter().flat_map(check).collect()
}

#[test]
fn modules_import_only_lower_floors() {
    none(&all("src", |file| if file.is_test() { Vec::new() } else { check_floors(file) }));
}

#[test]
fn files_fit_in_a_head() {
    none(&all("src", check_length));
    none(&all("tests", check_length));
}

#[test]
fn pure_files_have_no_time_randomness_or_io() {
    none(&all("src", check_pure));
}

#[test]
fn nothing_is_left_for_later_and_tests_are_siblings() {
    none(&all("src", check_words));
}

#[test]
fn documents_point_at_what_is_there() {
    none(&docs::check_links());
}

#[test]
fn programs_in_the_readme_are_the_ones_that_are_tested() {
    none(&docs::check_programs());
}

#[test]
fn every_format_is_documented_and_every_document_has_its_code() {
    none(&docs::check_formats(&sources("src")));
}

#[test]
fn the_rules_can_fail() {
    let complaints = |path: &str, text: &str| {
        let file = Source::from_text(path, text);
        [check_floors(&file), check_pure(&file), check_words(&file)].concat()
    };
    // Fine.
    assert_eq!(complaints("src/wal/mod.rs", "use crate::{base::Clock, format::segment as s};"), [""; 0]);
    assert_eq!(
        complaints("src/wal/mod.rs", "// crate::app\nconst A: &str = \"crate::app::x\"; pub(crate) fn f() {}"),
        [""; 0]
    );
    assert_eq!(complaints("src/wal/file.rs", "use super::Wal; pub(super) use self::inner::A;"), [""; 0]);
    assert_eq!(complaints("src/main.rs", "fn main() { esker::app::main() }"), [""; 0]);
    assert_eq!(complaints("src/wal/mod.rs", "fn f<'a>(x: &'a str) -> char { '\"' } use crate::base::Clock;"), [""; 0]);
    // Each of these is one complaint.
    for (path, text) in [
        ("src/wal/mod.rs", "use crate::partition::Log;"),
        ("src/wal/mod.rs", "use crate::{base::Clock, cache::Pages};"),
        ("src/format/mod.rs", "use crate::protocol::wire::X;"),
        ("src/wal/mod.rs", "fn f() { crate::app::main() }"),
        ("src/wal/file.rs", "use super::super::broker::Broker;"),
        ("src/wal/file.rs", "use super::{super::cache};"),
        ("src/wal/mod.rs", "use super::super::x;"),
        ("src/wal/mod.rs", "use crate as esker;"),
        ("src/wal/mod.rs", "use crate::*;"),
        ("src/shed/mod.rs", ""),
        ("src/main.rs", "use esker::partition::Log;"),
        ("src/frontend/http/mod.rs", "use super::kafka::Server;"),
        ("src/frontend/http/mod.rs", "use crate::frontend::kafka::Server;"),
        ("src/partition/machine.rs", "fn f() { let now = Instant::now(); }"),
        ("src/partition/fold.rs", "use std::fs;"),
        ("src/wal/mod.rs", "fn f() { todo!() }"),
        ("src/wal/mod.rs", "// TODO later"),
        ("src/wal/mod.rs", "#[cfg(test)]\nmod tests { }"),
        ("src/wal/mod.rs", "#[cfg(test)]\nmod more { }"),
    ] {
        assert_eq!(complaints(path, text).len(), 1, "{path}: {text}: {:?}", complaints(path, text));
    }
    assert_eq!(check_length(&Source::from_text("src/a.rs", &"\n".repeat(601))).len(), 1);
    assert_eq!(check_length(&Source::from_text("src/a.rs", &"\n".repeat(600))).len(), 0);
}
