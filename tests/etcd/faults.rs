//! Lost connections, lost answers, silence, crashes.

use std::time::Duration;

use esker::base::{Clock, ErrorKind};
use esker::meta::{Event, MetaError, MetaStore, TxnOutcome};

use crate::history::{Writer, check, follow};
use crate::proxy::{Mode, Proxy};
use crate::server::free_port;
use crate::{PATIENCE, at, commit, hasty, member, next, options, put, store, store_with, until, value};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_reported_as_such_and_nothing_is_done_twice() {
    member!(folder, etcd);
    let proxy = Proxy::start(etcd.endpoint()).await;
    let (direct, behind) = (store(&[etcd.endpoint()]), hasty(&[proxy.endpoint()]));
    let before = commit(&behind, vec![put("lost/a", "0")]).await;
    proxy.set(Mode::LoseAnswers);
    let error = behind.txn(vec![], vec![put("lost/a", "1")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retriable);
    assert!(error.to_string().ends_with("it may have happened"), "{error}");
    let found = direct.get("lost/a").await.unwrap().unwrap();
    assert_eq!((found.value.as_ref(), found.mod_revision), (b"1".as_slice(), before + 1), "once, and only once");

    // Reads and leases are repeated: here until the deadline, then again with success.
    let error = behind.get("lost/a").await.unwrap_err();
    assert!(matches!(&error, MetaError::Unavailable { reason, .. } if !reason.contains("happened")), "{error}");
    assert_eq!(value(&direct, "lost/a").await.as_deref(), Some("1"));
    proxy.set(Mode::Pass);
    let lease = behind.lease_grant(60_000).await.unwrap();
    behind.lease_revoke(lease).await.unwrap();

    // With nobody there, nothing has happened, and that is known.
    proxy.set(Mode::Cut);
    let error = behind.txn(vec![], vec![put("lost/a", "2")]).await.unwrap_err();
    assert!(error.to_string().contains("happened"), "{error}");
    let error = behind.txn(vec![], vec![put("lost/a", "2")]).await.unwrap_err();
    assert!(error.to_string().ends_with("it has not happened"), "{error}");
    assert_eq!(value(&direct, "lost/a").await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_granted_once_although_the_answer_was_lost() {
    member!(folder, etcd);
    let proxy = Proxy::start(etcd.endpoint()).await;
    let behind = store(&[proxy.endpoint()]);
    behind.get("a").await.unwrap();
    proxy.set(Mode::LoseAnswers);
    let granting = {
        let behind = behind.clone();
        tokio::spawn(async move { behind.lease_grant(60_000).await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    proxy.set(Mode::Cut);
    // Long enough for every connection to see it.
    tokio::time::sleep(Duration::from_millis(50)).await;
    proxy.set(Mode::Pass);
    let lease = granting.await.unwrap().unwrap();
    behind.lease_keep_alive(lease).await.unwrap();
    let leases = etcd.ask("/v3/lease/leases", &serde_json::json!({}));
    assert_eq!(leases["leases"].as_array().unwrap().len(), 1, "{leases}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_survive_cuts_silence_and_restarts_without_a_gap_or_a_double() {
    member!(folder, etcd);
    let proxy = Proxy::start(etcd.endpoint()).await;
    let direct = store(&[etcd.endpoint()]);
    let start = commit(&direct, vec![put("other", "")]).await;
    let watchers: Vec<_> = (0..3)
        .map(|_| {
            let (behind, metrics) = store_with(options(&[proxy.endpoint()]));
            let watching = follow(behind, "history/a".to_owned(), start + 1, "end".to_owned());
            (tokio::spawn(watching), metrics)
        })
        .collect();
    let writer = Writer::start(direct.clone(), "history/a");
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        proxy.set(Mode::Cut);
        tokio::time::sleep(Duration::from_millis(20)).await;
        proxy.set(Mode::Pass);
    }
    proxy.set(Mode::Freeze);
    tokio::time::sleep(Duration::from_secs(2)).await;
    proxy.set(Mode::Pass);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        etcd.restart();
    }
    // Answers that are thrown away leave a hole in the stream: the connection is dead from then on, and is found to be.
    proxy.set(Mode::LoseAnswers);
    tokio::time::sleep(Duration::from_millis(300)).await;
    proxy.set(Mode::Cut);
    tokio::time::sleep(Duration::from_millis(50)).await;
    proxy.set(Mode::Pass);
    let written = writer.stop().await;
    commit(&direct, vec![put("history/a", "end")]).await;
    for (watcher, metrics) in watchers {
        let seen = tokio::time::timeout(PATIENCE * 2, watcher).await.unwrap().unwrap();
        check(&written, &seen);
        assert!(metrics.watch_restarts.get() >= 10, "{} restarts", metrics.watch_restarts.get());
        assert_eq!(metrics.watch_resyncs.get(), 0);
    }
    assert!(written.acknowledged.len() > 100, "{written:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_whose_revisions_are_compacted_away_says_resync_and_nothing_more() {
    member!(folder, etcd);
    let proxy = Proxy::start(etcd.endpoint()).await;
    let direct = store(&[etcd.endpoint()]);
    let (behind, metrics) = store_with(options(&[proxy.endpoint()]));
    let start = commit(&direct, vec![put("compact/a", "1")]).await;
    let mut watch = behind.watch("compact/", start + 1).await.unwrap();
    proxy.set(Mode::Cut);
    for n in 2..10 {
        commit(&direct, vec![put("compact/a", &n.to_string())]).await;
    }
    etcd.compact();
    proxy.set(Mode::Pass);
    assert_eq!(next(&mut watch).await, [Event::Resync]);
    assert_eq!(metrics.watch_resyncs.get(), 1);
    let more = tokio::time::timeout(Duration::from_millis(300), watch.recv()).await;
    assert!(more.is_err(), "the watch stays open and silent: {more:?}");

    // As the trait says: read, and watch again from there.
    let snapshot = behind.range("compact/").await.unwrap();
    assert_eq!(snapshot.entries[0].value, "9");
    let mut watch = behind.watch("compact/", snapshot.revision + 1).await.unwrap();
    commit(&direct, vec![put("compact/a", "10")]).await;
    assert!(matches!(&next(&mut watch).await[..], [Event::Put(entry)] if entry.value == "10"));

    let mut late = behind.watch("compact/", start).await.unwrap();
    assert_eq!(next(&mut late).await, [Event::Resync], "a watch that begins too early");
    let mut never = behind.watch("compact/", 0).await.unwrap();
    assert_eq!(next(&mut never).await, [Event::Resync]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_server_is_given_up_in_time_and_found_again() {
    member!(folder, etcd);
    let (meta, metrics) =
        store_with(esker::meta::EtcdOptions { request_timeout_ms: 1_000, ..options(&[etcd.endpoint()]) });
    let revision = commit(&meta, vec![put("pause/a", "1")]).await;
    let mut watch = meta.watch("pause/", revision + 1).await.unwrap();
    etcd.pause();
    let clock = Clock::system();
    let started_ms = clock.boot_ms();
    // In the middle of a transaction: it is in the server's socket, and will be carried out when the server goes on.
    let error = meta.txn(vec![at("pause/a", revision)], vec![put("pause/a", "2")]).await.unwrap_err();
    assert!(error.to_string().ends_with("it may have happened"), "{error}");
    let error = meta.get("pause/a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retriable);
    let error = meta.txn(vec![at("pause/a", revision)], vec![put("pause/a", "3")]).await.unwrap_err();
    assert!(error.to_string().ends_with("it has not happened"), "a silent server is greeted first: {error}");
    let took_ms = clock.boot_ms() - started_ms;
    assert!((2_500..5_000).contains(&took_ms), "{took_ms} ms");
    etcd.resume();
    until("the server is found again", || async { meta.get("pause/a").await.is_ok() }).await;
    // Whether the first one was carried out shows now; the compare makes a second one safe.
    let outcome = meta.txn(vec![at("pause/a", revision)], vec![put("pause/a", "2")]).await.unwrap();
    assert_eq!(value(&meta, "pause/a").await.as_deref(), Some("2"));
    println!("after the pause: {outcome:?}");
    let events = next(&mut watch).await;
    assert!(matches!(&events[..], [Event::Put(entry)] if entry.value == "2"), "{events:?}");
    assert_eq!(meta.range("pause/").await.unwrap().revision, revision + 1);
    assert!(matches!(outcome, TxnOutcome::Conflict | TxnOutcome::Committed { .. }));
    assert!(metrics.endpoint_failures.get() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_costs_few_attempts_and_all_waiters_go_on_after_it() {
    if crate::server::binary().is_none() {
        return;
    }
    let (nobody, metrics) = store_with(esker::meta::EtcdOptions {
        request_timeout_ms: 4_000,
        ..options(&[format!("127.0.0.1:{}", free_port())])
    });
    let mut waiters = tokio::task::JoinSet::new();
    for _ in 0..1_000 {
        let store = nobody.clone();
        waiters.spawn(async move { store.get("a").await.unwrap_err().to_string() });
    }
    let errors = waiters.join_all().await;
    assert!(
        errors.iter().all(|error| error.contains("refused") || error.contains("other requests wait")),
        "{errors:?}"
    );
    let attempts = metrics.endpoint_failures.get();
    assert!((4..=20).contains(&attempts), "{attempts} attempts in four seconds, for a thousand operations");

    member!(folder, etcd);
    let (meta, _) = store_with(options(&[etcd.endpoint()]));
    etcd.kill();
    let mut waiters = tokio::task::JoinSet::new();
    for n in 0..200 {
        let store = meta.clone();
        waiters.spawn(async move { store.txn(vec![], vec![put(&format!("wait/{n}"), "x")]).await });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    etcd.spawn();
    for outcome in waiters.join_all().await {
        assert!(matches!(outcome, Ok(TxnOutcome::Committed { .. })), "none of them had been sent: {outcome:?}");
    }
    assert_eq!(meta.range("wait/").await.unwrap().entries.len(), 200);
}
