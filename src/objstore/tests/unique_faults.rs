//! Unique creates when answers are lost, late, doubled and refused.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

use super::faulty;
use crate::base::{ErrorKind, Rng};
use crate::objstore::fault::{Chances, Fault, FaultStore, Faults, Gate, Rule};
use crate::objstore::{
    CommitOutcome, CreatePolicy, LocalStore, ObjectStore, Operation, Payload, StoreError, create_unique,
};

fn object(id: Uuid) -> Payload {
    let mut bytes = vec![7; 100];
    bytes[16..32].copy_from_slice(id.as_bytes());
    Bytes::from(bytes).into()
}

fn policy(attempts: u32) -> CreatePolicy {
    CreatePolicy { attempts, deadline_ms: 3_600_000, ..CreatePolicy::new(Rng::seeded(9)) }
}

const CREATE: Operation = Operation::create;

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_found_out_by_reading() {
    let (store, faults, _) = faulty(1);
    let id = Rng::seeded(1).uuid();
    faults.add(Rule::once(CREATE, "", Fault::LostReply));
    assert_eq!(create_unique(&store, "k", object(id), id, &policy(1)).await.unwrap(), CommitOutcome::Committed);
    assert_eq!((faults.count(CREATE, ""), faults.count(Operation::get, "")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_not_a_loss() {
    let (store, faults, _) = faulty(1);
    let id = Rng::seeded(1).uuid();
    faults.add(Rule { times: 5, ..Rule::once(CREATE, "", Fault::Conflict) });
    assert_eq!(create_unique(&store, "k", object(id), id, &policy(9)).await.unwrap(), CommitOutcome::Committed);
    assert_eq!(faults.count(CREATE, ""), 6);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_lands_late_leaves_doubt_and_then_success() {
    let (store, faults, memory) = faulty(1);
    let (id, gate) = (Rng::seeded(1).uuid(), Gate::new());
    faults.add(Rule::once(CREATE, "", Fault::Late(gate.clone())));
    let error = create_unique(&store, "k", object(id), id, &policy(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { operation: "create", .. }), "{error}");
    gate.open();
    while memory.get("k").await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(create_unique(&store, "k", object(id), id, &policy(1)).await.unwrap(), CommitOutcome::Committed);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_doubt_stays_doubt() {
    let (store, faults, _) = faulty(1);
    let id = Rng::seeded(1).uuid();
    faults.add(Rule::once(CREATE, "", Fault::Late(Gate::new())));
    faults.add(Rule::always(CREATE, "", Fault::Refused));
    let error = create_unique(&store, "k", object(id), id, &policy(9)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retriable, "{error}");
    // Without the doubt it is a refusal, at once.
    let error = create_unique(&store, "j", object(id), id, &policy(9)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Environment, "{error}");
    assert_eq!(faults.count(CREATE, "j"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_an_outage() {
    let (store, faults, _) = faulty(1);
    let id = Rng::seeded(1).uuid();
    faults.set_down(true);
    let policy = CreatePolicy { deadline_ms: 5_000, ..policy(u32::MAX) };
    let error = create_unique(&store, "k", object(id), id, &policy).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retriable);
    assert!(error.to_string().contains("5000 ms"), "{error}");
    assert!((5..50).contains(&faults.count(CREATE, "")), "{}", faults.count(CREATE, ""));
    // A create that never answers is ended too.
    faults.clear();
    faults.add(Rule::once(CREATE, "", Fault::HangBefore(Gate::new())));
    assert_eq!(create_unique(&store, "k", object(id), id, &policy).await.unwrap_err().kind(), ErrorKind::Retriable);
}

#[tokio::test(start_paused = true)]
async fn a_slow_create_is_hedged_and_either_answer_counts() {
    for (fault, creates) in [(Fault::HangBefore as fn(Gate) -> Fault, 2), (Fault::HangAfter, 2)] {
        let (store, faults, _) = faulty(1);
        let id = Rng::seeded(1).uuid();
        faults.add(Rule::once(CREATE, "", fault(Gate::new())));
        let policy = CreatePolicy { hedge_after_ms: Some(200), ..policy(3) };
        assert_eq!(create_unique(&store, "k", object(id), id, &policy).await.unwrap(), CommitOutcome::Committed);
        assert_eq!(faults.count(CREATE, ""), creates);
    }
    // The hedge fails; the slow one still counts.
    let (store, faults, _) = faulty(1);
    let id = Rng::seeded(1).uuid();
    faults.add(Rule::once(CREATE, "", Fault::Delay(1_000)));
    faults.add(Rule::once(CREATE, "", Fault::Refused));
    faults.add(Rule::always(Operation::get, "", Fault::Unavailable));
    let policy = CreatePolicy { hedge_after_ms: Some(200), ..policy(3) };
    let outcome = create_unique(&store, "k", object(id), id, &policy).await;
    assert!(!matches!(outcome, Err(StoreError::Refused { .. }) | Ok(CommitOutcome::LostTo(_))), "{outcome:?}");
}

#[tokio::test]
async fn on_a_local_store_only_a_create_proves_durability() {
    let scratch = tempfile::tempdir().unwrap();
    let rng = Rng::seeded(1);
    let faults = Faults::new(rng.clone());
    let local = Arc::new(LocalStore::open(scratch.path(), &rng).unwrap());
    let store: Arc<dyn ObjectStore> = Arc::new(FaultStore::new(local, faults.clone()));
    let id = rng.uuid();
    faults.add(Rule::once(CREATE, "", Fault::LostReply));
    assert_eq!(create_unique(&store, "k", object(id), id, &policy(3)).await.unwrap(), CommitOutcome::Committed);
    assert_eq!((faults.count(CREATE, ""), faults.count(Operation::get, "")), (2, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever goes wrong, at most one contender is told that it committed, nobody is told so wrongly, and a loss names
    /// what is there.
    #[test]
    fn outcomes_agree_with_the_store(
        seed in any::<u64>(),
        contenders in 1..5_usize,
        attempts in prop_oneof![1..4_u32, Just(u32::MAX)],
        hedge_after_ms in prop_oneof![Just(None), (0..60_u64).prop_map(Some)],
        chances in (0.0..0.4, 0.0..0.4, 0.0..0.2, 0.0..1.0),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (store, faults, memory) = faulty(seed);
            let (unavailable, lost_reply, conflict, delay) = chances;
            faults.set_chances(Chances { unavailable, lost_reply, conflict, corrupt: 0.0, delay, delay_ms_max: 100 });
            let rng = Rng::seeded(seed ^ 1);
            let policy = CreatePolicy { attempts, hedge_after_ms, deadline_ms: 10_000_000, ..CreatePolicy::new(rng.clone()) };
            let running = (0..contenders).map(|_| {
                let (store, policy, id) = (store.clone(), policy.clone(), rng.uuid());
                async move { (id, create_unique(&store, "k", object(id), id, &policy).await) }
            });
            let outcomes = futures::future::join_all(running).await;
            let stored = memory.get("k").await.ok();
            let mut committed = 0;
            for (id, outcome) in outcomes {
                match outcome {
                    Ok(CommitOutcome::Committed) => {
                        committed += 1;
                        assert_eq!(&stored.as_ref().unwrap()[16..32], id.as_bytes());
                    }
                    Ok(CommitOutcome::LostTo(prelude)) => {
                        assert_eq!(prelude, stored.as_ref().unwrap().slice(..64));
                        assert_ne!(&prelude[16..32], id.as_bytes());
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Retriable);
                        assert_ne!(attempts, u32::MAX, "{error}");
                    }
                }
            }
            assert!(committed <= 1);
            if attempts == u32::MAX {
                assert_eq!(committed, 1);
            }
        });
    }
}
