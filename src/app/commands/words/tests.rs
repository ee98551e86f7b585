//! Against dates that are known.

use super::{bytes, count, size, time};

#[test]
fn times_are_dates() {
    for (ms, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (951_868_800_000, "2000-03-01T00:00:00.000Z"),
        (1_790_000_000_123, "2026-09-21T14:13:20.123Z"),
        (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
        (-62_167_219_200_000, "0000-01-01T00:00:00.000Z"),
        (i64::MAX, "9223372036854775807 ms"),
        (i64::MIN, "-9223372036854775808 ms"),
    ] {
        assert_eq!(time(ms), text);
    }
}

#[test]
fn sizes_have_units() {
    assert_eq!([size(0), size(1023), size(1536), size(8 << 20)], ["0 B", "1023 B", "1.5 KiB", "8.0 MiB"]);
    assert_eq!(size(u64::MAX), "16777216.0 TiB");
    assert_eq!([count(1, "batch record"), count(2, "record")], ["1 batch record", "2 records"]);
}

#[test]
fn bytes_are_text_where_they_can_be() {
    assert_eq!(bytes(b"a\"b\n", 10), r#""a\"b\n""#);
    assert_eq!(bytes("äöü".as_bytes(), 2), "\"äö\"… (6 bytes)");
    assert_eq!(bytes(&[0xff, 0x00], 10), "0xff00");
    assert_eq!(bytes(&[0xff; 9], 4), "0xffff… (9 bytes)");
    assert_eq!(bytes(b"", 0), "\"\"");
}
