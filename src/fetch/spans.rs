//! Which batches of an object to take, and which byte ranges to read for them. Pure.

use std::ops::Range;

use crate::format::entry::BatchFacts;
use crate::format::frame::FRAME_HEADER_BYTES;
use crate::partition::Run;

/// A batch in an object, as far as readers care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSpan {
    /// Position of its frame in the object, in bytes.
    pub position: u32,
    /// Length of the batch (without the frame's header) in bytes.
    pub batch_bytes: u32,
    /// Offset of its first record.
    pub base_offset: i64,
    /// Offset of its last record (inclusive).
    pub last_offset: i64,
    /// Largest timestamp, in milliseconds since the Unix epoch.
    pub max_timestamp: i64,
}

impl From<&BatchFacts> for BatchSpan {
    fn from(facts: &BatchFacts) -> Self {
        Self {
            position: facts.position,
            batch_bytes: facts.batch_bytes,
            base_offset: facts.base_offset,
            last_offset: facts.last_offset,
            max_timestamp: facts.max_timestamp,
        }
    }
}

impl BatchSpan {
    /// Where the whole frame lies in the object.
    pub fn frame_range(&self) -> Range<u64> {
        let start = u64::from(self.position);
        start..start + FRAME_HEADER_BYTES as u64 + u64::from(self.batch_bytes)
    }
}

/// How many bytes of batches may still be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    left_bytes: usize,
    at_least_one: bool,
    spent: bool,
}

impl Budget {
    /// At most `bytes`; with `at_least_one` the first batch is taken whatever its size.
    pub fn new(bytes: usize, at_least_one: bool) -> Self {
        Self { left_bytes: bytes, at_least_one, spent: bytes == 0 && !at_least_one }
    }

    /// Takes a batch of `bytes` if there is room. Once one was refused nothing more is taken.
    pub fn take(&mut self, bytes: usize) -> bool {
        if self.spent {
            return false;
        }
        if bytes > self.left_bytes && !self.at_least_one {
            self.spent = true;
            return false;
        }
        self.at_least_one = false;
        self.left_bytes = self.left_bytes.saturating_sub(bytes);
        self.spent = self.left_bytes == 0;
        true
    }

    /// Whether nothing more will be taken.
    pub fn is_spent(&self) -> bool {
        self.spent
    }

    /// Bytes that are left.
    pub fn left_bytes(&self) -> usize {
        self.left_bytes
    }
}

/// The batches of `run` among the batches of its partition in its object (`spans`, in order), checked against the run:
/// they begin and end where it does, leave nothing out and lie within its bytes.
pub fn of_run<'a>(spans: &'a [BatchSpan], run: &Run) -> Result<&'a [BatchSpan], &'static str> {
    let from = spans.partition_point(|span| span.base_offset < run.first_offset);
    let to = spans.partition_point(|span| span.base_offset < run.next_offset);
    let chosen = spans.get(from..to).unwrap_or_default();
    let (Some(first), Some(last)) = (chosen.first(), chosen.last()) else {
        return Err("its footer lists none of the partition's batches");
    };
    if first.base_offset != run.first_offset || last.last_offset + 1 != run.next_offset {
        return Err("its footer and the log disagree on the partition's offsets");
    }
    if chosen.windows(2).any(|pair| pair[0].last_offset + 1 != pair[1].base_offset) {
        return Err("its footer skips or repeats offsets");
    }
    let (start, end) = (u64::from(run.position), u64::from(run.position) + u64::from(run.length));
    if first.frame_range().start < start || last.frame_range().end > end {
        return Err("its footer and the log disagree on the partition's bytes");
    }
    if chosen.windows(2).any(|pair| pair[0].frame_range().end > pair[1].frame_range().start) {
        return Err("its footer lists overlapping frames");
    }
    Ok(chosen)
}

/// The batches that hold `offset` and what follows, wholly below `limit` (exclusive), as far as the budget goes.
pub fn choose<'a>(spans: &'a [BatchSpan], offset: i64, limit: i64, budget: &mut Budget) -> &'a [BatchSpan] {
    let from = spans.partition_point(|span| span.last_offset < offset);
    let mut to = from;
    while let Some(span) = spans.get(to)
        && span.last_offset < limit
        && budget.take(span.batch_bytes as usize)
    {
        to += 1;
    }
    &spans[from..to]
}

/// Splits batches (in order) into groups to be read with one ranged read each: neighbours whose gap is at most
/// `max_gap_bytes`, up to `max_bytes` together (a larger batch stands alone).
pub fn group(spans: &[BatchSpan], max_gap_bytes: u64, max_bytes: u64) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for (at, span) in spans.iter().enumerate() {
        let frame = span.frame_range();
        match groups.last_mut() {
            Some(group)
                if frame.start.saturating_sub(spans[group.end - 1].frame_range().end) <= max_gap_bytes
                    && frame.end - spans[group.start].frame_range().start <= max_bytes =>
            {
                group.end = at + 1;
            }
            _ => groups.push(at..at + 1),
        }
    }
    groups
}
