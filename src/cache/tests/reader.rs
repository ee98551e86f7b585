use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::future::join_all;

use super::super::{MemoryPages, Metrics, ObjectReader, Settings};
use super::fake::{FakeStore, pattern};
use crate::base::ErrorKind;

pub fn settings() -> Settings {
    Settings {
        page_bytes: 100,
        get_bytes: 400,
        in_flight_bytes: 1000,
        read_ahead_bytes: 0,
        read_ahead_in_flight_bytes: 1000,
        ..Settings::default()
    }
}

fn reader(store: &Arc<FakeStore>, settings: Settings) -> (ObjectReader, Metrics) {
    let metrics = Metrics::default();
    let pages = Arc::new(MemoryPages::new(1 << 20));
    (ObjectReader::new(store.clone(), pages, settings, metrics.clone()), metrics)
}

/// Lets every task that can go on do so (single-threaded test runtime).
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_hundred_readers_of_a_missing_page_cost_one_get() {
    let store = FakeStore::shut(pattern(1000));
    let (reader, metrics) = reader(&store, settings());
    let reads: Vec<_> = (0..100)
        .map(|_| {
            let reader = reader.clone();
            tokio::spawn(async move { reader.read("a", 120..180, 180).await })
        })
        .collect();
    settle().await;
    assert_eq!(store.get_count(), 1);
    store.gate.add_permits(1);
    for read in join_all(reads).await {
        assert_eq!(read.unwrap().unwrap().slice(120..180).unwrap(), pattern(1000)[120..180]);
    }
    assert_eq!(store.get_count(), 1);
    assert_eq!((metrics.gets.get(), metrics.misses.get(), metrics.coalesced_waits.get()), (1, 1, 99));
    assert_eq!(reader.loads_under_way(), 0);
    assert_eq!((metrics.memory_bytes.get(), metrics.in_flight_bytes.get()), (100, 0));
    reader.read("a", 100..200, 200).await.unwrap();
    assert_eq!((store.get_count(), metrics.hits_memory.get()), (1, 1));
}

#[tokio::test]
async fn a_leader_that_goes_away_does_not_stall_its_followers() {
    let store = FakeStore::shut(pattern(1000));
    let (reader, _) = reader(&store, settings());
    let leader = tokio::spawn({
        let reader = reader.clone();
        async move { reader.read("a", 0..50, 50).await }
    });
    settle().await;
    let follower = tokio::spawn({
        let reader = reader.clone();
        async move { reader.read("a", 0..50, 50).await }
    });
    settle().await;
    leader.abort();
    settle().await;
    store.gate.add_permits(1);
    assert_eq!(follower.await.unwrap().unwrap().slice(0..50).unwrap(), pattern(50));
    assert_eq!(store.get_count(), 1);
}

#[tokio::test]
async fn a_load_that_waits_for_room_and_that_nobody_wants_any_more_is_not_done() {
    let store = FakeStore::shut(pattern(10_000));
    let (reader, _) = reader(&store, Settings { in_flight_bytes: 100, ..settings() });
    let spawn = |range: std::ops::Range<u64>| {
        let reader = reader.clone();
        tokio::spawn(async move { reader.read("a", range.clone(), range.end).await })
    };
    let first = spawn(0..100);
    settle().await;
    let second = spawn(500..600);
    let third = spawn(700..800);
    settle().await;
    second.abort();
    settle().await;
    store.gate.add_permits(3);
    first.await.unwrap().unwrap();
    third.await.unwrap().unwrap();
    assert_eq!(*store.gets.lock(), vec![0..100, 700..800]);
    assert_eq!(reader.loads_under_way(), 0);
}

#[tokio::test]
async fn neighbours_share_a_get_up_to_its_limit_and_bytes_in_flight_are_bounded() {
    let store = FakeStore::with(pattern(10_000));
    let (reader, _) = reader(&store, settings());
    reader.read("a", 500..600, 600).await.unwrap();
    let read = reader.read("a", 150..1550, 1550).await.unwrap();
    assert_eq!(read.slice(150..1550).unwrap(), pattern(10_000)[150..1550]);
    assert_eq!(*store.gets.lock(), vec![500..600, 100..500, 600..1000, 1000..1400, 1400..1600]);
    reader.read("b", 0..5000, 5000).await.unwrap();
    assert!(store.most_under_way_bytes.load(Ordering::SeqCst) <= 1000);
}

#[tokio::test]
async fn a_failed_get_fails_its_waiters_and_the_next_read_tries_again() {
    let store = FakeStore::with(pattern(1000));
    let (reader, metrics) = reader(&store, settings());
    store.failing.store(true, Ordering::SeqCst);
    let error = reader.read("a", 0..300, 300).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retriable);
    assert_eq!(metrics.get_errors.get(), 1);
    store.failing.store(false, Ordering::SeqCst);
    assert_eq!(reader.read("a", 0..300, 300).await.unwrap().slice(0..300).unwrap(), pattern(300));
}

#[tokio::test]
async fn an_invalidated_page_is_read_again_even_if_an_older_load_lands_later() {
    let store = FakeStore::shut(pattern(1000));
    let (reader, _) = reader(&store, settings());
    let spawn = || {
        let reader = reader.clone();
        tokio::spawn(async move { reader.read("a", 0..100, 100).await })
    };
    let old = spawn();
    settle().await;
    reader.invalidate("a", 0..100);
    let new = spawn();
    settle().await;
    assert_eq!(store.get_count(), 2);
    store.gate.add_permits(2);
    old.await.unwrap().unwrap();
    new.await.unwrap().unwrap();
    reader.invalidate("a", 0..1);
    store.gate.add_permits(1);
    spawn().await.unwrap().unwrap();
    assert_eq!(store.get_count(), 3);
}

#[tokio::test]
async fn a_forward_reader_gets_its_pages_ahead_but_not_past_what_it_wants() {
    let store = FakeStore::with(pattern(10_000));
    let (reader, metrics) = reader(&store, Settings { read_ahead_bytes: 400, ..settings() });
    for page in 0..20u64 {
        let range = page * 100..page * 100 + 100;
        let read = reader.read("a", range.clone(), 2000).await.unwrap();
        assert_eq!(read.slice(range.clone()).unwrap(), pattern(10_000)[range.start as usize..range.end as usize]);
        settle().await;
    }
    assert_eq!(store.gets.lock().iter().map(|range| range.end).max(), Some(2000));
    let (got, ahead) = (metrics.get_bytes.get(), metrics.read_ahead_pages.get());
    assert_eq!(got, 2000, "each byte once");
    assert!(ahead >= 16, "{ahead}");
    assert!(store.get_count() <= 20);
}

#[tokio::test]
async fn reads_at_and_past_the_end_are_cut_short_and_past_the_end_is_not_cached() {
    let store = FakeStore::with(pattern(250));
    let (reader, _) = reader(&store, settings());
    let read = reader.read("a", 150..1000, 1000).await.unwrap();
    assert_eq!((read.start(), read.end()), (150, 250));
    assert_eq!(read.slice(150..250).unwrap(), pattern(250)[150..]);
    assert_eq!(read.slice(150..251), None);
    assert_eq!(reader.read("a", 300..400, 400).await.unwrap().end(), 300);
    assert_eq!(reader.read("a", 40..40, 40).await.unwrap().end(), 40);
}
