//! Time as an argument.

#![allow(clippy::disallowed_methods, reason = "this is the one file that reads the machine's clocks")]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where time comes from. Cheap to clone; every clone reads the same source.
#[derive(Clone)]
pub struct Clock(Arc<dyn Source>);

/// What a clock reads; the simulator brings its own.
pub trait Source: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn wall_ms(&self) -> i64;
    /// Microseconds since boot, counting suspend; never goes back.
    fn boot_us(&self) -> u64;
}

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Self {
        Self(Arc::new(System))
    }

    /// A clock that reads `source`.
    pub fn of(source: impl Source) -> Self {
        Self(Arc::new(source))
    }

    /// Milliseconds since the Unix epoch. May jump either way; use it only for record timestamps and retention.
    pub fn wall_ms(&self) -> i64 {
        self.0.wall_ms()
    }

    /// Microseconds since boot, counting suspend (`CLOCK_BOOTTIME`). Never goes back.
    pub fn boot_us(&self) -> u64 {
        self.0.boot_us()
    }

    /// Milliseconds since boot, counting suspend. Never goes back.
    pub fn boot_ms(&self) -> u64 {
        self.boot_us() / 1000
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

struct System;

impl Source for System {
    fn wall_ms(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        }
    }

    fn boot_us(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let micros = u64::try_from(now.tv_nsec).unwrap_or(0) / 1000;
        seconds * 1_000_000 + micros
    }
}

/// A clock that moves only when told to; both readings move together.
#[derive(Clone, Debug)]
pub struct ManualClock {
    wall_start_ms: i64,
    elapsed_us: Arc<AtomicU64>,
}

impl ManualClock {
    /// Starts at `wall_start_ms` since the Unix epoch and zero since boot.
    pub fn starting_at(wall_start_ms: i64) -> Self {
        Self { wall_start_ms, elapsed_us: Arc::default() }
    }

    /// Moves the clock forward.
    pub fn advance_ms(&self, by_ms: u64) {
        self.elapsed_us.fetch_add(by_ms * 1000, Ordering::SeqCst);
    }

    /// A [`Clock`] that reads this one.
    pub fn clock(&self) -> Clock {
        Clock::of(self.clone())
    }
}

impl Source for ManualClock {
    fn wall_ms(&self) -> i64 {
        self.wall_start_ms + i64::try_from(self.boot_us() / 1000).unwrap_or(i64::MAX)
    }

    fn boot_us(&self) -> u64 {
        self.elapsed_us.load(Ordering::SeqCst)
    }
}
