//! What the file promises: every prefix of it is a state that was, damage is told from a torn tail, and one process has it.

use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;

use super::file::{FILE_NAME, REWRITE_MIN_BYTES};
use super::*;
use crate::base::ManualClock;
use crate::meta::Event;

fn put(key: &str, value: impl Into<Bytes>, lease: i64) -> Write {
    Write::Put { key: key.to_owned(), value: value.into(), lease }
}

async fn open(directory: &Path) -> EmbeddedMeta {
    EmbeddedMeta::open(directory.to_owned(), Clock::system()).await.expect("opens")
}

async fn open_error(directory: &Path) -> MetaError {
    EmbeddedMeta::open(directory.to_owned(), Clock::system()).await.expect_err("does not open")
}

async fn commit(store: &EmbeddedMeta, writes: Vec<Write>) -> u64 {
    match store.txn(vec![], writes).await.expect("a transaction") {
        TxnOutcome::Committed { revision } => revision,
        TxnOutcome::Conflict => panic!("conflict"),
    }
}

async fn state(store: &EmbeddedMeta) -> Snapshot {
    store.range("").await.expect("a range")
}

/// A store with some history; the file's bytes, and its length and state after each transaction.
async fn history(directory: &Path) -> (Vec<u8>, Vec<(usize, Snapshot)>) {
    let store = open(directory).await;
    let file = directory.join(FILE_NAME);
    let length = || std::fs::metadata(&file).expect("a file").len() as usize;
    let mut states = vec![(length(), state(&store).await)];
    for n in 0..6 {
        let mut writes = vec![put(&format!("key/{}", n % 3), format!("value {n}").repeat(n * 30), 0)];
        if n == 4 {
            writes.push(Write::Delete { key: "key/0".to_owned() });
        }
        commit(&store, writes).await;
        states.push((length(), state(&store).await));
    }
    store.close().await;
    (std::fs::read(&file).expect("a file"), states)
}

#[tokio::test]
async fn a_closed_store_opens_with_the_same_state() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_, states) = history(directory.path()).await;
    let store = open(directory.path()).await;
    assert_eq!(state(&store).await, states.last().expect("states").1);
    let revision = commit(&store, vec![put("more", "x", 0)]).await;
    assert_eq!(revision, states.last().expect("states").1.revision + 1);
}

#[tokio::test]
async fn a_file_cut_anywhere_gives_the_last_whole_transaction() {
    let directory = tempfile::tempdir().expect("a directory");
    let (bytes, states) = history(directory.path()).await;
    let start = states[0].0;
    for cut in (start..=bytes.len()).filter(|cut| cut % 7 == 0 || states.iter().any(|(end, _)| end.abs_diff(*cut) < 20))
    {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join(FILE_NAME);
        std::fs::write(&file, &bytes[..cut]).expect("written");
        let store = open(directory.path()).await;
        let (end, expected) = states.iter().rev().find(|(end, _)| *end <= cut).expect("the first state is whole");
        assert_eq!(state(&store).await, *expected, "cut at {cut}");
        store.close().await;
        assert_eq!(std::fs::metadata(&file).expect("a file").len() as usize, *end, "the torn tail is gone");
    }
}

#[tokio::test]
async fn a_tail_whose_sectors_were_never_written_is_torn() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut bytes, states) = history(directory.path()).await;
    let last_start = states[states.len() - 2].0;
    let sector = (last_start / 512 + 1) * 512;
    assert!(sector < bytes.len());
    bytes[sector..].fill(0);
    std::fs::write(directory.path().join(FILE_NAME), &bytes).expect("written");
    let store = open(directory.path()).await;
    assert_eq!(state(&store).await, states[states.len() - 2].1);
}

#[tokio::test]
async fn zeros_behind_the_last_record_are_torn() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut bytes, states) = history(directory.path()).await;
    bytes.resize(bytes.len() + 3000, 0);
    std::fs::write(directory.path().join(FILE_NAME), &bytes).expect("written");
    assert_eq!(state(&open(directory.path()).await).await, states.last().expect("states").1);
}

#[tokio::test]
async fn a_flipped_byte_is_damage_that_is_named_and_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let (bytes, _) = history(directory.path()).await;
    for at in (0..bytes.len()).filter(|at| at % 11 == 0 || *at < 40) {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join(FILE_NAME);
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x40;
        std::fs::write(&file, &bytes).expect("written");
        let error = open_error(directory.path()).await;
        assert!(matches!(error, MetaError::Corrupt(_)), "byte {at}: {error:?}");
        assert!(error.to_string().contains(FILE_NAME), "{error}");
        assert_eq!(std::fs::read(&file).expect("a file"), bytes, "nothing is repaired behind a person's back");
    }
}

