//! When to cut the open segment: a pure rule over times, and the bucket of PUTs that bounds what quiescent cuts cost.

use super::limits::LogLimits;

/// Tokens for quiescent cuts: `rate` a second on the average, `burst` at once.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    rate_per_s: u64,
    burst_millionths: u64,
    millionths: u64,
    filled_us: u64,
}

const TOKEN: u64 = 1_000_000;

impl TokenBucket {
    /// A full bucket. A rate of 0 means no limit.
    pub fn new(rate_per_s: u32, burst: u32, now_us: u64) -> Self {
        let burst_millionths = u64::from(burst.max(1)) * TOKEN;
        Self { rate_per_s: u64::from(rate_per_s), burst_millionths, millionths: burst_millionths, filled_us: now_us }
    }

    /// When the next token is there: now, or later.
    pub fn ready_us(&mut self, now_us: u64) -> u64 {
        self.fill(now_us);
        if self.rate_per_s == 0 || self.millionths >= TOKEN {
            now_us
        } else {
            now_us + (TOKEN - self.millionths).div_ceil(self.rate_per_s)
        }
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now_us: u64) {
        self.fill(now_us);
        self.millionths = self.millionths.saturating_sub(TOKEN);
    }

    /// Fills the bucket up.
    pub fn refill(&mut self, now_us: u64) {
        self.millionths = self.burst_millionths;
        self.filled_us = self.filled_us.max(now_us);
    }

    fn fill(&mut self, now_us: u64) {
        let elapsed_us = now_us.saturating_sub(self.filled_us);
        self.filled_us = self.filled_us.max(now_us);
        self.millionths =
            self.millionths.saturating_add(elapsed_us.saturating_mul(self.rate_per_s)).min(self.burst_millionths);
    }
}

/// What the rule needs to know of the open segment.
#[derive(Debug, Clone, Copy)]
pub struct OpenFacts {
    /// Its length in bytes.
    pub bytes: u32,
    /// When its first byte came.
    pub first_us: u64,
    /// When its last byte came.
    pub last_us: u64,
    /// Whether replies wait for its commit.
    pub replies_wait: bool,
    /// Segments cut and not yet committed.
    pub uncommitted_segments: usize,
}

/// Why a segment is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CutReason {
    /// `flush.bytes` reached.
    Size,
    /// `flush.linger` passed.
    Linger,
    /// Replies wait and producers are silent.
    Idle,
    /// Somebody asked (shutdown, a handoff).
    Asked,
}

/// When the open segment is due, and why; `None` while only its size can make it due.
pub fn due(open: OpenFacts, limits: &LogLimits, bucket: &mut TokenBucket, now_us: u64) -> Option<(u64, CutReason)> {
    if open.bytes >= limits.flush_bytes {
        return Some((now_us, CutReason::Size));
    }
    if open.uncommitted_segments >= limits.uploads {
        return None;
    }
    let linger = (open.first_us + limits.flush_linger_us, CutReason::Linger);
    if !open.replies_wait {
        return Some(linger);
    }
    let idle = ((open.last_us + limits.flush_idle_us).max(bucket.ready_us(now_us)), CutReason::Idle);
    Some(if idle.0 < linger.0 { idle } else { linger })
}
