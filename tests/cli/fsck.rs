//! `esker fsck`, on what a broker wrote and somebody else broke.

use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{Home, NOBODY, Ran, esker, helps};
use crate::written;

fn fsck(home: &Home, arguments: &[&str]) -> Ran {
    esker(&[&["fsck", "--data-dir", &home.data_dir()], arguments].concat())
}

/// The file of the newest segment that holds batches, and its key.
fn newest_segment(home: &Home) -> (PathBuf, String) {
    let streams = esker(&["inspect", "stream", "--json", "--data-dir", &home.data_dir()]).ok().json();
    let session = streams[0]["session"].as_str().unwrap().to_owned();
    let stream = esker(&["inspect", "stream", &session, "--json", "--data-dir", &home.data_dir()]).ok().json();
    let objects = stream["objects"].as_array().unwrap();
    let found = objects.iter().rev().find(|object| object["offsets"].as_i64().is_some_and(|offsets| offsets > 0));
    let key = found.unwrap()["key"].as_str().unwrap().to_owned();
    (home.data("objects").join(&key), key)
}

fn kinds(report: &Value) -> Vec<&str> {
    report["faults"].as_array().unwrap().iter().map(|fault| fault["kind"].as_str().unwrap()).collect()
}

#[test]
fn a_whole_store_has_no_faults() {
    helps(&["fsck"], &["--quick", "--repair", "--object-store", "--json", "orphans"]);
    let home = Home::new();
    written::orders(&home, 5);
    fsck(&home, &[]).ok().has(&["partitions    2 with 30 offsets", "faults        none", "orphans       none"]);
    let report = fsck(&home, &["--json"]).ok().json();
    assert_eq!((&report["offsets"], &report["orphans"]), (&30.into(), &Value::Array(Vec::new())));
    assert_eq!(report["bytes"], report["checked_bytes"]);
    let quick = fsck(&home, &["--quick", "--json"]).ok().json();
    assert_eq!((&quick["checked_bytes"], &quick["objects"]), (&0.into(), &report["objects"]));
    // A broker that was killed left no seal; and it starts again after a check.
    home.broker(&[]).kill();
    fsck(&home, &[]).ok().has(&["faults        none"]);
    home.broker(&[]).stop();
}

#[test]
fn what_was_broken_is_named_with_its_topic() {
    let home = Home::new();
    written::orders(&home, 3);
    let (file, key) = newest_segment(&home);
    let whole = std::fs::read(&file).unwrap();
    let check = |kind: &str| {
        let report = fsck(&home, &["--json"]).fails(1, " in what is stored").json();
        assert!(kinds(&report).contains(&kind), "no {kind} in {report:#}");
        assert!(report["faults"].as_array().unwrap().iter().any(|fault| fault["key"] == key), "{report:#}");
        fsck(&home, &[]).fails(1, "fault").has(&["FAULT", kind, &key])
    };
    let mut flipped = whole.clone();
    let at = whole.windows(6).rposition(|window| window == b"value-").unwrap();
    flipped[at] ^= 1;
    std::fs::write(&file, &flipped).unwrap();
    check("damaged").has(&["orders-"]);
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    check("truncated");
    std::fs::remove_file(&file).unwrap();
    check("missing").has(&["orders-"]);
    fsck(&home, &["--quick"]).fails(1, "fault");
    // Nothing is repaired while something is wrong.
    fsck(&home, &["--repair"]).fails(1, "fault");
    std::fs::write(&file, &whole).unwrap();
    fsck(&home, &[]).ok();
}

#[test]
fn orphans_are_listed_and_go_when_they_are_old_and_nobody_reads() {
    let home = Home::new();
    written::orders(&home, 2);
    let (file, _) = newest_segment(&home);
    let orphan = home.data("objects/log/9-00000000000000000001/00000000000000000000.seg");
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::copy(&file, &orphan).unwrap();
    std::fs::write(home.data("objects/thesis.txt"), "precious").unwrap();
    let listed = fsck(&home, &[]).ok();
    listed.has(&["ORPHAN", "log/9-00000000000000000001/00000000000000000000.seg", "not ours      1 object"]);
    // Too young.
    let report = fsck(&home, &["--repair", "--json"]).ok().json();
    assert_eq!((report["orphans"].as_array().unwrap().len(), &report["removed"]), (1, &Value::Array(Vec::new())));
    assert!(orphan.exists());
    fsck(&home, &["--repair", "--retention-delete-grace", "0s"]).ok().has(&["removed       1 orphan"]);
    assert!(!orphan.exists() && file.exists() && home.data("objects/thesis.txt").exists());
    fsck(&home, &[]).ok().has(&["orphans       none"]);
}

#[test]
fn errors_say_what_to_do() {
    let home = Home::new();
    fsck(&home, &[]).fails(1, "the object store '").fails(1, "--data-dir");
    assert!(!home.data("").exists());
    let broker = home.broker(&[]);
    fsck(&home, &[]).fails(1, "is in use by another esker (process ");
    broker.stop();
    esker(&["fsck", "--object-store", "memory://"]).fails(1, "nothing to look at");
    let etcd = format!("etcd://{NOBODY}");
    let objects = format!("file://{}", home.data("objects").display());
    let ran = esker(&["fsck", "--object-store", &objects, "--metadata", &etcd, "--etcd-request-timeout", "200ms"]);
    ran.fails(1, "127.0.0.1:1");
    let other = Home::new();
    std::fs::create_dir_all(other.data("")).unwrap();
    let ran = esker(&["fsck", "--data-dir", &other.data_dir(), "--object-store", &objects]);
    ran.fails(1, "no data directory with embedded metadata");
    assert_eq!(std::fs::read_dir(other.data("")).unwrap().count(), 0);
    fsck(&home, &["--fix"]).fails(2, "unexpected argument '--fix'");
}
