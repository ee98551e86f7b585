//! Where records without a key go: to one partition until it has a batch, then to another.

use crate::base::Rng;

/// One topic's choice.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sticky {
    partition: i32,
    bytes: usize,
    chosen: bool,
}

impl Sticky {
    /// The partition of a record of so many bytes, among `partitions` (at least 1).
    pub fn place(&mut self, bytes: usize, batch_bytes: usize, partitions: usize, rng: &Rng) -> i32 {
        let full = self.bytes + bytes > batch_bytes;
        if !self.chosen || full || self.partition as usize >= partitions {
            // Another one than before, if there is another.
            let others = partitions.saturating_sub(usize::from(self.chosen)).max(1);
            let step = rng.below(others as u64) as usize + usize::from(self.chosen);
            let partition = ((self.partition as usize + step) % partitions.max(1)) as i32;
            *self = Self { partition, bytes: 0, chosen: true };
        }
        self.bytes += bytes;
        self.partition
    }
}
