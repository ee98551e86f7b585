//! Backups of the catalogue: who writes them, what is in them, which stay.

use std::time::Duration;

use futures::TryStreamExt;

use super::picture::{Picture, led, session};
use super::*;
use crate::cluster::backup::{BACKUPS_KEPT, backup_of};
use crate::format::catalogue::CatalogueBackup;
use crate::format::keys as objects;
use crate::objstore::{MemoryStore, ObjectMeta, ObjectStore, Payload};

#[test]
fn what_is_saved_is_what_streams_do_not_say() {
    let own = session(1, 1);
    let mut image = Picture::of(2).topic(7, vec![led(own, 3), led(session(2, 2), 0)]).image;
    assert_eq!(backup_of(&image, 0), None, "no cluster yet");
    (image.cluster_id, image.created_ms, image.next_producer_id) = ("id".to_owned(), 5, 2_000);
    image.version = 90;
    let saved = backup_of(&image, 1_000).expect("a cluster");
    assert_eq!((saved.revision, saved.cluster_id.as_str(), saved.created_ms), (1_090, "id", 5));
    assert_eq!(saved.next_producer_id, 2_000);
    assert_eq!(saved.topics[0].leader_epochs, [3, 0]);
    assert_eq!(saved.topics[0].topic.partitions, 2);
    assert_eq!(saved.sessions.len(), image.sessions.len());
}

async fn listed(store: &Arc<dyn ObjectStore>) -> Vec<ObjectMeta> {
    store.list(objects::CATALOGUE_PREFIX, None).try_collect().await.expect("a listing")
}

async fn newest(store: &Arc<dyn ObjectStore>) -> Option<CatalogueBackup> {
    let meta = listed(store).await.pop()?;
    CatalogueBackup::decode(&store.get(&meta.key).await.expect("an object")).ok()
}

async fn until(what: &str, store: &Arc<dyn ObjectStore>, holds: impl Fn(&CatalogueBackup) -> bool) -> CatalogueBackup {
    let waiting = async {
        loop {
            if let Some(found) = newest(store).await.filter(|newest| holds(newest)) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("{what}"))
}

#[tokio::test]
async fn the_controller_saves_the_catalogue_and_the_newest_stay() {
    let bench = bench(TopicRules::default()).await;
    let id = identity::settle_cluster_id(&bench.store, &keys(), &[], &bench.time.clock(), &Rng::seeded(1)).await;
    let clock = Clock::system();
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new(clock.clone()));
    for old in 0..BACKUPS_KEPT as u64 {
        let damaged = Payload::from(bytes::Bytes::from_static(b"not a backup"));
        store.put(&objects::catalogue(old), damaged).await.expect("put");
    }
    let metrics = Metrics::default();
    let backups = |own, metrics: &Metrics| Backups {
        catalogue: bench.catalogue.clone(),
        own,
        store: store.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
    };
    let (tasks, others) = (Tasks::new(), Tasks::new());
    // Who is not the controller writes nothing, whatever changes.
    backups(SessionId { broker_id: 9, epoch: 9 }, &metrics).start(&others);
    bench.create("first", 2).await.expect("created");
    backups(bench.registration.session(), &metrics).start(&tasks);
    let saved = until("a backup", &store, |saved| !saved.topics.is_empty()).await;
    assert_eq!(saved.cluster_id, id.expect("an id"));
    assert_eq!((saved.topics[0].topic.name.as_str(), saved.topics[0].leader_epochs.as_slice()), ("first", &[0, 0][..]));
    assert_eq!(saved.sessions[0].session, bench.registration.session());
    assert_eq!(metrics.backups.get(), 1);
    bench.create("second", 1).await.expect("created");
    let saved = until("one more", &store, |saved| saved.topics.len() == 2).await;
    assert_eq!(listed(&store).await.pop().expect("it").key, objects::catalogue(saved.revision));
    tasks.stop().await;
    assert_eq!(listed(&store).await.len(), BACKUPS_KEPT);
    assert_eq!(metrics.backups.get(), 2);
    // The next controller finds it as it is.
    let (tasks, next) = (Tasks::new(), Metrics::default());
    backups(bench.registration.session(), &next).start(&tasks);
    while next.backup_written_seconds.get() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tasks.stop().await;
    others.stop().await;
    assert_eq!((next.backups.get(), next.backup_errors.get()), (0, 0), "nothing has changed");
}
