//! A member of a consumer group.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, TryStreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::buffer::{Item, Reader};
use super::{Options, Reset};
use crate::client::{ConsumerRecord, Error, Shared};
use crate::protocol::grpc::v1::PartitionOffset;
use crate::protocol::grpc::v1::consume_open;

use super::group_service::{self, Command};

/// How often positions are committed unless told otherwise, in milliseconds.
const AUTO_COMMIT_MS: u64 = 5_000;
/// Commands to the driver that wait.
const COMMANDS: usize = 16;

/// How a member of a group works; from [`super::ConsumerBuilder::group`].
#[derive(Debug, Clone)]
#[must_use]
pub struct GroupBuilder {
    shared: Arc<Shared>,
    settings: Settings,
    auto_commit_ms: Option<u64>,
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub group: String,
    pub topics: Vec<String>,
    pub reset: consume_open::Reset,
    pub instance_id: Option<String>,
    pub session_timeout_ms: u32,
    pub options: Options,
}

impl GroupBuilder {
    pub(super) fn new(shared: Arc<Shared>, group: String, options: Options) -> Self {
        let settings = Settings {
            group,
            topics: Vec::new(),
            reset: consume_open::Reset::Earliest,
            instance_id: None,
            session_timeout_ms: 0,
            options,
        };
        Self { shared, settings, auto_commit_ms: Some(AUTO_COMMIT_MS) }
    }

    /// Topics that the member reads, beside those named before.
    pub fn topics<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.settings.topics.extend(topics.into_iter().map(Into::into));
        self
    }

    /// Where a partition is read from for which the group has no offset, or one that is gone; [`Reset::Earliest`] unless told
    /// otherwise.
    pub fn reset(mut self, reset: Reset) -> Self {
        self.settings.reset = match reset {
            Reset::Earliest => consume_open::Reset::Earliest,
            Reset::Latest => consume_open::Reset::Latest,
            Reset::None => consume_open::Reset::None,
        };
        self
    }

    /// How often positions are committed without being asked for, in milliseconds (at least 1); `None`: never. Every 5 000
    /// unless told otherwise.
    pub fn auto_commit_ms(mut self, every_ms: Option<u64>) -> Self {
        self.auto_commit_ms = every_ms.map(|every_ms| every_ms.max(1));
        self
    }

    /// Kafka's `group.instance.id`: a member that comes back within the session timeout has its partitions again at once.
    pub fn instance_id(mut self, id: impl Into<String>) -> Self {
        self.settings.instance_id = Some(id.into());
        self
    }

    /// The member is taken for dead when the broker that keeps it is silent for this long, in milliseconds; 10 000 unless told
    /// otherwise.
    pub fn session_timeout_ms(mut self, timeout_ms: u32) -> Self {
        self.settings.session_timeout_ms = timeout_ms;
        self
    }

    /// The member, which joins its group at once. Must be called on a tokio runtime, which then runs it.
    pub fn build(self) -> GroupConsumer {
        let Self { shared, settings, auto_commit_ms } = self;
        let end = CancellationToken::new();
        let (commands, orders) = mpsc::channel(COMMANDS);
        let (reader, driver) = group_service::start(shared, settings, orders, end.clone());
        let ticks = auto_commit_ms.map(|every_ms| {
            let mut ticks = interval(Duration::from_millis(every_ms));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks.reset();
            ticks
        });
        GroupConsumer {
            reader,
            driver,
            commands,
            ticks,
            positions: BTreeMap::new(),
            changed: false,
            assigned: Vec::new(),
            end: end.drop_guard(),
        }
    }
}

