mod scripted;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::Start;
use super::buffer::{Credit, Item, buffer};
use super::machine::{Effect, Machine, Wanted};
use crate::client::{Error, Reason};
use crate::protocol::batch::build_batch;
use crate::protocol::grpc::v1;
use crate::protocol::grpc::v1::FetchData;
use crate::protocol::grpc::v1::fetch_from;

fn topic() -> Arc<str> {
    "t".into()
}

fn all(start: Start) -> Vec<Wanted> {
    vec![Wanted { topic: topic(), partition: None, start: Some(start) }]
}

fn leaders(of: &[&str]) -> Vec<Option<Arc<str>>> {
    of.iter().map(|name| Some(Arc::from(*name))).collect()
}

/// What was opened: the stream, to whom, which partitions from where.
type Opened = Vec<(u64, Option<Arc<str>>, Vec<(i32, fetch_from::Start)>)>;

fn opened(machine: &mut Machine, now_ms: u64) -> Opened {
    let effects = machine.poll(now_ms).0.into_iter();
    let open = effects.filter_map(|effect| match effect {
        Effect::Open { stream, to, from, .. } => {
            Some((stream, to, from.into_iter().map(|one| (one.partition, one.start.unwrap())).collect()))
        }
        _ => None,
    });
    open.collect()
}

#[test]
fn each_leader_has_one_stream() {
    let mut machine = Machine::new(all(Start::Earliest), false);
    assert_eq!(machine.poll(0).0, [Effect::FindLeaders { topic: topic() }]);
    machine.on_leaders(&topic(), Ok(&leaders(&["a:1", "b:1", "a:1"])), 0);
    let first = fetch_from::Start::Latest(false);
    assert_eq!(
        opened(&mut machine, 0),
        [(1, Some("a:1".into()), vec![(0, first), (2, first)]), (2, Some("b:1".into()), vec![(1, first)])]
    );
}

#[test]
fn the_end_is_learnt_before_it_is_read_from() {
    let mut machine = Machine::new(all(Start::Latest), false);
    machine.poll(0);
    machine.on_leaders(&topic(), Ok(&leaders(&["a:1"])), 0);
    let effects = machine.poll(0).0;
    assert!(matches!(effects[..], [Effect::Open { to_learn: true, .. }]));
    machine.on_end(1, "t", 0, 17);
    assert_eq!(opened(&mut machine, 0), [(2, Some("a:1".into()), vec![(0, fetch_from::Start::Offset(17))])]);
    // Whatever breaks before anything came, it is that offset.
    machine.on_broken(2, 0);
    machine.poll(1_000);
    machine.on_leaders(&topic(), Ok(&leaders(&["a:1"])), 1_000);
    assert_eq!(opened(&mut machine, 1_000)[0].2, [(0, fetch_from::Start::Offset(17))]);
}

#[test]
fn one_partition_follows_its_leader_and_the_others_stay() {
    let mut machine = Machine::new(all(Start::Earliest), false);
    machine.poll(0);
    machine.on_leaders(&topic(), Ok(&leaders(&["a:1", "a:1"])), 0);
    assert_eq!(opened(&mut machine, 0).len(), 1);
    assert_eq!(machine.on_data(1, "t", 0, 5), Some((topic(), i64::MIN)));
    let moved = v1::Error {
        reason: Reason::NotLeader.into(),
        retriable: true,
        leader: Some(v1::Leader { broker_id: 2, grpc_endpoint: "b:1".to_owned() }),
        ..v1::Error::default()
    };
    assert_eq!(machine.on_failure(1, "t", 0, Error::of_answer(moved), 0), None);
    assert_eq!(opened(&mut machine, 0), [(2, Some("b:1".into()), vec![(0, fetch_from::Start::Offset(5))])]);
    // What the first stream still sends of it is no longer wanted.
    assert_eq!(machine.on_data(1, "t", 0, 9), None);
    assert_eq!(machine.on_data(2, "t", 0, 9), Some((topic(), 5)));
    assert_eq!(machine.on_data(1, "t", 1, 3), Some((topic(), i64::MIN)));
}

