use super::*;

#[test]
fn a_change_is_saved_soon_and_a_burst_of_changes_at_the_interval() {
    let mut schedule = Schedule::default();
    assert_eq!((schedule.due_ms(), schedule.waiting_ms(50)), (None, 0));
    schedule.saw(7, 100);
    assert_eq!(schedule.due_ms(), Some(100 + SETTLE_MS));
    // More of them do not put it off.
    schedule.saw(8, 300);
    assert_eq!(schedule.due_ms(), Some(100 + SETTLE_MS));
    assert_eq!(schedule.waiting_ms(400), 300);
    schedule.saved(8, true, 700);
    assert_eq!((schedule.due_ms(), schedule.waiting_ms(9_000)), (None, 0));
    schedule.saw(8, 800);
    assert_eq!(schedule.due_ms(), None, "nothing new");
    schedule.saw(9, 900);
    assert_eq!(schedule.due_ms(), Some(700 + INTERVAL_MS), "not sooner than the interval allows");
}

#[test]
fn a_store_that_fails_is_tried_again_after_the_interval_and_the_change_waits() {
    let mut schedule = Schedule::default();
    schedule.saw(1, 0);
    schedule.failed(600);
    assert_eq!(schedule.due_ms(), Some(600 + INTERVAL_MS));
    schedule.saw(2, 700);
    assert_eq!(schedule.waiting_ms(1_000), 1_000, "since the first change");
    schedule.saved(2, true, 600 + INTERVAL_MS);
    assert_eq!(schedule.due_ms(), None);
}

#[test]
fn what_came_during_a_write_is_due_again_and_what_changed_nothing_costs_no_interval() {
    let mut schedule = Schedule::default();
    schedule.saw(1, 0);
    schedule.saw(2, 600);
    schedule.saved(1, true, 650);
    assert_eq!(schedule.due_ms(), Some(650 + INTERVAL_MS));
    let mut schedule = Schedule::default();
    schedule.saw(1, 0);
    schedule.saved(1, false, 500);
    schedule.saw(2, 600);
    assert_eq!(schedule.due_ms(), Some(600 + SETTLE_MS));
}
