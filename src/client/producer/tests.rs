mod model;

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use self::model::{Step, World, steps};
use super::machine::{Effect, MAX_REQUESTS, Machine, Settings, WINDOW};
use super::sticky::Sticky;
use crate::base::Rng;
use crate::client::{Error, Reason};
use crate::protocol::batch::{Compression, NewRecord, records};
use crate::protocol::grpc::v1::{Acks, ProduceRequest};

fn settings() -> Settings {
    Settings {
        acks: Acks::All,
        compression: Compression::None,
        linger_ms: 5,
        batch_bytes: 400,
        idempotent: true,
        delivery_timeout_ms: 10_000,
    }
}

fn topic() -> Arc<str> {
    "t".into()
}

fn leader() -> Arc<str> {
    "a:1".into()
}

/// A machine whose partition 0 is led by `a:1`, and which has producer id 7.
fn ready(settings: Settings) -> Machine<u64> {
    let mut machine = Machine::new(settings);
    machine.on_identity(Ok(7), 0);
    push(&mut machine, 0, 0);
    machine.flush();
    assert!(matches!(machine.poll(0).0[..], [Effect::FindLeaders { .. }]));
    machine.on_leaders(&topic(), Ok(&[Some(leader())]), 0);
    let first = sent(&mut machine, 0);
    assert_eq!(first.len(), 1);
    machine.on_answer(first[0].id, Ok(Some(0)), 0);
    machine.poll(0);
    machine
}

fn push(machine: &mut Machine<u64>, token: u64, now_ms: u64) {
    let value = Bytes::copy_from_slice(&token.to_le_bytes());
    let record = NewRecord { timestamp: 1, key: None, value: Some(value), headers: Vec::new() };
    machine.push(&topic(), 0, record, 100, token, now_ms);
}

fn sent(machine: &mut Machine<u64>, now_ms: u64) -> Vec<ProduceRequest> {
    let effects = machine.poll(now_ms).0.into_iter();
    effects.filter_map(|effect| if let Effect::Send { request, .. } = effect { Some(request) } else { None }).collect()
}

fn sequence(request: &ProduceRequest) -> (i64, i32, i32) {
    let header = *records(&request.batch).unwrap().header();
    (header.producer_id, header.base_sequence, header.records_count)
}

/// One batch each.
fn batches(machine: &mut Machine<u64>, tokens: std::ops::Range<u64>, now_ms: u64) -> Vec<ProduceRequest> {
    for token in tokens {
        push(machine, token, now_ms);
        machine.flush();
    }
    sent(machine, now_ms)
}

/// Tokens, what was told of them, and whether they may be written all the same.
type Done = (Vec<u64>, Result<Option<i64>, Reason>, bool);

fn done(effects: Vec<Effect<u64>>) -> Vec<Done> {
    let each = effects.into_iter().filter_map(|effect| match effect {
        Effect::Done { tokens, outcome, .. } => {
            let may = outcome.as_ref().is_err_and(Error::may_have_happened);
            Some((tokens, outcome.map_err(|error| error.reason()), may))
        }
        _ => None,
    });
    each.collect()
}

#[test]
fn records_wait_for_more_until_the_batch_is_full_or_its_time_has_come() {
    let mut machine = ready(settings());
    push(&mut machine, 1, 10);
    let (effects, wake_ms) = machine.poll(10);
    assert!(effects.is_empty());
    assert_eq!(wake_ms, Some(15));
    assert_eq!(sequence(&sent(&mut machine, 15)[0]), (7, 1, 1));
    for token in 2..5 {
        push(&mut machine, token, 20);
    }
    // 61 + 3 * 100 bytes are there, a fourth record would be over the limit.
    assert!(sent(&mut machine, 20).is_empty());
    push(&mut machine, 5, 20);
    assert_eq!(sequence(&sent(&mut machine, 20)[0]), (7, 2, 3));
}

#[test]
fn the_first_batch_of_an_identity_is_alone_and_then_five_are_under_way() {
    let mut machine = Machine::new(Settings { linger_ms: 0, ..settings() });
    machine.on_identity(Ok(7), 0);
    push(&mut machine, 0, 0);
    machine.poll(0);
    machine.on_leaders(&topic(), Ok(&[Some(leader())]), 0);
    let first = batches(&mut machine, 1..9, 0);
    assert_eq!(first.len(), 1);
    machine.on_answer(first[0].id, Ok(Some(0)), 0);
    let next = sent(&mut machine, 0);
    assert_eq!(next.len() as u64, WINDOW);
    // One that is answered before the oldest makes no room: the broker must still know the oldest.
    machine.on_answer(next[1].id, Ok(Some(2)), 0);
    assert!(sent(&mut machine, 0).is_empty());
    machine.on_answer(next[0].id, Ok(Some(1)), 0);
    assert_eq!(sent(&mut machine, 0).len(), 2);
}

