use crate::frontend::grpc::metrics::{LimitLabels, Metrics};
use crate::frontend::grpc::producing::Held;
use crate::protocol::grpc::v1::Reason;

const MIB: usize = 1 << 20;

#[tokio::test(start_paused = true)]
async fn a_call_takes_its_share_and_no_more() {
    let metrics = Metrics::default();
    let held = Held::new(metrics.clone());
    let (greedy, other) = (held.share(), held.share());
    let mut taken = Vec::new();
    for _ in 0..32 {
        taken.push(greedy.clone().take(MIB, 0).await.unwrap());
    }
    let refused = greedy.clone().take(MIB, 5_000).await.unwrap_err();
    assert_eq!((refused.reason(), refused.retriable), (Reason::Overloaded, true));
    assert_eq!(metrics.refused.get_or_create(&LimitLabels { reason: "held_bytes" }).get(), 1);
    other.take(MIB, 0).await.expect("others have room");
    taken.pop();
    greedy.take(MIB, 0).await.expect("what is done makes room");
}

#[tokio::test(start_paused = true)]
async fn a_request_larger_than_its_share_goes_alone() {
    let held = Held::new(Metrics::default());
    let call = held.share();
    let first = call.clone().take(1, 0).await.unwrap();
    assert!(call.clone().take(300 * MIB, 1_000).await.is_err());
    drop(first);
    let large = call.clone().take(300 * MIB, 1_000).await.unwrap();
    assert!(held.share().take(1, 1_000).await.is_err(), "it takes the room of all");
    drop(large);
    held.share().take(1, 0).await.expect("and gives it back");
}
