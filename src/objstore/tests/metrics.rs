use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use prometheus_client::registry::Registry;

use super::faulty;
use crate::base::Clock;
use crate::objstore::fault::{Fault, Gate, Rule};
use crate::objstore::metrics::MeasuredStore;
use crate::objstore::{Metrics, ObjectStore, Operation};

#[tokio::test(start_paused = true)]
async fn every_request_is_counted_with_its_outcome() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let (inner, faults, _) = faulty(1);
    let store = Arc::new(MeasuredStore::new(inner, metrics.clone(), Clock::system()));
    let payload = Bytes::from_static(b"0123456789");
    store.put("k", payload.clone().into()).await.unwrap();
    let _ = store.create("k", payload.clone().into()).await.unwrap();
    let _ = store.get("absent").await.unwrap_err();
    store.get_range("k", 0..4).await.unwrap();
    store.size("k").await.unwrap();
    faults.add(Rule::once(Operation::get, "", Fault::Unavailable));
    let _ = store.get("k").await.unwrap_err();
    faults.add(Rule::once(Operation::get, "", Fault::HangBefore(Gate::new())));
    let given_up = tokio::time::timeout(std::time::Duration::from_secs(1), store.get("k")).await;
    assert!(given_up.is_err());
    for at in 0..2_500 {
        store.put(&format!("many/{at:04}"), Bytes::new().into()).await.unwrap();
    }
    store.list("", None).try_collect::<Vec<_>>().await.unwrap();
    store.delete("k").await.unwrap();

    assert_eq!(metrics.requests(Operation::get), 4);
    assert_eq!(metrics.requests(Operation::list), 3);
    assert_eq!(metrics.bytes(Operation::get), 4);
    assert_eq!(metrics.bytes(Operation::create), 10);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "esker_objstore_requests_total{operation=\"put\",outcome=\"ok\"} 2501",
        "esker_objstore_requests_total{operation=\"create\",outcome=\"exists\"} 1",
        "esker_objstore_requests_total{operation=\"get\",outcome=\"ok\"} 1",
        "esker_objstore_requests_total{operation=\"get\",outcome=\"not_found\"} 1",
        "esker_objstore_requests_total{operation=\"get\",outcome=\"unavailable\"} 1",
        "esker_objstore_requests_total{operation=\"get\",outcome=\"dropped\"} 1",
        "esker_objstore_requests_total{operation=\"delete\",outcome=\"ok\"} 1",
        "esker_objstore_bytes_total{operation=\"put\"} 10",
        "esker_objstore_request_seconds_count{operation=\"get\"} 3",
    ] {
        assert!(text.contains(line), "missing {line} in\n{text}");
    }
}
