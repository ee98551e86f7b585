//! Waiting without polling.

use std::sync::atomic::Ordering;

use futures::future::join_all;
use tokio::task::JoinHandle;

use super::model::{LEADER_EPOCH, Setup, batch, cache_settings, setup, simple, tp};
use crate::base::ErrorKind;
use crate::fetch::{FetchError, FetchRequest, Fetches, PartitionFetch, PartitionRequest, Settings};
use crate::partition::Isolation::ReadUncommitted;
use crate::protocol::batch::Compression;

fn asked(partition: i32, offset: i64) -> PartitionRequest {
    PartitionRequest { partition: tp(partition), offset, max_bytes: 1 << 20, current_leader_epoch: -1 }
}

fn request(partitions: Vec<PartitionRequest>, min_bytes: usize, max_wait_ms: u64) -> FetchRequest {
    FetchRequest { partitions, min_bytes, max_bytes: 50 << 20, max_wait_ms, isolation: ReadUncommitted }
}

fn spawn(fetches: &Fetches, request: FetchRequest) -> JoinHandle<Vec<PartitionFetch>> {
    let fetches = fetches.clone();
    tokio::spawn(async move { fetches.fetch(&request).await })
}

fn produce(setup: &Setup, partition: i32, value_bytes: usize) {
    setup.log.append(tp(partition), batch(&[1], value_bytes, Compression::None));
    setup.log.commit();
}

/// Lets every task that can go on do so, without the clock moving.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

fn bytes(answers: &[PartitionFetch]) -> usize {
    answers.iter().map(|answer| answer.result.as_ref().unwrap().bytes()).sum()
}

