//! Reads against the model, whatever was cut, committed, forgotten, truncated or lost in between.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use proptest::prelude::*;

use super::model::{Part, Setup, batch, header, setup, tp};
use crate::cache;
use crate::fetch::{FetchRequest, PartitionRequest, ReadResult, Settings};
use crate::partition::{AbortedTxn, Isolation};
use crate::protocol::batch::Compression;

#[derive(Debug, Clone)]
enum Step {
    Append { partition: i32, records: usize, value_bytes: usize },
    Commit,
    Evict { partition: i32, fraction: u64 },
    MoveLogStart { partition: i32, fraction: u64 },
    Open { partition: i32, fraction: u64 },
    Close { partition: i32 },
    RunsAtOnce(u64),
    Read { partition: i32, fraction: u64, max_bytes: usize, committed: bool, at_least_one: bool },
    Fetch { fractions: Vec<u64>, own_bytes: usize, max_bytes: usize, committed: bool },
}

const PARTITIONS: i32 = 3;

fn step() -> impl Strategy<Value = Step> {
    let partition = || 0..PARTITIONS;
    let max_bytes = || prop_oneof![0..200usize, 0..4000usize, Just(1 << 20)];
    prop_oneof![
        8 => (partition(), 1..5usize, 0..300usize)
            .prop_map(|(partition, records, value_bytes)| Step::Append { partition, records, value_bytes }),
        3 => Just(Step::Commit),
        2 => (partition(), 0..=100u64).prop_map(|(partition, fraction)| Step::Evict { partition, fraction }),
        1 => (partition(), 0..=100u64).prop_map(|(partition, fraction)| Step::MoveLogStart { partition, fraction }),
        1 => (partition(), 0..=100u64).prop_map(|(partition, fraction)| Step::Open { partition, fraction }),
        1 => partition().prop_map(|partition| Step::Close { partition }),
        1 => (0..4u64).prop_map(Step::RunsAtOnce),
        6 => (partition(), 0..=100u64, max_bytes(), any::<bool>(), any::<bool>()).prop_map(
            |(partition, fraction, max_bytes, committed, at_least_one)| Step::Read {
                partition, fraction, max_bytes, committed, at_least_one
            }
        ),
        4 => (prop::collection::vec(0..=100u64, PARTITIONS as usize), max_bytes(), max_bytes(), any::<bool>()).prop_map(
            |(fractions, own_bytes, max_bytes, committed)| Step::Fetch { fractions, own_bytes, max_bytes, committed }
        ),
    ]
}

/// The offset this far between log start and high watermark, in percent.
fn at(part: &Part, fraction: u64) -> i64 {
    part.log_start + (part.high_watermark - part.log_start) * fraction as i64 / 100
}

fn isolation(committed: bool) -> Isolation {
    if committed { Isolation::ReadCommitted } else { Isolation::ReadUncommitted }
}

/// What a reader may be given from `offset` on, without limits of size.
fn readable(part: &Part, offset: i64, isolation: Isolation) -> Vec<Bytes> {
    let limit = part.limit(isolation);
    let whole = |batch: &&Bytes| header(batch).last_offset() >= offset && header(batch).last_offset() < limit;
    if offset >= limit { Vec::new() } else { part.batches.iter().filter(whole).cloned().collect() }
}

fn within(batches: Vec<Bytes>, max_bytes: usize, at_least_one: bool) -> Vec<Bytes> {
    let mut left = max_bytes;
    let mut first = at_least_one;
    let fits = |batch: &Bytes| {
        let fits = first || batch.len() <= left;
        first = false;
        left = if fits { left.saturating_sub(batch.len()) } else { 0 };
        fits
    };
    batches.into_iter().take_while(fits).collect()
}

fn check_frame(part: &Part, offset: i64, isolation: Isolation, read: &ReadResult) {
    assert_eq!(read.view.high_watermark, part.high_watermark);
    assert_eq!(read.limit, part.limit(isolation));
    assert!(read.next_offset <= read.limit.max(offset));
    let end = read.batches.last().map_or(offset, |batch| header(batch).last_offset() + 1);
    assert_eq!(read.next_offset, end);
    let any = !read.batches.is_empty();
    let overlaps = |txn: &&AbortedTxn| any && txn.first_offset < end && txn.last_offset >= offset;
    let aborted: Vec<_> = match isolation {
        Isolation::ReadCommitted => part.aborted.iter().filter(overlaps).copied().collect(),
        Isolation::ReadUncommitted => Vec::new(),
    };
    assert_eq!(read.aborted, aborted);
}

