//! What a coordinator's state machine is to the runtime that drives it.

use bytes::Bytes;
use kafka_protocol::error::ResponseError;

/// A record without its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRecord {
    /// The key; never empty here.
    pub key: Bytes,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
}

impl RawRecord {
    /// Key and value together, in bytes.
    pub fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// The moment of a step: both clocks, read once by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since boot; never goes back. Deadlines are in this.
    pub boot_ms: u64,
    /// Milliseconds since the Unix epoch. Timestamps in records are in this.
    pub wall_ms: i64,
}

/// Who waits for a reply; unique in the life of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplyTo(pub u64);

/// One append; they grow by one and commit in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Ticket(pub u64);

/// What a step wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effects<R> {
    /// Records to append, in order, and the ticket to report their commit under. Never empty when present.
    pub append: Option<(Ticket, Vec<RawRecord>)>,
    /// Replies whose promise is durable.
    pub replies: Vec<(ReplyTo, R)>,
}

impl<R> Default for Effects<R> {
    fn default() -> Self {
        Self { append: None, replies: Vec::new() }
    }
}

/// A pure state machine over the records of one partition. No clock, no IO, no randomness.
///
/// Order of calls: `replay`* `loaded` (`step` | `poll` | `committed` | `snapshot`)* `unload`. Tickets are reported
/// committed in order, each once; after a failed append the shard calls `unload` and makes a new machine from the log.
pub trait Machine: Send + 'static {
    /// A request.
    type Input: Send + 'static;
    /// Its answer.
    type Reply: Send + 'static;

    /// Takes in a committed record while loading.
    fn replay(&mut self, key: &[u8], value: Option<&[u8]>);
    /// The log has been read to its end: timers start.
    fn loaded(&mut self, now: Now) -> Effects<Self::Reply>;
    /// Handles a request. The answer to `to` comes in these effects or later ones, exactly once.
    fn step(&mut self, now: Now, to: ReplyTo, input: Self::Input) -> Effects<Self::Reply>;
    /// Fires the deadlines that have passed.
    fn poll(&mut self, now: Now) -> Effects<Self::Reply>;
    /// The earliest deadline, in milliseconds since boot.
    fn next_deadline(&self) -> Option<u64>;
    /// The records of `ticket` are committed.
    fn committed(&mut self, now: Now, ticket: Ticket) -> Effects<Self::Reply>;
    /// The shard is given up: everybody who still waits is told to find the coordinator again.
    fn unload(&mut self) -> Vec<(ReplyTo, Self::Reply)>;

    /// Whether handling `input` may append; such inputs are refused when too much is in flight.
    fn may_append(input: &Self::Input) -> bool;
    /// The answer to `input` when it cannot be handled.
    fn refuse(input: &Self::Input, error: ResponseError) -> Self::Reply;

    /// About how many bytes of records the live state would take.
    fn live_bytes(&self) -> u64;
    /// A slice of the live state as records, after the key `after`; with the key to go on from, or `None` at the end.
    fn snapshot(&self, after: Option<&str>, enough_bytes: usize) -> (Vec<RawRecord>, Option<String>);
    /// Publishes what the state holds; called now and then.
    fn publish_gauges(&mut self);
}
