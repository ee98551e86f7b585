//! Which endpoint to ask next, pure: the one that worked last, until it fails; then the others in turn, each after its own
//! pause, which grows with every failure in a row.
//!
//! Callers share one state, and an endpoint that has failed is tried by one of them at a time, so an outage costs one
//! connection attempt per pause, however many operations wait.

use crate::base::{Backoff, Rng};

/// Pauses between attempts at one endpoint.
pub const RECONNECT: Backoff = Backoff { first_ms: 50, most_ms: 2_000 };

/// How long others wait for the one who tries an endpoint that has failed, in milliseconds; then they try, too.
const TRIAL_MS: u64 = 2_000;

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// Ask this one.
    Use(usize),
    /// Every endpoint has failed a moment ago, or is being tried: wait this long, in milliseconds, or until one has answered,
    /// then pick again.
    Wait(u64),
}

/// The state of every endpoint.
#[derive(Debug)]
pub struct Endpoints {
    current: usize,
    each: Vec<Health>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Health {
    /// Failures since the last success.
    failures: u32,
    /// Not asked before, in milliseconds since boot.
    rest_until_ms: u64,
    /// After a failure: somebody tries it now, and the others wait until then, in milliseconds since boot.
    trial_until_ms: u64,
}

impl Health {
    fn free_at_ms(&self) -> u64 {
        self.rest_until_ms.max(self.trial_until_ms)
    }
}

impl Endpoints {
    /// `count` endpoints (at least one), none of which has been asked. `first` is the one to begin with: brokers that
    /// begin at different ones share the members' load.
    pub fn new(count: usize, first: usize) -> Self {
        let count = count.max(1);
        Self { current: first % count, each: vec![Health::default(); count] }
    }

    /// The endpoint to ask now. A rest is over when its time has come, so a member that came back is found.
    pub fn pick(&mut self, now_ms: u64) -> Pick {
        let count = self.each.len();
        let free = |at: &usize| self.each[*at].free_at_ms() <= now_ms;
        if let Some(at) = (0..count).map(|step| (self.current + step) % count).find(free) {
            self.current = at;
            if self.each[at].failures > 0 {
                self.each[at].trial_until_ms = now_ms.saturating_add(TRIAL_MS);
            }
            return Pick::Use(at);
        }
        let soonest_ms = self.each.iter().map(Health::free_at_ms).min().unwrap_or(now_ms);
        Pick::Wait(soonest_ms.saturating_sub(now_ms).max(1))
    }

    /// The endpoint answered, whatever the answer was. Returns whether it had failed before.
    pub fn answered(&mut self, at: usize) -> bool {
        let health = std::mem::take(&mut self.each[at]);
        health.failures > 0
    }

    /// The endpoint did not answer, or said that it cannot. Several calls that fail together count once: only the first of
    /// them finds the endpoint not resting. Returns the failures in a row, or 0 if it was resting already.
    pub fn failed(&mut self, at: usize, now_ms: u64, rng: &Rng) -> u32 {
        let count = self.each.len();
        let health = &mut self.each[at];
        if health.rest_until_ms > now_ms {
            return 0;
        }
        health.failures = health.failures.saturating_add(1);
        health.trial_until_ms = 0;
        let pause_ms = RECONNECT.pause(health.failures, rng).as_millis() as u64;
        health.rest_until_ms = now_ms.saturating_add(pause_ms);
        if self.current == at {
            self.current = (at + 1) % count;
        }
        health.failures
    }
}
