//! A task that spins is told, not waited for: no turn of a host may use more than so much of the processor.
//!
//! Time stands still in a turn, so a task that never waits would hold the run for ever.

#![allow(clippy::disallowed_methods, reason = "what it watches is the real processor, not the simulated time")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::world::{Place, World};

/// A turn is 5 ms of simulated time; it takes less than that to run.
const LIMIT_S: u64 = 6;
/// How often it looks, in milliseconds.
const LOOK_MS: u64 = 200;
/// Units of `/proc/self/stat`.
const TICKS_PER_S: u64 = 100;

static TURNS: AtomicU64 = AtomicU64::new(0);
static WHO: Mutex<Option<Place>> = Mutex::new(None);

/// Somebody's turn begins, or (nobody's) ends.
pub fn turn_of(who: Option<Place>) {
    TURNS.fetch_add(1, Ordering::Relaxed);
    *WHO.lock() = who;
}

/// What this process has used of the processor.
fn used_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    // User and system time are the 14th and 15th field; this begins with the 3rd.
    after.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// Watches this process until it ends; `tell` gets what is wrong and the history so far, and ends the process.
pub fn watch(world: World, tell: impl FnOnce(String, String) + Send + 'static) {
    std::thread::spawn(move || {
        let (mut turn, mut since) = (0, used_ticks());
        loop {
            std::thread::sleep(Duration::from_millis(LOOK_MS));
            let (now, used) = (TURNS.load(Ordering::Relaxed), used_ticks());
            if now != turn {
                (turn, since) = (now, used);
            } else if used - since > LIMIT_S * TICKS_PER_S {
                let who = *WHO.lock();
                let history = world.trace_so_far();
                return tell(format!("spin: {who:?} used {LIMIT_S} s of the processor in one turn"), history);
            }
        }
    });
}
