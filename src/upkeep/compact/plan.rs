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
/// in part. `waited_ms` is for how long it has had batches in segments. The newest record times of what goes into one window lie
/// in one span of `max_span_ms`, counted from the epoch, so that retention, which takes whole runs, is not late by more.
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
    let due = |runs: &[&Run]| {
        let segments = runs.iter().filter(|run| is_segment(run)).count();
        segments >= policy.segments.max(1) || waited_ms >= policy.max_wait_ms
    };
    // What lies before a cut grows no more, and goes with the rest.
    let any_due = due(&rest);
    let mut found = Vec::new();
    let mut group: Vec<&Run> = Vec::new();
    let mut bytes = 0;
    // Times are cut where the newest so far enters another span: the same places in every look, whatever was merged.
    let (mut newest_ms, mut span) = (i64::MIN, None);
    for run in rest.iter().copied() {
        newest_ms = newest_ms.max(run.max_timestamp);
        let now_in = max_span_ms.map(|ms| newest_ms.div_euclid(i64::try_from(ms.max(1)).unwrap_or(i64::MAX)));
        if bytes >= policy.run_bytes || (span != now_in && !group.is_empty()) {
            found.extend(window(partition, &group, policy, any_due));
            group.clear();
            bytes = 0;
        }
        span = now_in;
        group.push(run);
        bytes += u64::from(run.batch_bytes);
    }
    found.extend(window(partition, &group, policy, due(&group)));
    found
}

/// What is to be copied of consecutive runs: all, if they are a whole object; otherwise, if it is time, the segments and what is
/// no larger before them. Segments are the last of them.
fn window(partition: TopicPartition, group: &[&Run], policy: &Policy, due: bool) -> Option<Window> {
    let bytes = |runs: &[&Run]| runs.iter().map(|run| u64::from(run.batch_bytes)).sum::<u64>();
    let segments = group.iter().filter(|run| is_segment(run)).count();
    let from = if bytes(group) >= policy.run_bytes && (group.len() > 1 || segments > 0) {
        0
    } else if due && segments > 0 {
        let mut from = group.len() - segments;
        let mut held = bytes(&group[from..]);
        while let Some(before) = from.checked_sub(1)
            && u64::from(group[before].batch_bytes) <= held
        {
            held += u64::from(group[before].batch_bytes);
            from = before;
        }
        from
    } else {
        return None;
    };
    let chosen = &group[from..];
    let (first, last) = (chosen.first()?, chosen.last()?);
    Some(Window {
        partition,
        first_offset: first.first_offset,
        next_offset: last.next_offset,
        bytes: bytes(chosen),
        runs: chosen.len(),
    })
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
