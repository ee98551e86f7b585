use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::super::hybrid::{HybridPages, OpenError};
use super::super::{Metrics, ObjectReader, PageCache, PageKey, Settings};
use super::contract::suite;
use super::fake::{FakeStore, pattern};
use crate::base::ErrorKind;

fn settings(dir: Option<&std::path::Path>) -> Settings {
    Settings {
        page_bytes: 1000,
        get_bytes: 4000,
        memory_bytes: 10_000,
        disk_bytes: if dir.is_some() { 8 << 20 } else { 0 },
        disk_dir: dir.map(Into::into),
        read_ahead_bytes: 0,
        ..Settings::default()
    }
}

fn key(object: &str, number: u64) -> PageKey {
    PageKey { object: object.into(), number }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_only_keeps_the_contract() {
    let pages = HybridPages::open(&settings(None)).await.unwrap();
    assert!(!pages.has_slow_tier());
    suite(Arc::new(pages)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_disk_keep_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let pages = HybridPages::open(&settings(Some(dir.path()))).await.unwrap();
    assert!(pages.has_slow_tier());
    suite(Arc::new(pages)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_left_memory_are_read_from_disk_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let object = pattern(200_000);
    let store = FakeStore::with(object.clone());
    for round in 0..2 {
        let pages = Arc::new(HybridPages::open(&settings(Some(dir.path()))).await.unwrap());
        let metrics = Metrics::default();
        let reader = ObjectReader::new(store.clone(), pages.clone(), settings(None), metrics.clone());
        for _ in 0..2 {
            for page in 0..200u64 {
                let range = page * 1000..page * 1000 + 1000;
                let read = reader.read("a", range.clone(), range.end).await.unwrap();
                assert_eq!(read.slice(range.clone()).unwrap(), object[range.start as usize..range.end as usize]);
            }
            pages.written().await;
        }
        assert!(metrics.hits_disk.get() > 100, "round {round}: {metrics:?}");
        if round == 1 {
            assert!(metrics.misses.get() < 100, "after a restart: {metrics:?}");
        }
        reader.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_page_does_not_come_back_from_disk_or_from_the_write_queue() {
    let dir = tempfile::tempdir().unwrap();
    let pages = HybridPages::open(&settings(Some(dir.path()))).await.unwrap();
    for number in 0..100 {
        pages.insert(key("a", number), Bytes::from(vec![1; 1000]));
    }
    for number in 0..100 {
        pages.remove(&key("a", number));
        assert_eq!(pages.get_memory(&key("a", number)), None);
        assert_eq!(pages.get_slow(&key("a", number)).await, None);
    }
    pages.written().await;
    for number in 0..100 {
        assert_eq!(pages.get_slow(&key("a", number)).await, None);
        pages.insert(key("a", number), Bytes::from(vec![2; 1000]));
    }
    pages.written().await;
    for number in 0..100 {
        if let Some(found) = pages.get_slow(&key("a", number)).await {
            assert_eq!(found, vec![2; 1000]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_disk_is_dropped_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let pages = HybridPages::open(&settings(Some(dir.path()))).await.unwrap();
    for number in 0..200 {
        pages.insert(key("a", number), Bytes::from(vec![number as u8; 1000]));
    }
    pages.written().await;
    pages.close().await;
    drop(pages);
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        for at in (0..bytes.len()).step_by(777) {
            bytes[at] ^= 0x5a;
        }
        std::fs::write(&path, bytes).unwrap();
    }
    let pages = HybridPages::open(&settings(Some(dir.path()))).await.unwrap();
    for number in 0..200 {
        if let Some(found) = pages.get_slow(&key("a", number)).await {
            assert_eq!(found, vec![number as u8; 1000]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_used_or_a_tiny_disk_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    let error = HybridPages::open(&settings(Some(&file))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Environment);
    assert!(error.to_string().contains("file"), "{error}");
    let tiny = Settings { disk_bytes: 1000, ..settings(Some(dir.path())) };
    assert!(matches!(HybridPages::open(&tiny).await, Err(OpenError::Invalid(_))));
    let nowhere = Settings { disk_dir: None, ..settings(Some(dir.path())) };
    assert!(matches!(HybridPages::open(&nowhere).await, Err(OpenError::Invalid(_))));
}

/// What is logged, as text.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_is_in_memory_at_a_stop_is_found_by_the_next_start_and_nothing_is_complained_of() {
    let dir = tempfile::tempdir().unwrap();
    let lines = Lines::default();
    let to = lines.clone();
    let collect = tracing_subscriber::fmt().with_writer(move || to.clone()).finish();
    let _guard = tracing::subscriber::set_default(collect);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let pages = first.block_on(async {
        let pages = HybridPages::open(&settings(Some(dir.path()))).await.unwrap();
        for number in 0..5 {
            pages.insert(key("a", number), Bytes::from(vec![number as u8; 1000]));
        }
        pages.close().await;
        // A reader that is cut off late.
        pages.insert(key("b", 0), Bytes::from(vec![7; 1000]));
        assert_eq!(pages.get_slow(&key("a", 0)).await, None);
        pages
    });
    // As a stop does: the tasks go first, then what they had.
    drop(first);
    drop(pages);
    let pages = runtime();
    pages.block_on(async {
        let pages = HybridPages::open(&settings(Some(dir.path()))).await.unwrap();
        for number in 0..5 {
            assert_eq!(pages.get_slow(&key("a", number)).await, Some(Bytes::from(vec![number as u8; 1000])));
        }
        pages.close().await;
    });
    let logged = String::from_utf8(lines.0.lock().clone()).unwrap();
    assert!(!logged.contains("WARN") && !logged.contains("ERROR"), "{logged}");
}
