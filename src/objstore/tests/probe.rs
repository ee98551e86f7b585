use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt as _;
use futures::stream::BoxStream;

use super::faulty;
use crate::base::{Clock, ErrorKind, ManualClock, Rng};
use crate::objstore::fault::{Chances, Fault, Rule};
use crate::objstore::{
    Created, LocalStore, MemoryStore, ObjectMeta, ObjectStore, Operation, Payload, ProbeOptions, StoreError, probe,
};

/// How a bad server treats the condition.
#[derive(Clone, Copy)]
enum Badness {
    /// Not at all.
    Ignores,
    /// It looks, then writes.
    LooksThenWrites,
}

struct BadStore {
    inner: MemoryStore,
    badness: Badness,
}

impl fmt::Debug for BadStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("s3://bad/ on http://bad.example")
    }
}

#[async_trait]
impl ObjectStore for BadStore {
    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        self.inner.get(key).await
    }
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.inner.get_range(key, range).await
    }
    async fn size(&self, key: &str) -> Result<u64, StoreError> {
        self.inner.size(key).await
    }
    async fn put(&self, key: &str, payload: Payload) -> Result<(), StoreError> {
        self.inner.put(key, payload).await
    }
    async fn create(&self, key: &str, payload: Payload) -> Result<Created, StoreError> {
        if let Badness::LooksThenWrites = self.badness {
            if self.inner.size(key).await.is_ok() {
                return Ok(Created::Exists);
            }
            tokio::task::yield_now().await;
        }
        self.inner.put(key, payload).await.map(|()| Created::Yes)
    }
    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }
    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        self.inner.list(prefix, start_after)
    }
}

fn options() -> ProbeOptions {
    ProbeOptions { marker: None, clock: Clock::system(), rng: Rng::seeded(1) }
}

async fn leftovers(store: &Arc<dyn ObjectStore>) -> usize {
    store.list("", None).try_collect::<Vec<_>>().await.unwrap().len()
}

#[tokio::test]
async fn good_stores_pass_and_are_left_clean() {
    let scratch = tempfile::tempdir().unwrap();
    let local = LocalStore::open(scratch.path(), &Rng::seeded(2)).unwrap();
    let stores: [Arc<dyn ObjectStore>; 2] = [Arc::new(local), Arc::new(MemoryStore::new(Clock::system()))];
    for store in stores {
        let report = probe(&store, &options()).await.unwrap();
        assert_eq!((report.remembered, report.unclear), (false, 0));
        assert_eq!(leftovers(&store).await, 0);
    }
}

#[tokio::test]
async fn bad_stores_are_named_with_what_to_do() {
    for (badness, words) in [
        (Badness::Ignores, "16 of 16 simultaneous"),
        (Badness::LooksThenWrites, "of 16 simultaneous conditional creates of one key were all told that they had won"),
    ] {
        let store: Arc<dyn ObjectStore> = Arc::new(BadStore { inner: MemoryStore::new(Clock::system()), badness });
        let error = probe(&store, &options()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let text = error.to_string();
        assert!(text.contains(words) && text.contains("http://bad.example") && text.contains("AWS S3"), "{text}");
        assert_eq!(leftovers(&store).await, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn unclear_answers_are_forgiven_and_an_outage_is_not_a_verdict() {
    for seed in 0..20 {
        let (store, faults, _) = faulty(seed);
        faults.set_chances(Chances { conflict: 0.5, ..Chances::default() });
        faults.add(Rule { times: 8, ..Rule::once(Operation::create, "", Fault::LostReply) });
        assert!(probe(&store, &options()).await.unwrap().unclear > 0);
        faults.set_down(true);
        assert_eq!(probe(&store, &options()).await.unwrap_err().kind(), ErrorKind::Retriable);
    }
}

#[tokio::test]
async fn proof_is_remembered_by_store_and_for_a_month() {
    let scratch = tempfile::tempdir().unwrap();
    let clock = ManualClock::starting_at(1_700_000_000_000);
    let options =
        ProbeOptions { marker: Some(scratch.path().join("probed.json")), clock: clock.clock(), rng: Rng::seeded(1) };
    let (store, faults, _) = faulty(1);
    assert!(!probe(&store, &options).await.unwrap().remembered);
    let creates = faults.count(Operation::create, "");
    assert!(probe(&store, &options).await.unwrap().remembered);
    assert_eq!(faults.count(Operation::create, ""), creates);
    // Remembered or not, a store that does not answer is not taken.
    faults.set_down(true);
    assert_eq!(probe(&store, &options).await.unwrap_err().kind(), ErrorKind::Retriable);

    let other: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new(Clock::system()));
    assert!(!probe(&other, &options).await.unwrap().remembered);
    faults.clear();
    assert!(probe(&store, &options).await.unwrap().remembered);
    clock.advance_ms(31 * 24 * 3_600_000);
    assert!(!probe(&store, &options).await.unwrap().remembered);
    std::fs::write(options.marker.as_ref().unwrap(), "{ not json").unwrap();
    assert!(!probe(&store, &options).await.unwrap().remembered);
    assert!(probe(&store, &options).await.unwrap().remembered);
}
