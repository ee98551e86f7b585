//! What goes wrong around a broker: damaged and missing objects, a store that is away, a full disk, a place that is taken.
//! Each is a clear error, nothing else is lost, and what can come back does so by itself.
//!
//! Runs as root: the full disk is a small file system that is mounted here.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

#[path = "../support/process.rs"]
#[allow(dead_code, reason = "shared with the crash tests")]
mod process;
mod start;
#[path = "../support/wire.rs"]
#[allow(dead_code, reason = "shared with the crash tests")]
mod wire;

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use esker::base::Clock;
use esker::protocol::batch::BatchBuilder;

use process::Setup;
use wire::{Connection, Produced};

const TOPIC: &str = "faults";
const CORRUPT_MESSAGE: i16 = 2;
const REQUEST_TIMED_OUT: i16 = 7;
const KAFKA_STORAGE_ERROR: i16 = 56;
const MIB: usize = 1 << 20;
/// Most tries of something that has to come back by itself; each takes a while.
const TRIES: usize = 60;

fn batch_of(value: &[u8]) -> Bytes {
    let now_ms = Clock::system().wall_ms();
    BatchBuilder::new().key_value(now_ms, "key", value.to_vec()).build()
}

fn produce(connection: &mut Connection, partition: i32, acks: i16, value: &[u8], timeout_ms: i32) -> Produced {
    connection.send_produce_within(TOPIC, partition, acks, batch_of(value), timeout_ms).unwrap();
    connection.receive_produce().unwrap()
}

fn produced(connection: &mut Connection, partition: i32, acks: i16, value: &[u8]) -> i64 {
    let Produced { error, base_offset } = produce(connection, partition, acks, value, 20_000);
    assert_eq!(error, 0, "produce");
    base_offset
}

/// The value at an offset.
fn value_at(connection: &mut Connection, partition: i32, offset: i64) -> Result<Bytes, i16> {
    let fetched = connection.fetch(TOPIC, partition, offset, 100).unwrap();
    match fetched.error {
        0 => Ok(fetched.records.first().and_then(|record| record.value.clone()).unwrap_or_default()),
        error => Err(error),
    }
}

/// The objects that hold these bytes.
fn objects_with(folder: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(objects_with(&path, bytes));
        } else if std::fs::read(&path).unwrap().windows(bytes.len()).any(|window| window == bytes) {
            found.push(path);
        }
    }
    found
}

fn found_topic(doors: process::Doors) -> Connection {
    let mut connection = Connection::open(doors.kafka).unwrap();
    assert_eq!(connection.create_topic(TOPIC, 3).unwrap(), 0);
    connection
}

/// Produces until it is acknowledged again.
fn comes_back(connection: &mut Connection, partition: i32) -> i64 {
    for _ in 0..TRIES {
        let Produced { error, base_offset } = produce(connection, partition, -1, b"is it back?", 1_000);
        if error == 0 {
            return base_offset;
        }
    }
    panic!("the broker does not come back");
}

#[test]
fn a_damaged_or_missing_segment_fails_its_own_records_only() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::new(folder.path(), &[]);
    let (broker, doors) = setup.start();
    let mut connection = found_topic(doors);
    // Each is acknowledged before the next is sent: each is in an object of its own.
    let values: [&[u8]; 4] = [b"first, flipped", b"second, deleted", b"third, whole", b"fourth, whole"];
    for value in values {
        assert!(produced(&mut connection, 0, -1, value) >= 0);
    }
    produced(&mut connection, 1, -1, b"another partition");
    assert!(broker.stop().success());

    // A new process has nothing in memory.
    let (broker, doors) = setup.start();
    let objects = setup.data_dir().join("objects");
    let [flipped, deleted] = [0, 1].map(|number| {
        let found = objects_with(&objects, values[number]);
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    });
    let mut bytes = std::fs::read(&flipped).unwrap();
    let at = bytes.windows(values[0].len()).position(|window| window == values[0]).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&flipped, bytes).unwrap();
    std::fs::remove_file(&deleted).unwrap();

    let mut connection = Connection::open(doors.kafka).unwrap();
    for offset in [0, 1] {
        let error = value_at(&mut connection, 0, offset).expect_err("a damaged record is not served");
        assert!([CORRUPT_MESSAGE, KAFKA_STORAGE_ERROR].contains(&error), "error {error} at {offset}");
    }
    for offset in [2, 3] {
        assert_eq!(value_at(&mut connection, 0, offset).unwrap(), values[offset as usize]);
    }
    assert_eq!(value_at(&mut connection, 1, 0).unwrap(), &b"another partition"[..]);
    let next = produced(&mut connection, 0, -1, b"goes on");
    assert_eq!((next, value_at(&mut connection, 0, next).unwrap()), (4, Bytes::from_static(b"goes on")));
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let log = broker.log_tail();
    assert!(log.contains(&name(&flipped)) && log.contains(&name(&deleted)), "the log names the objects:\n{log}");
    assert!(broker.stop().success());
}

