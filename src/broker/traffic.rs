//! How busy partitions are: what is written and read of each, smoothed over the last half minute or so. The controller asks
//! for it to spread the load.
//!
//! Pure: time comes in. A crash or a new session forgets it; it is measured anew within a minute.

use crate::base::{HashMap, TopicPartition};

/// After this long, half of what was measured before is forgotten, in milliseconds.
const HALF_LIFE_MS: f64 = 15_000.0;
/// Partitions with less than this are not worth telling, in bytes per second.
const MIN_RATE: f64 = 1024.0;
/// Most partitions told: the busiest.
pub const MAX_RATES: usize = 1_000;
/// Shortest time over which a rate is measured, in milliseconds.
const MIN_ELAPSED_MS: u64 = 1_000;

/// See the module. It holds at most one number per partition that was used since it was last asked, and one per partition
/// that was busy then.
#[derive(Debug, Default)]
pub struct Traffic {
    bytes: HashMap<TopicPartition, u64>,
    rates: HashMap<TopicPartition, f64>,
    measured_ms: Option<u64>,
}

impl Traffic {
    /// `bytes` of the partition were written or read.
    pub fn note(&mut self, partition: TopicPartition, bytes: u64) {
        if bytes > 0 {
            *self.bytes.entry(partition).or_default() += bytes;
        }
    }

    /// Bytes per second of the busiest partitions, the busiest first, at `now_ms` of a clock that never goes back. Asked
    /// twice within a second it says the same.
    pub fn rates(&mut self, now_ms: u64) -> Vec<(TopicPartition, u64)> {
        match self.measured_ms {
            None => {
                self.measured_ms = Some(now_ms);
                self.bytes.clear();
            }
            Some(then) if now_ms.saturating_sub(then) >= MIN_ELAPSED_MS => {
                self.measure((now_ms - then) as f64);
                self.measured_ms = Some(now_ms);
            }
            Some(_) => {}
        }
        let mut rates: Vec<(TopicPartition, f64)> =
            self.rates.iter().map(|(partition, rate)| (*partition, *rate)).collect();
        rates.sort_by(|(one, rate), (other, least)| least.total_cmp(rate).then(one.cmp(other)));
        rates.into_iter().take(MAX_RATES).map(|(partition, rate)| (partition, rate as u64)).collect()
    }

    fn measure(&mut self, elapsed_ms: f64) {
        let kept = (-elapsed_ms / HALF_LIFE_MS).exp2();
        for rate in self.rates.values_mut() {
            *rate *= kept;
        }
        for (partition, bytes) in self.bytes.drain() {
            let now = bytes as f64 * 1000.0 / elapsed_ms;
            *self.rates.entry(partition).or_default() += now * (1.0 - kept);
        }
        self.rates.retain(|_, rate| *rate >= MIN_RATE);
    }
}

#[cfg(test)]
mod tests;
