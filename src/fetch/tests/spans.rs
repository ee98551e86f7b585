use crate::fetch::spans::{BatchSpan, Budget, choose, group, of_run};
use crate::format::frame::FRAME_HEADER_BYTES;
use crate::partition::{ObjectRef, Run};

use super::model::SESSION;

const HEADER: u32 = FRAME_HEADER_BYTES as u32;

fn span(position: u32, batch_bytes: u32, base_offset: i64, last_offset: i64) -> BatchSpan {
    BatchSpan { position, batch_bytes, base_offset, last_offset, max_timestamp: 0 }
}

fn run(first_offset: i64, next_offset: i64, position: u32, length: u32) -> Run {
    let object = ObjectRef::Segment { session: SESSION, seq: 0 };
    Run { first_offset, next_offset, max_timestamp: 0, object, position, length, batch_bytes: 0 }
}

#[test]
fn a_budget_refuses_once_and_for_all_but_gives_the_first_when_told_to() {
    let mut budget = Budget::new(100, false);
    assert!(budget.take(60));
    assert!(!budget.take(41));
    assert!(!budget.take(1));
    let mut budget = Budget::new(10, true);
    assert!(budget.take(50));
    assert!(budget.is_spent());
    assert!(!budget.take(1));
    assert!(Budget::new(0, true).take(5));
    assert!(!Budget::new(0, false).take(0));
}

#[test]
fn a_footer_that_disagrees_with_the_log_is_found_out() {
    let spans = [span(64, 100, 0, 4), span(300, 100, 5, 5), span(500, 50, 6, 9)];
    let length = 500 + 50 + HEADER - 64;
    assert_eq!(of_run(&spans, &run(0, 10, 64, length)), Ok(&spans[..]));
    assert_eq!(of_run(&spans, &run(5, 10, 300, length)), Ok(&spans[1..]));
    assert!(of_run(&spans, &run(0, 11, 64, length)).is_err());
    assert!(of_run(&spans, &run(1, 10, 64, length)).is_err());
    assert!(of_run(&spans, &run(20, 30, 64, length)).is_err());
    assert!(of_run(&spans, &run(0, 10, 65, length)).is_err());
    assert!(of_run(&spans, &run(0, 10, 64, length - 1)).is_err());
    assert!(of_run(&[], &run(0, 10, 64, length)).is_err());
    let gap = [span(64, 100, 0, 4), span(300, 100, 6, 9)];
    assert!(of_run(&gap, &run(0, 10, 64, 400)).is_err());
    let overlap = [span(64, 100, 0, 4), span(100, 100, 5, 9)];
    assert!(of_run(&overlap, &run(0, 10, 64, 400)).is_err());
}

#[test]
fn batches_are_chosen_from_the_offset_below_the_limit_within_the_budget() {
    let spans = [span(0, 100, 0, 4), span(200, 100, 5, 5), span(400, 100, 6, 9)];
    assert_eq!(choose(&spans, 3, 10, &mut Budget::new(1000, false)), &spans[..]);
    assert_eq!(choose(&spans, 5, 10, &mut Budget::new(100, false)), &spans[1..2]);
    assert_eq!(choose(&spans, 5, 6, &mut Budget::new(1000, false)), &spans[1..2]);
    assert_eq!(choose(&spans, 0, 10, &mut Budget::new(10, false)), &spans[..0]);
    assert_eq!(choose(&spans, 0, 10, &mut Budget::new(10, true)), &spans[..1]);
    assert_eq!(choose(&spans, 10, 20, &mut Budget::new(1000, false)), &spans[..0]);
}

#[test]
fn neighbours_are_read_together_up_to_a_gap_and_a_size() {
    let frame = 100 + HEADER;
    let spans = [span(0, 100, 0, 0), span(frame, 100, 1, 1), span(2 * frame + 50, 100, 2, 2), span(10_000, 900, 3, 3)];
    assert_eq!(group(&spans, 50, 1 << 20), vec![0..3, 3..4]);
    assert_eq!(group(&spans, 49, 1 << 20), vec![0..2, 2..3, 3..4]);
    assert_eq!(group(&spans, 50, u64::from(2 * frame)), vec![0..2, 2..3, 3..4]);
    assert_eq!(group(&spans, 1 << 20, 1), vec![0..1, 1..2, 2..3, 3..4]);
    assert!(group(&[], 0, 0).is_empty());
}
