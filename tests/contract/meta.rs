//! What every metadata store does. Each rule is a function over the trait; each lane runs them all on one store, which
//! nobody else uses meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use esker::base::{Clock, ErrorKind, Rng};
use esker::meta::{
    Compare, EmbeddedMeta, EtcdMeta, EtcdOptions, Event, KeyValue, MAX_REQUEST_BYTES, MAX_TXN_OPERATIONS, MemoryMeta,
    MetaError, MetaStore, Metrics, Snapshot, TxnOutcome, Watch, Write,
};

/// Leases that the suite does not wait for.
const LONG_MS: u64 = 600_000;
/// The shortest lease that every implementation grants as it was asked.
const SHORT_MS: u64 = 2_000;
/// An answer that takes longer is missing.
const PATIENCE: Duration = Duration::from_secs(20);

/// A store under test and a part of its keys that is ours alone.
struct Lane {
    store: Arc<dyn MetaStore>,
    base: String,
    cases: u32,
}

impl Lane {
    fn new(name: &str, store: Arc<dyn MetaStore>, cases: u32) -> Self {
        println!("lane {name}: {store:?}");
        Self { store, base: format!("/contract/{}/", Rng::system().uuid().simple()), cases }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.base)
    }

    fn put(&self, name: &str, value: &str, lease: i64) -> Write {
        Write::Put { key: self.key(name), value: Bytes::from(value.to_owned()), lease }
    }

    fn delete(&self, name: &str) -> Write {
        Write::Delete { key: self.key(name) }
    }

    fn compare(&self, name: &str, mod_revision: u64) -> Compare {
        Compare { key: self.key(name), mod_revision }
    }

    async fn commit(&self, compares: Vec<Compare>, writes: Vec<Write>) -> u64 {
        match self.store.txn(compares, writes).await.expect("a transaction") {
            TxnOutcome::Committed { revision } => revision,
            TxnOutcome::Conflict => panic!("conflict"),
        }
    }

    async fn get(&self, name: &str) -> Option<KeyValue> {
        self.store.get(&self.key(name)).await.expect("a key can be read")
    }

    async fn range(&self, prefix: &str) -> Snapshot {
        self.store.range(&self.key(prefix)).await.expect("a range can be read")
    }

    async fn watch(&self, prefix: &str, from: u64) -> Watch {
        self.store.watch(&self.key(prefix), from).await.expect("a watch")
    }

    async fn revision(&self) -> u64 {
        self.range("").await.revision
    }
}

async fn next(watch: &mut Watch) -> Vec<Event> {
    tokio::time::timeout(PATIENCE, watch.recv()).await.expect("an event comes in time").expect("the watch is open")
}

async fn run_all(lane: &Lane) {
    what_is_put_is_read(lane).await;
    revisions_count_transactions_that_write(lane).await;
    ranges_are_prefixes_in_byte_order(lane).await;
    a_transaction_is_all_or_nothing(lane).await;
    racing_transactions_have_one_winner(lane).await;
    limits_are_etcds(lane).await;
    a_watch_sees_its_prefix_in_order(lane).await;
    a_watch_from_the_past_misses_nothing(lane).await;
    a_watch_from_the_future_waits(lane).await;
    a_transaction_is_one_message_of_a_watch(lane).await;
    a_slow_watch_is_told_or_sees_everything(lane).await;
    revoking_a_lease_deletes_its_keys(lane).await;
    a_key_hangs_on_the_lease_of_its_last_put(lane).await;
    unknown_leases_are_refused(lane).await;
    a_lease_ends_without_keep_alives(lane).await;
    values_may_be_empty_or_any_bytes(lane).await;
}

async fn what_is_put_is_read(lane: &Lane) {
    assert_eq!(lane.get("read/a").await, None);
    let first = lane.commit(vec![], vec![lane.put("read/a", "one", 0)]).await;
    let second = lane.commit(vec![], vec![lane.put("read/a", "two", 0)]).await;
    let read = lane.get("read/a").await.expect("there");
    assert_eq!((read.key.as_str(), read.value.as_ref()), (lane.key("read/a").as_str(), b"two".as_slice()));
    assert_eq!((read.create_revision, read.mod_revision, read.lease), (first, second, 0));
    lane.commit(vec![], vec![lane.delete("read/a")]).await;
    assert_eq!(lane.get("read/a").await, None);
    let again = lane.commit(vec![], vec![lane.put("read/a", "three", 0)]).await;
    assert_eq!(lane.get("read/a").await.expect("there").create_revision, again);
}

