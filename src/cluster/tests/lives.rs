//! Lives of brokers, cluster ids, producer ids.

use std::collections::BTreeSet;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::*;
use crate::base::ErrorKind;
use crate::cluster::identity::{Place, new_cluster_id, settle_cluster_id};
use crate::meta::{Compare, KeyValue, MetaError, Snapshot, TxnOutcome, Watch, Write};

#[tokio::test]
async fn a_restart_finds_its_unsealed_sessions_and_gets_a_higher_epoch() {
    let first = bench(TopicRules::default()).await;
    let old = first.registration.session();
    assert_eq!(first.sessions.unsealed(&identity(1, 1), TTL_MS).await.expect("read"), [old]);
    // Killed: nothing was released, the lease has not expired.
    let next = bench_on(first.store.clone(), first.time.clone(), TopicRules::default()).await;
    let new = next.registration.session();
    assert!(new.epoch > old.epoch);
    assert_eq!(next.sessions.unsealed(&identity(1, 1), TTL_MS).await.expect("read"), [old, new]);
    next.sessions.mark_sealed(old, 12).await.expect("sealed");
    next.sessions.mark_sealed(old, 12).await.expect("sealed before");
    assert!(next.sessions.mark_sealed(old, 13).await.is_err(), "a stream ends once");
    assert!(next.sessions.mark_sealed(SessionId { broker_id: 9, epoch: 1 }, 0).await.is_err());
    assert_eq!(next.sessions.unsealed(&identity(1, 1), TTL_MS).await.expect("read"), [new]);
    let all = next.sessions.all().await.expect("read");
    assert_eq!(
        all.iter().map(|(session, sealed)| (*session, sealed.map(|at| at.seq))).collect::<Vec<_>>(),
        [(old, Some(12)), (new, None)]
    );
    let error = first.registration.announce(&broker(old)).await.expect_err("its claim is gone");
    assert_eq!(error.kind(), ErrorKind::Fenced);
}

#[tokio::test]
async fn a_session_is_forgotten_when_it_is_old_and_nothing_names_it() {
    let first = bench(TopicRules::default()).await;
    let old = first.registration.session();
    first.create("a", 1).await.expect("created");
    let next = bench_on(first.store.clone(), first.time.clone(), TopicRules::default()).await;
    let new = next.registration.session();
    next.sessions.mark_sealed(old, 12).await.expect("sealed");
    let forget = async || next.sessions.forget_old(&next.catalogue.image(), 1_000).await.expect("done");
    next.time.advance_ms(1_000);
    assert_eq!(forget().await, 0, "it leads a partition");
    next.succeed(old, 12).await;
    assert_eq!(forget().await, 0, "a partition's state is there");
    let partition = next.catalogue.image().topic("a").expect("shown").partition(0);
    next.catalogue.clear_from(new, &[(partition, 1)].into()).await.expect("cleared");
    let young = next.sessions.forget_old(&next.catalogue.image(), 1_001).await;
    assert_eq!(young.expect("done"), 0, "it is not old enough");
    assert_eq!(forget().await, 1);
    let left = next.sessions.all().await.expect("read");
    assert_eq!(left, [(new, None)]);
}

#[tokio::test]
async fn a_broker_id_belongs_to_one_directory_at_a_time() {
    let bench = bench(TopicRules::default()).await;
    for error in [
        bench.sessions.unsealed(&identity(1, 2), TTL_MS).await.expect_err("in use"),
        bench.sessions.register(&identity(1, 2), TTL_MS).await.expect_err("in use"),
    ] {
        assert!(matches!(error, ClusterError::BrokerIdInUse { broker_id: 1, pid: 7, .. }), "{error:?}");
        assert!(error.to_string().contains("--broker-id") && error.to_string().contains("host-a"), "{error}");
    }
    bench.sessions.register(&identity(2, 2), TTL_MS).await.expect("another id is free");
    bench.time.advance_ms(TTL_MS);
    let other = bench.sessions.register(&identity(1, 2), TTL_MS).await.expect("the lease is over");
    assert!(other.session().epoch > bench.registration.session().epoch);
}

#[tokio::test]
async fn a_clean_stop_gives_the_id_back_at_once() {
    let bench = bench(TopicRules::default()).await;
    bench.registration.release().await.expect("released");
    bench.sessions.register(&identity(1, 2), TTL_MS).await.expect("free");
    let mut versions = bench.catalogue.subscribe();
    while !bench.catalogue.image().brokers.is_empty() {
        versions.changed().await.expect("open");
    }
    assert_eq!(bench.catalogue.image().controller_id(), None);
}

