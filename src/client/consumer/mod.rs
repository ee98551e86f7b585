//! Reading records: partitions by themselves ([`Consumer`]), or as a member of a group ([`GroupConsumer`]).

mod buffer;
mod group;
mod group_service;
mod machine;
mod service;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::{Stream, TryStreamExt as _};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::buffer::{Item, Reader};
use self::machine::Wanted;
use super::{ConsumerRecord, Error, Shared};

pub use self::group::{GroupBuilder, GroupConsumer};

/// What waits in a consumer unless told otherwise, in bytes.
const CREDIT_BYTES: usize = 16 << 20;

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// At the first record that is there.
    #[default]
    Earliest,
    /// Behind the last one: only what is written from now on.
    Latest,
    /// At this offset.
    Offset(i64),
    /// At the first record at or after this time, in milliseconds since the Unix epoch; behind the last one if none is.
    TimestampMs(i64),
}

/// Which records are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// All that are committed to the log.
    #[default]
    ReadUncommitted,
    /// Only those that no open or aborted transaction holds.
    ReadCommitted,
}

/// Where reading begins if there is no position, or the one that there was is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reset {
    /// At the first record that is there.
    #[default]
    Earliest,
    /// Behind the last one.
    Latest,
    /// Nowhere: it is an error.
    None,
}

/// What a [`Consumer`] reads; from [`super::Client::consumer`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ConsumerBuilder {
    shared: Arc<Shared>,
    wanted: Vec<Wanted>,
    start: Start,
    options: Options,
}

/// What readers of both kinds are told.
#[derive(Debug, Clone, Copy)]
struct Options {
    stop_at_end: bool,
    isolation: Isolation,
    credit_bytes: usize,
}

impl ConsumerBuilder {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let options = Options { stop_at_end: false, isolation: Isolation::ReadUncommitted, credit_bytes: CREDIT_BYTES };
        Self { shared, wanted: Vec::new(), start: Start::Earliest, options }
    }

    /// All partitions of this topic, as many as it has when reading begins.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.wanted.push(Wanted { topic: topic.into().into(), partition: None, start: None });
        self
    }

    /// This partition.
    pub fn partition(mut self, topic: impl Into<String>, partition: i32) -> Self {
        self.wanted.push(Wanted { topic: topic.into().into(), partition: Some(partition), start: None });
        self
    }

    /// This partition, from here.
    pub fn partition_from(mut self, topic: impl Into<String>, partition: i32, start: Start) -> Self {
        self.wanted.push(Wanted { topic: topic.into().into(), partition: Some(partition), start: Some(start) });
        self
    }

    /// Where reading begins unless a partition says otherwise; [`Start::Earliest`] unless told otherwise.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Ends when what was there at the start has been read, instead of waiting for more. (After a broken connection it is
    /// what is there then.)
    pub fn stop_at_end(mut self, stop: bool) -> Self {
        self.options.stop_at_end = stop;
        self
    }

    /// Which records are read; all unless told otherwise.
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.options.isolation = isolation;
        self
    }

    /// What may wait in this consumer, in bytes of stored batches, at least 1; 16 MiB unless told otherwise. One message of
    /// each broker comes on top, 1 MiB or one batch; compressed batches are unpacked one message at a time.
    pub fn credit_bytes(mut self, bytes: usize) -> Self {
        self.options.credit_bytes = bytes.clamp(1, u32::MAX as usize);
        self
    }

    /// As a member of this consumer group: the group says which partitions, and from where.
    pub fn group(self, group: impl Into<String>) -> GroupBuilder {
        GroupBuilder::new(self.shared, group.into(), self.options)
    }

    /// The consumer. Must be called on a tokio runtime, which then runs it.
    pub fn build(self) -> Consumer {
        let Self { shared, wanted, start, options } = self;
        let wanted = wanted.into_iter().map(|one| Wanted { start: one.start.or(Some(start)), ..one }).collect();
        let end = CancellationToken::new();
        let reader = service::start(shared, wanted, options, end.clone());
        Consumer { reader, _end: end.drop_guard() }
    }
}

/// Reads partitions: a [`Stream`] of their records, in order within a partition, each once.
///
/// It follows leaders, and goes on behind the last record after a broken connection for as long as it takes. It ends when
/// all partitions have ended: because it was to stop at the end, or by an error each. An error concerns one partition (its
/// topic is not there, its offset is gone, stored bytes are damaged), which is read no further, or nothing can be read at all;
/// the others go on.
///
/// Dropping it ends the reading. `next` may be cancelled; no record is lost then.
#[derive(Debug)]
pub struct Consumer {
    reader: Reader,
    _end: DropGuard,
}

impl Consumer {
    /// The next record; `None` at the end. It may be called again after an error.
    ///
    /// Errors: see above.
    pub async fn recv(&mut self) -> Result<Option<ConsumerRecord>, Error> {
        self.try_next().await
    }
}

impl Stream for Consumer {
    type Item = Result<ConsumerRecord, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match std::task::ready!(self.reader.poll_item(context)) {
                None => return Poll::Ready(None),
                Some(Item::Record(record)) => return Poll::Ready(Some(Ok(record))),
                Some(Item::Failed(error)) => return Poll::Ready(Some(Err(error))),
                Some(Item::Assigned(_) | Item::Revoking) => {}
            }
        }
    }
}