async fn revisions_count_transactions_that_write(lane: &Lane) {
    let before = lane.revision().await;
    let first = lane.commit(vec![], vec![lane.put("count/a", "x", 0), lane.put("count/b", "x", 0)]).await;
    assert_eq!(first, before + 1, "one revision for all writes of a transaction");
    let checked = lane.commit(vec![lane.compare("count/a", first)], vec![]).await;
    assert_eq!(checked, first, "a transaction that only checks makes no revision");
    let nothing = lane.commit(vec![], vec![lane.delete("count/missing")]).await;
    assert_eq!(nothing, first, "deleting nothing makes no revision");
    let conflict = lane.store.txn(vec![lane.compare("count/a", 0)], vec![lane.put("count/a", "y", 0)]).await;
    assert_eq!(conflict.expect("an answer"), TxnOutcome::Conflict);
    assert_eq!(lane.revision().await, first);
    let same = lane.commit(vec![], vec![lane.put("count/a", "x", 0)]).await;
    assert_eq!(same, first + 1, "writing the same value again is a write");
}

async fn ranges_are_prefixes_in_byte_order(lane: &Lane) {
    for name in ["range/b", "range/a/2", "range/a", "range/a-1", "range0", "range/é", "range/B"] {
        lane.commit(vec![], vec![lane.put(name, name, 0)]).await;
    }
    let names = |snapshot: Snapshot| -> Vec<String> {
        snapshot.entries.into_iter().map(|entry| entry.key[lane.base.len()..].to_owned()).collect()
    };
    assert_eq!(
        names(lane.range("range/").await),
        ["range/B", "range/a", "range/a-1", "range/a/2", "range/b", "range/é"]
    );
    assert_eq!(names(lane.range("range/a").await), ["range/a", "range/a-1", "range/a/2"]);
    assert!(lane.range("range/zzz").await.entries.is_empty());
}

async fn a_transaction_is_all_or_nothing(lane: &Lane) {
    let revision = lane.commit(vec![lane.compare("txn/a", 0)], vec![lane.put("txn/a", "1", 0)]).await;
    for compares in [
        vec![lane.compare("txn/a", 0)],
        vec![lane.compare("txn/a", revision), lane.compare("txn/missing", 7)],
        vec![lane.compare("txn/a", revision + 1)],
    ] {
        let writes = vec![lane.put("txn/a", "2", 0), lane.put("txn/b", "2", 0)];
        assert_eq!(lane.store.txn(compares, writes).await.expect("an answer"), TxnOutcome::Conflict);
        assert_eq!(lane.get("txn/a").await.expect("there").value, "1");
        assert_eq!(lane.get("txn/b").await, None);
    }
    let writes = vec![lane.delete("txn/a"), lane.put("txn/b", "3", 0)];
    lane.commit(vec![lane.compare("txn/a", revision), lane.compare("txn/b", 0)], writes).await;
    assert_eq!(lane.get("txn/a").await, None);
    assert_eq!(lane.get("txn/b").await.expect("there").value, "3");
}

async fn racing_transactions_have_one_winner(lane: &Lane) {
    for round in 0..10 {
        let name = format!("race/{round}");
        let mut racers = tokio::task::JoinSet::new();
        for racer in 0..16 {
            let (store, compare) = (lane.store.clone(), lane.compare(&name, 0));
            let write = lane.put(&name, &racer.to_string(), 0);
            racers.spawn(async move { (racer, store.txn(vec![compare], vec![write]).await.expect("an answer")) });
        }
        let outcomes = racers.join_all().await;
        let winners: Vec<_> = outcomes.iter().filter(|(_, outcome)| *outcome != TxnOutcome::Conflict).collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(lane.get(&name).await.expect("there").value, winners[0].0.to_string());
    }
}

