//! What every page cache keeps to.

use std::sync::Arc;

use bytes::Bytes;

use super::super::{MemoryPages, PageCache, PageKey};

fn key(object: &str, number: u64) -> PageKey {
    PageKey { object: object.into(), number }
}

async fn find(cache: &Arc<dyn PageCache>, key: &PageKey) -> Option<Bytes> {
    match cache.get_memory(key) {
        Some(found) => Some(found),
        None => cache.get_slow(key).await,
    }
}

/// `cache` has room for at least four pages of 1000 bytes, and for less than 1000 of them in memory.
pub async fn suite(cache: Arc<dyn PageCache>) {
    let page = |fill: u8| Bytes::from(vec![fill; 1000]);
    assert_eq!(find(&cache, &key("a", 0)).await, None);
    cache.insert(key("a", 0), page(1));
    cache.insert(key("a", 1), page(2));
    cache.insert(key("b", 0), page(3));
    assert_eq!(find(&cache, &key("a", 0)).await, Some(page(1)));
    assert_eq!(find(&cache, &key("a", 1)).await, Some(page(2)));
    assert_eq!(find(&cache, &key("b", 0)).await, Some(page(3)));
    assert_eq!(find(&cache, &key("b", 1)).await, None);

    cache.remove(&key("a", 0));
    assert_eq!(find(&cache, &key("a", 0)).await, None);
    assert_eq!(find(&cache, &key("a", 1)).await, Some(page(2)));
    cache.remove(&key("a", 0));
    cache.insert(key("a", 0), page(4));
    assert_eq!(find(&cache, &key("a", 0)).await, Some(page(4)));

    // Many more than fit: whatever is found is what was put there, and memory stays within its limit.
    for number in 0..1000 {
        cache.insert(key("c", number), page((number % 251) as u8));
    }
    let mut found = 0;
    for number in 0..1000 {
        if let Some(bytes) = find(&cache, &key("c", number)).await {
            assert_eq!(bytes, page((number % 251) as u8));
            found += 1;
        }
    }
    assert!(found > 0, "nothing of 1000 pages was kept");
    assert!(cache.usage().memory_bytes < 1_000_000, "{:?}", cache.usage());
    assert!(cache.usage().memory_evictions > 0);
    cache.close().await;
}

#[tokio::test]
async fn memory_pages_keep_the_contract() {
    suite(Arc::new(MemoryPages::new(10_000))).await;
}

#[test]
fn memory_pages_forget_the_least_recently_used() {
    let cache = MemoryPages::new(30);
    for number in 0..3 {
        cache.insert(key("a", number), Bytes::from(vec![0; 10]));
    }
    assert!(cache.get_memory(&key("a", 0)).is_some());
    cache.insert(key("a", 3), Bytes::from(vec![0; 10]));
    assert!(cache.get_memory(&key("a", 1)).is_none());
    assert!(cache.get_memory(&key("a", 0)).is_some());
    assert_eq!(cache.usage().memory_bytes, 30);
    assert_eq!(cache.usage().memory_evictions, 1);
    cache.insert(key("b", 0), Bytes::from(vec![0; 31]));
    assert_eq!(cache.usage().memory_bytes, 0);
}
