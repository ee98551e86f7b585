//! Garbage collection where several brokers share one store.

use std::collections::HashSet;
use std::sync::Arc;

use futures::{FutureExt as _, TryStreamExt as _};
use uuid::Uuid;

use super::state;
use crate::base::{Clock, ManualClock, SessionId, TopicPartition};
use crate::cluster::{Identity, Key, KeySpace, Registration, Sessions};
use crate::format::metadata::{AssignmentChunk, AssignmentRecord, FromStream, MetadataValue};
use crate::format::prelude::{ObjectKind, Prelude};
use crate::format::state::{ObjectRef, PartitionState};
use crate::format::{checkpoint, keys};
use crate::meta::{MemoryMeta, Write};
use crate::objstore::{MemoryStore, ObjectMeta, ObjectStore, Payload};
use crate::upkeep::collect::Listing;
use crate::upkeep::references::{Known, Unknown, known};
use crate::upkeep::service::look;
use crate::upkeep::{Collector, LiveSet};

const TOPIC: Uuid = Uuid::from_u128(1);

/// Two brokers over one store; the first one is the controller.
struct Pair {
    sessions: Sessions,
    store: Arc<dyn ObjectStore>,
    controller: Registration,
    other: Registration,
}

async fn pair() -> Pair {
    let clock: Clock = ManualClock::starting_at(1_000).clock();
    let meta = Arc::new(MemoryMeta::new(clock.clone()));
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new(clock.clone()));
    let sessions = Sessions { store: meta, keys: KeySpace::of_cluster("test"), clock };
    let register = async |broker_id| {
        let directory_id = Uuid::from_u128(broker_id as u128);
        let identity = Identity { broker_id, directory_id, host: String::new(), pid: 1 };
        sessions.register(&identity, 60_000).await.expect("registers")
    };
    let (controller, other) = (register(1).await, register(2).await);
    assert!(controller.campaign().await.expect("an election"));
    Pair { sessions, store, controller, other }
}

fn led_by(session: SessionId, from: &[SessionId]) -> AssignmentRecord {
    let from = from.iter().map(|session| FromStream { session: *session, leader_epoch: 0, sealed_seq: 10 });
    AssignmentRecord { session, leader_epoch: 1, from: from.collect(), target: None, acquired: false }
}

/// A state with one run in each of these objects.
fn naming(objects: &[ObjectRef]) -> PartitionState {
    let mut named = state(&vec![(100, 1_000); objects.len()]);
    for (run, object) in named.runs.iter_mut().zip(objects) {
        run.object = *object;
    }
    named
}

impl Pair {
    fn assign(&self, partitions: Vec<AssignmentRecord>) -> impl Future<Output = ()> {
        let key = self.sessions.keys.key(&Key::Assignments(TOPIC, 0));
        let value = AssignmentChunk { partitions }.encode();
        let store = self.sessions.store.clone();
        async move {
            store.txn(Vec::new(), vec![Write::Put { key, value, lease: 0 }]).await.expect("written");
        }
    }

    /// Ten segments of `session`, and checkpoints after the last two that hold `states`.
    async fn stream(&self, session: SessionId, states: &[PartitionState]) {
        self.segments(session, 0..10).await;
        self.checkpoints(session, [8, 9], states).await;
    }

    async fn segments(&self, session: SessionId, seqs: std::ops::Range<u64>) {
        for seq in seqs {
            let payload = Payload(vec![vec![7; 900].into()]);
            self.store.put(&keys::segment(session, seq), payload).await.expect("stored");
        }
    }

    async fn checkpoints(&self, session: SessionId, seqs: [u64; 2], states: &[PartitionState]) {
        for seq in seqs {
            let prelude = Prelude { kind: ObjectKind::Checkpoint, object_id: Uuid::from_u128(9), session, seq };
            let states = (0..).zip(states).map(|(index, state)| (TopicPartition::new(TOPIC, index), state));
            let object = checkpoint::encode(&prelude, states);
            self.store.put(&keys::checkpoint(session, seq), Payload(vec![object])).await.expect("stored");
        }
    }

    async fn live_set(&self, own: &[ObjectRef]) -> Result<Option<LiveSet>, Unknown> {
        Ok(self.known(false, own).await?.map(|known| known.live))
    }

    async fn known(&self, trace: bool, own: &[ObjectRef]) -> Result<Option<Known>, Unknown> {
        let own: HashSet<ObjectRef> = own.iter().copied().collect();
        known(&self.sessions, &self.store, self.controller.session(), trace, || (0, own)).await
    }

    /// Everything that two passes in a row find to be garbage.
    async fn garbage(&self, own: &[ObjectRef]) -> Vec<String> {
        let list =
            async |prefix| -> Vec<ObjectMeta> { self.store.list(prefix, None).try_collect().await.expect("listed") };
        let (segments, checkpoints) = (list(keys::LOG_PREFIX).await, list(keys::CHECKPOINT_PREFIX).await);
        let listing = Listing { segments, checkpoints, runs: list(keys::RUNS_PREFIX).await };
        let mut collector = Collector::new(0);
        for _ in 0..2 {
            let live = self.live_set(own).await.expect("known").expect("the controller");
            let deleted = collector.pass(&live, &listing, 1, 1);
            if !deleted.is_empty() {
                return deleted;
            }
        }
        Vec::new()
    }
}

