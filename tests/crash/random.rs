//! Kills at random moments: while starting, while recovering, under load.

use std::time::Duration;

use esker::base::{Clock, Rng};
use esker::objstore::s3::{S3Options, create_bucket};

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

/// The flags of the store that `ESKER_KILL_STORE` names. `s3` is a bucket of the server that `tests/support/minio.sh run`
/// tells of; there, uploads take longer than the time between two kills, and are made often.
fn store(rng: &Rng) -> Vec<String> {
    let name = std::env::var("ESKER_KILL_STORE").unwrap_or_else(|_| "file".to_owned());
    match name.as_str() {
        "file" => Vec::new(),
        "s3" => {
            let server = std::env::var("ESKER_TEST_S3_SERVER").expect("start with tests/support/minio.sh run");
            println!("store: {server}");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(create_bucket("esker-crash", &S3Options::default())).unwrap();
            let url = format!("s3://esker-crash/{:016x}", Rng::system().u64());
            let linger = ["5ms", "50ms", "250ms"][rng.below(3) as usize];
            let cache = ["0", "64MiB"][rng.below(2) as usize];
            let flags = [
                "--object-store",
                &url,
                "--flush-linger",
                linger,
                "--flush-put-rate",
                "unlimited",
                "--cache-disk",
                cache,
            ];
            flags.map(str::to_owned).into()
        }
        other => panic!("ESKER_KILL_STORE is '{other}'; it can be file or s3"),
    }
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
    let store_flags = store(&rng);
    let flags: Vec<&str> = flags.concat().into_iter().chain(store_flags.iter().map(String::as_str)).collect();
    let setup = Setup::new(folder.path(), &flags);
    println!("flags: {}", flags.join(" "));
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
