use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::{MemoryPages, Metrics, ObjectBytes, ObjectReader};
use super::fake::{FakeStore, pattern};
use super::reader::settings;
use crate::cache::Settings;

#[derive(Debug, Clone)]
enum Step {
    Read { start: u64, length: u64, ahead: u64 },
    Prefetch { start: u64, length: u64 },
    Invalidate { start: u64, length: u64 },
    Fail(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..1300u64, 0..700u64, 0..500u64).prop_map(|(start, length, ahead)| Step::Read { start, length, ahead }),
        1 => (0..1300u64, 0..700u64).prop_map(|(start, length)| Step::Prefetch { start, length }),
        1 => (0..1300u64, 0..700u64).prop_map(|(start, length)| Step::Invalidate { start, length }),
        1 => any::<bool>().prop_map(Step::Fail),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is cached, failed, invalidated or loaded ahead: a read that succeeds gives the object's bytes.
    #[test]
    fn reads_give_the_objects_bytes(
        size in 0..1200usize,
        page_bytes in 1..300u64,
        capacity in 0..1500u64,
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let object = pattern(size);
            let store = FakeStore::with(object.clone());
            let settings = Settings { page_bytes, read_ahead_bytes: 3 * page_bytes, ..settings() };
            let pages = Arc::new(MemoryPages::new(capacity));
            let reader = ObjectReader::new(store.clone(), pages, settings, Metrics::default());
            let mut failing = false;
            for step in steps {
                match step {
                    Step::Read { start, length, ahead } => {
                        let end = start + length;
                        match reader.read("a", start..end, end + ahead).await {
                            Ok(read) => {
                                let stop = end.min(size as u64).max(start);
                                assert_eq!(read.end(), stop);
                                let wanted = &object[(start as usize).min(size)..(stop as usize).min(size)];
                                assert_eq!(read.slice(start..stop).unwrap(), wanted);
                            }
                            Err(error) => assert!(failing, "{error}"),
                        }
                    }
                    Step::Prefetch { start, length } => reader.prefetch("a", start..start + length),
                    Step::Invalidate { start, length } => reader.invalidate("a", start..start + length),
                    Step::Fail(on) => {
                        // A load ahead that started before may still fail.
                        while reader.loads_under_way() > 0 {
                            tokio::task::yield_now().await;
                        }
                        failing = on;
                        store.failing.store(on, Ordering::SeqCst);
                    }
                }
            }
        });
    }

    #[test]
    fn slices_equal_those_of_the_whole(
        start in 0..50u64,
        lengths in prop::collection::vec(0..20usize, 0..6),
        from in 0..200u64,
        length in 0..100u64,
    ) {
        let whole = pattern(lengths.iter().sum());
        let mut rest = Bytes::from(whole.clone());
        let chunks = lengths.iter().map(|length| rest.split_to(*length)).collect();
        let bytes = ObjectBytes::new(start, chunks);
        let inside = from >= start && from + length <= start + whole.len() as u64;
        let expected = inside.then(|| {
            let at = (from - start) as usize;
            Bytes::copy_from_slice(&whole[at..at + length as usize])
        });
        prop_assert_eq!(bytes.slice(from..from + length), expected);
    }
}
