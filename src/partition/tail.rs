//! The memory tail: committed segments whose bytes stay in memory for readers at the end of the log, within a budget.

use std::collections::VecDeque;

use crate::base::TopicPartition;

use super::limits::BATCH_OVERHEAD_BYTES;
use super::segment_buffer::CutSegment;

/// A segment that left the tail.
#[derive(Debug)]
pub struct Evicted {
    /// The segment.
    pub seq: u64,
    /// Partitions that had batches in it.
    pub partitions: Vec<TopicPartition>,
}

/// Which segments are in the tail, oldest first.
#[derive(Debug)]
pub struct TailBudget {
    limit_bytes: u64,
    bytes: u64,
    segments: VecDeque<(u64, Evicted)>,
}

impl TailBudget {
    /// An empty tail of at most `limit_bytes`.
    pub fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, bytes: 0, segments: VecDeque::new() }
    }

    /// Bytes in the tail.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a committed segment; returns what has to leave.
    pub fn push(&mut self, segment: &CutSegment) -> Vec<Evicted> {
        if !segment.blocks.is_empty() {
            let entries: usize = segment.sections.iter().map(|(_, entries)| entries.len()).sum();
            let bytes = segment.object_bytes + entries as u64 * BATCH_OVERHEAD_BYTES;
            let partitions = segment.sections.iter().map(|(partition, _)| *partition).collect();
            self.segments.push_back((bytes, Evicted { seq: segment.seq, partitions }));
            self.bytes += bytes;
        }
        let mut evicted = Vec::new();
        while self.bytes > self.limit_bytes {
            let Some((bytes, segment)) = self.segments.pop_front() else { break };
            self.bytes -= bytes;
            evicted.push(segment);
        }
        evicted
    }
}