#[tokio::test]
async fn other_files_and_newer_versions_are_refused_with_a_reason() {
    for (bytes, reason) in [
        (Vec::new(), "does not start with the header"),
        (b"hello, this is no metadata".to_vec(), "does not start with the header"),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join(FILE_NAME), bytes).expect("written");
        let error = open_error(directory.path()).await.to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[tokio::test]
async fn one_process_at_a_time_and_the_other_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path()).await;
    let error = open_error(directory.path()).await;
    assert!(matches!(error, MetaError::Environment(_)), "{error:?}");
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    store.close().await;
    open(directory.path()).await;
}

#[tokio::test]
async fn the_keys_of_leases_end_with_the_process() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path()).await;
    let lease = store.lease_grant(600_000).await.expect("a lease");
    let revision = commit(&store, vec![put("live", "x", lease), put("kept", "x", 0)]).await;
    store.close().await;
    let store = open(directory.path()).await;
    let snapshot = state(&store).await;
    assert_eq!(snapshot.revision, revision + 1, "their end is a revision of its own");
    assert_eq!(snapshot.entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["kept"]);
    assert!(store.lease_keep_alive(lease).await.is_err());
}

#[tokio::test]
async fn a_watch_older_than_the_process_is_told_to_read_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_, states) = history(directory.path()).await;
    let revision = states.last().expect("states").1.revision;
    let store = open(directory.path()).await;
    let mut old = store.watch("", revision).await.expect("a watch");
    assert_eq!(old.recv().await, Some(vec![Event::Resync]));
    let mut new = store.watch("", revision + 1).await.expect("a watch");
    commit(&store, vec![put("new", "x", 0)]).await;
    assert!(matches!(&new.recv().await.expect("open")[..], [Event::Put(entry)] if entry.key == "new"));
}

#[tokio::test]
async fn a_grown_file_is_replaced_by_a_snapshot() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join(FILE_NAME);
    let store = open(directory.path()).await;
    let writes = 12;
    let mut largest = 0;
    for n in 0..writes {
        commit(&store, vec![put("a", vec![n; 1_000_000], 0), put(&format!("small/{n}"), "x", 0)]).await;
        largest = largest.max(std::fs::metadata(&file).expect("a file").len());
    }
    assert!(largest < REWRITE_MIN_BYTES + 2_000_000, "{largest}");
    let before = state(&store).await;
    assert_eq!(before.revision, u64::from(writes));
    store.close().await;
    // As a crash in the middle of a rewrite leaves it.
    std::fs::write(directory.path().join("metadata.log.new"), b"half").expect("written");
    let store = open(directory.path()).await;
    assert_eq!(state(&store).await, before);
    assert!(!directory.path().join("metadata.log.new").exists());
}

#[tokio::test]
async fn leases_end_by_the_clock_at_the_next_operation() {
    let directory = tempfile::tempdir().expect("a directory");
    let clock = ManualClock::starting_at(0);
    let store = EmbeddedMeta::open(directory.path().to_owned(), clock.clock()).await.expect("opens");
    let lease = store.lease_grant(1000).await.expect("a lease");
    commit(&store, vec![put("live", "x", lease)]).await;
    clock.advance_ms(999);
    store.lease_keep_alive(lease).await.expect("alive");
    clock.advance_ms(999);
    assert!(store.get("live").await.expect("read").is_some());
    clock.advance_ms(1);
    assert!(store.get("live").await.expect("read").is_none());
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, b"").expect("written");
    let error = open_error(&file.join("below")).await;
    assert!(matches!(error, MetaError::Environment(_)) && error.to_string().contains("below"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random transactions, the file cut at a random place: what opens is the state after some whole transaction.
    #[test]
    fn any_history_cut_anywhere_opens_as_a_state_that_was(
        txns in prop::collection::vec(prop::collection::btree_map(0..5u8, prop::option::of(0..2000usize), 1..4), 1..12),
        cut in 0.0..1.0f64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let directory = tempfile::tempdir().expect("a directory");
            let file = directory.path().join(FILE_NAME);
            let store = open(directory.path()).await;
            let length = || std::fs::metadata(&file).expect("a file").len() as usize;
            let mut states = vec![(length(), state(&store).await)];
            for txn in txns {
                let write = |(key, size): (u8, Option<usize>)| match size {
                    Some(size) => put(&key.to_string(), vec![key + 1; size], 0),
                    None => Write::Delete { key: key.to_string() },
                };
                commit(&store, txn.into_iter().map(write).collect()).await;
                states.push((length(), state(&store).await));
            }
            store.close().await;
            let (start, end) = (states[0].0, length());
            let cut = start + ((end - start) as f64 * cut) as usize;
            std::fs::OpenOptions::new().write(true).open(&file).expect("a file").set_len(cut as u64).expect("cut");
            let store = open(directory.path()).await;
            let expected = &states.iter().rev().find(|(end, _)| *end <= cut).expect("the first").1;
            assert_eq!(&state(&store).await, expected);
        });
    }
}
