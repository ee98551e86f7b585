//! A metadata store that is filled from elsewhere, by one that is interrupted, or by two at a time; and what begins on it.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::cluster::identity::with_epoch_base;
use crate::cluster::rebuild::{Rebuilt, check_empty, rebuild};
use crate::format::metadata::{
    AssignmentChunk, AssignmentRecord, ClusterRecord, DeletionRecord, FromStream, MetadataValue, ProducerIdRecord,
    Sealed, SessionRecord, TopicRecord,
};
use crate::meta::{Compare, MetaError, Snapshot, TxnOutcome, Watch, Write};

const BASE: u64 = 2_000_000_000;
const NOBODY: SessionId = SessionId { broker_id: 0, epoch: BASE };
const OLD: SessionId = SessionId { broker_id: 1, epoch: 17 };

/// Topics that take several transactions.
fn rebuilt() -> Rebuilt {
    let assignment = |leader_epoch| AssignmentRecord {
        session: NOBODY,
        leader_epoch,
        from: vec![FromStream { session: OLD, leader_epoch: 3, sealed_seq: 9 }],
        target: None,
        acquired: true,
    };
    let topic = |number: u128| {
        let name = format!("topic-{number}");
        let id = uuid::Uuid::from_u128(number);
        let (partitions, configs) = (150, std::collections::BTreeMap::new());
        let record = TopicRecord { name, id, partitions, replication_factor: 1, configs, created_ms: 5 };
        let chunk = |count| AssignmentChunk { partitions: vec![assignment(1_003); count] };
        (record, vec![chunk(100), chunk(50)])
    };
    let sealed = |seq| SessionRecord { started_ms: 1, sealed: Some(Sealed { seq, at_ms: 1 }) };
    let deletion = DeletionRecord { name: "gone".to_owned(), partitions: 1, deleted_ms: 1 };
    Rebuilt {
        cluster: ClusterRecord { cluster_id: "id".to_owned(), created_ms: 5, epoch_base: BASE },
        sessions: vec![(OLD, sealed(9)), (NOBODY, sealed(0))],
        topics: (1..=100).map(topic).collect(),
        deletions: vec![(uuid::Uuid::from_u128(500), deletion)],
        producer_ids: ProducerIdRecord { next_id: 7_000 },
    }
}

async fn content(store: &Arc<dyn MetaStore>) -> Vec<(String, bytes::Bytes)> {
    let entries = store.range(keys().root()).await.expect("a range").entries;
    entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
}

/// A store on which something happens at one of the transactions.
#[derive(Debug)]
struct Disturbed {
    inner: Arc<dyn MetaStore>,
    left: AtomicUsize,
    /// Another one fills the store meanwhile; otherwise the process ends there.
    other: bool,
}

#[async_trait::async_trait]
impl MetaStore for Disturbed {
    async fn get(&self, key: &str) -> Result<Option<crate::meta::KeyValue>, MetaError> {
        self.inner.get(key).await
    }

    async fn range(&self, prefix: &str) -> Result<Snapshot, MetaError> {
        self.inner.range(prefix).await
    }

    async fn txn(&self, compares: Vec<Compare>, writes: Vec<Write>) -> Result<TxnOutcome, MetaError> {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            if !self.other {
                return Err(MetaError::Unavailable { operation: "transaction", reason: "the end".to_owned() });
            }
            rebuild(&self.inner, &keys(), &rebuilt(), 2).await.expect("the other one is through");
        }
        self.inner.txn(compares, writes).await
    }

    async fn watch(&self, prefix: &str, from: u64) -> Result<Watch, MetaError> {
        self.inner.watch(prefix, from).await
    }

    async fn lease_grant(&self, ttl_ms: u64) -> Result<i64, MetaError> {
        self.inner.lease_grant(ttl_ms).await
    }

    async fn lease_keep_alive(&self, lease: i64) -> Result<(), MetaError> {
        self.inner.lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: i64) -> Result<(), MetaError> {
        self.inner.lease_revoke(lease).await
    }
}

fn memory() -> Arc<dyn MetaStore> {
    Arc::new(MemoryMeta::new(ManualClock::starting_at(1_000).clock()))
}

#[tokio::test]
async fn a_rebuild_that_is_interrupted_is_finished_by_the_next() {
    let whole = memory();
    rebuild(&whole, &keys(), &rebuilt(), 1).await.expect("rebuilt");
    let whole = content(&whole).await;
    assert_eq!(whole.len(), 1 + 2 + 100 * 3 + 1 + 1);
    let mut tried = 0;
    for at in 0.. {
        let inner = memory();
        let left = AtomicUsize::new(at);
        let store: Arc<dyn MetaStore> = Arc::new(Disturbed { inner: inner.clone(), left, other: false });
        if rebuild(&store, &keys(), &rebuilt(), 1).await.is_ok() {
            break;
        }
        assert_eq!(inner.get(&keys().key(&Key::Cluster)).await.expect("a get"), None, "the last one");
        check_empty(&inner, &keys()).await.expect("it may be begun again");
        let mut less = rebuilt();
        less.topics.pop();
        rebuild(&inner, &keys(), &less, 2).await.expect("another one");
        assert_eq!(content(&inner).await.len(), whole.len() - 3, "nothing is left of the first");
        tried += 1;
    }
    assert!(tried >= 4, "{tried} transactions");
}

