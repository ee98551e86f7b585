//! `esker doctor`.

use std::net::TcpListener;

use serde_json::Value;

use crate::harness::{Home, NOBODY, Ran, esker, esker_with, helps};
use crate::written;

const FREE_PORTS: [&str; 6] =
    ["--kafka-listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];

fn doctor(home: &Home, arguments: &[&str]) -> Ran {
    esker(&[&["doctor", "--data-dir", &home.data_dir()], &FREE_PORTS[..], arguments].concat())
}

/// Level and detail of a check's worst finding.
fn found(report: &Value, check: &str) -> (String, String) {
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap().iter().filter(|finding| finding["check"] == check);
    let worst =
        findings.max_by_key(|finding| ["ok", "warning", "problem"].iter().position(|level| finding["level"] == *level));
    let worst = worst.unwrap_or_else(|| panic!("no {check} in {report:#}"));
    (text(worst, "level"), text(worst, "detail"))
}

#[test]
fn a_new_place_is_looked_at_and_left_as_it_is() {
    helps(&["doctor"], &["--json", "--data-dir", "--object-store", "exit code is 1"]);
    let home = Home::new();
    doctor(&home, &[]).ok().has(&["data directory", "is new", "disk speed", "fsync takes", "ports", "a broker runs"]);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn a_broker_s_place_is_fine_before_and_beside_it() {
    let home = Home::new();
    written::orders(&home, 1);
    let report = doctor(&home, &["--json"]).ok().json();
    assert_eq!(report["healthy"], true);
    for check in ["data directory", "disk speed", "ports", "object store", "object store speed", "metadata"] {
        assert_ne!(found(&report, check).0, "problem", "{report:#}");
    }
    assert!(found(&report, "object store").1.contains("one wins"), "{report:#}");
    assert!(found(&report, "metadata").1.starts_with("embedded, whole, at revision "));
    assert!(report["findings"].as_array().unwrap().iter().any(|finding| finding["measured"]["put_us"].is_u64()));
    // Nothing of it stays.
    esker(&["fsck", "--data-dir", &home.data_dir()]).ok().has(&["orphans       none"]);
    let broker = home.broker(&[]);
    let kafka = broker.doors.kafka.to_string();
    let beside = doctor(&home, &["--kafka-listen", &kafka, "--json"]).ok().json();
    assert_eq!(found(&beside, "data directory").0, "warning");
    assert_eq!(found(&beside, "ports").0, "warning");
    broker.stop();
}

#[test]
fn what_would_stop_a_broker_fails_with_advice() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = doctor(&home, &["--kafka-listen", &address]).fails(1, "1 problem would stop a broker");
    ran.has(&["PROBLEM  ports", "in use", "--kafka-listen", "a broker would not run here"]);

    let etcd = format!("etcd://{NOBODY}");
    let report = doctor(&home, &["--metadata", &etcd, "--etcd-request-timeout", "200ms", "--json"]).fails(1, "problem");
    let report = report.json();
    assert_eq!((found(&report, "metadata").0.as_str(), &report["healthy"]), ("problem", &false.into()));

    std::fs::create_dir_all(home.data("")).unwrap();
    std::fs::write(home.data("thesis.txt"), "precious").unwrap();
    doctor(&home, &[]).fails(1, "problem").has(&["PROBLEM  data directory", "no VERSION file", "--data-dir"]);
}

#[test]
fn damaged_metadata_and_objects_of_others_are_noticed() {
    let home = Home::new();
    home.broker(&[]).stop();
    let log = home.data("meta/metadata.log");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    doctor(&home, &[]).fails(1, "problem").has(&["PROBLEM  metadata", "is damaged", "esker cluster restore"]);
    let other = Home::new();
    let objects = format!("file://{}", home.data("objects").display());
    doctor(&other, &["--object-store", &objects]).fails(1, "problem").has(&["but the object store is of cluster"]);
}

#[test]
fn settings_that_work_but_surprise_are_warned_of() {
    let home = Home::new();
    doctor(&home, &["--object-store", "memory://"]).ok().has(&["warning  settings", "gone when the broker ends"]);
    doctor(&home, &["--kafka-listen", "0.0.0.0:0"]).fails(2, "--advertise host:port");
    let near = esker_with(&["doctor", "--object-store", "memory://"], &[("ESKER_FLUSH_LINGR", "5ms")], "");
    assert!(near.stdout.contains("ESKER_FLUSH_LINGR"), "{near:#?}");
    doctor(&home, &["--flush-linger", "5"]).fails(2, "flush.linger = '5'");
    doctor(&home, &["--cure"]).fails(2, "unexpected argument '--cure'");
}