#[test]
fn what_cannot_be_read_is_told_and_when_all_has_ended_so_has_the_consumer() {
    let mut machine = Machine::new(all(Start::Offset(3)), true);
    machine.poll(0);
    machine.on_leaders(&topic(), Ok(&leaders(&["a:1", "a:1"])), 0);
    machine.poll(0);
    let gone = Error::new(Reason::OffsetOutOfRange, "gone");
    assert_eq!(machine.on_failure(1, "t", 0, gone.clone(), 0), Some(gone));
    assert!(machine.poll(0).0.is_empty());
    machine.on_end(1, "t", 1, 8);
    assert_eq!(machine.poll(0).0, [Effect::End]);
    let mut nowhere = Machine::new(all(Start::Earliest), false);
    nowhere.poll(0);
    let missing = Error::new(Reason::UnknownTopic, "no such topic");
    assert!(nowhere.on_leaders(&topic(), Err(missing.clone()), 0).is_empty(), "another broker may have heard of it");
    assert_eq!(nowhere.poll(1_000).0, [Effect::FindLeaders { topic: topic() }]);
    assert_eq!(nowhere.on_leaders(&topic(), Err(missing.clone()), 2_000), [Effect::Fail(missing)]);
    assert_eq!(nowhere.poll(2_000).0, [Effect::End]);
}

#[test]
fn what_a_broker_has_not_heard_of_is_asked_for_again() {
    let mut machine = Machine::new(all(Start::Offset(3)), false);
    machine.poll(0);
    machine.on_leaders(&topic(), Ok(&leaders(&["a:1", "a:1"])), 0);
    assert_eq!(opened(&mut machine, 0).len(), 1);
    machine.on_broken(1, 0);
    machine.poll(100);
    let told = machine.on_leaders(&topic(), Ok(&leaders(&["a:1"])), 100);
    assert!(told.is_empty(), "its picture is older than partition 1");
    machine.poll(200);
    assert!(machine.on_leaders(&topic(), Err(Error::new(Reason::UnknownTopic, "")), 200).is_empty());
    machine.poll(1_000);
    machine.on_leaders(&topic(), Ok(&leaders(&["a:1", "b:1"])), 1_000);
    let read: usize = opened(&mut machine, 2_000).iter().map(|(_, _, from)| from.len()).sum();
    assert_eq!(machine.streams(), 2);
    assert!(read > 0);
    // The time of a later absence counts from there.
    for stream in [2, 3] {
        machine.on_broken(stream, 60_000);
    }
    machine.poll(61_000);
    assert!(machine.on_leaders(&topic(), Ok(&leaders(&["a:1"])), 61_000).is_empty());
}

#[test]
fn a_message_that_is_too_large_is_not_asked_for_again() {
    let mut machine = Machine::new(all(Start::Offset(3)), false);
    machine.poll(0);
    machine.on_leaders(&topic(), Ok(&leaders(&["a:1", "b:1"])), 0);
    assert_eq!(opened(&mut machine, 0).len(), 2);
    let told = machine.on_too_large(1, "300 MiB").unwrap();
    assert_eq!((told.reason(), told.is_retriable()), (Reason::TooLarge, false));
    assert!(told.to_string().contains("t-0"), "{told}");
    machine.on_broken(1, 0);
    assert!(machine.poll(10_000).0.is_empty(), "only the other partition is read on");
    assert!(machine.on_too_large(1, "300 MiB").is_none());
}

fn chunk(partition: i32, batches: Vec<u8>) -> FetchData {
    FetchData { topic: "t".to_owned(), partition, batches: batches.into(), bytes: 10, ..FetchData::default() }
}

