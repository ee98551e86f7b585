//! Offsets by time against a walk through every record.

use proptest::prelude::*;

use super::model::{LEADER_EPOCH, Setup, batch, cache_settings, setup, tp};
use crate::fetch::{Settings, TimestampHit};
use crate::partition::Isolation;
use crate::protocol::batch::{Compression, records};

fn codec(number: u8) -> Compression {
    Compression::from_id(i16::from(number)).unwrap()
}

/// Offset and timestamp of every record a reader may see.
fn visible(setup: &Setup, isolation: Isolation) -> Vec<(i64, i64)> {
    let part = setup.log.part(tp(0));
    let limit = part.limit(isolation);
    let all = part.batches.iter().flat_map(|batch| records(batch).unwrap().map(Result::unwrap));
    let seen = all.map(|record| (record.offset, record.timestamp));
    seen.filter(|(offset, _)| *offset >= part.log_start && *offset < limit).collect()
}

fn hit((offset, timestamp): (i64, i64)) -> TimestampHit {
    TimestampHit { offset, timestamp, leader_epoch: LEADER_EPOCH }
}

#[derive(Debug, Clone)]
struct Appended {
    timestamps: Vec<i64>,
    codec: u8,
    append_time: bool,
    commit: bool,
}

fn appended() -> impl Strategy<Value = Appended> {
    (prop::collection::vec(0..60i64, 1..6), 0..5u8, prop::bool::weighted(0.2), any::<bool>())
        .prop_map(|(timestamps, codec, append_time, commit)| Appended { timestamps, codec, append_time, commit })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn offsets_by_time_are_exact_to_the_record(
        appends in prop::collection::vec(appended(), 0..20),
        log_start in 0..30i64,
        evict in 0..60i64,
        open in prop::option::of(0..20usize),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let setup = setup(1, cache_settings(), Settings::default());
            for append in appends {
                let mut builder = batch(&append.timestamps, 20, codec(append.codec));
                if append.append_time {
                    builder = builder.log_append_time();
                }
                setup.log.append(tp(0), builder);
                if append.commit {
                    setup.log.commit();
                }
            }
            setup.log.move_log_start(tp(0), log_start);
            setup.log.evict(tp(0), evict);
            if let Some(open) = open {
                setup.log.change(tp(0), |part| {
                    let bases = part.batches.iter().map(|batch| super::model::header(batch).base_offset);
                    let bases: Vec<_> = bases.filter(|base| *base >= part.log_start && *base <= part.high_watermark).collect();
                    part.last_stable = bases.get(open).copied();
                });
            }
            for isolation in [Isolation::ReadUncommitted, Isolation::ReadCommitted] {
                let all = visible(&setup, isolation);
                for timestamp in -1..62 {
                    let expected = all.iter().find(|(_, at)| *at >= timestamp).copied().map(hit);
                    let found = setup.reader.first_at_or_after(tp(0), timestamp, isolation).await.unwrap();
                    assert_eq!(found, expected, "first at or after {timestamp} of {all:?}");
                }
                let largest = all.iter().map(|(_, at)| *at).max();
                let expected = all.iter().find(|(_, at)| Some(*at) == largest).copied().map(hit);
                assert_eq!(setup.reader.max_timestamp(tp(0), isolation).await.unwrap(), expected);
                let limit = setup.log.part(tp(0)).limit(isolation);
                assert_eq!(setup.reader.latest(tp(0), isolation).unwrap(), (limit, LEADER_EPOCH));
            }
        });
    }
}
