use bytes::Bytes;

use super::format::{self, Format};
use super::from::{From, parse};
use crate::client::ConsumerRecord;

#[test]
fn where_to_begin_is_read() {
    let cases = [
        ("beginning", From::Beginning),
        ("end", From::End),
        ("17", From::Offset(17)),
        ("-5", From::Last(5)),
        ("@1700000000123", From::TimestampMs(1_700_000_000_123)),
        ("1970-01-01T00:00:00Z", From::TimestampMs(0)),
        ("2000-02-29T23:59:59.5Z", From::TimestampMs(951_868_799_500)),
        ("2026-01-31T12:00:00+02:00", From::TimestampMs(1_769_853_600_000)),
        ("2026-01-31 12:00:00.123456-00:30", From::TimestampMs(1_769_862_600_123)),
        ("1969-12-31T23:59:59Z", From::TimestampMs(-1_000)),
    ];
    for (text, expected) in cases {
        assert_eq!(parse(text), Ok(expected), "{text}");
    }
    for wrong in [
        "",
        "start",
        "--5",
        "2026-01-31",
        "2026-02-30T00:00:00Z",
        "2026-01-31T24:00:00Z",
        "2026-01-31T12:00:00",
        "2026-01-31T12:00:00é",
        "@x",
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

fn record() -> ConsumerRecord {
    ConsumerRecord {
        topic: "t".into(),
        partition: 2,
        offset: 7,
        timestamp_ms: 1_000,
        key: Some(Bytes::from_static(b"k")),
        value: Some(Bytes::from_static(b"value")),
        headers: vec![("a".to_owned(), Some(Bytes::from_static(b"1"))), ("b".to_owned(), None)],
    }
}

fn printed(format: &Format, record: &ConsumerRecord) -> String {
    let mut lines = Vec::new();
    format.write(record, &mut lines);
    String::from_utf8(lines).unwrap()
}

#[test]
fn formats_are_those_of_kcat() {
    let format = format::parse("%t/%p@%o %k(%K)=%s(%S) %T %h%%\\x41\\t\\n").unwrap();
    assert_eq!(printed(&format, &record()), "t/2@7 k(1)=value(5) 1000 a=1,b=NULL%A\t\n");
    let null = ConsumerRecord { key: None, value: None, headers: Vec::new(), ..record() };
    assert_eq!(printed(&format::parse("%k|%K|%s|%S|%h").unwrap(), &null), "|-1||-1|");
    assert_eq!(printed(&Format::value_and_line_feed(), &record()), "value\n");
    for wrong in ["%", "%z", "\\", "\\q", "\\xg1"] {
        assert!(format::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn json_says_everything() {
    let value: serde_json::Value = serde_json::from_str(&printed(&Format::Json, &record())).unwrap();
    assert_eq!((&value["topic"], &value["offset"], &value["value"]), (&"t".into(), &7.into(), &"value".into()));
    assert_eq!(value["headers"][1], serde_json::json!({ "name": "b", "value": null }));
    let binary = ConsumerRecord { value: Some(Bytes::from_static(&[0xff, 0])), ..record() };
    let value: serde_json::Value = serde_json::from_str(&printed(&Format::Json, &binary)).unwrap();
    assert_eq!((&value["value"], &value["value_hex"]), (&serde_json::Value::Null, &"ff00".into()));
}
