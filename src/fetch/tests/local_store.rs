//! Whether a local store is better read directly or through pages. Run by hand:
//! `cargo test --lib fetch::tests::local_store -- --ignored --nocapture`.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;

use crate::base::{Clock, Rng};
use crate::cache::{HybridPages, Metrics, ObjectReader, Settings};
use crate::fetch::StoreSource;
use crate::objstore::{LocalStore, ObjectStore};

const MIB: u64 = 1 << 20;
const OBJECT_BYTES: u64 = 64 * MIB;

async fn read_all(reader: &ObjectReader, step: u64) {
    let mut at = 0;
    while at < OBJECT_BYTES {
        let read = reader.read("a/b", at..at + step, OBJECT_BYTES).await.unwrap();
        assert_eq!(read.end(), at + step);
        at += step;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a test"]
async fn direct_reads_against_pages() {
    let dir = tempfile::tempdir_in("target").unwrap();
    let store = Arc::new(LocalStore::open(dir.path(), &Rng::system()).unwrap());
    let body: Bytes = (0..OBJECT_BYTES).map(|at| ((at * 31) >> 7) as u8).collect();
    store.put("a/b", body.into()).await.unwrap();
    let clock = Clock::system();
    for (name, bypass_local) in [("direct", true), ("pages", false)] {
        for step in [64 << 10, MIB] {
            let settings = Settings { bypass_local, memory_bytes: 128 * MIB, ..Settings::default() };
            let pages = Arc::new(HybridPages::open(&settings).await.unwrap());
            let source = Arc::new(StoreSource::new(store.clone()));
            let reader = ObjectReader::new(source, pages, settings, Metrics::default());
            let rate = |from_us: u64, times: u64| OBJECT_BYTES * times / (clock.boot_us() - from_us).max(1);
            let from = clock.boot_us();
            read_all(&reader, step).await;
            let first = rate(from, 1);
            let from = clock.boot_us();
            read_all(&reader, step).await;
            let second = rate(from, 1);
            let from = clock.boot_us();
            join_all((0..16).map(|_| {
                let reader = reader.clone();
                tokio::spawn(async move { read_all(&reader, step).await })
            }))
            .await;
            let many = rate(from, 16);
            println!(
                "{name:>6}, {:4} KiB a read: first {first} MB/s, again {second} MB/s, 16 readers {many} MB/s",
                step >> 10
            );
        }
    }
}