#[tokio::test]
async fn nothing_is_read_behind_what_cannot_be() {
    let good = build_batch(&[(None, Some(Bytes::from_static(b"v")))], 1).to_vec();
    let mut damaged = good.clone();
    damaged.truncate(good.len() - 1);
    let (writer, mut reader) = buffer(1_000, 10);
    let credit = Arc::new(Credit::default());
    let cut = [good.clone(), damaged].concat();
    for (partition, batches) in [(0, cut), (0, good.clone()), (1, good.clone()), (0, good.clone())] {
        writer.data(topic(), 0, chunk(partition, batches), credit.clone()).await.unwrap();
    }
    writer.assigned(Vec::new()).await.unwrap();
    writer.data(topic(), 0, chunk(0, good), credit.clone()).await.unwrap();
    drop(writer);
    let mut met = Vec::new();
    while let Some(item) = std::future::poll_fn(|context| reader.poll_item(context)).await {
        met.push(match item {
            Item::Record(record) => record.partition.to_string(),
            Item::Failed(error) => format!("{:?}", error.reason()),
            Item::Assigned(_) => "assigned".to_owned(),
            Item::Revoking => "revoking".to_owned(),
        });
    }
    assert_eq!(met, ["0", "Corrupt", "1", "assigned", "0"]);
    assert_eq!(credit.take(), 50, "what is left out is paid for");
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Data(usize, i64),
    Break(usize),
    Move(usize),
    Leaders(bool),
    Tick(u64),
}

proptest! {
    /// Whatever breaks, each offset is taken once, in order.
    #[test]
    fn nothing_is_left_out_or_taken_twice(steps in proptest::collection::vec(prop_oneof![
        8 => (0..20_usize, 1..5_i64).prop_map(|(stream, by)| Step::Data(stream, by)),
        2 => (0..20_usize).prop_map(Step::Break),
        1 => (0..3_usize).prop_map(Step::Move),
        4 => any::<bool>().prop_map(Step::Leaders),
        6 => (1..1_200_u64).prop_map(Step::Tick),
    ], 1..200)) {
        let mut machine = Machine::new(all(Start::Offset(0)), false);
        let brokers = ["a:1", "b:1"];
        let mut led = [0_usize; 3];
        // Of each stream that is open at its broker: where it stands in each partition.
        let mut streams: BTreeMap<u64, BTreeMap<i32, i64>> = BTreeMap::new();
        let mut taken = [0_i64; 3];
        let mut now_ms = 0;
        for step in steps {
            let some = |streams: &BTreeMap<u64, BTreeMap<i32, i64>>, at: usize| {
                streams.keys().nth(at % streams.len().max(1)).copied()
            };
            match step {
                Step::Data(at, by) => if let Some(stream) = some(&streams, at) {
                    for (partition, offset) in streams.get_mut(&stream).unwrap() {
                        let from = *offset;
                        *offset += by;
                        if let Some((_, wanted)) = machine.on_data(stream, "t", *partition, *offset) {
                            let partition = usize::try_from(*partition).unwrap();
                            prop_assert_eq!(wanted.max(from), taken[partition]);
                            taken[partition] = *offset;
                        }
                    }
                },
                Step::Break(at) => if let Some(stream) = some(&streams, at) {
                    streams.remove(&stream);
                    machine.on_broken(stream, now_ms);
                },
                Step::Move(partition) => {
                    led[partition] = 1 - led[partition];
                    for stream in streams.keys() {
                        let error = v1::Error { reason: Reason::NotLeader.into(), retriable: true, ..v1::Error::default() };
                        let partition = i32::try_from(partition).unwrap();
                        prop_assert_eq!(machine.on_failure(*stream, "t", partition, Error::of_answer(error), now_ms), None);
                    }
                }
                Step::Leaders(known) => {
                    let names: Vec<Option<Arc<str>>> =
                        led.iter().map(|at| known.then(|| Arc::from(brokers[*at]))).collect();
                    machine.on_leaders(&topic(), Ok(&names), now_ms);
                }
                Step::Tick(by_ms) => now_ms += by_ms,
            }
            for (stream, _, from) in opened(&mut machine, now_ms) {
                let places = from.into_iter().map(|(partition, start)| match start {
                    fetch_from::Start::Offset(offset) => (partition, offset),
                    _ => panic!("it began at an offset"),
                });
                streams.insert(stream, places.collect());
            }
        }
        // At the end the network is well: everything is read on.
        for _ in 0..4 {
            now_ms += 2_000;
            machine.poll(now_ms);
            let names: Vec<Option<Arc<str>>> = led.iter().map(|at| Some(Arc::from(brokers[*at]))).collect();
            machine.on_leaders(&topic(), Ok(&names), now_ms);
            machine.poll(now_ms);
        }
        prop_assert!(machine.streams() > 0);
    }
}