#[test]
fn while_the_store_is_away_acks_1_goes_on_within_its_budget_and_all_drains() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::new(folder.path(), &["--wal-disk", "16MiB"]);
    let (broker, doors) = setup.start();
    let mut connection = found_topic(doors);
    let mut acknowledged = vec![(produced(&mut connection, 0, -1, b"before"), Bytes::from_static(b"before"))];

    // A file where the directory was: nothing can be created below it.
    let (objects, away) = (setup.data_dir().join("objects"), setup.data_dir().join("objects.away"));
    std::fs::rename(&objects, &away).unwrap();
    std::fs::write(&objects, b"").unwrap();
    let Produced { error, .. } = produce(&mut connection, 1, -1, b"in doubt", 1_000);
    assert_eq!(error, REQUEST_TIMED_OUT, "acks=all with the store away");
    let mut refused = None;
    for number in 0..40_usize {
        let value = Bytes::from(vec![number as u8; MIB / 2]);
        let Produced { error, base_offset } = produce(&mut connection, 0, 1, &value, 1_500);
        if error == 0 {
            acknowledged.push((base_offset, value));
        } else {
            refused = Some(error);
            break;
        }
    }
    let taken_bytes = (acknowledged.len() - 1) * MIB / 2;
    println!("acks=1 took {taken_bytes} bytes with the store away, then error {refused:?}");
    assert_eq!(refused, Some(REQUEST_TIMED_OUT), "the budget has an end");
    assert!((4 * MIB..=16 * MIB).contains(&taken_bytes), "{taken_bytes}");

    std::fs::remove_file(&objects).unwrap();
    std::fs::rename(&away, &objects).unwrap();
    comes_back(&mut connection, 1);
    comes_back(&mut connection, 0);
    for (offset, value) in &acknowledged {
        assert!(value_at(&mut connection, 0, *offset).unwrap() == value, "offset {offset}");
    }
    let status = broker.stop();
    assert!(status.success(), "{status}");
}

/// A file system of its own, unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(path: PathBuf, mib: usize) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        let size = format!("size={mib}m");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "esker-test"]).arg(&path).status();
        assert!(status.is_ok_and(|status| status.success()), "this test mounts a tmpfs, for which it must be root");
        Self(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_stops_producers_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::new(folder.path(), &["--wal-disk", "16MiB"]);
    let _disk = Mounted::new(setup.data_dir(), 64);
    let (broker, doors) = setup.start();
    let mut connection = found_topic(doors);
    let mut acknowledged = vec![(produced(&mut connection, 0, -1, b"before"), Bytes::from_static(b"before"))];

    // The write fails when the disk is full, which is what is wanted.
    let ballast = setup.data_dir().join("lost+found");
    let _ = std::fs::write(&ballast, vec![1; 64 * MIB]);
    let mut refused = None;
    for number in 0..20_usize {
        let value = Bytes::from(vec![number as u8; MIB / 2]);
        let Produced { error, base_offset } = produce(&mut connection, 0, [1, -1][number % 2], &value, 1_000);
        if error == 0 {
            acknowledged.push((base_offset, value));
        } else {
            refused = Some(error);
            break;
        }
    }
    assert_eq!(refused, Some(REQUEST_TIMED_OUT));
    assert_eq!(value_at(&mut connection, 0, 0).unwrap(), &b"before"[..]);

    std::fs::remove_file(&ballast).unwrap();
    comes_back(&mut connection, 0);
    acknowledged.push((produced(&mut connection, 0, 1, b"after"), Bytes::from_static(b"after")));
    for (offset, value) in &acknowledged {
        assert!(value_at(&mut connection, 0, *offset).unwrap() == value, "offset {offset}");
    }
    let log = broker.log_tail();
    assert!(log.contains("free space on this disk") || log.contains("No space left"), "{log}");
    assert!(broker.stop().success());
    let (broker, doors) = setup.start();
    let mut connection = Connection::open(doors.kafka).unwrap();
    for (offset, value) in &acknowledged {
        assert!(value_at(&mut connection, 0, *offset).unwrap() == value, "offset {offset} after a restart");
    }
    assert!(broker.stop().success());
}
