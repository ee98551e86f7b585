use crate::base::ErrorKind;
use crate::objstore::key::{MAX_KEY_BYTES, check_key};

#[test]
fn keys_of_the_layout_are_accepted() {
    for key in ["log/1-00000000000000000007/00000000000000000000.seg", "a", "archive/t.x_y-z/partition=3/0-9.parquet"] {
        check_key(key).unwrap();
    }
}

#[test]
fn anything_that_a_store_could_take_for_something_else_is_refused() {
    let long = "a/".repeat(MAX_KEY_BYTES);
    let long_part = "a".repeat(256);
    for key in [
        "", "/a", "a/", "a//b", "a/../b", "..", ".", "a/./b", ".tmp/x", "a b", "a\\b", "ä", "a\0", "a%2e", &long,
        &long_part,
    ] {
        assert_eq!(check_key(key).unwrap_err().kind(), ErrorKind::Invalid, "{key:?}");
    }
}
