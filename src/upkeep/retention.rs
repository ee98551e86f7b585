//! Which offset retention moves log start to. Pure.

use crate::format::state::PartitionState;

/// A topic's retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionRule {
    /// Age past which records may go, in milliseconds; `None` for no limit.
    pub retention_ms: Option<u64>,
    /// Bytes of the partition past which the oldest records may go; `None` for no limit.
    pub retention_bytes: Option<u64>,
}

/// The new log start, or `None` if everything may stay.
///
/// Works on whole runs, as Kafka works on whole segments: a run goes when its newest record is too old, or when what
/// follows it is still at least `retention_bytes`. Records without a timestamp (-1) never grow old. Nothing at or past the
/// last stable offset goes.
pub fn new_log_start(state: &PartitionState, rule: RetentionRule, now_ms: i64) -> Option<i64> {
    let last_stable = state.last_stable();
    let mut size_bytes: u64 = state.runs.iter().map(|run| u64::from(run.batch_bytes)).sum();
    let mut log_start = None;
    for run in &state.runs {
        let too_old = rule.retention_ms.is_some_and(|limit_ms| {
            let limit_ms = i64::try_from(limit_ms).unwrap_or(i64::MAX);
            run.max_timestamp >= 0 && run.max_timestamp < now_ms.saturating_sub(limit_ms)
        });
        let rest_bytes = size_bytes - u64::from(run.batch_bytes);
        let too_much = rule.retention_bytes.is_some_and(|limit_bytes| rest_bytes >= limit_bytes);
        if !(too_old || too_much) || run.next_offset > last_stable {
            break;
        }
        size_bytes = rest_bytes;
        log_start = Some(run.next_offset);
    }
    log_start.filter(|start| *start > state.log_start)
}
