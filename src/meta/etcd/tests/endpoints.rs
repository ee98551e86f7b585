use proptest::prelude::*;

use crate::base::Rng;
use crate::meta::etcd::endpoints::{Endpoints, Pick, RECONNECT};

#[test]
fn the_one_that_works_is_kept_and_the_others_are_tried_in_turn() {
    let rng = Rng::seeded(1);
    let mut endpoints = Endpoints::new(3, 1);
    assert_eq!(endpoints.pick(0), Pick::Use(1));
    endpoints.answered(1);
    assert_eq!(endpoints.pick(10), Pick::Use(1));
    assert_eq!(endpoints.failed(1, 10, &rng), 1);
    assert_eq!(endpoints.pick(10), Pick::Use(2));
    assert_eq!(endpoints.failed(2, 10, &rng), 1);
    assert_eq!(endpoints.pick(10), Pick::Use(0));
    assert!(!endpoints.answered(0));
    // The others have rested enough, but this one works.
    assert_eq!(endpoints.pick(1_000), Pick::Use(0));
    assert_eq!(endpoints.failed(0, 1_000, &rng), 1);
    assert_eq!(endpoints.failed(0, 1_000, &rng), 0, "calls that fail together count once");
    assert_eq!(endpoints.pick(1_000), Pick::Use(1));
    assert!(endpoints.answered(1), "it had failed before");
}

#[test]
fn when_all_have_failed_there_is_a_pause_that_grows() {
    let rng = Rng::seeded(2);
    let mut endpoints = Endpoints::new(2, 0);
    let (mut now_ms, mut longest_ms, mut attempts) = (0, 0, 0);
    while now_ms < 60_000 {
        match endpoints.pick(now_ms) {
            Pick::Use(at) => {
                attempts += 1;
                assert!(endpoints.failed(at, now_ms, &rng) > 0);
            }
            Pick::Wait(wait_ms) => {
                assert!((1..=RECONNECT.most_ms).contains(&wait_ms));
                longest_ms = longest_ms.max(wait_ms);
                now_ms += wait_ms;
            }
        }
    }
    assert!(longest_ms >= RECONNECT.most_ms / 4, "{longest_ms}");
    assert!((60..=140).contains(&attempts), "{attempts} attempts in a minute");
}

#[test]
fn one_tries_an_endpoint_that_failed_and_the_others_wait_for_it() {
    let rng = Rng::seeded(3);
    let mut endpoints = Endpoints::new(1, 0);
    assert_eq!((endpoints.pick(0), endpoints.pick(0)), (Pick::Use(0), Pick::Use(0)));
    assert_eq!(endpoints.failed(0, 0, &rng), 1);
    assert_eq!(endpoints.pick(100), Pick::Use(0));
    assert!(matches!(endpoints.pick(100), Pick::Wait(2_000)));
    assert_eq!(endpoints.failed(0, 150, &rng), 2, "the trial counts");
    assert_eq!(endpoints.pick(300), Pick::Use(0));
    assert!(endpoints.answered(0));
    assert_eq!((endpoints.pick(301), endpoints.pick(301)), (Pick::Use(0), Pick::Use(0)));
    // One who tries and is never heard of again does not hold the others up for ever.
    assert_eq!(endpoints.failed(0, 400, &rng), 1);
    assert_eq!(endpoints.pick(500), Pick::Use(0));
    assert_eq!(endpoints.pick(2_500), Pick::Use(0));
}

proptest! {
    /// Whatever happens: somebody who waits as told gets an endpoint, and one that answers is found again in the end.
    #[test]
    fn nobody_waits_for_ever(seed in any::<u64>(), count in 1usize..5, events in prop::collection::vec((0usize..5, any::<bool>(), 0u64..500), 0..60)) {
        let rng = Rng::seeded(seed);
        let mut endpoints = Endpoints::new(count, seed as usize % 7);
        let mut now_ms = 0;
        for (at, ok, pass_ms) in events {
            now_ms += pass_ms;
            if ok { endpoints.answered(at % count); } else { endpoints.failed(at % count, now_ms, &rng); }
        }
        let alive = seed as usize % count;
        for _ in 0..200 {
            match endpoints.pick(now_ms) {
                Pick::Use(at) if at == alive => return Ok(()),
                Pick::Use(at) => { endpoints.failed(at, now_ms, &rng); }
                Pick::Wait(wait_ms) => {
                    prop_assert!(wait_ms <= RECONNECT.most_ms.max(2_000));
                    now_ms += wait_ms;
                }
            }
        }
        prop_assert!(false, "the endpoint that works was never asked");
    }
}
