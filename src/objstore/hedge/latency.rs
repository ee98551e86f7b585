//! When a read counts as slow, and how many second requests are allowed: pure arithmetic.

/// Latencies that are remembered.
const WINDOW: usize = 256;
/// Fewer than this say nothing.
const LEAST_SAMPLES: usize = 32;
/// The quantile is computed again after this many new samples.
const REFRESH_SAMPLES: usize = 16;

/// The recent latencies of one class of requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latencies {
    recent_us: Vec<u64>,
    oldest: usize,
    since_refresh: usize,
    slow_us: Option<u64>,
}

impl Latencies {
    /// Adds one; `quantile` in `0.0..1.0` says which of the recent ones counts as slow.
    pub(crate) fn add(&mut self, latency_us: u64, quantile: f64) {
        if self.recent_us.len() < WINDOW {
            self.recent_us.push(latency_us);
        } else {
            self.recent_us[self.oldest] = latency_us;
            self.oldest = (self.oldest + 1) % WINDOW;
        }
        self.since_refresh += 1;
        let known = self.recent_us.len();
        if known >= LEAST_SAMPLES && (self.slow_us.is_none() || self.since_refresh >= REFRESH_SAMPLES) {
            let mut sorted = self.recent_us.clone();
            let at = ((known as f64 * quantile) as usize).min(known - 1);
            self.slow_us = Some(*sorted.select_nth_unstable(at).1);
            self.since_refresh = 0;
        }
    }

    /// From which latency on a request is slow; `None` while too little is known.
    pub(crate) fn slow_us(&self) -> Option<u64> {
        self.slow_us
    }
}

/// Bounds hedges to a share of the requests, with a small reserve for bursts. In thousandths of a hedge.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    saved: u64,
    per_request: u64,
}

/// Hedges that can be saved up, in thousandths.
const RESERVE: u64 = 10_000;

impl Budget {
    /// `share` of the requests (0.05 is one in twenty).
    pub(crate) fn new(share: f64) -> Self {
        Self { saved: 0, per_request: (share.clamp(0.0, 1.0) * 1_000.0) as u64 }
    }

    /// A request was sent.
    pub(crate) fn earn(&mut self) {
        self.saved = (self.saved + self.per_request).min(RESERVE);
    }

    /// Whether a hedge may be sent now; it is paid for if so.
    pub(crate) fn spend(&mut self) -> bool {
        let affordable = self.saved >= 1_000;
        if affordable {
            self.saved -= 1_000;
        }
        affordable
    }
}