async fn limits_are_etcds(lane: &Lane) {
    let puts = |count: usize| (0..count).map(|n| lane.put(&format!("limit/{n}"), "x", 0)).collect::<Vec<_>>();
    let compares = |count: usize| (0..count).map(|n| lane.compare(&format!("limit/c{n}"), 0)).collect::<Vec<_>>();
    lane.commit(compares(MAX_TXN_OPERATIONS), puts(MAX_TXN_OPERATIONS)).await;
    let refused = async |compares, writes| {
        let error = lane.store.txn(compares, writes).await.expect_err("over a limit");
        assert!(matches!(error, MetaError::TooLarge(_)), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    };
    refused(vec![], puts(MAX_TXN_OPERATIONS + 1)).await;
    refused(compares(MAX_TXN_OPERATIONS + 1), puts(1)).await;
    refused(vec![], vec![lane.put("limit/twice", "1", 0), lane.put("limit/twice", "2", 0)]).await;
    refused(vec![], vec![lane.put("limit/twice", "1", 0), lane.delete("limit/twice")]).await;
    let large = |bytes: usize| vec![lane.put("limit/large", &"x".repeat(bytes), 0)];
    lane.commit(vec![], large(MAX_REQUEST_BYTES - 200)).await;
    refused(vec![], large(MAX_REQUEST_BYTES)).await;
    assert_eq!(lane.get("limit/large").await.expect("there").value.len(), MAX_REQUEST_BYTES - 200);
    assert_eq!(lane.get("limit/twice").await, None);
    lane.commit(vec![], vec![lane.delete("limit/large")]).await;
}

async fn a_watch_sees_its_prefix_in_order(lane: &Lane) {
    let start = lane.revision().await;
    let mut watch = lane.watch("watch/", start + 1).await;
    let first = lane.commit(vec![], vec![lane.put("watch/a", "1", 0)]).await;
    lane.commit(vec![], vec![lane.put("watching", "not seen", 0)]).await;
    let second = lane.commit(vec![], vec![lane.put("watch/a", "2", 0)]).await;
    let third = lane.commit(vec![], vec![lane.delete("watch/a")]).await;
    let mut events = Vec::new();
    while events.len() < 3 {
        events.extend(next(&mut watch).await);
    }
    let put = |value: &'static str, mod_revision| {
        let (key, value) = (lane.key("watch/a"), Bytes::from_static(value.as_bytes()));
        Event::Put(KeyValue { key, value, create_revision: first, mod_revision, lease: 0 })
    };
    let delete = Event::Delete { key: lane.key("watch/a"), revision: third };
    assert_eq!(events, [put("1", first), put("2", second), delete]);
}

async fn a_watch_from_the_past_misses_nothing(lane: &Lane) {
    let start = lane.revision().await;
    for n in 0..20 {
        lane.commit(vec![], vec![lane.put("past/a", &n.to_string(), 0)]).await;
    }
    let mut watch = lane.watch("past/", start + 6).await;
    lane.commit(vec![], vec![lane.put("past/a", "20", 0)]).await;
    let mut values = Vec::new();
    while values.len() < 16 {
        for event in next(&mut watch).await {
            let Event::Put(entry) = event else { panic!("{event:?}") };
            values.push(String::from_utf8(entry.value.to_vec()).expect("text"));
        }
    }
    assert_eq!(values, (5..=20).map(|n| n.to_string()).collect::<Vec<_>>());
}

async fn a_watch_from_the_future_waits(lane: &Lane) {
    let start = lane.revision().await;
    let mut watch = lane.watch("future/", start + 3).await;
    for n in 1..=3 {
        lane.commit(vec![], vec![lane.put("future/a", &n.to_string(), 0)]).await;
    }
    let events = next(&mut watch).await;
    assert!(matches!(&events[..], [Event::Put(entry)] if entry.value == "3"), "{events:?}");
}

async fn a_transaction_is_one_message_of_a_watch(lane: &Lane) {
    let mut watch = lane.watch("whole/", lane.revision().await + 1).await;
    let writes = (0..100).map(|n| lane.put(&format!("whole/{n}"), "x", 0)).collect();
    lane.commit(vec![], writes).await;
    assert_eq!(next(&mut watch).await.len(), 100);
}

async fn a_slow_watch_is_told_or_sees_everything(lane: &Lane) {
    let mut watch = lane.watch("slow/", lane.revision().await + 1).await;
    for n in 0..3_000 {
        lane.commit(vec![], vec![lane.put("slow/a", &n.to_string(), 0)]).await;
    }
    let mut seen = 0;
    loop {
        for event in next(&mut watch).await {
            match event {
                Event::Put(entry) => {
                    assert_eq!(entry.value, seen.to_string(), "no event is left out without a word");
                    seen += 1;
                }
                Event::Resync => return,
                Event::Delete { .. } => panic!("nothing was deleted"),
            }
        }
        if seen == 3_000 {
            return;
        }
    }
}

