//! What a reading call tells within its credit; the rest is tested with real brokers.

use tokio::sync::mpsc;

use super::{Gone, Outlet, Told, failure};
use crate::protocol::grpc::v1::Error;

fn told(number: i64) -> Told {
    failure("t", 0, number, Error::default())
}

fn number(told: &Told) -> i64 {
    let Told::Failure(failure) = told else { panic!("{told:?}") };
    failure.next_offset
}

#[tokio::test]
async fn data_waits_for_credit_and_words_do_not() {
    let (sender, mut receiver) = mpsc::channel(8);
    let outlet = Outlet::new(sender, |told| told, 10);
    assert!(outlet.is_limited());
    assert_eq!(outlet.room().await, Ok(10));
    outlet.reserve().await.unwrap().send(told(1), 15);
    assert!(futures::FutureExt::now_or_never(outlet.reserve()).is_none(), "5 bytes too many were sent");
    outlet.tell(told(2)).await.unwrap();
    outlet.give(5);
    assert!(futures::FutureExt::now_or_never(outlet.room()).is_none());
    let wait = outlet.room();
    let mut wait = std::pin::pin!(wait);
    assert!(futures::poll!(wait.as_mut()).is_pending());
    outlet.give(3);
    assert_eq!(wait.await, Ok(3), "whoever waits is woken");
    outlet.reserve().await.unwrap().send(told(3), 3);
    outlet.close();
    assert_eq!(outlet.room().await, Err(Gone));
    assert!(matches!(outlet.reserve().await, Err(Gone)));
    let mut numbers = Vec::new();
    while let Ok(Ok(told)) = receiver.try_recv() {
        numbers.push(number(&told));
    }
    assert_eq!(numbers, [1, 2, 3]);
}

#[tokio::test]
async fn without_a_limit_the_channel_holds_up_and_a_dropped_wait_sends_nothing() {
    let (sender, mut receiver) = mpsc::channel(1);
    let outlet = Outlet::new(sender, |told| told, 0);
    outlet.close();
    assert_eq!(outlet.room().await, Ok(usize::MAX), "nobody has to give credit");
    outlet.reserve().await.unwrap().send(told(1), 1 << 40);
    assert!(futures::FutureExt::now_or_never(outlet.reserve()).is_none());
    assert_eq!(number(&receiver.recv().await.unwrap().unwrap()), 1);
    outlet.reserve().await.unwrap().send(told(2), 1);
    drop(receiver);
    outlet.gone().await;
    assert!(matches!(outlet.reserve().await, Err(Gone)));
}