#[test]
fn what_broke_is_sent_again_with_its_sequence_to_the_leader_that_is_told() {
    let mut machine = ready(settings());
    let first = batches(&mut machine, 1..4, 0);
    let told = Error::of_answer(crate::protocol::grpc::v1::Error {
        reason: Reason::NotLeader.into(),
        retriable: true,
        leader: Some(crate::protocol::grpc::v1::Leader { broker_id: 2, grpc_endpoint: "b:1".to_owned() }),
        ..Default::default()
    });
    for request in &first {
        machine.on_answer(request.id, Err(told.clone()), 1);
    }
    let mut again = Vec::new();
    for effect in machine.poll(1_000).0 {
        if let Effect::Send { to, request } = effect {
            assert_eq!(to.as_deref(), Some("b:1"));
            again.push(request);
        }
    }
    let before: Vec<_> = first.iter().map(sequence).collect();
    assert_eq!(again.iter().map(sequence).collect::<Vec<_>>(), before);
}

#[test]
fn a_batch_that_is_refused_leaves_the_others_to_another_identity() {
    let mut machine = ready(settings());
    let requests = batches(&mut machine, 1..4, 0);
    // The second is refused; it waits for the first, and is then refused for good.
    machine.on_answer(requests[1].id, Err(Error::new(Reason::Invalid, "no")), 0);
    machine.on_answer(requests[2].id, Err(Error::new(Reason::OutOfOrderSequence, "later")), 0);
    machine.on_answer(requests[0].id, Ok(Some(1)), 0);
    let again = sent(&mut machine, 1_000);
    assert_eq!(again.len(), 2);
    machine.on_answer(again[0].id, Err(Error::new(Reason::Invalid, "no")), 1_000);
    let effects = machine.poll(1_000).0;
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Identify)));
    assert_eq!(done(effects), [(vec![2], Err(Reason::Invalid), false)]);
    machine.on_identity(Ok(8), 1_000);
    assert_eq!(sequence(&sent(&mut machine, 1_000)[0]), (8, 0, 1));
}

#[test]
fn a_batch_that_is_too_large_is_sent_in_halves() {
    let mut machine = ready(settings());
    for token in 1..4 {
        push(&mut machine, token, 0);
    }
    machine.flush();
    let whole = sent(&mut machine, 0);
    machine.on_answer(whole[0].id, Err(Error::new(Reason::TooLarge, "too large")), 0);
    machine.poll(0);
    machine.on_identity(Ok(8), 0);
    let first = sent(&mut machine, 0);
    machine.on_answer(first[0].id, Ok(Some(1)), 0);
    let second = sent(&mut machine, 0);
    assert_eq!((sequence(&first[0]), sequence(&second[0])), ((8, 0, 1), (8, 1, 2)));
}

#[test]
fn what_may_have_been_written_is_never_sent_under_another_identity() {
    let mut machine = ready(settings());
    let requests = batches(&mut machine, 1..3, 0);
    machine.on_broken(&leader(), 0);
    machine.poll(5_000);
    machine.on_leaders(&topic(), Ok(&[Some(leader())]), 5_000);
    let again = sent(&mut machine, 5_000);
    assert_eq!(again.len(), requests.len());
    // The broker has lost what came before: whether a copy of the first try is still under way nobody knows.
    machine.on_answer(again[0].id, Err(Error::new(Reason::OutOfOrderSequence, "lost")), 5_000);
    machine.on_answer(again[1].id, Err(Error::new(Reason::OutOfOrderSequence, "lost")), 5_000);
    let effects = machine.poll(5_000).0;
    assert_eq!(
        done(effects),
        [(vec![1], Err(Reason::OutOfOrderSequence), true), (vec![2], Err(Reason::OutOfOrderSequence), true)]
    );
}

#[test]
fn a_broker_is_asked_so_much_at_once_and_no_more() {
    let mut machine = Machine::new(Settings { idempotent: false, linger_ms: 0, ..settings() });
    let leaders: Vec<_> = (0..MAX_REQUESTS as i32).map(|_| Some(leader())).collect();
    for partition in 0..MAX_REQUESTS as i32 {
        for token in 0..3 {
            let record = NewRecord { value: Some(Bytes::from_static(b"x")), ..NewRecord::default() };
            machine.push(&topic(), partition, record, 400, token, 0);
        }
    }
    machine.poll(0);
    machine.on_leaders(&topic(), Ok(&leaders), 0);
    let first = sent(&mut machine, 0);
    assert_eq!(first.len(), MAX_REQUESTS);
    machine.on_answer(first[0].id, Ok(Some(0)), 0);
    assert_eq!(sent(&mut machine, 0).len(), 1);
}

