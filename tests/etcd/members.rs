//! Three members: a leader that dies or hangs, members that restart, endpoints that do not fit.

use std::path::Path;
use std::time::Duration;

use esker::base::{Clock, ErrorKind};
use esker::meta::{EtcdOptions, MetaError, MetaStore, TxnOutcome};

use crate::history::{Writer, check, follow};
use crate::server::{Member, binary, free_port};
use crate::{PATIENCE, commit, options, put, store, store_with, value};

fn endpoints(members: &[Member]) -> Vec<String> {
    members.iter().map(Member::endpoint).collect()
}

fn leader(members: &[Member]) -> usize {
    members.iter().position(Member::leads).expect("a leader")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_or_hangs_costs_seconds_and_no_event() {
    if binary().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut members = Member::cluster(folder.path(), 3, &[]);
    let all = endpoints(&members);
    let own = EtcdOptions { request_timeout_ms: 4_000, ..options(&all) };
    let (meta, _) = store_with(own.clone());
    let start = commit(&meta, vec![put("other", "")]).await;
    // Watchers that begin at each of the members.
    let watchers: Vec<_> = (0..3)
        .map(|first| {
            let mut turned = own.clone();
            turned.endpoints.rotate_left(first);
            let (behind, metrics) = store_with(turned);
            (tokio::spawn(follow(behind, "history/a".to_owned(), start + 1, "end".to_owned())), metrics)
        })
        .collect();
    let writer = Writer::start(meta.clone(), "history/a");
    let clock = Clock::system();
    for round in 0..2 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let at = leader(&members);
        members[at].kill();
        let killed_ms = clock.boot_ms();
        crate::until("writes go on without the leader", || async {
            meta.txn(vec![], vec![put("probe", "x")]).await.is_ok()
        })
        .await;
        println!("round {round}: a write {} ms after the leader was killed", clock.boot_ms() - killed_ms);
        members[at].spawn();
        members[at].wait();

        tokio::time::sleep(Duration::from_millis(500)).await;
        let at = leader(&members);
        members[at].pause();
        let paused_ms = clock.boot_ms();
        crate::until("writes go on without the leader", || async {
            meta.txn(vec![], vec![put("probe", "x")]).await.is_ok()
        })
        .await;
        println!("round {round}: a write {} ms after the leader was paused", clock.boot_ms() - paused_ms);
        tokio::time::sleep(Duration::from_secs(3)).await;
        members[at].resume();
        members[at].wait();
    }
    let written = writer.stop().await;
    commit(&meta, vec![put("history/a", "end")]).await;
    for (watcher, metrics) in watchers {
        let seen = tokio::time::timeout(PATIENCE * 2, watcher).await.unwrap().unwrap();
        check(&written, &seen);
        println!("{} watch restarts", metrics.watch_restarts.get());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_and_dead_endpoints_do_not_matter_and_a_majority_does() {
    if binary().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut members = Member::cluster(folder.path(), 3, &[]);
    let mut all = endpoints(&members);
    all.insert(0, format!("127.0.0.1:{}", free_port()));
    let (meta, _) = store_with(EtcdOptions { request_timeout_ms: 4_000, ..options(&all) });
    commit(&meta, vec![put("a", "1")]).await;
    members[0].kill();
    for n in 0..20 {
        commit_patiently(&meta, &n.to_string()).await;
    }
    members[1].kill();
    // One of three: reads are not answered from its own copy.
    for error in [meta.get("a").await.unwrap_err(), meta.txn(vec![], vec![put("a", "no")]).await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Retriable, "{error}");
    }
    members[0].spawn();
    members[0].wait();
    crate::until("two of three", || async { meta.get("a").await.is_ok() }).await;
    commit_patiently(&meta, "yes").await;
    assert_eq!(value(&meta, "a").await.as_deref(), Some("yes"));
}

/// A transaction that may have happened is made again: here that does no harm.
async fn commit_patiently(meta: &esker::meta::EtcdMeta, text: &str) {
    crate::until("a write", || async { meta.txn(vec![], vec![put("a", text)]).await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_of_two_clusters_are_refused() {
    if binary().is_none() {
        return;
    }
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut first, second) = (Member::alone(one.path(), &[]), Member::alone(two.path(), &[]));
    let meta = store(&[first.endpoint(), second.endpoint()]);
    commit(&meta, vec![put("a", "1")]).await;
    let mut second = second;
    let used = if value(&store(&[first.endpoint()]), "a").await.is_some() { &mut first } else { &mut second };
    used.kill();
    let error = meta.txn(vec![], vec![put("a", "2")]).await;
    let error = match error {
        Err(MetaError::Unavailable { .. }) => meta.txn(vec![], vec![put("a", "2")]).await.unwrap_err(),
        other => other.unwrap_err(),
    };
    assert!(matches!(&error, MetaError::Environment(text) if text.contains("etcd cluster")), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_without_writes_is_not_answered_by_a_member_alone() {
    if binary().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // A member believes for five seconds in a leader that it does not hear.
    let members = Member::cluster(folder.path(), 3, &["--election-timeout", "5000"]);
    let revision = commit(&store(&endpoints(&members)), vec![put("a", "1")]).await;
    let follower = (leader(&members) + 1) % 3;
    let meta = crate::hasty(&[members[follower].endpoint()]);
    let check = || meta.txn(vec![crate::at("a", revision)], vec![]);
    assert_eq!(check().await.unwrap(), TxnOutcome::Committed { revision });
    let others = (0..3).filter(|at| *at != follower);
    others.clone().for_each(|at| members[at].pause());
    let answer = check().await;
    others.for_each(|at| members[at].resume());
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Retriable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_was_restored_from_an_older_backup_is_refused() {
    if binary().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut etcd = Member::alone(folder.path(), &[]);
    let meta = store(&[etcd.endpoint()]);
    commit(&meta, vec![put("a", "1")]).await;
    etcd.kill();
    let (data, backup) = (folder.path().join("m0/data"), folder.path().join("backup"));
    copy(&data, &backup);
    etcd.spawn();
    etcd.wait();
    commit(&store(&[etcd.endpoint()]), vec![put("a", "2")]).await;
    crate::until("the newer state was seen", || async {
        matches!(meta.get("a").await, Ok(Some(entry)) if entry.value == "2")
    })
    .await;
    etcd.kill();
    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    etcd.spawn();
    etcd.wait();
    for _ in 0..2 {
        let error = loop {
            match meta.get("a").await {
                Err(MetaError::Unavailable { .. }) => {}
                other => break other.unwrap_err(),
            }
        };
        assert!(matches!(&error, MetaError::Environment(text) if text.contains("start every broker again")), "{error}");
        // Not even when its revisions have come as far again.
        commit(&store(&[etcd.endpoint()]), vec![put("a", "3")]).await;
        commit(&store(&[etcd.endpoint()]), vec![put("a", "4")]).await;
    }
    assert_eq!(value(&store(&[etcd.endpoint()]), "a").await.as_deref(), Some("4"), "a new start may");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, name) = (entry.as_ref().unwrap().path(), entry.as_ref().unwrap().file_name());
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            std::fs::copy(&path, to.join(name)).unwrap();
        }
    }
}
