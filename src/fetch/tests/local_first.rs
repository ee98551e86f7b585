use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::model::{SESSION, batch, simple, tp};
use crate::base::Clock;
use crate::cache::Source;
use crate::fetch::local_first::LocalFirst;
use crate::fetch::{Metrics, StoreSource};
use crate::objstore::{MemoryStore, ObjectStore};
use crate::partition::ObjectRef;
use crate::protocol::batch::Compression;

struct Copies {
    _dir: tempfile::TempDir,
    path: PathBuf,
    key: String,
    whole: Bytes,
    source: LocalFirst,
    metrics: Metrics,
}

/// A segment in a store under its key, and `copy` of it in a local file.
async fn copies(copy: impl FnOnce(&Bytes) -> Vec<u8>) -> Copies {
    let model = simple(1);
    model.log.append(tp(0), batch(&[1, 2], 100, Compression::None));
    model.log.commit();
    let (key, whole) = model.log.store.objects.lock().first_key_value().map(|(k, v)| (k.clone(), v.clone())).unwrap();
    let store = Arc::new(MemoryStore::new(Clock::system()));
    store.put(&key, whole.clone().into()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.wal");
    std::fs::write(&path, copy(&whole)).unwrap();
    let metrics = Metrics::default();
    let found = path.clone();
    let wanted = ObjectRef::Segment { session: SESSION, seq: 0 };
    let find = Arc::new(move |object| (object == wanted).then(|| found.clone()));
    let source = LocalFirst::new(StoreSource::new(store), crate::wal::LocalDisk::shared(), find, metrics.clone());
    Copies { _dir: dir, path, key, whole, source, metrics }
}

#[tokio::test]
async fn a_finished_copy_is_read_instead_of_the_store_until_it_goes_away() {
    let it = copies(|whole| whole.to_vec()).await;
    let length = it.whole.len() as u64;
    assert_eq!(it.source.size(&it.key).await.unwrap(), length);
    assert_eq!(it.source.get_range(&it.key, 10..90).await.unwrap(), it.whole.slice(10..90));
    assert_eq!(
        it.source.get_range(&it.key, length - 5..length + 5).await.unwrap(),
        it.whole.slice(it.whole.len() - 5..)
    );
    assert_eq!(it.metrics.local_copy_bytes.get(), 85);
    std::fs::remove_file(&it.path).unwrap();
    assert_eq!(it.source.get_range(&it.key, 10..90).await.unwrap(), it.whole.slice(10..90));
    assert_eq!(it.metrics.local_copy_bytes.get(), 85);
}

#[tokio::test]
async fn an_unfinished_copy_is_not_used() {
    for keep in [0, 10, 100] {
        let it = copies(|whole| whole[..keep].to_vec()).await;
        assert_eq!(it.source.get_range(&it.key, 0..1 << 20).await.unwrap(), it.whole);
        assert_eq!(it.source.size(&it.key).await.unwrap(), it.whole.len() as u64);
        assert_eq!(it.metrics.local_copy_bytes.get(), 0);
    }
}

#[tokio::test]
async fn a_copy_whose_bytes_failed_a_check_is_passed_over() {
    let it = copies(|whole| {
        let mut bytes = whole.to_vec();
        bytes[100] ^= 1;
        bytes
    })
    .await;
    assert_ne!(it.source.get_range(&it.key, 0..200).await.unwrap(), it.whole.slice(0..200));
    it.source.distrust(&it.key);
    assert_eq!(it.source.get_range(&it.key, 0..200).await.unwrap(), it.whole.slice(0..200));
}
