//! Which batches are put together into the next objects. Pure: states and waits come in, jobs go out.
//!
//! A partition's runs are, from the old end to the new: compacted runs of about the wanted size, which stay; then smaller
//! ones, each larger than what follows it together; then runs in segments. A window over the newest of them grows towards
//! the old end for as long as what it meets is no larger than what it holds, so a batch is copied about log2(wanted size /
//! bytes of one look) times, and a partition has about as many runs below the wanted size.

use std::collections::VecDeque;

use uuid::Uuid;

use crate::base::TopicPartition;
use crate::format::state::{ObjectRef, Run};

/// What is worth a new object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Bytes of batches that an object is to hold, about.
    pub run_bytes: u64,
    /// A partition is compacted when it has this many runs in segments …
    pub segments: usize,
    /// … or when it has had any for this long, in milliseconds: other topics' batches in those segments may be gone.
    pub max_wait_ms: u64,
}

/// Consecutive runs of one partition that are to become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The partition.
    pub partition: TopicPartition,
    /// Its first offset.
    pub first_offset: i64,
    /// Its end offset (exclusive).
    pub next_offset: i64,
    /// Bytes of batches.
    pub bytes: u64,
    /// Runs that go into it.
    pub runs: usize,
}

/// One object to write: windows of one topic's partitions, in the order of partitions and offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// What goes in.
    pub windows: Vec<Window>,
}

impl Job {
    /// Bytes of batches.
    pub fn bytes(&self) -> u64 {
        self.windows.iter().map(|window| window.bytes).sum()
    }
}

/// Whether a partition has batches in segments, from `log_start` on.
pub fn has_segments(runs: &VecDeque<Run>) -> bool {
    // They are the newest.
    runs.back().is_some_and(is_segment)
}

fn is_segment(run: &Run) -> bool {
    matches!(run.object, ObjectRef::Segment { .. })
}

/// What is to be compacted of a partition, oldest first. Nothing that begins before `log_start`: it will be gone soon, or is
/// in part. `waited_ms` is for how long it has had batches in segments. No window spans more than `max_span_ms` of record
/// time, so that retention, which takes whole runs, is not late by more.
pub fn windows(
    partition: TopicPartition,
    runs: &VecDeque<Run>,
    log_start: i64,
    policy: &Policy,
    max_span_ms: Option<u64>,
    waited_ms: u64,
) -> Vec<Window> {
    // Behind the last run that has its final size.
    let small = runs.iter().rev().take_while(|run| {
        run.first_offset >= log_start && (is_segment(run) || u64::from(run.batch_bytes) < policy.run_bytes / 2)
    });
    let rest: Vec<&Run> = runs.range(runs.len() - small.count()..).collect();
    let mut found = Vec::new();
    let mut group: Vec<&Run> = Vec::new();
    let (mut bytes, mut oldest_ms) = (0, i64::MAX);
    let window = |group: &[&Run]| Window {
        partition,
        first_offset: group.first().map_or(0, |run| run.first_offset),
        next_offset: group.last().map_or(0, |run| run.next_offset),
        bytes: group.iter().map(|run| u64::from(run.batch_bytes)).sum(),
        runs: group.len(),
    };
    for run in rest {
        let too_long = max_span_ms.is_some_and(|span_ms| {
            !group.is_empty()
                && run.max_timestamp.saturating_sub(oldest_ms) > i64::try_from(span_ms).unwrap_or(i64::MAX)
        });
        if too_long || bytes >= policy.run_bytes {
            if worth_writing(&group) {
                found.push(window(&group));
            }
            group.clear();
            (bytes, oldest_ms) = (0, i64::MAX);
        }
        group.push(run);
        bytes += u64::from(run.batch_bytes);
        oldest_ms = oldest_ms.min(run.max_timestamp);
    }
    if bytes >= policy.run_bytes && worth_writing(&group) {
        found.push(window(&group));
        return found;
    }
    let segments = group.iter().filter(|run| is_segment(run)).count();
    if segments >= policy.segments.max(1) || (segments > 0 && waited_ms >= policy.max_wait_ms) {
        let mut from = group.len() - segments;
        let mut held: u64 = group[from..].iter().map(|run| u64::from(run.batch_bytes)).sum();
        while let Some(before) = from.checked_sub(1)
            && u64::from(group[before].batch_bytes) <= held
        {
            held += u64::from(group[before].batch_bytes);
            from = before;
        }
        found.push(window(&group[from..]));
    }
    found
}

/// Segments are to be left; what is compacted and stands alone stays as it is.
fn worth_writing(group: &[&Run]) -> bool {
    group.len() > 1 || group.iter().any(|run| is_segment(run))
}

/// Puts windows together into objects of about `run_bytes`, each for one topic.
pub fn jobs(mut windows: Vec<Window>, run_bytes: u64) -> Vec<Job> {
    windows.sort_unstable_by_key(|window| (window.partition, window.first_offset));
    let mut jobs: Vec<Job> = Vec::new();
    let mut open: Option<(Uuid, u64)> = None;
    for window in windows {
        let topic = window.partition.topic_id;
        match (&mut open, jobs.last_mut()) {
            (Some((of, bytes)), Some(job)) if *of == topic && *bytes + window.bytes <= run_bytes => {
                *bytes += window.bytes;
                job.windows.push(window);
            }
            _ => {
                open = Some((topic, window.bytes));
                jobs.push(Job { windows: vec![window] });
            }
        }
    }
    jobs
}
