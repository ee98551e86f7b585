//! Pauses between repeated requests.

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::Rng;

/// Exponential backoff with full jitter, bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Longest first pause, in milliseconds.
    pub first_ms: u64,
    /// Longest pause at all, in milliseconds.
    pub most_ms: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first_ms: 50, most_ms: 2_000 }
    }
}

impl Backoff {
    /// The pause after the `failures`-th failure (1 or more): random, between half of and the whole of
    /// `first_ms * 2^(failures - 1)`, which is cut to `most_ms`.
    pub fn pause(&self, failures: u32, rng: &Rng) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let ceiling_ms = self.first_ms.saturating_mul(1 << doublings).min(self.most_ms);
        let floor_ms = ceiling_ms / 2;
        Duration::from_millis(floor_ms + rng.below(ceiling_ms - floor_ms + 1))
    }
}
