//! Time, chance, and what is on its way: one event queue for the whole world.
//!
//! Hosts run in turns, a tick each, in one thread. What one does to another (a request, a reply, bytes of a connection) is
//! an event with a time; events that are due run between the turns. The same seed gives the same order of everything.

#![allow(clippy::disallowed_methods, reason = "this is where the simulated time comes from")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use esker::base::Rng;
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use crate::watchdog;

/// The world's time when it begins, in milliseconds since the Unix epoch.
pub const WALL_START_MS: i64 = 1_800_000_000_000;

/// Places where clients are.
pub const SIDES: u8 = 2;

type Event = Box<dyn FnOnce() + Send>;

/// The end of a host's wire. Brokers are `Broker(id)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Clients are at one of [`SIDES`] places.
    Clients(u8),
    Broker(i32),
    Store,
    Meta,
}

/// See the module. Clones share one world.
#[derive(Clone)]
pub struct World(Arc<Shared>);

struct Shared {
    rng: Rng,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    now_us: u64,
    /// The runtime that has its turn: when it was made, in its time and in the world's.
    turn: Option<(Instant, u64)>,
    queue: BTreeMap<(u64, u64), Event>,
    events: u64,
    /// Pairs between which nothing gets through.
    cut: Vec<(Place, Place)>,
    trace: String,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Shared { rng: Rng::seeded(seed), state: Mutex::default() }))
    }

    /// The world's chance; draws from it are part of the order of events.
    pub fn rng(&self) -> &Rng {
        &self.0.rng
    }

    /// True as often as `chance` says.
    pub fn happens(&self, chance: f64) -> bool {
        chance > 0.0 && self.0.rng.fraction() < chance
    }

    /// A number in `from..to`.
    pub fn between(&self, from: u64, to: u64) -> u64 {
        from + self.0.rng.below(to.saturating_sub(from).max(1))
    }

    /// Microseconds since the world began: exact within a host's turn.
    pub fn now_us(&self) -> u64 {
        let state = self.0.state.lock();
        match state.turn {
            Some((made, at_us)) => at_us + made.elapsed().as_micros() as u64,
            None => state.now_us,
        }
    }

    pub fn now_ms(&self) -> u64 {
        self.now_us() / 1000
    }

    /// Runs `event` after `delay_us`, between the turns.
    pub fn after(&self, delay_us: u64, event: impl FnOnce() + Send + 'static) {
        self.at(self.now_us() + delay_us, event);
    }

    /// Runs `event` at this time, between the turns.
    pub fn at(&self, due_us: u64, event: impl FnOnce() + Send + 'static) {
        let mut state = self.0.state.lock();
        state.events += 1;
        let id = state.events;
        state.queue.insert((due_us, id), Box::new(event));
    }

    /// Whether something can get from one place to the other.
    pub fn reaches(&self, a: Place, b: Place) -> bool {
        !self.0.state.lock().cut.contains(&(a.min(b), a.max(b)))
    }

    /// Cuts or mends the way between two places, in both directions.
    pub fn set_cut(&self, a: Place, b: Place, cut: bool) {
        let pair = (a.min(b), a.max(b));
        let mut state = self.0.state.lock();
        state.cut.retain(|known| *known != pair);
        if cut {
            state.cut.push(pair);
        }
    }

    /// Adds a line to the history.
    pub fn trace(&self, who: &str, what: std::fmt::Arguments) {
        let now_us = self.now_us();
        let mut state = self.0.state.lock();
        let _ = writeln!(state.trace, "{:>10.3} {who}: {what}", now_us as f64 / 1000.0);
    }

    /// The history so far, taken.
    pub fn take_trace(&self) -> String {
        std::mem::take(&mut self.0.state.lock().trace)
    }

    /// The history so far, if it can be had: a task that spins may hold it.
    pub fn trace_so_far(&self) -> String {
        let state = self.0.state.try_lock_for(std::time::Duration::from_secs(1));
        state.map(|state| state.trace.clone()).unwrap_or_default()
    }

    /// Lets what is due happen up to `now_us`, which becomes the time.
    pub fn move_to(&self, now_us: u64) {
        loop {
            let due = {
                let mut state = self.0.state.lock();
                match state.queue.first_key_value() {
                    Some(((due_us, _), _)) if *due_us <= now_us => {
                        let ((due_us, _), event) = state.queue.pop_first().expect("it was just there");
                        state.now_us = state.now_us.max(due_us);
                        event
                    }
                    _ => {
                        state.now_us = now_us;
                        return;
                    }
                }
            };
            due();
        }
    }

    /// Forgets what is still to happen; what it holds is dropped here.
    pub fn end(&self) {
        let queue = std::mem::take(&mut self.0.state.lock().queue);
        drop(queue);
    }
}

/// A runtime with its own paused clock that follows the world's time: the processes of one host.
pub struct Host {
    world: World,
    place: Place,
    runtime: tokio::runtime::Runtime,
    made: Instant,
    made_us: u64,
    /// It does not get its turns (SIGSTOP).
    pub paused: bool,
    missed: bool,
}

impl Host {
    pub fn new(world: &World, place: Place) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without IO can always be made");
        let made = runtime.block_on(async { Instant::now() });
        Self { world: world.clone(), place, made, made_us: world.now_us(), runtime, paused: false, missed: false }
    }

    pub fn handle(&self) -> &tokio::runtime::Handle {
        self.runtime.handle()
    }

    /// Runs until the world's time is `end_us`.
    pub fn turn(&mut self, end_us: u64) {
        if self.paused {
            self.missed = true;
            return;
        }
        let end = self.made + Duration::from_micros(end_us - self.made_us);
        let now_us = self.world.now_us();
        self.world.0.state.lock().turn = Some((self.made, self.made_us));
        let missed = std::mem::take(&mut self.missed);
        let (made, made_us) = (self.made, self.made_us);
        watchdog::turn_of(Some(self.place));
        self.runtime.block_on(async move {
            if missed {
                // Everything that fell due during the pause is due at once.
                let behind = (made + Duration::from_micros(now_us - made_us)).saturating_duration_since(Instant::now());
                tokio::time::advance(behind).await;
            }
            tokio::time::sleep_until(end).await;
        });
        watchdog::turn_of(None);
        self.world.0.state.lock().turn = None;
    }
}
