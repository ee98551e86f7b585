//! Lets a log line through once in a while and counts those held back, so that a hostile client cannot fill the log.

use std::sync::atomic::{AtomicU64, Ordering};

const EVERY_MS: u64 = 1_000;

/// One gate: one kind of line.
#[derive(Debug, Default)]
pub struct Gate {
    next_ms: AtomicU64,
    hidden: AtomicU64,
}

impl Gate {
    /// `Some(lines held back since the last)` if a line may be written now.
    pub fn open(&self, now_ms: u64) -> Option<u64> {
        let next = self.next_ms.load(Ordering::Relaxed);
        let won = now_ms >= next
            && self.next_ms.compare_exchange(next, now_ms + EVERY_MS, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if won {
            Some(self.hidden.swap(0, Ordering::Relaxed))
        } else {
            self.hidden.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

/// The gates of the Kafka front door.
#[derive(Debug, Default)]
pub struct Gates {
    /// Failed accepts.
    pub accept: Gate,
    /// Connections over the limit.
    pub refused: Gate,
    /// Other protocols on the Kafka port.
    pub foreign: Gate,
    /// Malformed or unknown requests.
    pub bad_request: Gate,
    /// Transactional producers, which are refused.
    pub transactions: Gate,
    /// Failures of the broker itself.
    pub failure: Gate,
}
