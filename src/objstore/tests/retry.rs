use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;

use super::faulty;
use crate::base::{Clock, ErrorKind, Rng};
use crate::objstore::fault::{Chances, Fault, Faults, Rule};
use crate::objstore::retry::{RetryPolicy, RetryStore};
use crate::objstore::{MemoryStore, Metrics, ObjectStore, Operation, Payload, StoreError};

fn retrying(policy: RetryPolicy) -> (RetryStore, Faults, MemoryStore) {
    let (store, faults, memory) = faulty(1);
    let retry = RetryStore::new(store, policy, Clock::system(), Rng::seeded(2), Metrics::detached());
    (retry, faults, memory)
}

fn bytes(text: &'static str) -> Payload {
    Bytes::from_static(text.as_bytes()).into()
}

#[tokio::test(start_paused = true)]
async fn idempotent_requests_are_repeated_until_answered() {
    let (store, faults, _) = retrying(RetryPolicy::default());
    for operation in [Operation::put, Operation::get, Operation::size, Operation::delete] {
        faults.add(Rule { times: 4, ..Rule::once(operation, "", Fault::LostReply) });
    }
    store.put("k", bytes("x")).await.unwrap();
    assert_eq!(store.get("k").await.unwrap(), "x");
    assert_eq!(store.size("k").await.unwrap(), 1);
    store.delete("k").await.unwrap();
    for operation in [Operation::put, Operation::get, Operation::size, Operation::delete] {
        assert_eq!(faults.count(operation, "k"), 5, "{operation:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_the_attempts() {
    let (store, faults, _) = retrying(RetryPolicy { attempts: 3, ..RetryPolicy::default() });
    faults.set_down(true);
    assert_eq!(store.get("k").await.unwrap_err().kind(), ErrorKind::Retriable);
    assert_eq!(faults.count(Operation::get, "k"), 3);
    let listed: Result<Vec<_>, _> = store.list("", None).try_collect().await;
    assert_eq!(listed.unwrap_err().kind(), ErrorKind::Retriable);
    assert_eq!(faults.count(Operation::list, ""), 3);
    let hurried = RetryPolicy { deadline_ms: 0, ..RetryPolicy::default() };
    let (store, faults, _) = retrying(hurried);
    faults.set_down(true);
    assert_eq!(store.get("k").await.unwrap_err().kind(), ErrorKind::Retriable);
    assert_eq!(faults.count(Operation::get, "k"), 1);
}

#[tokio::test(start_paused = true)]
async fn creates_and_clear_answers_are_not_repeated() {
    let (store, faults, _) = retrying(RetryPolicy::default());
    faults.set_down(true);
    assert_eq!(store.create("k", bytes("x")).await.unwrap_err().kind(), ErrorKind::Retriable);
    assert_eq!(faults.count(Operation::create, "k"), 1);
    faults.clear();
    assert_eq!(store.get("absent").await.unwrap_err().kind(), ErrorKind::NotFound);
    faults.add(Rule::always(Operation::get, "", Fault::Refused));
    assert_eq!(store.get("refused").await.unwrap_err().kind(), ErrorKind::Environment);
    assert_eq!(faults.count(Operation::get, ""), 2);
}

#[tokio::test(start_paused = true)]
async fn a_listing_goes_on_where_it_broke() {
    let (store, faults, memory) = retrying(RetryPolicy::default());
    let keys: Vec<String> = (0..100).map(|at| format!("k/{at:03}")).collect();
    for key in &keys {
        memory.put(key, bytes("x")).await.unwrap();
    }
    for after in [0, 7, 0, 1, 30, 0, 0, 3] {
        faults.add(Rule::once(Operation::list, "", Fault::BreakAfter(after)));
    }
    let listed: Vec<String> = store.list("k/", Some("k/004")).map_ok(|object| object.key).try_collect().await.unwrap();
    assert_eq!(listed, keys[5..]);
    assert_eq!(faults.count(Operation::list, ""), 9);
}

#[tokio::test(start_paused = true)]
async fn chances_of_trouble_never_show_through() {
    let (store, faults, _) = retrying(RetryPolicy { attempts: 50, deadline_ms: 600_000, ..RetryPolicy::default() });
    faults.set_chances(Chances {
        unavailable: 0.2,
        lost_reply: 0.2,
        delay: 0.2,
        delay_ms_max: 20,
        ..Chances::default()
    });
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    for at in 0..100 {
        let key = format!("k/{at:03}");
        store.put(&key, Bytes::from(key.clone()).into()).await.unwrap();
        assert_eq!(store.get(&key).await.unwrap(), key);
        if at % 2 == 1 {
            store.delete(&key).await.unwrap();
            assert!(matches!(store.size(&key).await, Err(StoreError::NotFound { .. })));
        }
    }
    let listed: Vec<_> = store.list("k/", None).try_collect().await.unwrap();
    assert_eq!(listed.len(), 50);
}
