//! Every named crash point: reached, and survived.

use std::os::unix::process::ExitStatusExt;

use esker::base::crash::POINTS;

use crate::assert_nothing_lost;
use crate::check::World;
use crate::process::{Broker, Setup};

const SIGABRT: i32 = 6;
/// A point that is not reached after this long under load is not reached.
const REACH_MS: u64 = 20_000;

/// When a point is met.
enum Met {
    /// Under load; the crash is at each of these passes.
    Loaded(&'static [u32]),
    /// At the start after a crash under load.
    Starting,
}

fn met(point: &str) -> Met {
    match point {
        "wal-before-write"
        | "wal-after-write"
        | "upload-before-create"
        | "upload-after-create"
        | "commit-before-reply" => Met::Loaded(&[1, 3, 40]),
        "wal-after-sync" => Met::Loaded(&[1, 3, 20]),
        "checkpoint-before-put" | "checkpoint-after-put" => Met::Loaded(&[1, 3]),
        "collect-before-delete" | "compact-before-create" | "compact-after-create" | "compact-after-commit" => {
            Met::Loaded(&[1, 5])
        }
        point if point.starts_with("recovery-") || point.starts_with("takeover-") => Met::Starting,
        other => panic!("no test for the crash point '{other}'"),
    }
}

const FLAGS: &[&str] = &[
    "--flush-bytes",
    "64KiB",
    "--checkpoint-segments",
    "2",
    "--retention-check-interval",
    "100ms",
    "--retention-delete-grace",
    "0ms",
    "--offsets-topic-partitions",
    "2",
    "--compaction-interval",
    "200ms",
    "--compaction-segments",
    "2",
    "--compaction-run-bytes",
    "256KiB",
];

fn assert_crashed(mut broker: Broker, point: &str) {
    let Some(status) = broker.ended_within(REACH_MS) else { panic!("the point '{point}' was not reached") };
    assert_eq!(status.signal(), Some(SIGABRT), "ended with {status} instead of crashing at '{point}'");
    assert!(broker.log_tail().contains(&format!("crash point {} reached", point.split(':').next().unwrap())));
}

/// Starts with the crash point set, goes on with the load if the start gets through, until the point is met.
fn crash_under_load(setup: &Setup, world: &mut World, point: &str) {
    let mut broker = setup.with_variable("ESKER_CRASH_AT", point).spawn();
    match broker.ready() {
        Ok(doors) => world.load(doors.kafka, |_| assert_crashed(broker, point)),
        Err(_) => assert_crashed(broker, point),
    }
}

fn crash_while_starting(setup: &Setup, point: &str) {
    let mut broker = setup.with_variable("ESKER_CRASH_AT", point).spawn();
    // Some points are met only after the broker has said that it is ready: what it took over is committed behind its back.
    let _ = broker.ready();
    assert_crashed(broker, point);
}

#[test]
fn every_named_point_is_reached_and_survived() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::new(folder.path(), FLAGS);
    let mut world = World::new();
    let (broker, doors) = setup.start();
    world.found(doors);
    broker.kill();
    let mut crashes = 0;
    for point in POINTS {
        let names: Vec<String> = match met(point) {
            Met::Loaded(passes) => passes.iter().map(|pass| format!("{point}:{pass}")).collect(),
            Met::Starting => vec![(*point).to_owned()],
        };
        for name in names {
            if let Met::Starting = met(point) {
                // Leaves write-ahead files that are not uploaded yet.
                crash_under_load(&setup, &mut world, "upload-before-create:25");
                crash_while_starting(&setup, &name);
                // And once more at the same place, in what the crash left.
                let mut broker = setup.with_variable("ESKER_CRASH_AT", &name).spawn();
                if broker.ready().is_err() {
                    assert_crashed(broker, &name);
                }
            } else {
                crash_under_load(&setup, &mut world, &name);
            }
            let (broker, doors) = setup.start();
            world.check(doors, true);
            assert_nothing_lost(&setup.data_dir());
            broker.kill();
            crashes += 1;
            println!("{name}: {} records in place", world.records());
        }
    }
    let (broker, doors) = setup.start();
    world.settle(doors);
    world.check(doors, true);
    assert!(broker.stop().success());
    println!("{crashes} crashes at {} points survived", POINTS.len());
}
