//! When each batch is due. Pure.

/// When the batches of one writer are due.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Microseconds from one batch to the next; none: each as soon as there is room.
    interval_us: Option<f64>,
    /// Batches to send; none: without end.
    batches: Option<u64>,
}

impl Schedule {
    /// Of writer `number` (from 0) of `writers`, which share `records` and `rate` (records per second) evenly.
    pub fn new(rate: Option<u64>, records: Option<u64>, batch_records: u64, writers: u64, number: u64) -> Self {
        let interval_us = rate.map(|rate| batch_records as f64 * writers as f64 * 1e6 / rate as f64);
        let batches = records.map(|records| {
            let all = records.div_ceil(batch_records);
            all / writers + u64::from(number < all % writers)
        });
        Self { interval_us, batches }
    }

    /// When batch `number` (from 0) is due, in microseconds after the begin; `None` behind the last. Without a rate it is due at
    /// once.
    pub fn due_us(&self, number: u64) -> Option<u64> {
        if self.batches.is_some_and(|batches| number >= batches) {
            return None;
        }
        Some((number as f64 * self.interval_us.unwrap_or(0.0)) as u64)
    }

    /// From when a latency counts: from when a batch was due if there is a rate, else from when it was sent.
    pub fn counts_from_us(&self, due_us: u64, sent_us: u64) -> u64 {
        if self.interval_us.is_some() { due_us.min(sent_us) } else { sent_us }
    }
}
