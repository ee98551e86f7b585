//! Tests of the pure parts. The store itself is tested against real servers: the rules of the trait in
//! `tests/contract/meta.rs`, faults in `tests/etcd`.

mod assembler;
mod endpoints;
mod login;
mod status;

use super::{first_key, range_end};

#[test]
fn a_range_ends_after_its_prefix() {
    for (prefix, end) in [("a/", "a0"), ("a", "b"), ("é", "\u{ea}"), ("", "\0")] {
        assert_eq!(range_end(prefix), end.as_bytes(), "{prefix}");
    }
    // No UTF-8 text ends with 0xff; the rule holds for bytes that are not text all the same.
    assert_eq!(first_key(""), "\0");
    assert_eq!(first_key("a"), "a");
}
