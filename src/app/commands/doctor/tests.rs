//! Measurements and what is said of them.

use super::findings::{
    DiskSpeed, Finding, Level, StoreTimes, clock, disk_speed, free_space, json, metadata_speed, open_files,
    store_speed, text,
};

const NOW_MS: i64 = 1_800_000_000_000;

#[test]
fn limits_and_space_are_compared_with_settings() {
    assert_eq!(open_files(None, 10_000).level, Level::Fine);
    assert_eq!(open_files(Some(20_000), 10_000).level, Level::Fine);
    let low = open_files(Some(1024), 10_000);
    assert_eq!(low.level, Level::Warning);
    assert!(low.advice.contains("ulimit -n 10512") && low.measured["needed"] == 10_512, "{low:?}");
    assert_eq!(open_files(Some(100), 10).level, Level::Problem);
    assert_eq!(free_space(2 << 30, 1 << 30).level, Level::Fine);
    assert!(free_space(1 << 30, 2 << 30).advice.contains("wal.disk"));
}

#[test]
fn slow_parts_are_named() {
    let speed = |write_us, sync_us| DiskSpeed { written_bytes: 64 << 20, write_us, syncs_us: vec![sync_us; 5] };
    assert_eq!(disk_speed(&speed(200_000, 900)).level, Level::Fine);
    assert!(disk_speed(&speed(200_000, 30_000)).advice.contains("fsync"));
    assert!(disk_speed(&speed(5_000_000, 900)).advice.contains("faster disk"));
    // Nothing measured is no division by zero.
    assert_eq!(disk_speed(&DiskSpeed { written_bytes: 0, write_us: 0, syncs_us: Vec::new() }).level, Level::Warning);
    let times = |put_us| StoreTimes { put_us: vec![1, put_us, put_us], ..StoreTimes::default() };
    assert_eq!(store_speed(&times(30_000), 250).level, Level::Fine);
    assert!(store_speed(&times(900_000), 250).advice.contains("flush.linger (250 ms)"));
    assert_eq!(metadata_speed(&[1_000], "etcd").detail, "etcd; a read takes 1.00 ms");
    assert_eq!(metadata_speed(&[300_000; 5], "etcd").level, Level::Warning);
}

#[test]
fn clocks_are_compared_within_what_a_store_can_say() {
    // A store that tells whole seconds, rounded down.
    assert_eq!(clock(NOW_MS + 900, NOW_MS + 950, NOW_MS).level, Level::Fine);
    assert_eq!(clock(NOW_MS, NOW_MS + 50, NOW_MS + 20).level, Level::Fine);
    let ahead = clock(NOW_MS + 60_000, NOW_MS + 60_010, NOW_MS);
    assert_eq!((ahead.level, ahead.detail.as_str()), (Level::Warning, "it is 59 s ahead of the object store's"));
    let behind = clock(NOW_MS - 3_600_000, NOW_MS - 3_600_000, NOW_MS);
    assert_eq!((behind.level, behind.detail.as_str()), (Level::Problem, "it is 3600 s behind the object store's"));
}

#[test]
fn a_report_ends_with_a_verdict() {
    let fine = Finding::fine("clock", "it ticks");
    let problem = Finding::problem("ports", "taken", "free them");
    let shown = text(&[fine.clone(), problem.clone()], false);
    assert_eq!(
        shown,
        "ok       clock               it ticks\nPROBLEM  ports               taken\n                             → free \
         them\n\na broker would not run here; problems: 1, warnings: 0\n"
    );
    assert!(text(std::slice::from_ref(&fine), true).contains("\u{1b}[32mok     \u{1b}[0m"));
    assert!(text(std::slice::from_ref(&fine), false).ends_with("\na broker runs well here\n"));
    assert_eq!(json(&[fine])["healthy"], true);
    assert_eq!(json(&[problem])["findings"][0]["level"], "problem");
}
