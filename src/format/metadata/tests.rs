use std::path::PathBuf;

use super::*;

const SESSION: SessionId = SessionId { broker_id: 1, epoch: 42 };

/// Reads a fixture; the bytes of a version are never edited.
fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/metadata").join(name);
    let mut bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // Files end in a line feed, values do not.
    assert_eq!(bytes.pop(), Some(b'\n'), "{name}");
    bytes
}

fn golden<T: MetadataValue + PartialEq + std::fmt::Debug>(name: &str, value: &T) {
    let bytes = fixture(name);
    assert_eq!(String::from_utf8_lossy(&value.encode()), String::from_utf8_lossy(&bytes), "{name}");
    assert_eq!(T::decode(name, &bytes).as_ref(), Ok(value), "{name}");
}

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn topic() -> TopicRecord {
    TopicRecord {
        name: "orders".to_owned(),
        id: id(7),
        partitions: 3,
        replication_factor: 3,
        configs: [("cleanup.policy".to_owned(), "compact".to_owned()), ("retention.ms".to_owned(), "-1".to_owned())]
            .into(),
        created_ms: 1_700_000_000_000,
    }
}

#[test]
fn every_value_is_written_as_it_always_was() {
    let cluster =
        ClusterRecord { cluster_id: "MkU3OEVBNTcwNTJENDM2Qk".to_owned(), created_ms: 1_700_000_000_000, epoch_base: 0 };
    golden("cluster_v1.json", &cluster);
    golden("cluster_v2.json", &ClusterRecord { epoch_base: 1_000_000_042, ..cluster });
    let claim = ClaimRecord { directory_id: id(9), host: "host-a".to_owned(), pid: 77, started_ms: 1_700_000_000_000 };
    golden("claim_v1.json", &claim);
    let broker = BrokerRecord {
        session: SESSION,
        host: "127.0.0.1".to_owned(),
        port: 9092,
        rack: Some("zone-1".to_owned()),
        endpoints: [("grpc".to_owned(), "127.0.0.1:9094".to_owned())].into(),
        draining: false,
    };
    golden("broker_v1.json", &broker);
    golden("session_open_v1.json", &SessionRecord { started_ms: 1_700_000_000_000, sealed: None });
    let sealed = Some(Sealed { seq: 17, at_ms: 1_700_000_001_000 });
    golden("session_sealed_v1.json", &SessionRecord { started_ms: 1_700_000_000_000, sealed });
    golden("controller_v1.json", &ControllerRecord { session: SESSION });
    golden("topic_v1.json", &topic());
    let first = AssignmentRecord { session: SESSION, leader_epoch: 0, from: Vec::new(), target: None, acquired: false };
    let old = SessionId { broker_id: 1, epoch: 5 };
    let taken = AssignmentRecord {
        session: SESSION,
        leader_epoch: 4,
        from: vec![
            FromStream { session: old, leader_epoch: 3, sealed_seq: 900 },
            FromStream { session: SessionId { broker_id: 2, epoch: 3 }, leader_epoch: 2, sealed_seq: 12 },
        ],
        target: None,
        acquired: false,
    };
    golden("assignments_v1.json", &AssignmentChunk { partitions: vec![first, taken] });
    // Since `acquired` is there.
    let first =
        AssignmentRecord { session: SESSION, leader_epoch: 0, from: Vec::new(), target: Some(old), acquired: true };
    golden("assignments_acquired_v1.json", &AssignmentChunk { partitions: vec![first] });
    golden("producer_ids_v1.json", &ProducerIdRecord { next_id: 3000 });
    let deletion = DeletionRecord { name: "orders".to_owned(), partitions: 3, deleted_ms: 1_700_000_000_000 };
    golden("deletion_v1.json", &deletion);
    golden("rebuild_v1.json", &RebuildRecord { started_ms: 1_700_000_000_000 });
}

#[test]
fn a_newer_version_is_refused_with_its_number() {
    let error = TopicRecord::decode("topics/orders", br#"{"v":2,"something":"else"}"#).expect_err("newer");
    assert_eq!(error, MetadataError::Newer { key: "topics/orders".to_owned(), found: 2, known: 1 });
    assert!(error.to_string().contains("version 2") && error.to_string().contains("topics/orders"));
}

#[test]
fn fields_of_later_writers_are_ignored() {
    let bytes = fixture("topic_v1.json");
    let text = String::from_utf8(bytes).expect("text").replace("{\"v\":1,", "{\"v\":1,\"colour\":{\"a\":[1]},");
    assert_eq!(TopicRecord::decode("k", text.as_bytes()), Ok(topic()));
}

#[test]
fn damage_is_named_and_never_panics() {
    let bytes = topic().encode();
    for cut in 0..bytes.len() {
        let error = TopicRecord::decode("topics/orders", &bytes[..cut]).expect_err("cut");
        assert!(matches!(error, MetadataError::Damaged { .. }), "{error:?}");
    }
    for text in ["", "null", "[]", "{}", r#"{"v":-1}"#, r#"{"v":"1"}"#, r#"{"v":1}"#, "{\"v\":1}\u{1}"] {
        assert!(TopicRecord::decode("k", text.as_bytes()).is_err(), "{text}");
    }
    let other = r#"{"v":1,"session":"1-42"}"#;
    assert!(ControllerRecord::decode("k", other.as_bytes()).is_err(), "an epoch has 20 digits");
}

#[test]
fn a_full_chunk_stays_far_below_the_request_limit() {
    let from = FromStream { session: SESSION, leader_epoch: i32::MAX, sealed_seq: u64::MAX };
    let record = AssignmentRecord {
        session: SESSION,
        leader_epoch: i32::MAX,
        from: vec![from; 64],
        target: None,
        acquired: false,
    };
    let chunk = AssignmentChunk { partitions: vec![record; PARTITIONS_PER_CHUNK] };
    let bytes = chunk.encode().len();
    assert!(bytes < 1_000_000, "{bytes}");
}