#[test]
fn a_leader_that_cannot_be_reached_is_reached_through_others() {
    let mut machine = ready(settings());
    push(&mut machine, 1, 0);
    machine.flush();
    let mut now_ms = 0;
    for _ in 0..20 {
        now_ms += 100;
        for effect in machine.poll(now_ms).0 {
            match effect {
                Effect::FindLeaders { topic } => machine.on_leaders(&topic, Ok(&[Some(leader())]), now_ms),
                Effect::Send { to: Some(to), .. } => machine.on_broken(&to, now_ms),
                Effect::Send { to: None, request } => {
                    assert_eq!(sequence(&request), (7, 1, 1));
                    machine.on_answer(request.id, Ok(Some(1)), now_ms);
                    assert_eq!(done(machine.poll(now_ms).0), [(vec![1], Ok(Some(1)), false)]);
                    return;
                }
                Effect::Identify | Effect::Done { .. } => {}
            }
        }
    }
    panic!("nobody was asked");
}

#[test]
fn keyless_records_stay_until_a_batch_is_full() {
    let (mut sticky, rng) = (Sticky::default(), Rng::seeded(1));
    let mut placed: Vec<i32> = (0..40).map(|_| sticky.place(100, 1_000, 3, &rng)).collect();
    assert!(placed.chunks(10).all(|chunk| chunk.iter().all(|one| one == &chunk[0])));
    placed.dedup();
    assert_eq!(placed.len(), 4);
    assert_eq!(Sticky::default().place(5_000, 1_000, 1, &rng), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever breaks: what is acknowledged is there once, where it is said to be, in order; what failed is not there unless
    /// it was said that it may be, and then once at most; everything has one outcome.
    #[test]
    fn each_record_is_written_once_and_in_order(steps in steps()) {
        let mut world = World::new(settings());
        for step in steps {
            world.step(step);
        }
        world.settle();
        world.check();
    }
}

#[test]
fn the_model_notices_what_it_must() {
    // Without sequences a lost answer is a duplicate: the check has teeth.
    let caught = std::panic::catch_unwind(|| {
        let mut world = World::new(Settings { idempotent: false, linger_ms: 0, ..settings() });
        for step in [Step::Push(0), Step::Tick(1), Step::Leaders(false), Step::Process(0), Step::Break(0)] {
            world.step(step);
        }
        world.settle();
        world.check();
    });
    assert!(caught.is_err());
}

#[test]
fn a_flush_waits_for_both_halves_of_a_batch_that_was_split() {
    let mut machine = ready(settings());
    for token in 1..3 {
        push(&mut machine, token, 0);
    }
    let until = machine.flush();
    let whole = sent(&mut machine, 0);
    assert_eq!(whole.len(), 1);
    let too_large = Error::new(Reason::TooLarge, "too large");
    machine.on_answer(whole[0].id, Err(too_large), 0);
    machine.poll(0);
    machine.on_identity(Ok(8), 0);
    let mut answered = 0;
    for now_ms in 0..100 {
        for half in sent(&mut machine, now_ms) {
            assert!(!machine.settled_before(until), "{answered} of two halves are written");
            machine.on_answer(half.id, Ok(Some(1 + answered)), now_ms);
            answered += 1;
        }
    }
    machine.poll(100);
    assert_eq!(answered, 2);
    assert!(machine.settled_before(until));
}

#[test]
fn a_topic_that_a_broker_has_not_heard_of_is_asked_for_again() {
    let missing = Error::new(Reason::UnknownTopic, "no such topic");
    let mut machine = ready(settings());
    push(&mut machine, 1, 0);
    machine.flush();
    let request = sent(&mut machine, 0);
    machine.on_broken(&leader(), 0);
    // The next broker is behind; then it is not.
    assert!(matches!(machine.poll(100).0[..], [Effect::FindLeaders { .. }]));
    machine.on_leaders(&topic(), Err(&missing), 100);
    assert!(matches!(machine.poll(1_100).0[..], [Effect::FindLeaders { .. }]));
    machine.on_leaders(&topic(), Ok(&[]), 1_100);
    assert!(matches!(machine.poll(1_900).0[..], [Effect::FindLeaders { .. }]));
    machine.on_leaders(&topic(), Ok(&[Some(leader())]), 1_900);
    let again = sent(&mut machine, 1_900);
    assert_eq!((again.len(), sequence(&again[0])), (1, sequence(&request[0])));
    // A topic that is gone is gone.
    machine.on_broken(&leader(), 5_000);
    let mut told = Vec::new();
    for now_ms in (5_000..8_000).step_by(50) {
        let effects = machine.poll(now_ms).0;
        if effects.iter().any(|effect| matches!(effect, Effect::FindLeaders { .. })) {
            machine.on_leaders(&topic(), Err(&missing), now_ms);
        }
        told.extend(done(effects));
    }
    assert_eq!(told, [(vec![1], Err(Reason::UnknownTopic), true)]);
}
