//! Tables for people.

use super::aligned;

#[test]
fn columns_are_as_wide_as_they_must_be_and_numbers_end_together() {
    let rows = [vec!["1".into(), "a".into(), "7".into()], vec!["12".into(), "längste".into(), String::new()]];
    let text = aligned(&["id", "zone", "n"], &rows);
    assert_eq!(text, "id  zone     n\n 1  a        7\n12  längste\n");
}

#[test]
fn no_rows_leave_the_header() {
    assert_eq!(aligned(&["id", "zone"], &[]), "id  zone\n");
}
