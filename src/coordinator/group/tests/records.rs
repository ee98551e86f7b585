//! The bytes of the records, against fixtures that were derived from Kafka's JSON schemas by other code.

use bytes::Bytes;
use proptest::prelude::*;

use crate::coordinator::group::records::{BadRecord, GroupValue, Key, MemberValue, OffsetValue};

fn golden(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/golden/consumer_offsets/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let text = text.trim();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn offset_key() -> Key {
    Key::Offset { group: "g-1".into(), topic: "orders".into(), partition: 7 }
}

fn offset_value() -> OffsetValue {
    OffsetValue {
        offset: 123_456_789_012,
        leader_epoch: 5,
        metadata: "méta".into(),
        commit_timestamp_ms: 1_700_000_000_123,
        expire_timestamp_ms: 1_700_000_600_123,
    }
}

fn group_value() -> GroupValue {
    let subscription = Bytes::from_static(b"\0\x01\0\0\0\x01\0\x06orders\0\0\0\0");
    GroupValue {
        protocol_type: "consumer".into(),
        generation: 42,
        protocol: Some("range".into()),
        leader: Some("c1-4a1b".into()),
        state_timestamp_ms: 1_700_000_000_000,
        members: vec![
            MemberValue {
                member_id: "c1-4a1b".into(),
                instance_id: Some("i-1".into()),
                client_id: "c1".into(),
                client_host: "/10.0.0.1".into(),
                rebalance_timeout_ms: 300_000,
                session_timeout_ms: 45_000,
                subscription: subscription.clone(),
                assignment: Bytes::from_static(b"\0\x01\0\0\0\x01\0\x06orders\0\0\0\x01\0\0\0\x07\0\0\0\0"),
            },
            MemberValue {
                member_id: "c2-77aa".into(),
                instance_id: None,
                client_id: "c2".into(),
                client_host: "/10.0.0.2".into(),
                rebalance_timeout_ms: 60_000,
                session_timeout_ms: 10_000,
                subscription,
                assignment: Bytes::new(),
            },
        ],
    }
}

/// What a version keeps of a value.
fn offset_at(version: i16) -> OffsetValue {
    let mut value = offset_value();
    if version < 3 {
        value.leader_epoch = -1;
    }
    if version != 1 {
        value.expire_timestamp_ms = -1;
    }
    value
}

fn group_at(version: i16) -> GroupValue {
    let mut value = group_value();
    if version < 2 {
        value.state_timestamp_ms = -1;
    }
    for member in &mut value.members {
        if version < 1 {
            member.rebalance_timeout_ms = -1;
        }
        if version < 3 {
            member.instance_id = None;
        }
    }
    value
}

#[test]
fn keys_are_kafkas() {
    assert_eq!(Key::decode(&golden("offset_key_v0")).unwrap(), offset_key());
    assert_eq!(Key::decode(&golden("offset_key_v1")).unwrap(), offset_key());
    assert_eq!(Key::offset("g-1", "orders", 7), golden("offset_key_v1"));
    assert_eq!(Key::decode(&golden("group_key_v2")).unwrap(), Key::Group { group: "g-1".into() });
    assert_eq!(Key::group("g-1"), golden("group_key_v2"));
}

#[test]
fn values_are_kafkas_in_every_version() {
    for version in 0..=4 {
        let bytes = golden(&format!("offset_value_v{version}"));
        assert_eq!(OffsetValue::decode(&bytes).unwrap(), offset_at(version), "offset value {version}");
        assert_eq!(offset_value().encode(version), bytes, "offset value {version}");
        let bytes = golden(&format!("group_value_v{version}"));
        assert_eq!(GroupValue::decode(&bytes).unwrap(), group_at(version), "group value {version}");
        assert_eq!(group_value().encode(version), bytes, "group value {version}");
    }
    let empty = GroupValue::decode(&golden("group_value_v3_empty")).unwrap();
    assert_eq!(empty.encoded(), golden("group_value_v3_empty"));
    assert_eq!((empty.protocol, empty.leader, empty.members.len()), (None, None, 0));
}

#[test]
fn kafka_writes_version_3_or_1() {
    assert_eq!(offset_value().version(), 1);
    assert_eq!(offset_at(3).version(), 3);
    assert_eq!(GroupValue::VERSION, 3);
}

#[test]
fn unknown_keys_are_told_apart_from_broken_ones() {
    assert_eq!(Key::decode(&[0, 3, 0, 1, b'g']).unwrap(), Key::Unknown { version: 3 });
    assert_eq!(Key::decode(&[0x7f, 0xff]).unwrap(), Key::Unknown { version: i16::MAX });
    assert_eq!(Key::decode(&[0]), Err(BadRecord::Truncated));
    assert_eq!(Key::decode(&[0, 2, 0, 9, b'g']), Err(BadRecord::Truncated));
    assert_eq!(Key::decode(&[0, 2, 0xff, 0xff]), Err(BadRecord::BadLength));
    assert_eq!(OffsetValue::decode(&[0, 5]), Err(BadRecord::UnknownValueVersion(5)));
    assert_eq!(GroupValue::decode(&[0xff, 0xff]), Err(BadRecord::UnknownValueVersion(-1)));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 0_i16..6) {
        let mut value = version.to_be_bytes().to_vec();
        value.extend_from_slice(&bytes);
        let _ = Key::decode(&value);
        let _ = Key::decode(&bytes);
        let _ = OffsetValue::decode(&value);
        let _ = GroupValue::decode(&value);
    }

    #[test]
    fn a_cut_value_is_refused(version in 0_i16..=4, cut in 0_usize..1000) {
        let bytes = golden(&format!("group_value_v{version}"));
        let cut = cut % bytes.len();
        prop_assert!(GroupValue::decode(&bytes[..cut]).is_err());
        let bytes = golden(&format!("offset_value_v{version}"));
        let cut = cut % bytes.len();
        prop_assert!(OffsetValue::decode(&bytes[..cut]).is_err());
    }
}