#[tokio::test]
async fn what_another_brokers_partitions_name_stays() {
    let pair = pair().await;
    let (own, other) = (pair.controller.session(), pair.other.session());
    let dead = SessionId { broker_id: 3, epoch: 1 };
    let segment = |session, seq| ObjectRef::Segment { session, seq };
    // Partition 0 is the controller's, partition 1 the other's: it reaches back into a stream that has ended.
    pair.assign(vec![led_by(own, &[]), led_by(other, &[])]).await;
    pair.stream(dead, &[]).await;
    pair.stream(other, &[PartitionState::default(), naming(&[segment(dead, 4), segment(other, 2)])]).await;
    let garbage: HashSet<String> = pair.garbage(&[segment(dead, 5)]).await.into_iter().collect();
    for kept in [keys::segment(dead, 4), keys::segment(dead, 5), keys::segment(other, 2), keys::segment(other, 9)] {
        assert!(!garbage.contains(&kept), "{kept}");
    }
    for gone in [keys::segment(dead, 3), keys::segment(other, 1), keys::checkpoint(dead, 9)] {
        assert!(garbage.contains(&gone), "{gone}");
    }
}

#[tokio::test]
async fn a_state_that_is_still_to_be_taken_over_counts() {
    let pair = pair().await;
    let (own, other) = (pair.controller.session(), pair.other.session());
    let dead = SessionId { broker_id: 3, epoch: 1 };
    let segment = ObjectRef::Segment { session: dead, seq: 4 };
    pair.stream(other, &[naming(&[segment])]).await;
    pair.stream(dead, &[]).await;
    // The other's stream was sealed; the controller leads the partition and has not read its state yet.
    pair.assign(vec![led_by(own, &[other])]).await;
    assert!(!pair.garbage(&[]).await.contains(&keys::segment(dead, 4)));
    // … and has it now, in its own stream, without that run.
    pair.assign(vec![led_by(own, &[])]).await;
    assert!(pair.garbage(&[]).await.contains(&keys::segment(dead, 4)));
}

#[tokio::test]
async fn nobody_collects_while_partitions_move_and_only_the_controller_does() {
    let pair = pair().await;
    let (own, other) = (pair.controller.session(), pair.other.session());
    pair.assign(vec![led_by(own, &[])]).await;
    let moves = || {
        pair.assign(vec![led_by(other, &[own])]).now_or_never().expect("at once");
        (0, HashSet::new())
    };
    let seen = known(&pair.sessions, &pair.store, own, false, moves).await;
    assert!(matches!(seen, Err(Unknown::Moved)), "{seen:?}");
    assert!(pair.live_set(&[]).await.expect("known").is_some());
    let seen = known(&pair.sessions, &pair.store, other, false, || (0, HashSet::new())).await.expect("known");
    assert!(seen.is_none(), "another is the controller");
    pair.controller.release().await.expect("released");
    assert!(pair.live_set(&[]).await.expect("known").is_none(), "nobody is");
}

#[tokio::test]
async fn a_stream_that_cannot_be_read_stops_the_collection() {
    let pair = pair().await;
    let other = pair.other.session();
    pair.assign(vec![led_by(other, &[])]).await;
    pair.stream(other, &[PartitionState::default()]).await;
    let damaged = Payload(vec![vec![0; 900].into()]);
    pair.store.put(&keys::segment(other, 10), damaged).await.expect("stored");
    assert!(matches!(pair.live_set(&[]).await, Err(Unknown::Stream(_))));
}

#[tokio::test]
async fn what_lands_after_the_listing_is_not_judged_by_what_was_known_before_it() {
    let pair = pair().await;
    let (own, other) = (pair.controller.session(), pair.other.session());
    pair.assign(vec![led_by(own, &[]), led_by(other, &[])]).await;
    pair.stream(other, &[PartitionState::default(), naming(&[ObjectRef::Segment { session: other, seq: 2 }])]).await;
    // Between the two steps of a look the other broker commits a segment, and checkpoints cover it.
    let landed = ObjectRef::Segment { session: other, seq: 10 };
    let meanwhile = async {
        let state = [PartitionState::default(), naming(&[landed])];
        pair.segments(other, 10..13).await;
        pair.checkpoints(other, [11, 12], &state).await;
    };
    let first = look(&pair.store, async {
        let known = pair.known(false, &[]).await;
        meanwhile.await;
        known
    });
    let (listing, known) = first.await.expect("known").expect("the controller");
    let mut collector = Collector::new(0);
    for now_ms in 0..2 {
        let doomed = collector.pass(&known.live, &listing, now_ms, 1);
        assert!(!doomed.contains(&keys::segment(other, 10)), "it is referenced");
    }
}

#[tokio::test]
async fn a_deleted_topic_is_looked_for_in_every_stream_that_goes_on() {
    let pair = pair().await;
    let (own, other) = (pair.controller.session(), pair.other.session());
    // The topic is deleted: nobody leads it, and the other broker has not dropped it yet.
    pair.stream(other, &[PartitionState::default()]).await;
    let traces = pair.known(true, &[]).await.expect("known").expect("the controller").traces;
    assert_eq!(traces.topics, HashSet::from([TOPIC]));
    assert_eq!(traces.ends, [(own, 0), (other, 10)].into());
    pair.segments(other, 10..13).await;
    pair.checkpoints(other, [11, 12], &[]).await;
    let traces = pair.known(true, &[]).await.expect("known").expect("the controller").traces;
    assert!(traces.topics.is_empty());
    assert_eq!(traces.ends, [(own, 0), (other, 13)].into());
}