async fn apply(setup: &Setup, step: Step, clock: &mut i64) {
    match step {
        Step::Append { partition, records, value_bytes } => {
            *clock += 1;
            let timestamps: Vec<i64> = (0..records as i64).map(|at| *clock * 10 + at).collect();
            setup.log.append(tp(partition), batch(&timestamps, value_bytes, Compression::None));
        }
        Step::Commit => setup.log.commit(),
        Step::Evict { partition, fraction } => {
            let offset = at(&setup.log.part(tp(partition)), fraction);
            setup.log.evict(tp(partition), offset);
        }
        Step::MoveLogStart { partition, fraction } => {
            let offset = at(&setup.log.part(tp(partition)), fraction / 4);
            setup.log.move_log_start(tp(partition), offset);
        }
        Step::Open { partition, fraction } => setup.log.change(tp(partition), |part| {
            // A transaction opens at some batch's first offset.
            let offset = at(part, fraction);
            let first = part.batches.iter().map(|batch| header(batch).base_offset).find(|base| *base >= offset);
            part.last_stable = first.filter(|first| *first <= part.high_watermark && *first >= part.log_start);
        }),
        Step::Close { partition } => setup.log.change(tp(partition), |part| {
            if let Some(first) = part.last_stable.take() {
                let last_offset = part.high_watermark - 1;
                part.aborted.push(AbortedTxn { producer_id: 1, first_offset: first, last_offset });
            }
        }),
        Step::RunsAtOnce(runs) => setup.log.runs_at_once.store(runs, Ordering::SeqCst),
        Step::Read { partition, fraction, max_bytes, committed, at_least_one } => {
            let (part, isolation) = (setup.log.part(tp(partition)), isolation(committed));
            let offset = at(&part, fraction);
            let read = setup.reader.read(tp(partition), offset, max_bytes, isolation, at_least_one).await.unwrap();
            assert_eq!(read.batches, within(readable(&part, offset, isolation), max_bytes, at_least_one));
            check_frame(&part, offset, isolation, &read);
        }
        Step::Fetch { fractions, own_bytes, max_bytes, committed } => {
            fetch(setup, &fractions, own_bytes, max_bytes, isolation(committed)).await;
        }
    }
}

async fn fetch(setup: &Setup, fractions: &[u64], own_bytes: usize, max_bytes: usize, isolation: Isolation) {
    let parts: Vec<Part> = (0..PARTITIONS).map(|partition| setup.log.part(tp(partition))).collect();
    let asked = parts.iter().zip(fractions).enumerate();
    let partitions: Vec<_> = asked
        .map(|(partition, (part, fraction))| PartitionRequest {
            partition: tp(partition as i32),
            offset: at(part, *fraction),
            max_bytes: own_bytes,
            current_leader_epoch: -1,
        })
        .collect();
    let request = FetchRequest { partitions, min_bytes: 0, max_bytes, max_wait_ms: 0, isolation };
    let answers = setup.fetches.fetch(&request).await;
    assert_eq!(answers.len(), request.partitions.len());
    let mut total = 0;
    let mut nonempty = Vec::new();
    for ((answer, asked), part) in answers.iter().zip(&request.partitions).zip(&parts) {
        assert_eq!(answer.partition, asked.partition);
        let read = answer.result.as_ref().unwrap();
        check_frame(part, asked.offset, isolation, read);
        let all = readable(part, asked.offset, isolation);
        assert_eq!(read.batches, all[..read.batches.len()], "a prefix of what is readable");
        if !read.batches.is_empty() {
            nonempty.push(read.batches.clone());
        }
        total += read.bytes();
    }
    let readable_first =
        request.partitions.iter().zip(&parts).map(|(asked, part)| readable(part, asked.offset, isolation));
    let any = readable_first.clone().any(|batches| !batches.is_empty());
    assert_eq!(!nonempty.is_empty(), any, "a reader always gets on");
    let one_large = nonempty.len() == 1 && nonempty[0].len() == 1;
    assert!(total <= max_bytes || one_large, "{total} of {max_bytes}");
    for batches in &nonempty {
        let bytes: usize = batches.iter().map(Bytes::len).sum();
        assert!(bytes <= own_bytes || batches.len() == 1);
    }
    // With room for everything, everything comes.
    if max_bytes == 1 << 20 && own_bytes == 1 << 20 {
        for (answer, all) in answers.iter().zip(readable_first) {
            assert_eq!(answer.result.as_ref().unwrap().batches, all);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn reads_equal_the_model(
        steps in prop::collection::vec(step(), 1..80),
        page_bytes in 64..2000u64,
        memory_bytes in prop_oneof![Just(0u64), 0..4000u64, Just(1 << 20)],
        local in any::<bool>(),
        index_bytes in prop_oneof![Just(0u64), Just(1 << 20)],
        gap_bytes in 0..500u64,
        read_bytes in 1..2000u64,
        reads_at_once in 1..5usize,
        objects_ahead in 0..3usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let pages = cache::Settings {
                page_bytes,
                memory_bytes,
                get_bytes: 3 * page_bytes,
                read_ahead_bytes: 2 * page_bytes,
                ..cache::Settings::default()
            };
            let settings = Settings { index_bytes, gap_bytes, read_bytes, reads_at_once, objects_ahead, ..Settings::default() };
            let setup = setup(PARTITIONS, pages, settings);
            setup.log.store.local.store(local, Ordering::SeqCst);
            let mut clock = 0;
            for step in steps {
                apply(&setup, step, &mut clock).await;
            }
        });
    }
}
