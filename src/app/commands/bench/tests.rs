//! Schedule and statistics; the whole command is tested in tests/cli.

use super::grpc::count;
use super::load::prebuild;
use super::schedule::Schedule;
use super::stats::{Stats, Summary};
use super::{BenchCommand, Door, command, parse};
use crate::base::Rng;
use crate::protocol::batch::{BatchRules, Compression, check_batch};

fn typed(words: &[&str]) -> BenchCommand {
    let matches = command().try_get_matches_from([&["bench"], words].concat()).unwrap();
    parse(&matches, &[("ESKER_BOOTSTRAP".to_owned(), "broker:1,other:2".to_owned())].into())
}

#[test]
fn what_is_typed_is_what_is_done() {
    let plain = typed(&["produce"]);
    assert_eq!((plain.door, plain.bootstrap.as_str(), plain.records), (Door::Grpc, "broker:1", Some(1_000_000)));
    let kafka = typed(&["consume", "--door", "kafka", "--duration", "3", "--compression", "zstd"]);
    assert_eq!((kafka.door, kafka.bootstrap.as_str(), kafka.records), (Door::Kafka, "127.0.0.1:9092", None));
    assert_eq!((kafka.consume, kafka.compression), (true, Compression::Zstd));
}

#[test]
fn batches_are_shared_out_and_due_in_time() {
    // 10 batches of 10 records over 3 writers at 1 000 records per second.
    let of = |number| Schedule::new(Some(1_000), Some(95), 10, 3, number);
    let batches = |schedule: Schedule| (0..99).take_while(|at| schedule.due_us(*at).is_some()).count();
    assert_eq!([batches(of(0)), batches(of(1)), batches(of(2))], [4, 3, 3]);
    assert_eq!(
        [of(0).due_us(0), of(0).due_us(1), of(0).due_us(3), of(0).due_us(4)],
        [Some(0), Some(30_000), Some(90_000), None]
    );
    let free = Schedule::new(None, None, 10, 3, 0);
    assert_eq!(free.due_us(1_000_000), Some(0));
}

#[test]
fn with_a_rate_a_latency_counts_from_when_the_batch_was_due() {
    let rated = Schedule::new(Some(1_000), None, 10, 1, 0);
    assert_eq!(rated.counts_from_us(5_000, 9_000), 5_000);
    assert_eq!(Schedule::new(None, None, 10, 1, 0).counts_from_us(5_000, 9_000), 9_000);
}

#[test]
fn percentiles_and_rates() {
    let mut stats = Stats::default();
    for at in 1..=1_000 {
        stats.add(10, 10_000, at * 1_000);
    }
    let command = typed(&["produce"]);
    let json = Summary::of(&stats, 2_000_000).json(&command);
    assert_eq!((json["records"].as_u64(), json["records_per_s"].as_f64()), (Some(10_000), Some(5_000.0)));
    assert_eq!(json["mb_per_s"].as_f64(), Some(5.0));
    for (name, ms) in [("p50", 500.0), ("p90", 900.0), ("p99", 990.0), ("p99.9", 999.0), ("max", 1_000.0)] {
        let told = json["latency_ms"][name].as_f64().unwrap();
        assert!((told - ms).abs() <= ms / 500.0, "{name}: {told}");
    }
    let text = Summary::of(&stats, 2_000_000).text(&command);
    assert!(text.contains("10000 acknowledged in 2.00 s, 1000 batches"), "{text}");
    let nothing = Summary::of(&Stats::default(), 0);
    assert!(nothing.text(&command).contains("nothing was measured"));
}

#[test]
fn what_is_sent_is_a_batch_of_the_size_that_was_asked_for() {
    let built = prebuild(100, 1_000, Compression::None, 7, &Rng::seeded(1));
    assert_eq!((built.count, built.records.len(), count(&built.batch)), (10, 10, 10));
    assert_eq!(count(&[&built.batch[..], &built.batch[..], b"cut"].concat()), 20);
    check_batch(&built.batch, &BatchRules::default(), 7).unwrap();
    assert_eq!(prebuild(100, 1, Compression::Lz4, 7, &Rng::seeded(1)).count, 1);
}
