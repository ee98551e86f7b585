//! The cluster over a store in memory.

mod assigning;
mod ids;
mod lives;
pub mod picture;
mod placing;
mod rebuilding;
mod saving;
mod suspecting;
mod topic_rules;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::base::{Clock, ManualClock, Rng, SessionId, Tasks};
use crate::format::metadata::BrokerRecord;
use crate::meta::{MemoryMeta, MetaStore};

const TTL_MS: u64 = 10_000;
/// Every life draws other ids.
static LIVES: AtomicU64 = AtomicU64::new(0);

/// One broker of a cluster.
struct Bench {
    time: ManualClock,
    store: Arc<dyn MetaStore>,
    sessions: Sessions,
    catalogue: Catalogue,
    registration: Registration,
    tasks: Tasks,
}

fn identity(broker_id: i32, directory: u128) -> Identity {
    Identity { broker_id, directory_id: uuid::Uuid::from_u128(directory), host: "host-a".to_owned(), pid: 7 }
}

fn keys() -> KeySpace {
    KeySpace::of_cluster("test")
}

fn broker(session: SessionId) -> BrokerRecord {
    let (host, port) = ("127.0.0.1".to_owned(), 9092);
    BrokerRecord { session, host, port, rack: None, endpoints: std::collections::BTreeMap::new(), draining: false }
}

async fn bench(rules: TopicRules) -> Bench {
    let time = ManualClock::starting_at(1_000);
    let store: Arc<dyn MetaStore> = Arc::new(MemoryMeta::new(time.clock()));
    bench_on(store, time, rules).await
}

/// A broker's whole start on a store that may hold an earlier life of it.
async fn bench_on(store: Arc<dyn MetaStore>, time: ManualClock, rules: TopicRules) -> Bench {
    let sessions = Sessions { store: store.clone(), keys: keys(), clock: time.clock() };
    let registration = sessions.register(&identity(1, 1), TTL_MS).await.expect("registers");
    let (tasks, catalogue) = catalogue(&store, &time.clock(), rules).await;
    catalogue.lead_as(registration.session());
    assert!(registration.campaign().await.expect("an election"));
    registration.announce(&broker(registration.session())).await.expect("announced");
    let mut versions = catalogue.subscribe();
    while catalogue.image().controller != Some(registration.session()) || catalogue.image().brokers.is_empty() {
        versions.changed().await.expect("open");
    }
    Bench { time, store, sessions, catalogue, registration, tasks }
}

async fn catalogue(store: &Arc<dyn MetaStore>, clock: &Clock, rules: TopicRules) -> (Tasks, Catalogue) {
    let tasks = Tasks::new();
    let rng = Rng::seeded(LIVES.fetch_add(1, Ordering::Relaxed));
    let (clock, metrics) = (clock.clone(), Metrics::default());
    let opened = Catalogue::open(store.clone(), keys(), rules, clock, rng, metrics, &tasks).await;
    (tasks, opened.expect("opens"))
}

fn topic(name: &str, partitions: i32) -> NewTopic {
    NewTopic { name: name.to_owned(), partitions, replication_factor: 1, ..NewTopic::default() }
}

impl Bench {
    /// Seals the stream of `old` on record and takes its partitions over, as the controller does.
    async fn succeed(&self, old: SessionId, seq: u64) {
        self.sessions.mark_sealed(old, seq).await.expect("sealed");
        let mut versions = self.catalogue.subscribe();
        while !self.catalogue.image().is_sealed(old) {
            versions.changed().await.expect("open");
        }
        let own = self.registration.session();
        let leaders = self.catalogue.image().led_by(old).map(|(partition, _)| (partition, own)).collect();
        self.catalogue.take_over(own, &leaders).await.expect("taken over");
    }

    async fn create(&self, name: &str, partitions: i32) -> Result<CreatedTopic, TopicError> {
        self.catalogue.create_topics(vec![topic(name, partitions)], false).await.remove(0)
    }
}

/// What images are compared by.
fn shown(image: &ClusterImage) -> String {
    let topics: Vec<_> = image.topics().collect();
    format!("{topics:?} {:?} {:?} {}", image.deletions, image.brokers, image.partition_count)
}

#[test]
fn keys_are_read_as_they_are_written() {
    let id = uuid::Uuid::from_u128(5);
    let session = SessionId { broker_id: 3, epoch: 9 };
    for (key, text) in [
        (Key::Cluster, "cluster"),
        (Key::Controller, "controller"),
        (Key::Claim(3), "claims/3"),
        (Key::Broker(3), "brokers/3"),
        (Key::Session(session), "sessions/3-00000000000000000009"),
        (Key::Topic("a.b".to_owned()), "topics/a.b"),
        (Key::Assignments(id, 12), "assignments/00000000-0000-0000-0000-000000000005/00012"),
        (Key::ProducerIds, "producer-ids"),
        (Key::Rebuild, "rebuild"),
        (Key::Deletion(id), "deletions/00000000-0000-0000-0000-000000000005"),
    ] {
        assert_eq!(key.to_string(), text);
        assert_eq!(Key::parse(text), Some(key.clone()));
        assert_eq!(keys().parse(&keys().key(&key)), Some(key));
    }
    for text in ["", "x", "claims/", "claims/03", "sessions/3-9", "assignments/5/1", "cluster/", "topic/a"] {
        assert_eq!(Key::parse(text), None, "{text}");
    }
    assert_eq!(keys().parse("/esker/other/cluster"), None);
}