#[tokio::test]
async fn one_session_is_the_controller() {
    let bench = bench(TopicRules::default()).await;
    let other = bench.sessions.register(&identity(2, 2), TTL_MS).await.expect("registers");
    assert!(!other.campaign().await.expect("an election"));
    assert!(bench.registration.campaign().await.expect("an election"), "still is");
    bench.registration.release().await.expect("released");
    assert!(other.campaign().await.expect("an election"));
    assert!(!bench.registration.campaign().await.expect("an election"), "it has ended");
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_kept_alive_and_its_end_is_told() {
    let bench = bench(TopicRules::default()).await;
    bench.registration.keep_alive(&bench.tasks, Metrics::default());
    let mut ended = bench.registration.ended();
    for _ in 0..10 {
        bench.time.advance_ms(TTL_MS / 2);
        tokio::time::sleep(std::time::Duration::from_millis(TTL_MS / 2)).await;
        assert!(!*ended.borrow());
    }
    bench.time.advance_ms(TTL_MS);
    ended.wait_for(|ended| *ended).await.expect("told");
}

#[tokio::test]
async fn a_cluster_id_is_made_once_and_places_must_agree() {
    let time = ManualClock::starting_at(5);
    let store: Arc<dyn MetaStore> = Arc::new(MemoryMeta::new(time.clock()));
    let rng = Rng::seeded(3);
    let place = |id: Option<&str>| Place { name: "the bucket s3://b".to_owned(), cluster_id: id.map(str::to_owned) };
    let settle = async |places: &[Place]| settle_cluster_id(&store, &keys(), places, &time.clock(), &rng).await;
    let error = settle(&[place(Some("other"))]).await.expect_err("a bucket of an unknown cluster").to_string();
    assert!(error.contains("s3://b") && error.contains("other"), "{error}");
    let id = settle(&[place(None)]).await.expect("made");
    assert_eq!(id.len(), 22);
    assert_eq!(settle(&[place(Some(&id)), place(None)]).await.expect("known"), id);
    let error = settle(&[place(None), place(Some("other"))]).await.expect_err("another cluster's");
    assert_eq!(error.kind(), ErrorKind::Environment);
    assert!(error.to_string().contains("other") && error.to_string().contains(&id), "{error}");
    assert!((0..200).all(|_| {
        let id = new_cluster_id(&rng);
        id.len() == 22
            && !id.starts_with('-')
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    }));
}

/// A store that can be unplugged.
#[derive(Debug)]
struct Plug {
    inner: Arc<dyn MetaStore>,
    down: Mutex<bool>,
}

impl Plug {
    fn check(&self) -> Result<(), MetaError> {
        if *self.down.lock() {
            return Err(MetaError::Unavailable { operation: "test", reason: "unplugged".to_owned() });
        }
        Ok(())
    }
}

#[async_trait]
impl MetaStore for Plug {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetaError> {
        self.check()?;
        self.inner.get(key).await
    }
    async fn range(&self, prefix: &str) -> Result<Snapshot, MetaError> {
        self.check()?;
        self.inner.range(prefix).await
    }
    async fn txn(&self, compares: Vec<Compare>, writes: Vec<Write>) -> Result<TxnOutcome, MetaError> {
        self.check()?;
        self.inner.txn(compares, writes).await
    }
    async fn watch(&self, prefix: &str, from: u64) -> Result<Watch, MetaError> {
        self.check()?;
        self.inner.watch(prefix, from).await
    }
    async fn lease_grant(&self, ttl_ms: u64) -> Result<i64, MetaError> {
        self.check()?;
        self.inner.lease_grant(ttl_ms).await
    }
    async fn lease_keep_alive(&self, lease: i64) -> Result<(), MetaError> {
        self.check()?;
        self.inner.lease_keep_alive(lease).await
    }
    async fn lease_revoke(&self, lease: i64) -> Result<(), MetaError> {
        self.check()?;
        self.inner.lease_revoke(lease).await
    }
}

#[tokio::test]
async fn producer_ids_are_unique_and_last_a_while_without_the_store() {
    let inner: Arc<dyn MetaStore> = Arc::new(MemoryMeta::new(ManualClock::starting_at(0).clock()));
    let plug = Arc::new(Plug { inner, down: Mutex::new(false) });
    let store: Arc<dyn MetaStore> = plug.clone();
    let brokers = [0, 1].map(|_| ProducerIds::new(store.clone(), &keys(), Metrics::default()));
    let mut seen = BTreeSet::new();
    for _ in 0..2500 {
        for broker in &brokers {
            assert!(seen.insert(broker.next().await.expect("an id")), "given twice");
        }
    }
    let mut racers = tokio::task::JoinSet::new();
    for at in 0..400 {
        let broker = brokers[at % 2].clone();
        racers.spawn(async move { broker.next().await.expect("an id") });
    }
    for id in racers.join_all().await {
        assert!(seen.insert(id), "given twice");
    }
    assert!(seen.iter().all(|id| *id >= 0));
    brokers[0].take_ahead().await.expect("taken");
    *plug.down.lock() = true;
    for _ in 0..1000 {
        assert!(seen.insert(brokers[0].next().await.expect("of the spare block")), "given twice");
    }
    let mut left = 0;
    let error = loop {
        match brokers[0].next().await {
            Ok(id) => assert!(seen.insert(id)),
            Err(error) => break error,
        }
        left += 1;
    };
    assert!(left < 1000);
    assert_eq!(error.kind(), ErrorKind::Retriable);
    *plug.down.lock() = false;
    assert!(seen.insert(brokers[0].next().await.expect("the store is back")));
}

#[tokio::test]
async fn the_catalogue_keeps_its_image_while_the_store_is_down_and_catches_up() {
    let bench = bench(TopicRules::default()).await;
    let plug = Arc::new(Plug { inner: bench.store.clone(), down: Mutex::new(false) });
    let store: Arc<dyn MetaStore> = plug.clone();
    let (_tasks, other) = catalogue(&store, &bench.time.clock(), TopicRules::default()).await;
    *plug.down.lock() = true;
    // More changes than a watch holds: it is told to read again, and cannot for a while.
    for n in 0..40 {
        let topics = (0..40).map(|m| topic(&format!("topic-{n}-{m}"), 1)).collect();
        assert!(bench.catalogue.create_topics(topics, false).await.iter().all(Result::is_ok));
    }
    *plug.down.lock() = false;
    other.wait_for(bench.catalogue.image().version).await;
    assert_eq!(shown(&other.image()), shown(&bench.catalogue.image()));
}