#[tokio::test(start_paused = true)]
async fn a_fetch_at_the_end_waits_for_a_commit_and_wakes_by_it() {
    let setup = simple(2);
    produce(&setup, 0, 10);
    let fetch = spawn(&setup.fetches, request(vec![asked(0, 1), asked(1, 0)], 1, 60_000));
    settle().await;
    assert_eq!((setup.log.subscribers(), setup.metrics.waiters.get()), (1, 1));
    let plans = setup.log.plans.load(Ordering::SeqCst);
    settle().await;
    assert_eq!(setup.log.plans.load(Ordering::SeqCst), plans, "no polling");
    // Appended but not committed: nothing to see.
    setup.log.append(tp(1), batch(&[1], 10, Compression::None));
    settle().await;
    assert!(!fetch.is_finished());
    setup.log.commit();
    let answers = fetch.await.unwrap();
    assert_eq!(answers[1].result.as_ref().unwrap().next_offset, 1);
    assert_eq!((setup.log.subscribers(), setup.metrics.waiters.get(), setup.metrics.wakes.get()), (0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_answers_with_what_there_is() {
    let setup = simple(1);
    produce(&setup, 0, 10);
    let started = tokio::time::Instant::now();
    let answers = setup.fetches.fetch(&request(vec![asked(0, 0)], 1 << 20, 500)).await;
    assert_eq!(started.elapsed().as_millis(), 500);
    assert_eq!(answers[0].result.as_ref().unwrap().batches.len(), 1);
    assert_eq!((setup.metrics.timeouts.get(), setup.log.subscribers()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn min_bytes_are_gathered_over_several_commits_in_order() {
    let setup = simple(2);
    let fetch = spawn(&setup.fetches, request(vec![asked(0, 0), asked(1, 0)], 1500, 60_000));
    for round in 0..5 {
        settle().await;
        assert!(!fetch.is_finished(), "round {round}");
        produce(&setup, round % 2, 300);
        // What was committed may leave memory while the fetch still waits.
        setup.log.evict(tp(round % 2), i64::MAX);
    }
    let answers = fetch.await.unwrap();
    assert!(bytes(&answers) >= 1500);
    let read = answers[0].result.as_ref().unwrap();
    assert_eq!((read.batches.len(), read.next_offset), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn an_error_answers_at_once_and_spares_the_others() {
    let setup = simple(3);
    produce(&setup, 1, 10);
    let started = tokio::time::Instant::now();
    let stale = PartitionRequest { current_leader_epoch: LEADER_EPOCH - 1, ..asked(1, 0) };
    let future = PartitionRequest { current_leader_epoch: LEADER_EPOCH + 1, ..asked(1, 0) };
    let right = PartitionRequest { current_leader_epoch: LEADER_EPOCH, ..asked(1, 0) };
    let partitions = vec![asked(0, 99), stale, future, right, asked(9, 0)];
    let answers = setup.fetches.fetch(&request(partitions, 1 << 20, 60_000)).await;
    assert_eq!(started.elapsed().as_millis(), 0);
    let error = |at: usize| answers[at].result.as_ref().unwrap_err();
    assert!(matches!(error(0), FetchError::Log(_)));
    assert!(matches!(error(1), FetchError::FencedLeaderEpoch { .. }));
    assert!(matches!(error(2), FetchError::UnknownLeaderEpoch { .. }));
    assert_eq!(answers[3].result.as_ref().unwrap().batches.len(), 1);
    assert_eq!(error(4).kind(), ErrorKind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn losing_a_partition_wakes_those_who_wait_for_it() {
    let setup = simple(2);
    let fetch = spawn(&setup.fetches, request(vec![asked(0, 0), asked(1, 0)], 1, 60_000));
    settle().await;
    setup.log.lose(tp(1));
    let answers = fetch.await.unwrap();
    assert!(answers[0].result.is_ok());
    assert_eq!(answers[1].result.as_ref().unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn too_many_waiters_are_answered_at_once() {
    let setup = simple(1);
    let fetches = Fetches::new(setup.reader.clone(), 2);
    let waiting: Vec<_> = (0..2).map(|_| spawn(&fetches, request(vec![asked(0, 0)], 1, 60_000))).collect();
    settle().await;
    let started = tokio::time::Instant::now();
    let answers = fetches.fetch(&request(vec![asked(0, 0)], 1, 60_000)).await;
    assert_eq!((started.elapsed().as_millis(), answers.len()), (0, 1));
    assert_eq!(setup.metrics.waiters_refused.get(), 1);
    // A cancelled one leaves its place.
    waiting[0].abort();
    settle().await;
    assert_eq!((setup.log.subscribers(), setup.metrics.waiters.get()), (1, 1));
    let third = spawn(&fetches, request(vec![asked(0, 0)], 1, 60_000));
    settle().await;
    assert!(!third.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_hundred_consumers_at_the_end_cost_the_store_nothing() {
    let setup = simple(1);
    for round in 0..10 {
        let fetches: Vec<_> =
            (0..100).map(|_| spawn(&setup.fetches, request(vec![asked(0, round)], 1, 60_000))).collect();
        settle().await;
        produce(&setup, 0, 1000);
        for fetch in join_all(fetches).await {
            assert_eq!(fetch.unwrap()[0].result.as_ref().unwrap().next_offset, round + 1);
        }
    }
    assert_eq!(setup.log.store.gets.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_consumers_of_old_data_cost_one_read_of_it() {
    let setup = setup(1, cache_settings(), Settings { objects_ahead: 2, ..Settings::default() });
    for _ in 0..10 {
        produce(&setup, 0, 3000);
    }
    setup.log.evict(tp(0), i64::MAX);
    let fetches = (0..100).map(|_| spawn(&setup.fetches, request(vec![asked(0, 0)], 1, 0)));
    for fetch in join_all(fetches).await {
        assert_eq!(fetch.unwrap()[0].result.as_ref().unwrap().next_offset, 10);
    }
    let stored: usize = setup.log.store.objects.lock().values().map(bytes::Bytes::len).sum();
    let got = setup.log.store.get_bytes.load(Ordering::SeqCst) as usize;
    assert!(got <= stored, "{got} bytes read of {stored}");
    assert_eq!(setup.metrics.index_loads.get(), 10);
}

#[tokio::test(start_paused = true)]
async fn the_first_batch_comes_however_large_and_the_request_limit_holds_for_the_rest() {
    let setup = simple(3);
    for partition in 1..3 {
        produce(&setup, partition, 2000);
        produce(&setup, partition, 2000);
        setup.log.evict(tp(partition), if partition == 1 { i64::MAX } else { 0 });
    }
    let small = |partition| PartitionRequest { max_bytes: 100, ..asked(partition, 0) };
    let answers = setup.fetches.fetch(&request((0..3).map(small).collect(), 1, 0)).await;
    let counts: Vec<_> = answers.iter().map(|answer| answer.result.as_ref().unwrap().batches.len()).collect();
    assert_eq!(counts, vec![0, 1, 0]);
    let limited = FetchRequest { max_bytes: 7000, ..request((0..3).map(|at| asked(at, 0)).collect(), 1, 0) };
    let answers = setup.fetches.fetch(&limited).await;
    let counts: Vec<_> = answers.iter().map(|answer| answer.result.as_ref().unwrap().batches.len()).collect();
    assert_eq!(counts, vec![0, 2, 1], "what one partition does not use is the next one's");
}
