//! A partition as a producer sees it, and the brokers.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::{Error, Reason};
use super::batch::Batch;

/// Longest first pause before something is tried again, in milliseconds; it doubles,
const RETRY_FIRST_MS: u64 = 20;
/// up to this.
const RETRY_MOST_MS: u64 = 1_000;

/// A topic or a partition that brokers do not know for so long is not there, in milliseconds: one hears of it before another.
const MISSING_MS: u64 = 2_000;

/// How a lane's batches get to the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To be found out.
    Unknown,
    /// Is being found out.
    Asked,
    Leader(Arc<str>),
    /// Through any broker, until then.
    Any {
        until_ms: u64,
    },
}

#[derive(Debug)]
pub struct Lane<T> {
    pub topic: Arc<str>,
    pub partition: i32,
    pub waiting: VecDeque<Batch<T>>,
    /// With sequences, if there are any; the oldest first.
    pub under_way: VecDeque<Batch<T>>,
    pub route: Route,
    pub failures: u32,
    /// Since when brokers do not know the topic, or the partition.
    pub missing_since_ms: Option<u64>,
    /// Nothing is sent before.
    pub not_before_ms: u64,
    pub identity: Option<i64>,
    /// Not to be taken again.
    pub spent_identity: Option<i64>,
    pub next_sequence: i32,
    /// Number of the next batch that is sent.
    pub next_number: u64,
    /// The broker knows the identity: it has acknowledged a batch of it. Until then any sequence would do for it, so one
    /// batch is sent at a time.
    pub established: bool,
    /// A sequence may never be written: what follows it cannot be, either.
    pub holed: bool,
    pub dirty: bool,
    /// Its place in `timers`.
    pub wake_ms: Option<u64>,
}

/// A broker.
#[derive(Debug, Default)]
pub struct Peer {
    pub requests: usize,
    /// Connections in a row that broke without an answer.
    pub failures: u32,
    /// Lanes that wait for room.
    pub held: Vec<usize>,
}

impl<T> Lane<T> {
    pub fn new(topic: Arc<str>, partition: i32) -> Self {
        Self {
            topic,
            partition,
            waiting: VecDeque::new(),
            under_way: VecDeque::new(),
            route: Route::Unknown,
            failures: 0,
            missing_since_ms: None,
            not_before_ms: 0,
            identity: None,
            spent_identity: None,
            next_sequence: 0,
            next_number: 0,
            established: false,
            holed: false,
            dirty: false,
            wake_ms: None,
        }
    }

    pub fn no_such_partition(&self) -> Error {
        let why = format!("topic {} has no partition {}", self.topic, self.partition);
        Error::new(Reason::UnknownPartition, why)
    }

    /// A broker does not know the topic, or the partition: whether it is not there. It may be behind the others.
    pub fn is_missing(&mut self, now_ms: u64) -> bool {
        let since_ms = *self.missing_since_ms.get_or_insert(now_ms);
        let missing = now_ms.saturating_sub(since_ms) >= MISSING_MS;
        if missing {
            self.missing_since_ms = None;
        }
        missing
    }

    /// Something failed: nothing is sent for a while, longer each time.
    pub fn back_off(&mut self, now_ms: u64) {
        let pause_ms = RETRY_FIRST_MS.saturating_mul(1 << self.failures.min(10)).min(RETRY_MOST_MS);
        self.failures = self.failures.saturating_add(1);
        self.not_before_ms = now_ms.saturating_add(pause_ms);
    }
}
