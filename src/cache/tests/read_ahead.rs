use std::sync::Arc;

use super::super::read_ahead::{ReadAhead, TRACKED_READERS};

#[test]
fn the_window_doubles_while_a_reader_goes_forward_and_never_repeats_a_page() {
    let object: Arc<str> = "a".into();
    let mut ahead = ReadAhead::new(8);
    assert_eq!(ahead.note(&object, 0, 0, 100), 1..1);
    assert_eq!(ahead.note(&object, 0, 0, 100), 1..2);
    assert_eq!(ahead.note(&object, 1, 1, 100), 2..4);
    assert_eq!(ahead.note(&object, 2, 2, 100), 4..7);
    assert_eq!(ahead.note(&object, 3, 4, 100), 7..13);
    assert_eq!(ahead.note(&object, 5, 5, 100), 13..14);
    assert_eq!(ahead.note(&object, 6, 6, 10), 14..14);
}

#[test]
fn a_jump_or_another_object_starts_anew() {
    let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
    let mut ahead = ReadAhead::new(8);
    ahead.note(&a, 0, 0, 100);
    assert_eq!(ahead.note(&b, 1, 1, 100), 2..2);
    assert_eq!(ahead.note(&a, 50, 50, 100), 51..51);
    assert_eq!(ahead.note(&a, 1, 1, 100), 2..3);
}

#[test]
fn no_read_ahead_when_told_so_and_memory_stays_bounded() {
    let mut none = ReadAhead::new(0);
    let object: Arc<str> = "a".into();
    for page in 0..10 {
        assert!(none.note(&object, page, page, 100).is_empty());
    }
    let mut ahead = ReadAhead::new(4);
    for number in 0..3 * TRACKED_READERS as u64 {
        ahead.note(&object, number * 10, number * 10, u64::MAX);
        ahead.note(&object, number * 10 + 1, number * 10 + 1, u64::MAX);
    }
    let (readers, order) = ahead.tracked();
    assert!(readers <= TRACKED_READERS && order <= 2 * TRACKED_READERS, "{readers} {order}");
}
