//! Leases while the client is cut off.

use std::time::Duration;

use esker::base::ErrorKind;
use esker::meta::{Event, MetaError, MetaStore, TxnOutcome};

use crate::proxy::{Mode, Proxy};
use crate::{commit, hasty, leased, member, next, put, store, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_ended_while_its_owner_was_away_is_reported_by_every_operation() {
    member!(folder, etcd);
    let proxy = Proxy::start(etcd.endpoint()).await;
    let (owner, other) = (hasty(&[proxy.endpoint()]), store(&[etcd.endpoint()]));
    let lease = owner.lease_grant(2_000).await.unwrap();
    let second = owner.lease_grant(600_000).await.unwrap();
    let revision = commit(&owner, vec![leased("lease/a", "x", lease)]).await;
    let mut watch = owner.watch("lease/", revision + 1).await.unwrap();
    proxy.set(Mode::Freeze);
    until("the lease ends", || async { other.get("lease/a").await.unwrap().is_none() }).await;
    proxy.set(Mode::Pass);

    until("the owner is back", || async { owner.get("lease/a").await.is_ok() }).await;
    let gone = |error: &MetaError| matches!(error, MetaError::LeaseExpired { lease: named } if *named == lease);
    let error = owner.lease_keep_alive(lease).await.unwrap_err();
    assert!(gone(&error), "{error}");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    let writes = vec![leased("lease/b", "x", second), leased("lease/c", "x", lease)];
    let error = owner.txn(vec![], writes).await.unwrap_err();
    assert!(gone(&error), "the one of the two that is gone is named: {error}");
    assert!(other.range("lease/").await.unwrap().entries.is_empty());
    let events = next(&mut watch).await;
    assert!(matches!(&events[..], [Event::Delete { key, .. }] if key == "lease/a"), "{events:?}");
    owner.lease_revoke(lease).await.unwrap();
    owner.lease_keep_alive(second).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_survives_a_restart_of_the_server_with_keep_alives() {
    member!(folder, etcd);
    let meta = store(&[etcd.endpoint()]);
    let lease = meta.lease_grant(2_000).await.unwrap();
    commit(&meta, vec![leased("keep/a", "x", lease)]).await;
    for _ in 0..2 {
        etcd.restart();
        for _ in 0..5 {
            meta.lease_keep_alive(lease).await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    let outcome = meta.txn(vec![], vec![leased("keep/b", "x", lease), put("keep/c", "x")]).await.unwrap();
    assert!(matches!(outcome, TxnOutcome::Committed { .. }));
    assert!(meta.get("keep/a").await.unwrap().is_some());
}