async fn revoking_a_lease_deletes_its_keys(lane: &Lane) {
    let lease = lane.store.lease_grant(LONG_MS).await.expect("a lease");
    let other = lane.store.lease_grant(LONG_MS).await.expect("a lease");
    assert!(lease != 0 && other != 0 && lease != other);
    let writes =
        vec![lane.put("lease/a", "x", lease), lane.put("lease/b", "x", lease), lane.put("lease/c", "x", other)];
    let revision = lane.commit(vec![], writes).await;
    assert_eq!(lane.get("lease/a").await.expect("there").lease, lease);
    let mut watch = lane.watch("lease/", revision + 1).await;
    lane.store.lease_keep_alive(lease).await.expect("alive");
    lane.store.lease_revoke(lease).await.expect("revoked");
    assert_eq!(lane.get("lease/a").await, None);
    assert_eq!(lane.get("lease/b").await, None);
    assert!(lane.get("lease/c").await.is_some());
    let mut deleted = BTreeSet::new();
    while deleted.len() < 2 {
        for event in next(&mut watch).await {
            let Event::Delete { key, .. } = event else { panic!("{event:?}") };
            deleted.insert(key);
        }
    }
    assert_eq!(deleted, BTreeSet::from([lane.key("lease/a"), lane.key("lease/b")]));
    lane.store.lease_revoke(lease).await.expect("revoking twice is fine");
    lane.store.lease_revoke(other).await.expect("revoked");
    assert_eq!(lane.get("lease/c").await, None);
}

async fn a_key_hangs_on_the_lease_of_its_last_put(lane: &Lane) {
    let first = lane.store.lease_grant(LONG_MS).await.expect("a lease");
    let second = lane.store.lease_grant(LONG_MS).await.expect("a lease");
    for (name, lease) in [("hang/a", second), ("hang/b", 0)] {
        lane.commit(vec![], vec![lane.put(name, "x", first)]).await;
        lane.commit(vec![], vec![lane.put(name, "y", lease)]).await;
    }
    lane.store.lease_revoke(first).await.expect("revoked");
    assert!(lane.get("hang/a").await.is_some() && lane.get("hang/b").await.is_some());
    lane.store.lease_revoke(second).await.expect("revoked");
    assert!(lane.get("hang/a").await.is_none() && lane.get("hang/b").await.is_some());
}

async fn unknown_leases_are_refused(lane: &Lane) {
    let lease = lane.store.lease_grant(LONG_MS).await.expect("a lease");
    lane.store.lease_revoke(lease).await.expect("revoked");
    let error = lane.store.lease_keep_alive(lease).await.expect_err("gone");
    assert!(matches!(error, MetaError::LeaseExpired { lease: named } if named == lease), "{error:?}");
    let writes = vec![lane.put("unknown/a", "x", 0), lane.put("unknown/b", "x", lease)];
    let error = lane.store.txn(vec![], writes.clone()).await.expect_err("gone");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert!(lane.range("unknown/").await.entries.is_empty());
    let conflict = lane.store.txn(vec![lane.compare("unknown/a", 1)], writes).await;
    assert_eq!(conflict.expect("compares come first"), TxnOutcome::Conflict);
}

async fn a_lease_ends_without_keep_alives(lane: &Lane) {
    let lease = lane.store.lease_grant(SHORT_MS).await.expect("a lease");
    let kept = lane.store.lease_grant(SHORT_MS).await.expect("a lease");
    let writes = vec![lane.put("ttl/a", "x", lease), lane.put("ttl/b", "x", kept)];
    let revision = lane.commit(vec![], writes).await;
    let mut watch = lane.watch("ttl/", revision + 1).await;
    let keeper = {
        let store = lane.store.clone();
        tokio::spawn(async move {
            loop {
                store.lease_keep_alive(kept).await.expect("alive");
                tokio::time::sleep(Duration::from_millis(SHORT_MS / 8)).await;
            }
        })
    };
    let events = next(&mut watch).await;
    assert!(matches!(&events[..], [Event::Delete { key, .. }] if *key == lane.key("ttl/a")), "{events:?}");
    assert_eq!(lane.get("ttl/a").await, None);
    assert!(lane.get("ttl/b").await.is_some());
    let error = lane.store.lease_keep_alive(lease).await.expect_err("over");
    assert!(matches!(error, MetaError::LeaseExpired { .. }));
    keeper.abort();
    lane.store.lease_revoke(kept).await.expect("revoked");
}