#[tokio::test]
async fn of_two_rebuilds_at_a_time_one_is_through_and_whole() {
    let whole = memory();
    rebuild(&whole, &keys(), &rebuilt(), 1).await.expect("rebuilt");
    for at in 0..4 {
        let inner = memory();
        let left = AtomicUsize::new(at);
        let store: Arc<dyn MetaStore> = Arc::new(Disturbed { inner: inner.clone(), left, other: true });
        let mut other = rebuilt();
        other.cluster.created_ms = 99;
        let lost = rebuild(&store, &keys(), &other, 1).await;
        assert!(matches!(lost, Err(ClusterError::Contended(_))), "{at}: {lost:?}");
        assert_eq!(content(&inner).await, content(&whole).await);
    }
}

#[tokio::test]
async fn a_store_that_holds_a_cluster_or_anything_else_is_left_alone() {
    let store = memory();
    rebuild(&store, &keys(), &rebuilt(), 1).await.expect("rebuilt");
    let before = content(&store).await;
    let refused = rebuild(&store, &keys(), &rebuilt(), 1).await.expect_err("there is one");
    assert!(refused.to_string().contains("already holds a cluster under '/esker/test/': id"), "{refused}");
    assert_eq!(content(&store).await, before);
    let store = memory();
    let key = keys().key(&Key::ProducerIds);
    let write = Write::Put { key, value: ProducerIdRecord { next_id: 1 }.encode(), lease: 0 };
    store.txn(Vec::new(), vec![write]).await.expect("written");
    let refused = check_empty(&store, &keys()).await.expect_err("there is something");
    assert!(refused.to_string().contains("etcdctl del --prefix /esker/test/"), "{refused}");
}

#[tokio::test]
async fn sessions_of_a_rebuilt_store_have_epochs_above_all_and_take_everything_over() {
    let time = ManualClock::starting_at(1_000);
    let store: Arc<dyn MetaStore> = Arc::new(MemoryMeta::new(time.clock()));
    rebuild(&store, &keys(), &rebuilt(), 1).await.expect("rebuilt");
    let keys = with_epoch_base(&store, keys()).await.expect("a base");
    assert_eq!(keys.epoch_base(), BASE);
    let sessions = Sessions { store: store.clone(), keys: keys.clone(), clock: time.clock() };
    let registration = sessions.register(&identity(1, 1), TTL_MS).await.expect("registers");
    let own = registration.session();
    assert!(own.epoch > BASE, "{own}");
    assert!(registration.campaign().await.expect("an election"));
    registration.announce(&broker(own)).await.expect("announced");
    let tasks = Tasks::new();
    let (rng, metrics) = (Rng::seeded(7), Metrics::default());
    let opened =
        Catalogue::open(store.clone(), keys.clone(), TopicRules::default(), time.clock(), rng, metrics, &tasks).await;
    let catalogue = opened.expect("opens");
    let image = catalogue.image();
    assert!(image.is_alive(own) && image.is_sealed(NOBODY));
    let decision = placement::decide(&image, &std::collections::BTreeSet::new(), &std::collections::BTreeMap::new());
    assert_eq!(decision.take_over.len(), 15_000);
    catalogue.take_over(own, &decision.take_over).await.expect("taken over");
    let image = catalogue.image();
    let assignment = &image.topic("topic-1").expect("it").partitions[0];
    let from = [FromStream { session: OLD, leader_epoch: 3, sealed_seq: 9 }];
    assert_eq!((assignment.session, assignment.leader_epoch, &assignment.from[..]), (own, 1_004, &from[..]));
    // Taken for dead: its claim is found by its epoch.
    sessions.retire(own, 4).await.expect("retired");
    assert_eq!(store.get(&keys.key(&Key::Claim(1))).await.expect("a get"), None);
}

#[test]
fn sessions_of_before_a_rebuild_have_no_claim() {
    let keys = keys().with_epoch_base(BASE);
    assert_eq!(keys.epoch(5), BASE + 5);
    assert_eq!(keys.claim_revision(SessionId { broker_id: 1, epoch: BASE + 5 }), 5);
    for old in [OLD, NOBODY] {
        assert!(keys.claim_revision(old) > BASE, "no store has come so far");
    }
}

#[tokio::test]
async fn a_store_that_is_emptied_under_a_broker_is_not_followed() {
    let bench = bench(TopicRules::default()).await;
    let settled = identity::settle_cluster_id(&bench.store, &keys(), &[], &bench.time.clock(), &Rng::seeded(1)).await;
    settled.expect("an id");
    bench.create("kept", 1).await.expect("created");
    let mut versions = bench.catalogue.subscribe();
    while bench.catalogue.image().cluster_id.is_empty() {
        versions.changed().await.expect("open");
    }
    let entries = bench.store.range(keys().root()).await.expect("a range").entries;
    let deletes = entries.into_iter().map(|entry| Write::Delete { key: entry.key }).collect();
    bench.store.txn(Vec::new(), deletes).await.expect("emptied");
    bench.tasks.stopping().cancelled().await;
    assert!(bench.tasks.failure().expect("a reason").contains("was emptied"));
    assert!(bench.catalogue.image().topic("kept").is_some(), "nothing looks deleted");
}
