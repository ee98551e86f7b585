//! A full database, limits of servers, and more keys than fit into one answer.

use esker::base::ErrorKind;
use esker::meta::{Event, MetaStore, TxnOutcome, Write};
use serde_json::json;

use crate::{commit, leased, member, next, put, store, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_database_is_named_with_what_to_do_and_all_goes_on_after_that() {
    member!(folder, etcd, "--quota-backend-bytes", "16777216");
    let meta = store(&[etcd.endpoint()]);
    let lease = meta.lease_grant(600_000).await.unwrap();
    commit(&meta, vec![leased("owned", "x", lease)]).await;
    let large = "x".repeat(1_000_000);
    let mut refused = None;
    for _ in 0..100 {
        if let Err(error) = meta.txn(vec![], vec![put("large", &large)]).await {
            refused = Some(error);
            break;
        }
    }
    let error = refused.expect("16 MiB were full at some time");
    assert_eq!(error.kind(), ErrorKind::Environment, "{error}");
    assert!(error.to_string().contains("NOSPACE") && error.to_string().contains("alarm disarm"), "{error}");
    // What needs no space works: a broker keeps its session.
    meta.lease_keep_alive(lease).await.unwrap();
    assert!(meta.get("owned").await.unwrap().is_some());
    let error = meta.txn(vec![], vec![put("small", "x")]).await.unwrap_err();
    assert!(error.to_string().contains("alarm disarm"), "{error}");

    // What the message says.
    etcd.compact();
    etcd.ask("/v3/maintenance/defragment", &json!({}));
    let alarms = etcd.ask("/v3/maintenance/alarm", &json!({ "action": "GET" }));
    for alarm in alarms["alarms"].as_array().expect("an alarm") {
        etcd.ask(
            "/v3/maintenance/alarm",
            &json!({ "action": "DEACTIVATE", "memberID": alarm["memberID"], "alarm": alarm["alarm"] }),
        );
    }
    until("writes go on", || async { meta.txn(vec![], vec![put("small", "x")]).await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lower_limits_of_a_server_are_named() {
    member!(folder, etcd, "--max-txn-ops", "16", "--max-request-bytes", "65536");
    let meta = store(&[etcd.endpoint()]);
    let puts = |count: usize| (0..count).map(|n| put(&format!("limit/{n}"), "x")).collect::<Vec<_>>();
    commit(&meta, puts(16)).await;
    for (writes, flag) in
        [(puts(17), "--max-txn-ops"), (vec![put("limit/large", &"x".repeat(70_000))], "--max-request-bytes")]
    {
        let error = meta.txn(vec![], writes).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(flag), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_and_watches_larger_than_one_answer_are_whole() {
    member!(folder, etcd);
    let meta = store(&[etcd.endpoint()]);
    let start = meta.range("").await.unwrap().revision;
    // 1 300 small keys: three pages. 80 of 1 MB: a page of them is larger than an answer may be.
    for chunk in 0..13 {
        commit(&meta, (0..100).map(|n| put(&format!("many/{chunk:02}/{n:02}"), "x")).collect()).await;
    }
    let large = "x".repeat(1_000_000);
    for n in 0..80 {
        commit(&meta, vec![put(&format!("large/{n:02}"), &large)]).await;
    }
    let many = meta.range("many/").await.unwrap();
    assert_eq!(many.entries.len(), 1_300);
    assert!(many.entries.is_sorted_by(|a, b| a.key < b.key));
    let large = meta.range("large/").await.unwrap();
    assert_eq!(large.entries.len(), 80);
    assert_eq!(large.revision, start + 93);
    let all = meta.range("").await.unwrap();
    assert_eq!(all.entries.len(), 1_380);

    let mut watch = meta.watch("", start + 1).await.unwrap();
    let mut revisions = Vec::new();
    while revisions.len() < 93 {
        let events = next(&mut watch).await;
        let mut of_message: Vec<u64> = events
            .iter()
            .map(|event| match event {
                Event::Put(entry) => entry.mod_revision,
                other => panic!("{other:?}"),
            })
            .collect();
        of_message.dedup();
        revisions.extend(of_message);
    }
    assert_eq!(revisions, (start + 1..=start + 93).collect::<Vec<_>>(), "each revision once, in one message");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_that_is_compacted_between_its_pages_begins_again() {
    member!(folder, etcd);
    let meta = store(&[etcd.endpoint()]);
    for chunk in 0..20 {
        commit(&meta, (0..100).map(|n| put(&format!("range/{chunk:02}/{n:02}"), "x")).collect()).await;
    }
    let reading = {
        let meta = meta.clone();
        tokio::spawn(async move {
            for _ in 0..40 {
                let snapshot = meta.range("range/").await.unwrap();
                assert_eq!(snapshot.entries.len(), 2_000);
                // Both move together, in every snapshot.
                let value = |key: &str| snapshot.entries.iter().find(|entry| entry.key == key).unwrap().value.clone();
                assert_eq!(value("range/00/00"), value("range/19/99"));
            }
        })
    };
    let mut round = 0;
    while !reading.is_finished() {
        let both: Vec<Write> = ["range/00/00", "range/19/99"].map(|key| put(key, &round.to_string())).into();
        assert!(matches!(meta.txn(vec![], both).await.unwrap(), TxnOutcome::Committed { .. }));
        round += 1;
        if round % 20 == 0 {
            etcd.compact();
        }
    }
    reading.await.unwrap();
}
