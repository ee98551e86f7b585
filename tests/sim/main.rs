//! The simulator: real brokers over a simulated world, in one thread. One seed is one run.
//!
//! `make sim SEEDS=1000` runs fresh seeds; `make sim SEED=7` repeats one and prints its history.

mod alone;
mod caller;
mod client;
mod disk;
mod grpc_members;
mod history;
mod ledger;
mod members;
mod meta;
mod net;
mod node;
mod run;
mod store;
mod trouble;
mod watchdog;
mod workload;
mod world;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use alone::run_alone;
use parking_lot::Mutex;
use run::{Mutant, Outcome, Plan, Script};

/// Seeds that are always run.
const FIXED: std::ops::Range<u64> = 1..5;
/// Fresh ones, unless `ESKER_SIM_SEEDS` says how many.
const FRESH: u64 = 3;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn check(plan: Plan) -> Result<usize, String> {
    let outcome = run_alone(plan);
    if outcome.violations.is_empty() {
        return Ok(outcome.acknowledged);
    }
    let Plan { seed, brokers, .. } = plan;
    let told = outcome.violations.join("\n  ");
    Err(format!("seed {seed} with {brokers} brokers; repeat with: make sim SEED={seed}\n  {told}"))
}

/// Runs them on all cores; tells each that fails.
fn all(seeds: std::ops::Range<u64>) {
    let next = AtomicU64::new(seeds.start);
    let (failed, acknowledged) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= seeds.end {
                return;
            }
            match check(Plan::new(seed)) {
                Ok(batches) => {
                    acknowledged.fetch_add(batches, Ordering::SeqCst);
                }
                Err(told) => {
                    println!("{told}");
                    failed.lock().push(seed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(work);
        }
    });
    println!("{} runs, {} acknowledged batches", seeds.end - seeds.start, acknowledged.into_inner());
    let mut failed = failed.into_inner();
    failed.sort_unstable();
    assert!(failed.is_empty(), "seeds {failed:?} failed");
}

#[test]
fn fixed_seeds() {
    if number("ESKER_SIM_SEED").is_none() && number("ESKER_SIM_SEEDS").is_none() {
        all(FIXED);
    }
}

#[test]
fn fresh_seeds() {
    if let Some(seed) = number("ESKER_SIM_SEED") {
        let outcome = run_alone(Plan::new(seed));
        println!("{}", outcome.history);
        assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
        return;
    }
    let first = number("ESKER_SIM_FROM").unwrap_or(u64::from(std::process::id()) << 20);
    let count = number("ESKER_SIM_SEEDS").unwrap_or(FRESH);
    println!("fresh seeds {first} to {}", first + count - 1);
    all(first..first + count);
}

/// Seeds in which a fenced session looked at its own stream round and round and never ended.
#[test]
fn a_session_whose_partitions_were_taken_ends() {
    for seed in [10, 14] {
        let outcome = run_alone(Plan { brokers: 3, ..Plan::new(seed) });
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
    }
}

/// A call that was passed on to a broker that says nothing is answered in time by the one that was asked.
#[test]
fn a_leader_that_hangs_does_not_hang_the_broker_that_asks_it() {
    let outcome = run_alone(Plan { brokers: 3, ..Plan::new(7) });
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
}

/// A broker that was away for long goes on although the collector has taken what lay before the seal of its old stream.
#[test]
fn a_stream_that_was_sealed_and_collected_is_finished() {
    let outcome = run_alone(Plan { brokers: 3, ..Plan::new(1382) });
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
}

/// A broker that wakes up and does not know yet that it was sealed tells nobody that a good offset is out of range.
#[test]
fn a_broker_that_slept_does_not_call_a_good_offset_out_of_range() {
    let outcome = run_alone(Plan { brokers: 3, ..Plan::new(1118) });
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
}

/// A client that lets go so late that its partitions are to go a second time commits nothing for those of the first.
#[test]
fn a_client_that_is_late_twice_commits_nothing() {
    for seed in [156, 160] {
        let outcome = run_alone(Plan { brokers: 3, ..Plan::new(seed) });
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
    }
}

/// Two runs at a time, as a machine has two cores.
fn both(plans: [Plan; 2]) -> [Outcome; 2] {
    std::thread::scope(|scope| {
        let runs = plans.map(|plan| scope.spawn(move || run_alone(plan)));
        runs.map(|run| run.join().expect("a run does not panic here"))
    })
}

#[test]
fn one_seed_is_one_history() {
    let mut histories = Vec::new();
    for brokers in [1, 4, 3] {
        let plan = Plan { brokers, ..Plan::new(42) };
        let [first, second] = both([plan, plan]);
        assert!(first.acknowledged > 0);
        for (number, (one, other)) in first.history.lines().zip(second.history.lines()).enumerate() {
            assert_eq!(one, other, "line {number} with {brokers} brokers");
        }
        assert_eq!(first.history.len(), second.history.len());
        histories.push(first.history);
    }
    assert_ne!(histories[2], run_alone(Plan { brokers: 3, ..Plan::new(43) }).history);
}

#[test]
fn without_trouble_all_is_well() {
    let outcome = run_alone(Plan { script: Script::Calm, ..Plan::new(1) });
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
    assert!(outcome.acknowledged > 100, "{}", outcome.acknowledged);
}

/// One kind of trouble, with what `run` asks of it alone.
fn is_survived(script: Script) {
    let outcome = run_alone(Plan { script, brokers: 3, ..Plan::new(1) });
    assert!(outcome.violations.is_empty(), "{script:?}: {:#?}", outcome.violations);
    println!("{script:?}: {} acknowledged batches", outcome.acknowledged);
}

#[test]
fn ten_minutes_without_the_metadata_store() {
    is_survived(Script::MetaStopped);
}

#[test]
fn ten_minutes_without_the_metadata_store_in_which_all_leases_end() {
    is_survived(Script::MetaAway);
}

#[test]
fn a_minute_without_the_object_store() {
    is_survived(Script::StoreAway);
}

#[test]
fn a_broker_that_sleeps_for_longer_than_its_lease() {
    is_survived(Script::Asleep);
}

/// A run that only got stuck proves nothing: what is told must begin with one of `kinds`.
fn is_found_out(mutant: Mutant, kinds: &[&str]) {
    let lies = |seed: &u64| {
        let outcome = run_alone(Plan { mutant, ..Plan::new(*seed) });
        outcome.violations.iter().any(|told| kinds.iter().any(|kind| told.starts_with(kind)))
    };
    let found = (1..20).find(lies);
    println!("{mutant:?} is found out with seed {found:?}");
    assert!(found.is_some(), "{mutant:?} is not found out");
}

#[test]
fn an_acknowledgement_before_the_commit_is_found_out() {
    is_found_out(Mutant::EarlyYes, &["lost write"]);
}

#[test]
fn a_batch_that_is_written_twice_is_found_out() {
    is_found_out(Mutant::Twice, &["duplicate"]);
}

#[test]
fn a_batch_that_a_reader_misses_is_found_out() {
    is_found_out(Mutant::Skip, &["told at once: reader"]);
}

#[test]
fn a_group_whose_offsets_are_forgotten_is_found_out() {
    is_found_out(Mutant::Forget, &["told at once: watchers", "told at once: auditors"]);
}

#[test]
fn a_task_that_spins_is_found_out() {
    is_found_out(Mutant::Spin, &["spin: Some(Clients"]);
}