async fn values_may_be_empty_or_any_bytes(lane: &Lane) {
    let value = Bytes::from((0..=255).collect::<Vec<u8>>());
    let writes =
        vec![lane.put("bytes/empty", "", 0), Write::Put { key: lane.key("bytes/all"), value: value.clone(), lease: 0 }];
    lane.commit(vec![], writes).await;
    assert_eq!(lane.get("bytes/empty").await.expect("there").value, "");
    assert_eq!(lane.get("bytes/all").await.expect("there").value, value);
}

/// A value and perhaps a lease, or a delete.
type Put = Option<(u8, Option<u8>)>;

/// One random operation; keys and leases by number.
#[derive(Debug, Clone)]
enum Op {
    Txn { compares: Vec<(u8, Guess)>, writes: Vec<(u8, Put)> },
    Grant,
    Revoke(u8),
}

/// A compare that holds, or one that may not.
#[derive(Debug, Clone)]
enum Guess {
    Right,
    Absent,
    Old,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let guess = prop_oneof![6 => Just(Guess::Right), 1 => Just(Guess::Absent), 1 => Just(Guess::Old)];
    let compares = prop::collection::vec((0..6u8, guess), 0..3);
    let put = (any::<u8>(), prop::option::weighted(0.4, 0..4u8));
    let writes = prop::collection::btree_map(0..6u8, prop::option::weighted(0.7, put), 0..4);
    let writes = writes.prop_map(|writes| writes.into_iter().collect::<Vec<_>>());
    let txn = (compares, writes).prop_map(|(compares, writes)| Op::Txn { compares, writes });
    let op = prop_oneof![8 => txn, 1 => Just(Op::Grant), 1 => (0..4u8).prop_map(Op::Revoke)];
    prop::collection::vec(op, 1..60)
}

type Model = BTreeMap<String, KeyValue>;

/// Runs the operations on the store and on a map, compares after each, and at the end folds a watch of it all.
async fn against_a_model(lane: &Lane, ops: Vec<Op>) {
    let dir = format!("model/{}/", Rng::system().uuid().simple());
    let name = |key: u8| format!("{dir}{key}");
    let start = lane.revision().await;
    let (mut model, mut leases, mut revision): (Model, Vec<i64>, u64) = (Model::new(), Vec::new(), start);
    let mut dead = BTreeSet::new();
    for op in ops {
        match op {
            Op::Grant => leases.push(lane.store.lease_grant(LONG_MS).await.expect("a lease")),
            Op::Revoke(at) => {
                let Some(lease) = leases.get(usize::from(at)).copied() else { continue };
                lane.store.lease_revoke(lease).await.expect("revoked");
                let before = model.len();
                model.retain(|_, entry| entry.lease != lease);
                revision += u64::from(model.len() < before);
                dead.insert(lease);
            }
            Op::Txn { compares, writes } => {
                let known = |key: &str| model.get(key).map_or(0, |entry| entry.mod_revision);
                let compares: Vec<Compare> = compares
                    .into_iter()
                    .map(|(key, guess)| {
                        let key = lane.key(&name(key));
                        let mod_revision = match guess {
                            Guess::Right => known(&key),
                            Guess::Absent => 0,
                            Guess::Old => known(&key).saturating_sub(1),
                        };
                        Compare { key, mod_revision }
                    })
                    .collect();
                let holds = compares.iter().all(|compare| compare.mod_revision == known(&compare.key));
                let writes: Vec<Write> = writes
                    .into_iter()
                    .map(|(key, put)| match put {
                        None => lane.delete(&name(key)),
                        Some((value, lease)) => {
                            let lease = lease.and_then(|at| leases.get(usize::from(at)).copied()).unwrap_or(0);
                            lane.put(&name(key), &value.to_string(), lease)
                        }
                    })
                    .collect();
                let refused =
                    writes.iter().any(|write| matches!(write, Write::Put { lease, .. } if dead.contains(lease)));
                let outcome = lane.store.txn(compares, writes.clone()).await;
                match outcome {
                    Ok(TxnOutcome::Conflict) => assert!(!holds),
                    Err(MetaError::LeaseExpired { .. }) => assert!(holds && refused),
                    Err(error) => panic!("{error}"),
                    Ok(TxnOutcome::Committed { revision: at }) => {
                        assert!(holds && !refused);
                        revision += u64::from(apply(&mut model, &writes, revision + 1));
                        assert_eq!(at, revision);
                    }
                }
            }
        }
        let snapshot = lane.range(&dir).await;
        assert_eq!(snapshot.revision, revision);
        assert_eq!(snapshot.entries, model.values().cloned().collect::<Vec<_>>());
    }
    let mut watch = lane.watch(&dir, start + 1).await;
    lane.commit(vec![], vec![lane.put(&format!("{dir}end"), "", 0)]).await;
    let mut folded = Model::new();
    'events: loop {
        for event in next(&mut watch).await {
            match event {
                Event::Put(entry) if entry.key.ends_with("/end") => break 'events,
                Event::Put(entry) => drop(folded.insert(entry.key.clone(), entry)),
                Event::Delete { key, .. } => assert!(folded.remove(&key).is_some(), "a delete of nothing"),
                Event::Resync => panic!("nothing was lost"),
            }
        }
    }
    assert_eq!(folded, model);
    for lease in leases {
        lane.store.lease_revoke(lease).await.expect("revoked");
    }
}

