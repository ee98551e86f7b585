use std::fmt::Write as _;

use bytes::Bytes;
use futures::TryStreamExt as _;

use super::faulty;
use crate::base::ErrorKind;
use crate::objstore::fault::{Chances, Fault, Gate, Rule};
use crate::objstore::{Created, ObjectStore as _, Operation, Payload};

fn bytes(text: &'static str) -> Payload {
    Bytes::from_static(text.as_bytes()).into()
}

#[tokio::test]
async fn each_fault_does_what_it_says() {
    let (store, faults, memory) = faulty(1);
    for (fault, landed) in [(Fault::Unavailable, false), (Fault::Conflict, false), (Fault::LostReply, true)] {
        let key = format!("{}", faults.count(Operation::create, ""));
        faults.add(Rule::once(Operation::create, "", fault));
        assert_eq!(store.create(&key, bytes("x")).await.unwrap_err().kind(), ErrorKind::Retriable);
        assert_eq!(memory.get(&key).await.is_ok(), landed);
    }
    faults.add(Rule::once(Operation::put, "only", Fault::Refused));
    store.put("other", bytes("0123456789")).await.unwrap();
    assert_eq!(store.put("only-this", bytes("x")).await.unwrap_err().kind(), ErrorKind::Environment);
    store.put("only-this", bytes("x")).await.unwrap();

    faults.add(Rule { skip: 1, ..Rule::once(Operation::get, "other", Fault::Corrupt) });
    assert_eq!(store.get("other").await.unwrap(), "0123456789");
    let spoiled = store.get("other").await.unwrap();
    let wrong_bits: u32 = spoiled.iter().zip(b"0123456789").map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!((spoiled.len(), wrong_bits), (10, 1));
    assert_eq!(store.get("other").await.unwrap(), "0123456789");

    faults.set_down(true);
    let listed: Result<Vec<_>, _> = store.list("", None).try_collect().await;
    assert_eq!(listed.unwrap_err().kind(), ErrorKind::Retriable);
    faults.clear();
    assert_eq!(store.list("", None).try_collect::<Vec<_>>().await.unwrap().len(), 3);
}

#[tokio::test]
async fn gates_hold_requests_before_or_after_they_land() {
    let (store, faults, memory) = faulty(1);
    for (fault, lands_early) in [(Fault::HangBefore as fn(Gate) -> Fault, false), (Fault::HangAfter, true)] {
        let gate = Gate::new();
        let key = if lands_early { "after" } else { "before" };
        faults.add(Rule::once(Operation::create, key, fault(gate.clone())));
        let create = tokio::spawn({
            let store = store.clone();
            async move { store.create(key, bytes("x")).await }
        });
        gate.reached_by(1).await;
        assert_eq!(memory.get(key).await.is_ok(), lands_early);
        gate.open();
        assert_eq!(create.await.unwrap().unwrap(), Created::Yes);
    }
    let gate = Gate::new();
    faults.add(Rule::once(Operation::put, "late", Fault::Late(gate.clone())));
    assert_eq!(store.put("late", bytes("x")).await.unwrap_err().kind(), ErrorKind::Retriable);
    gate.reached_by(1).await;
    assert_eq!(memory.get("late").await.unwrap_err().kind(), ErrorKind::NotFound);
    gate.open();
    while memory.get("late").await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_trouble() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let (store, faults, _) = faulty(42);
        faults.set_chances(Chances {
            unavailable: 0.2,
            lost_reply: 0.2,
            conflict: 0.2,
            corrupt: 0.3,
            delay: 0.5,
            delay_ms_max: 100,
        });
        let mut run = String::new();
        for at in 0..200 {
            let key = format!("{}", at % 50);
            let created = store.create(&key, bytes("0123456789")).await;
            writeln!(run, "{created:?} {:?}", store.get(&key).await).unwrap();
        }
        runs.push(run);
    }
    assert_eq!(runs[0], runs[1]);
    for words in ["in flight", "reply lost", "503", "Exists", "Yes"] {
        assert!(runs[0].contains(words), "never: {words}");
    }
}
