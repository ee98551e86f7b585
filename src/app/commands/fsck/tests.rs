//! What people and programs are told.

use std::collections::HashMap;

use uuid::Uuid;

use super::report::Told;
use crate::base::{SessionId, TopicPartition};
use crate::upkeep::fsck::{Fault, FaultKind, Orphan, Report};

fn report() -> Report {
    let partition = Some(TopicPartition::new(Uuid::from_u128(7), 3));
    let fault = |kind, key: &str, partition| Fault {
        kind,
        key: Some(key.to_owned()),
        partition,
        detail: "in words".to_owned(),
    };
    let orphan = Orphan { key: "log/c".to_owned(), bytes: 2048, modified_ms: 0 };
    Report {
        cluster_id: Some("abc".to_owned()),
        objects: 9,
        bytes: 3 << 20,
        checked_bytes: 1 << 20,
        streams: vec![SessionId { broker_id: 1, epoch: 2 }],
        partitions: 2,
        offsets: 100,
        faults: vec![fault(FaultKind::Missing, "log/a", partition), fault(FaultKind::Damaged, "log/b", None)],
        orphans: Some(vec![orphan; 60]),
        unknown: vec!["thesis.txt".to_owned()],
        notes: vec!["a note".to_owned()],
    }
}

#[test]
fn people_see_what_is_wrong_and_not_all_of_it() {
    let (report, names) = (report(), HashMap::from([(Uuid::from_u128(7), "orders".to_owned())]));
    let told = Told { store: "file:///x", report: &report, removed: &[], names: &names, quick: false };
    let text = told.text();
    let expected = "\
object store  file:///x
cluster       abc
objects       9, 3.0 MiB
checked       1.0 MiB, 1 stream that must stay
partitions    2 with 100 offsets
faults        2
orphans       60, 120.0 KiB; brokers collect them in time
not ours      1 object with keys that this version does not know
note          a note

FAULT    PARTITION  OBJECT  WHAT
missing  orders-3   log/a   in words
damaged  -          log/b   in words

ORPHAN  BYTES  WRITTEN
log/c    2048  1970-01-01T00:00:00.000Z
";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.ends_with("… and 10 more; --json has all\n"), "{text}");
    let json = told.json();
    assert_eq!(json["faults"][0]["topic"], "orders");
    assert_eq!(json["faults"][1]["partition"], serde_json::Value::Null);
    assert_eq!(json["orphans"].as_array().unwrap().len(), 60);
}

#[test]
fn what_is_not_known_is_not_called_none() {
    let report = Report { orphans: None, faults: Vec::new(), ..report() };
    let told = Told { store: "x", report: &report, removed: &[], names: &HashMap::new(), quick: true };
    let text = told.text();
    assert!(text.contains("orphans       not known\n") && text.contains("faults        none\n"), "{text}");
    assert!(text.contains("only lengths were looked at"), "{text}");
    assert_eq!(told.json()["orphans"], serde_json::Value::Null);
}
