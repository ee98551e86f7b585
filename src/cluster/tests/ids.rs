//! Broker ids: asked for, remembered, handed out, given back.

use std::collections::BTreeSet;

use futures::future::join_all;
use uuid::Uuid;

use super::*;

fn wish(directory: u128) -> IdWish {
    let directory_id = Uuid::from_u128(directory);
    IdWish { asked: None, remembered: None, directory_id, host: "host-b".to_owned(), pid: 9 }
}

fn town() -> (ManualClock, Sessions) {
    let time = ManualClock::starting_at(1_000);
    let store: Arc<dyn MetaStore> = Arc::new(MemoryMeta::new(time.clock()));
    let sessions = Sessions { store, keys: keys(), clock: time.clock() };
    (time, sessions)
}

async fn take(sessions: &Sessions, wish: &IdWish) -> i32 {
    sessions.take_id(wish, TTL_MS).await.expect("an id").broker_id
}

#[tokio::test]
async fn fresh_directories_get_the_lowest_free_ids() {
    let (_time, sessions) = town();
    sessions.register(&identity(2, 1), TTL_MS).await.expect("registers");
    assert_eq!(take(&sessions, &wish(2)).await, 1);
    assert_eq!(take(&sessions, &wish(3)).await, 3);
    assert_eq!(take(&sessions, &wish(4)).await, 4);
    assert_eq!(take(&sessions, &wish(3)).await, 3, "a second try of one directory gets the same");
}

#[tokio::test]
async fn brokers_that_start_at_once_get_different_ids() {
    let (_time, sessions) = town();
    let wishes: Vec<IdWish> = (1..=30).map(wish).collect();
    let ids: BTreeSet<i32> = join_all(wishes.iter().map(|wish| take(&sessions, wish))).await.into_iter().collect();
    assert_eq!(ids, (1..=30).collect());
}

#[tokio::test]
async fn a_session_takes_the_claim_over_and_its_epochs_grow() {
    let (time, sessions) = town();
    let identity = sessions.take_id(&wish(1), TTL_MS).await.expect("an id");
    let first = sessions.register(&identity, TTL_MS).await.expect("registers");
    // The lease of the first claim ends; the session's own goes on.
    time.advance_ms(TTL_MS - 1);
    first.announce(&broker(first.session())).await.expect("alive");
    let second = sessions.register(&identity, TTL_MS).await.expect("in place of its dead predecessor");
    assert!(second.session().epoch > first.session().epoch);
    time.advance_ms(TTL_MS - 1);
    second.announce(&broker(second.session())).await.expect("alive");
    first.announce(&broker(first.session())).await.expect_err("replaced");
    assert_eq!(take(&sessions, &wish(2)).await, 2, "there is no moment at which the id is free");
}

#[tokio::test]
async fn the_keys_of_a_dead_predecessor_go_with_its_claim() {
    let (_time, sessions) = town();
    let old = sessions.register(&identity(1, 1), TTL_MS).await.expect("registers");
    old.announce(&broker(old.session())).await.expect("shown");
    assert!(old.campaign().await.expect("an election"));
    sessions.register(&identity(1, 1), TTL_MS).await.expect("registers");
    let left = sessions.store.range(keys().root()).await.expect("read").entries;
    let left: Vec<Option<Key>> = left.iter().map(|entry| keys().parse(&entry.key)).collect();
    assert!(!left.contains(&Some(Key::Broker(1))) && !left.contains(&Some(Key::Controller)), "{left:?}");
}

#[tokio::test]
async fn an_id_that_was_asked_for_is_had_or_refused() {
    let (time, sessions) = town();
    sessions.register(&identity(7, 1), TTL_MS).await.expect("registers");
    let asks = IdWish { asked: Some(7), remembered: Some(7), ..wish(2) };
    let error = sessions.take_id(&asks, TTL_MS).await.expect_err("in use");
    assert!(matches!(error, ClusterError::BrokerIdInUse { broker_id: 7, pid: 7, .. }), "{error:?}");
    let leases = sessions.take_id(&IdWish { asked: Some(7), ..wish(1) }, TTL_MS).await;
    assert_eq!(leases.expect("its own").broker_id, 7);
    time.advance_ms(TTL_MS);
    assert_eq!(take(&sessions, &asks).await, 7, "its lease is over");
    assert_eq!(take(&sessions, &IdWish { asked: Some(0), ..wish(3) }).await, 0);
}

#[tokio::test]
async fn a_remembered_id_is_kept_while_nobody_else_has_it() {
    let (time, sessions) = town();
    let remembers = IdWish { remembered: Some(5), ..wish(1) };
    assert_eq!(take(&sessions, &remembers).await, 5);
    time.advance_ms(TTL_MS);
    sessions.register(&identity(5, 2), TTL_MS).await.expect("the id was free");
    assert_eq!(take(&sessions, &remembers).await, 1, "another one, rather than none");
    // Its own claim on 1 is still there; 5 is free again and better.
    sessions.register(&identity(5, 2), TTL_MS).await.expect("registers").release().await.expect("released");
    assert_eq!(take(&sessions, &remembers).await, 5);
}

#[tokio::test]
async fn the_id_of_a_broker_that_went_is_handed_out_again() {
    let (time, sessions) = town();
    let identity = sessions.take_id(&wish(1), TTL_MS).await.expect("an id");
    let first = sessions.register(&identity, TTL_MS).await.expect("registers");
    assert_eq!(take(&sessions, &wish(2)).await, 2);
    time.advance_ms(TTL_MS);
    let identity = sessions.take_id(&wish(3), TTL_MS).await.expect("an id");
    assert_eq!(identity.broker_id, 1);
    let next = sessions.register(&identity, TTL_MS).await.expect("registers");
    assert!(next.session().epoch > first.session().epoch);
    // What the dead one left is on record beside it, for the controller to seal.
    let all: Vec<SessionId> = sessions.all().await.expect("read").into_iter().map(|(session, _)| session).collect();
    assert_eq!(all, [first.session(), next.session()]);
}
