use bytes::Bytes;
use proptest::prelude::*;

use crate::meta::etcd::assembler::{Assembler, Step};
use crate::meta::etcd::wire::{self, WatchResponse};
use crate::meta::{Event, KeyValue};

fn put(key: &str, revision: i64) -> wire::Event {
    let kv = wire::KeyValue {
        key: Bytes::copy_from_slice(key.as_bytes()),
        create_revision: 1,
        mod_revision: revision,
        value: Bytes::from_static(b"x"),
        lease: 0,
    };
    wire::Event { kind: 0, kv: Some(kv) }
}

fn delete(key: &str, revision: i64) -> wire::Event {
    wire::Event { kind: wire::Event::DELETE, ..put(key, revision) }
}

fn answer(fragment: bool, events: Vec<wire::Event>) -> WatchResponse {
    WatchResponse { fragment, events, ..Default::default() }
}

fn revisions(step: Step) -> Vec<u64> {
    let Step::Deliver(events) = step else { panic!("{step:?}") };
    let revision = |event: &Event| match event {
        Event::Put(entry) => entry.mod_revision,
        Event::Delete { revision, .. } => *revision,
        Event::Resync => 0,
    };
    events.iter().map(revision).collect()
}

#[test]
fn events_are_put_into_our_words() {
    let mut assembler = Assembler::new(5);
    let foreign = wire::Event {
        kv: Some(wire::KeyValue { key: Bytes::from_static(b"\xff"), ..Default::default() }),
        ..put("", 6)
    };
    let step = assembler.accept(answer(false, vec![put("a", 5), foreign, wire::Event::default(), delete("b", 6)]));
    let entry = KeyValue {
        key: "a".to_owned(),
        value: Bytes::from_static(b"x"),
        create_revision: 1,
        mod_revision: 5,
        lease: 0,
    };
    assert_eq!(step, Step::Deliver(vec![Event::Put(entry), Event::Delete { key: "b".to_owned(), revision: 6 }]));
    assert_eq!(assembler.next_revision(), 7);
}

#[test]
fn a_revision_in_fragments_waits_until_it_is_whole() {
    let mut assembler = Assembler::new(1);
    assert_eq!(revisions(assembler.accept(answer(true, vec![put("a", 3), put("b", 4), put("c", 4)]))), [3]);
    assert_eq!(assembler.next_revision(), 4);
    assert_eq!(revisions(assembler.accept(answer(true, vec![put("d", 4)]))), [0; 0]);
    assert_eq!(revisions(assembler.accept(answer(false, vec![put("e", 4), put("f", 5)]))), [4, 4, 4, 4, 5]);
    // A stream that breaks within a revision brings all of it again.
    assert_eq!(revisions(assembler.accept(answer(true, vec![put("a", 6), put("b", 7)]))), [6]);
    assembler.begin();
    assert_eq!(revisions(assembler.accept(answer(false, vec![put("b", 7), put("c", 7)]))), [7, 7]);
}

#[test]
fn the_end_of_a_watch_says_what_to_do() {
    let mut assembler = Assembler::new(1);
    let compacted = WatchResponse { canceled: true, compact_revision: 9, ..Default::default() };
    assert_eq!(assembler.accept(compacted), Step::Resync);
    let ended = WatchResponse { canceled: true, cancel_reason: "why not".to_owned(), ..Default::default() };
    assert_eq!(assembler.accept(ended), Step::Again("why not".to_owned()));
    assert_eq!(assembler.accept(answer(false, vec![])), Step::Deliver(vec![]));
    assert_eq!(assembler.next_revision(), 1);
}

proptest! {
    /// Any cutting into answers and fragments, any number of breaks: each event once, in order, revisions whole.
    #[test]
    fn nothing_is_missed_or_doubled(
        sizes in prop::collection::vec(1usize..4, 1..30),
        cuts in prop::collection::vec((1usize..5, any::<bool>(), prop::bool::weighted(0.2)), 1..80),
    ) {
        // Revision r (from 1) has sizes[r - 1] events.
        let all: Vec<wire::Event> = sizes.iter().zip(1..).flat_map(|(size, revision)| {
            (0..*size).map(move |n| put(&format!("{revision}/{n}"), revision))
        }).collect();
        let mut assembler = Assembler::new(1);
        let mut seen = Vec::new();
        let mut at = 0;
        for (take, fragment, breaks) in cuts.into_iter().chain(std::iter::repeat((3, false, false))) {
            if breaks {
                assembler.begin();
                // The server sends from the asked-for revision on, and may send a little that is known already.
                let next = assembler.next_revision().saturating_sub(1);
                at = all.iter().position(|event| event.kv.as_ref().is_some_and(|kv| kv.mod_revision as u64 >= next)).unwrap_or(all.len());
            }
            let mut end = (at + take).min(all.len());
            if !fragment {
                // Answers that are no fragments end with a revision.
                while end < all.len() && all[end].kv.as_ref().map(|kv| kv.mod_revision) == all[end - 1].kv.as_ref().map(|kv| kv.mod_revision) {
                    end += 1;
                }
            }
            let step = assembler.accept(answer(fragment && end < all.len(), all[at..end].to_vec()));
            let Step::Deliver(events) = step else { return Err(TestCaseError::fail("no delivery")) };
            let last = |events: &[Event]| match events.last() { Some(Event::Put(entry)) => entry.mod_revision as usize, _ => 0 };
            let whole = last(&events);
            prop_assert!(whole == 0 || events.iter().filter(|event| matches!(event, Event::Put(entry) if entry.mod_revision as usize == whole)).count() == sizes[whole - 1]);
            seen.extend(events.into_iter().map(|event| match event { Event::Put(entry) => entry.key, _ => String::new() }));
            at = end;
            if at == all.len() {
                break;
            }
        }
        let wanted: Vec<String> = all.iter().filter_map(|event| event.kv.as_ref()).map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect();
        prop_assert_eq!(seen, wanted);
    }
}
