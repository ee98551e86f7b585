//! Rates of partitions.

use super::{MAX_RATES, Traffic};
use crate::base::TopicPartition;
use uuid::Uuid;

fn partition(index: i32) -> TopicPartition {
    TopicPartition::new(Uuid::from_u128(7), index)
}

/// Writes `per_s` bytes a second for `seconds`, asked every five seconds.
fn run(traffic: &mut Traffic, from_s: u64, seconds: u64, per_s: u64) -> Vec<(TopicPartition, u64)> {
    let mut told = Vec::new();
    for second in from_s..from_s + seconds {
        traffic.note(partition(1), per_s);
        if (second + 1) % 5 == 0 {
            told = traffic.rates((second + 1) * 1_000);
        }
    }
    told
}

#[test]
fn a_steady_rate_is_found_within_two_minutes_and_forgotten_after() {
    let mut traffic = Traffic::default();
    traffic.rates(0);
    let busy = run(&mut traffic, 0, 120, 1 << 20);
    assert_eq!(busy.len(), 1);
    let off = busy[0].1.abs_diff(1 << 20);
    assert!(off < (1 << 20) / 50, "{busy:?}");
    assert_eq!(run(&mut traffic, 120, 300, 0), []);
}

#[test]
fn the_first_question_starts_the_clock() {
    let mut traffic = Traffic::default();
    traffic.note(partition(0), 1 << 40);
    assert_eq!(traffic.rates(1_000_000), [], "nobody knows over how long that was");
    assert_eq!(traffic.rates(1_005_000), []);
}

#[test]
fn two_questions_at_once_do_not_divide_by_nothing() {
    let mut traffic = Traffic::default();
    traffic.rates(0);
    traffic.note(partition(0), 10_000_000);
    let first = traffic.rates(5_000);
    traffic.note(partition(0), 10_000_000);
    assert_eq!(traffic.rates(5_000), first);
    assert_eq!(traffic.rates(5_001), first);
    assert!(traffic.rates(10_000)[0].1 > first[0].1);
}

#[test]
fn the_busiest_come_first_and_not_too_many() {
    let mut traffic = Traffic::default();
    traffic.rates(0);
    for index in 0..2_000 {
        traffic.note(partition(index), 1_000_000 + u64::from(index.unsigned_abs()));
    }
    let told = traffic.rates(1_000);
    assert_eq!(told.len(), MAX_RATES);
    assert_eq!(told[0].0, partition(1_999));
    assert!(told.is_sorted_by(|a, b| a.1 >= b.1));
}
