//! Kills at random moments: while starting, while recovering, under load.

use std::time::Duration;

use esker::base::{Clock, Rng};

use crate::assert_nothing_lost;
use crate::check::World;
use crate::process::Setup;

const DEFAULT_CYCLES: u64 = 10;
/// Every so many cycles the whole log is read again.
const FULL_CHECK_EVERY: u64 = 20;
const MAX_LOAD_MS: u64 = 500;
const MAX_START_MS: u64 = 150;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn random_kills_lose_nothing() {
    let cycles = variable("ESKER_KILL_CYCLES").unwrap_or(DEFAULT_CYCLES);
    let seed = variable("ESKER_SEED").unwrap_or_else(|| Rng::system().u64());
    println!("{cycles} random kills; ESKER_SEED={seed} repeats the choices");
    let rng = Rng::seeded(seed);
    let folder = tempfile::tempdir().unwrap();
    let flush_bytes = ["64KiB", "256KiB", "8MiB"][rng.below(3) as usize];
    let checkpoint_segments = ["3", "20", "512"][rng.below(3) as usize];
    let flags = [
        ["--flush-bytes", flush_bytes],
        ["--checkpoint-segments", checkpoint_segments],
        ["--checkpoint-interval", "1s"],
        ["--retention-check-interval", "200ms"],
        ["--retention-delete-grace", "300ms"],
        ["--offsets-topic-partitions", "3"],
    ];
    println!("flags: {}", flags.map(|flag| flag.join("=")).join(" "));
    let setup = Setup::new(folder.path(), &flags.concat());
    let clock = Clock::system();
    let begin_ms = clock.boot_ms();
    let mut world = World::new();
    let (mut broker, mut doors) = setup.start();
    world.found(doors);
    let mut killed_starts = 0;
    for cycle in 1..=cycles {
        let load_ms = rng.below(MAX_LOAD_MS);
        world.load(doors.kafka, |_| {
            std::thread::sleep(Duration::from_millis(load_ms));
            broker.kill();
        });
        while rng.below(3) == 0 {
            let starting = setup.spawn();
            std::thread::sleep(Duration::from_millis(rng.below(MAX_START_MS)));
            starting.kill();
            killed_starts += 1;
        }
        (broker, doors) = setup.start();
        world.check(doors, cycle % FULL_CHECK_EVERY == 0);
        assert_nothing_lost(&setup.data_dir());
        if cycle % FULL_CHECK_EVERY == 0 {
            println!("cycle {cycle}: {} records, {} s", world.records(), (clock.boot_ms() - begin_ms) / 1000);
        }
    }
    world.settle(doors);
    world.check(doors, true);
    let status = broker.stop();
    assert!(status.success(), "a stop on request ended with {status}");
    let (broker, doors) = setup.start();
    world.check(doors, true);
    assert_nothing_lost(&setup.data_dir());
    assert!(broker.stop().success());
    let count = |acks| world.counts.get(&acks).copied().unwrap_or(0);
    println!(
        "{cycles} kills under load, {killed_starts} while starting: {} records of {} acks=1 and {} acks=all batches in \
         place, in {} s",
        world.records(),
        count(1),
        count(-1),
        (clock.boot_ms() - begin_ms) / 1000
    );
}
