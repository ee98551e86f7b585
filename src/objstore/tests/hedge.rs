use std::sync::Arc;

use bytes::Bytes;

use super::faulty;
use crate::base::Clock;
use crate::objstore::fault::{Fault, Gate, Rule};
use crate::objstore::hedge::{Budget, HedgePolicy, HedgeStore, Latencies};
use crate::objstore::{Metrics, ObjectStore, Operation};

#[test]
fn nothing_is_slow_until_enough_is_known() {
    let mut latencies = Latencies::default();
    for _ in 0..31 {
        latencies.add(1_000, 0.95);
        assert_eq!(latencies.slow_us(), None);
    }
    latencies.add(1_000, 0.95);
    assert_eq!(latencies.slow_us(), Some(1_000));
}

#[test]
fn slow_is_a_quantile_of_the_recent_ones_only() {
    let mut latencies = Latencies::default();
    for latency_us in 0..1_000 {
        latencies.add(latency_us % 100, 0.95);
    }
    assert!((92..=97).contains(&latencies.slow_us().unwrap()), "{:?}", latencies.slow_us());
    for _ in 0..256 {
        latencies.add(5_000, 0.95);
    }
    assert_eq!(latencies.slow_us(), Some(5_000));
}

#[test]
fn hedges_stay_a_share_of_the_requests() {
    let mut budget = Budget::new(0.05);
    assert!(!budget.spend());
    let mut hedges = 0;
    for _ in 0..10_000 {
        budget.earn();
        hedges += u32::from(budget.spend());
    }
    assert_eq!(hedges, 500);
    (0..1_000_000).for_each(|_| budget.earn());
    let burst = (0..100).filter(|_| budget.spend()).count();
    assert_eq!(burst, 10);
}

#[tokio::test(start_paused = true)]
async fn a_slow_read_is_sent_again_within_the_budget() {
    let (store, faults, _) = faulty(1);
    store.put("k", Bytes::from_static(b"0123456789").into()).await.unwrap();
    let hedged = Arc::new(HedgeStore::new(store, HedgePolicy::default(), Clock::system(), Metrics::detached()));
    // 59 earn nearly three hedges.
    for _ in 0..59 {
        assert_eq!(hedged.get_range("k", 2..4).await.unwrap(), "23");
    }
    let gate = Gate::new();
    for hedge in 1..=2 {
        faults.add(Rule::once(Operation::get, "", Fault::HangBefore(gate.clone())));
        assert_eq!(hedged.get_range("k", 2..4).await.unwrap(), "23");
        assert_eq!(faults.count(Operation::get, ""), 59 + 2 * hedge);
    }
    // One more is earned by now; after it, a slow read has to wait.
    faults.add(Rule::once(Operation::get, "", Fault::HangBefore(gate.clone())));
    assert_eq!(hedged.get_range("k", 2..4).await.unwrap(), "23");
    faults.add(Rule::once(Operation::get, "", Fault::HangBefore(gate.clone())));
    let waiting = tokio::spawn({
        let hedged = hedged.clone();
        async move { hedged.get_range("k", 2..4).await }
    });
    gate.reached_by(4).await;
    tokio::time::sleep(std::time::Duration::from_mins(1)).await;
    assert!(!waiting.is_finished());
    assert_eq!(faults.count(Operation::get, ""), 59 + 7);
    gate.open();
    assert_eq!(waiting.await.unwrap().unwrap(), "23");
}

#[tokio::test(start_paused = true)]
async fn one_failing_request_does_not_end_the_race() {
    let (store, faults, _) = faulty(1);
    store.put("k", Bytes::from_static(b"x").into()).await.unwrap();
    let hedged = Arc::new(HedgeStore::new(store, HedgePolicy::default(), Clock::system(), Metrics::detached()));
    for _ in 0..40 {
        hedged.get("k").await.unwrap();
    }
    let gate = Gate::new();
    faults.add(Rule::once(Operation::get, "", Fault::HangBefore(gate.clone())));
    faults.add(Rule::once(Operation::get, "", Fault::Unavailable));
    let reading = tokio::spawn({
        let hedged = hedged.clone();
        async move { hedged.get("k").await }
    });
    gate.reached_by(1).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(!reading.is_finished());
    gate.open();
    assert_eq!(reading.await.unwrap().unwrap(), "x");
    assert_eq!(faults.count(Operation::get, ""), 42);
}