/// Whether anything was written.
fn apply(model: &mut Model, writes: &[Write], revision: u64) -> bool {
    let mut changed = false;
    for write in writes {
        match write {
            Write::Put { key, value, lease } => {
                let create_revision = model.get(key).map_or(revision, |entry| entry.create_revision);
                let (value, lease, mod_revision) = (value.clone(), *lease, revision);
                model.insert(key.clone(), KeyValue { key: key.clone(), value, create_revision, mod_revision, lease });
                changed = true;
            }
            Write::Delete { key } => changed |= model.remove(key).is_some(),
        }
    }
    changed
}

fn run(lane: impl Future<Output = Lane>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let lane = runtime.block_on(async {
        let lane = lane.await;
        run_all(&lane).await;
        lane
    });
    let mut runner = TestRunner::new(Config { cases: lane.cases, failure_persistence: None, ..Config::default() });
    let tested = runner.run(&ops(), |ops| {
        runtime.block_on(against_a_model(&lane, ops));
        Ok(())
    });
    tested.expect("the store does what the model does");
}

#[test]
fn memory() {
    run(async { Lane::new("memory", Arc::new(MemoryMeta::new(Clock::system()).with_ticks()), 256) });
}

#[test]
fn embedded() {
    let directory = tempfile::tempdir().expect("a directory");
    run(async {
        let store = EmbeddedMeta::open(directory.path().to_owned(), Clock::system()).await.expect("opens");
        Lane::new("embedded", Arc::new(store), 48)
    });
}

/// Endpoint and name of a real etcd; none only if nobody asked for it. A lane that requires it fails instead of passing by
/// skipping.
fn etcd_server() -> Option<(String, String)> {
    let setting = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let Some(endpoint) = setting("ESKER_TEST_ETCD_ENDPOINT") else {
        assert!(
            setting("ESKER_TEST_ETCD").as_deref() != Some("required"),
            "ESKER_TEST_ETCD=required but ESKER_TEST_ETCD_ENDPOINT is not set: start with tests/support/etcd.sh run"
        );
        println!("lane etcd: NOT RUN, no server (tests/support/etcd.sh run cargo test --test contract)");
        return None;
    };
    Some((endpoint, setting("ESKER_TEST_ETCD_SERVER").unwrap_or_else(|| "unnamed server".to_owned())))
}

#[test]
fn etcd() {
    let Some((endpoint, name)) = etcd_server() else { return };
    run(async {
        let options = EtcdOptions::new(vec![endpoint]);
        let store = EtcdMeta::new(options, Clock::system(), Rng::system(), Metrics::detached()).expect("opens");
        Lane::new(&name, Arc::new(store), 48)
    });
}