/// A member of a consumer group: a [`Stream`] of the records of the partitions that it is given.
///
/// When members come or go, partitions are dealt out anew. This member gives its own up when all records before that moment
/// have been taken and `next` is called again: what was taken counts as done then, and is committed if it commits by itself.
/// A program that takes its time longer than the broker waits (5 s) loses them without a commit, and another member reads
/// those records again.
///
/// After a broken connection it joins anew and reads on from where the group has committed: records that were taken and not
/// committed come again. Each record comes at least once, and once if nothing breaks.
///
/// Dropping it leaves the group without a commit; [`GroupConsumer::close`] commits first.
#[derive(Debug)]
pub struct GroupConsumer {
    reader: Reader,
    driver: JoinHandle<()>,
    commands: mpsc::Sender<Command>,
    ticks: Option<Interval>,
    /// The next offset of each partition that records were taken of.
    positions: BTreeMap<(Arc<str>, i32), i64>,
    /// They have changed since the last commit.
    changed: bool,
    assigned: Vec<PartitionOffset>,
    end: DropGuard,
}

impl GroupConsumer {
    /// The next record; `None` at the end. It may be called again after an error.
    ///
    /// Errors: one partition cannot be read; or, and then it is over, the group cannot be joined.
    pub async fn recv(&mut self) -> Result<Option<ConsumerRecord>, Error> {
        self.try_next().await
    }

    /// Commits what was taken: all records that `next` has given so far count as done.
    ///
    /// Errors: the group has dealt its partitions out anew meanwhile, or the connection broke; what was taken may come again.
    pub async fn commit(&mut self) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        let order = Command::Commit { offsets: self.offsets(), answer: Some(answer) };
        let gone = || Error::unavailable("the consumer has ended");
        self.commands.send(order).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))?;
        self.changed = false;
        Ok(())
    }

    /// The partitions that it has at the moment (as far as records were taken), and where each was read from.
    pub fn assigned(&self) -> &[PartitionOffset] {
        &self.assigned
    }

    /// Commits what was taken, unless it does not commit by itself, and leaves the group. On return the member has left, or
    /// its broker has not said so within 5 s.
    ///
    /// Errors: as [`GroupConsumer::commit`]; it leaves all the same.
    pub async fn close(mut self) -> Result<(), Error> {
        let committed = if self.ticks.is_some() && self.changed { self.commit().await } else { Ok(()) };
        drop(self.end);
        // It ends by itself, within bounds; that it panicked is no news for whoever leaves.
        let _ = self.driver.await;
        committed
    }

    fn offsets(&self) -> Vec<PartitionOffset> {
        let offset = |((topic, partition), offset): (&(Arc<str>, i32), &i64)| PartitionOffset {
            topic: topic.to_string(),
            partition: *partition,
            offset: *offset,
            leader_epoch: -1,
            error: None,
        };
        self.positions.iter().map(offset).collect()
    }

    /// Commits without waiting; if the driver has enough to do it is done next time.
    fn commit_soon(&mut self) {
        if self.changed && self.commands.try_send(Command::Commit { offsets: self.offsets(), answer: None }).is_ok() {
            self.changed = false;
        }
    }
}

impl Stream for GroupConsumer {
    type Item = Result<ConsumerRecord, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let due = self.ticks.as_mut().is_some_and(|ticks| ticks.poll_tick(context).is_ready());
        if due {
            self.commit_soon();
            // The next one wakes this task.
            if let Some(ticks) = self.ticks.as_mut() {
                let _ = ticks.poll_tick(context);
            }
        }
        loop {
            match std::task::ready!(self.reader.poll_item(context)) {
                None => return Poll::Ready(None),
                Some(Item::Failed(error)) => return Poll::Ready(Some(Err(error))),
                Some(Item::Record(record)) => {
                    self.positions.insert((record.topic.clone(), record.partition), record.offset + 1);
                    self.changed = true;
                    return Poll::Ready(Some(Ok(record)));
                }
                Some(Item::Assigned(partitions)) => {
                    self.positions.clear();
                    self.changed = false;
                    self.assigned = partitions;
                }
                Some(Item::Revoking) => {
                    if self.ticks.is_some() {
                        self.commit_soon();
                    }
                    self.assigned.clear();
                    // Without room the broker waits no longer than it must.
                    let _ = self.commands.try_send(Command::Release);
                }
            }
        }
    }
}
