//! The log's shell: it moves bytes where the machine says and tells it what happened.
//!
//! One mutex guards the machine; nothing is awaited or written to disk under it. Replies wait on one watch channel of the
//! stream's progress. Cancellation: dropping a [`PendingAppend`] only drops the reply; the batch is appended all the same.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::base::{Clock, Rng, SessionId, Tasks, TopicPartition};
use crate::format::state::PartitionState;
use crate::objstore::ObjectStore;
use crate::protocol::batch::BatchHeader;
use crate::wal::{Disk, WalDir, WalError};

use super::api::{Acks, Appended, Isolation, LogError, PartitionView, ProducerView, ReadPlan, Run};
use super::limits::LogLimits;
use super::machine::{Machine, Now, Outcome, Ticket, Wait, WalMode};
use super::metrics::{CutLabels, LogMetrics};
use super::pace::CutReason;
use super::wal_cache::WalCache;
use super::wal_writer::Bell;

#[cfg(test)]
mod tests;

/// The write-ahead file is mirrored when this many bytes have gathered, replies or not.
const WAL_MIRROR_BYTES: u64 = 256 << 10;

/// When the write-ahead file is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalFsync {
    /// One sync for all replies that wait (`wal.fsync=group`).
    Group,
    /// Never: acks=1 survives a killed process, not power loss.
    Never,
}

/// What a log is made of.
#[derive(Debug)]
pub struct LogOptions {
    /// The session whose stream this is; registered, and without segments yet.
    pub session: SessionId,
    /// Limits and paces.
    pub limits: LogLimits,
    /// Where write-ahead files go; `None` for none (then nothing outlives the process).
    pub wal_root: Option<PathBuf>,
    /// The disk that they lie on.
    pub disk: Arc<dyn Disk>,
    /// When they are synced.
    pub wal_fsync: WalFsync,
    /// An unanswered upload is sent a second time after this many milliseconds; `None` for never.
    pub hedge_after_ms: Option<u64>,
    /// Where segments go.
    pub store: Arc<dyn ObjectStore>,
    /// Time.
    pub clock: Clock,
    /// Object ids and jitter.
    pub rng: Rng,
    /// Background tasks.
    pub tasks: Tasks,
}

/// How far the stream got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Segments committed.
    pub committed: u64,
    /// The write-ahead files hold everything before this place.
    pub wal: Ticket,
    /// The stream was sealed by another.
    pub fenced: bool,
}

/// Who waits for a partition, by subscription.
type Waiters = Vec<(u64, Arc<Notify>)>;

/// The log of one session; cheap to clone.
#[derive(Debug, Clone)]
pub struct Log(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub machine: Mutex<Machine>,
    pub limits: LogLimits,
    pub store: Arc<dyn ObjectStore>,
    pub clock: Clock,
    pub rng: Rng,
    pub tasks: Tasks,
    pub runtime: tokio::runtime::Handle,
    pub metrics: LogMetrics,
    pub wal_mode: WalMode,
    pub wal_fsync: WalFsync,
    pub hedge_after_ms: Option<u64>,
    pub wal_dir: Option<WalDir>,
    pub wal_cache: Mutex<WalCache>,
    pub wal_bell: Bell,
    pub wal_stop: AtomicBool,
    pub progress: watch::Sender<Progress>,
    pub cutter: Notify,
    pub room: Notify,
    pub admission: tokio::sync::Mutex<()>,
    pub checkpointing: AtomicBool,
    subscribers: Mutex<HashMap<TopicPartition, Waiters>>,
    next_subscription: AtomicU64,
}

impl Log {
    /// Starts the stream of a new session with the partitions it takes over, each with its new leader epoch and the state
    /// it had; returns when their `Acquired` entries are committed.
    pub async fn start(
        options: LogOptions,
        acquired: Vec<(TopicPartition, i32, PartitionState)>,
        metrics: LogMetrics,
    ) -> Result<Self, LogStartError> {
        let wal_mode = match &options.wal_root {
            None => WalMode::None,
            Some(_) if options.store.is_local() => WalMode::BecomesObject,
            Some(_) => WalMode::Mirror,
        };
        let create = |root| WalDir::create(&options.disk, root, options.session);
        let wal_dir = options.wal_root.as_deref().map(create).transpose()?;
        let now_us = options.clock.boot_us();
        let machine = Machine::new(options.session, options.limits.clone(), wal_mode, options.rng.uuid(), now_us);
        let (progress, _) = watch::channel(Progress { committed: 0, wal: Ticket { seq: 0, end: 0 }, fenced: false });
        let log = Self(Arc::new(Inner {
            machine: Mutex::new(machine),
            wal_cache: Mutex::new(WalCache::new(options.limits.wal_disk_bytes)),
            limits: options.limits,
            store: options.store,
            clock: options.clock,
            rng: options.rng,
            tasks: options.tasks,
            runtime: tokio::runtime::Handle::current(),
            metrics,
            wal_mode,
            wal_fsync: options.wal_fsync,
            hedge_after_ms: options.hedge_after_ms,
            wal_dir,
            wal_bell: Bell::default(),
            wal_stop: AtomicBool::new(false),
            progress,
            cutter: Notify::new(),
            room: Notify::new(),
            admission: tokio::sync::Mutex::new(()),
            checkpointing: AtomicBool::new(false),
            subscribers: Mutex::default(),
            next_subscription: AtomicU64::new(0),
        }));
        super::wal_writer::spawn(&log)?;
        log.0.tasks.spawn("segment cutter", super::uploader::cut_when_due(log.clone()));
        if let Some(acquired) = log.acquire(acquired) {
            acquired.wait().await.map_err(LogStartError::Log)?;
        }
        Ok(log)
    }

    /// The session whose stream this is.
    pub fn session(&self) -> SessionId {
        self.0.machine.lock().session()
    }

    /// How far the stream got; changes are announced.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.0.progress.subscribe()
    }

    /// The time that it goes by.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The disk of the write-ahead files, if there are any.
    pub fn disk(&self) -> Option<&Arc<dyn Disk>> {
        self.0.wal_dir.as_ref().map(WalDir::disk)
    }

    /// The store that segments go to.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.0.store
    }

    /// The local copy of a segment of this session, while there is one.
    pub fn local_copy(&self, object: super::api::ObjectRef) -> Option<PathBuf> {
        let super::api::ObjectRef::Segment { session, seq } = object else { return None };
        (session == self.session() && self.0.wal_cache.lock().contains(seq))
            .then(|| self.0.wal_dir.as_ref().map(|dir| dir.path(seq)))
            .flatten()
    }

    pub(super) fn now(&self) -> Now {
        Now { boot_us: self.0.clock.boot_us(), wall_ms: self.0.clock.wall_ms() }
    }

    /// Waits for room for an append of `bytes`, at most `wait_ms`. Those who came first are served first.
    pub async fn admit(&self, bytes: usize, wait_ms: u64) -> Result<Permit, LogError> {
        let bytes = bytes as u64;
        let permit = |log: &Self| Permit { log: log.clone(), bytes };
        let uncontended = self.0.admission.try_lock();
        if uncontended.is_ok() && self.0.machine.lock().reserve(bytes).is_ok() {
            return Ok(permit(self));
        }
        drop(uncontended);
        self.0.metrics.admission_waits.inc();
        let mut limit = "unflushed_bytes";
        let wait = async {
            let _turn = self.0.admission.lock().await;
            loop {
                let mut room = std::pin::pin!(self.0.room.notified());
                room.as_mut().enable();
                match self.0.machine.lock().reserve(bytes) {
                    Ok(()) => return,
                    Err(reached) => limit = reached,
                }
                room.await;
            }
        };
        if tokio::time::timeout(Duration::from_millis(wait_ms), wait).await.is_ok() {
            return Ok(permit(self));
        }
        self.0.metrics.admission_refusals.inc();
        Err(LogError::Overloaded { limit })
    }

    /// Appends one checked record batch v2. On return its offset is assigned (or the batch judged); only the reply has to
    /// wait. `header` must be the batch's own.
    pub fn append(
        &self,
        partition: TopicPartition,
        header: &BatchHeader,
        batch: &[u8],
        acks: Acks,
        mut permit: Permit,
    ) -> PendingAppend {
        let now = self.now();
        let (outcome, wake) = {
            let mut machine = self.0.machine.lock();
            machine.release(std::mem::take(&mut permit.bytes));
            let before = machine.open_facts();
            let outcome = machine.append(now, partition, header, batch, acks);
            (outcome, self.after_append(&mut machine, before))
        };
        self.wake(wake);
        match &outcome {
            Outcome { result: Ok(_), .. } => {
                self.0.metrics.appended_batches.inc();
                self.0.metrics.appended_bytes.inc_by(batch.len() as u64);
            }
            Outcome { result: Err(error), .. } => tracing::debug!(%partition, %error, "append refused"),
        }
        PendingAppend { outcome, progress: self.0.progress.subscribe() }
    }

    /// What has to be woken after the machine took something in.
    fn after_append(&self, machine: &mut Machine, before: Option<bool>) -> Wake {
        let mut wake = Wake::default();
        if machine.open_bytes() >= self.0.limits.flush_bytes && machine.cut_now() {
            self.count_cut(CutReason::Size);
            wake.cut = true;
        }
        wake.deadline = machine.open_facts() != before;
        let (backlog_bytes, reply_waits) = machine.wal_backlog();
        wake.wal = reply_waits || backlog_bytes >= WAL_MIRROR_BYTES;
        wake
    }

    fn wake(&self, wake: Wake) {
        if wake.wal || wake.cut {
            self.wake_wal_writer();
        }
        if wake.cut {
            super::uploader::start_uploads(self);
        }
        if wake.deadline {
            self.0.cutter.notify_one();
        }
    }

    pub(super) fn wake_wal_writer(&self) {
        self.0.wal_bell.ring();
    }

    pub(super) fn count_cut(&self, reason: CutReason) {
        let reason = match reason {
            CutReason::Size => "size",
            CutReason::Linger => "linger",
            CutReason::Idle => "idle",
            CutReason::Asked => "asked",
        };
        self.0.metrics.cuts.get_or_create(&CutLabels { reason }).inc();
    }

    pub(super) fn control<T>(&self, change: impl FnOnce(&mut Machine, Now) -> T) -> T {
        let now = self.now();
        let (result, wake) = {
            let mut machine = self.0.machine.lock();
            let before = machine.open_facts();
            let result = change(&mut machine, now);
            self.0.metrics.partitions.set(machine.partitions().count() as i64);
            (result, self.after_append(&mut machine, before))
        };
        self.wake(wake);
        result
    }

    pub(super) async fn committed(&self, ticket: Ticket) -> Result<(), LogError> {
        wait_for(&mut self.0.progress.subscribe(), Wait::Commit(ticket.seq)).await
    }

    /// Moves log start up to `offset` (at most the high watermark; -1 means exactly there). Resolves with the new log
    /// start when it is committed.
    pub async fn move_log_start(&self, partition: TopicPartition, offset: i64) -> Result<i64, LogError> {
        let ticket = self.control(|machine, now| {
            let offset = if offset == -1 { machine.partition(partition)?.state.next_offset } else { offset };
            machine.move_log_start(now, partition, offset)
        })?;
        if let Some(ticket) = ticket {
            self.committed(ticket).await?;
        }
        Ok(self.view(partition)?.log_start)
    }

    /// The name of a compacted run that is about to be written.
    pub fn allot_run(&self) -> super::api::ObjectRef {
        self.0.machine.lock().allot_run()
    }

    /// Reads partitions from other objects from now on: each list of runs holds, byte for byte, the batches that lie between
    /// its first offset and its end. The runs are in objects that were written under names of [`Log::allot_run`]. Resolves
    /// when that is committed; the answers are in the order of the requests.
    ///
    /// Errors, of each partition: `NotLeader`, `Retriable`; nothing was changed then.
    pub async fn replace_runs(&self, replaced: Vec<(TopicPartition, Vec<Run>)>) -> Vec<Result<(), LogError>> {
        let tickets: Vec<_> = self.control(|machine, now| {
            replaced.into_iter().map(|(partition, runs)| machine.replace_runs(now, partition, runs)).collect()
        });
        let mut answers = Vec::with_capacity(tickets.len());
        for ticket in tickets {
            answers.push(match ticket {
                Ok(Some(ticket)) => self.committed(ticket).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            });
        }
        answers
    }

    /// Forgets idempotent producers that last wrote at or before `up_to_ms` (milliseconds since the Unix epoch).
    pub fn expire_producers(&self, up_to_ms: i64) {
        let partitions: Vec<TopicPartition> = self.partitions();
        for chunk in partitions.chunks(256) {
            self.control(|machine, now| {
                for partition in chunk {
                    machine.expire_producers(now, *partition, up_to_ms);
                }
            });
        }
    }

    /// Segments that are cut and not yet committed.
    pub fn uncommitted_segments(&self) -> usize {
        self.0.machine.lock().uncommitted_segments()
    }

    /// Every partition that is led.
    pub fn partitions(&self) -> Vec<TopicPartition> {
        self.0.machine.lock().partitions().map(|(partition, _)| *partition).collect()
    }

    /// A partition's offsets.
    pub fn view(&self, partition: TopicPartition) -> Result<PartitionView, LogError> {
        Ok(self.0.machine.lock().partition(partition)?.view())
    }

    /// Where the bytes at `offset` are. `max_bytes` bounds what memory gives (at least one batch).
    pub fn plan_read(
        &self,
        partition: TopicPartition,
        offset: i64,
        max_bytes: usize,
        isolation: Isolation,
    ) -> Result<ReadPlan, LogError> {
        self.0.machine.lock().partition(partition)?.plan_read(partition, offset, max_bytes, isolation)
    }

    /// Runs that hold or follow `offset`, with the offsets of the same moment.
    pub fn runs_from(&self, partition: TopicPartition, offset: i64) -> Result<(PartitionView, Vec<Run>), LogError> {
        let machine = self.0.machine.lock();
        let live = machine.partition(partition)?;
        Ok((live.view(), live.runs_from(offset)))
    }

    /// The largest known epoch not above `leader_epoch` and its end offset; `(-1, -1)` if unknown (KIP-101).
    pub fn epoch_end(&self, partition: TopicPartition, leader_epoch: i32) -> Result<(i32, i64), LogError> {
        Ok(self.0.machine.lock().partition(partition)?.epoch_end(leader_epoch))
    }

    /// The idempotent producers known to a partition.
    pub fn producers(&self, partition: TopicPartition) -> Result<Vec<ProducerView>, LogError> {
        Ok(self.0.machine.lock().partition(partition)?.producers())
    }

    /// `f` sees the committed state of every partition that is led (retention, garbage collection, fsck).
    pub fn each_state(&self, mut f: impl FnMut(TopicPartition, &PartitionState)) {
        for (partition, live) in self.0.machine.lock().partitions() {
            f(*partition, &live.state);
        }
    }

    /// Like [`Log::each_state`], without the partitions that are being given away.
    pub fn each_writable_state(&self, mut f: impl FnMut(TopicPartition, &PartitionState)) {
        for (partition, live) in self.0.machine.lock().partitions() {
            if live.writable().is_some() {
                f(*partition, &live.state);
            }
        }
    }

    /// `waiter` is notified on each commit that touches one of `partitions`, and when they are lost, until the
    /// subscription is dropped.
    pub fn subscribe(&self, partitions: &[TopicPartition], waiter: &Arc<Notify>) -> Subscription {
        let id = self.0.next_subscription.fetch_add(1, Ordering::Relaxed);
        let mut subscribers = self.0.subscribers.lock();
        for partition in partitions {
            subscribers.entry(*partition).or_default().push((id, waiter.clone()));
        }
        Subscription { log: self.clone(), id, partitions: partitions.to_vec() }
    }

    pub(super) fn notify(&self, partitions: &[TopicPartition]) {
        let subscribers = self.0.subscribers.lock();
        for partition in partitions {
            for (_, waiter) in subscribers.get(partition).into_iter().flatten() {
                waiter.notify_one();
            }
        }
    }

    pub(super) fn notify_all(&self) {
        for (_, waiter) in self.0.subscribers.lock().values().flatten() {
            waiter.notify_one();
        }
    }

    /// Cuts what is open, whatever its age; gives the seq of the next segment.
    pub(super) fn cut_now(&self) -> u64 {
        let next = {
            let mut machine = self.0.machine.lock();
            if machine.cut_now() {
                self.count_cut(CutReason::Asked);
            }
            machine.committed() + machine.uncommitted_segments() as u64
        };
        self.wake(Wake { cut: true, wal: true, deadline: false });
        next
    }

    /// Cuts what is open and waits until everything appended so far is committed.
    pub async fn flush(&self) -> Result<(), LogError> {
        let target = self.cut_now();
        match target.checked_sub(1) {
            Some(seq) => wait_for(&mut self.0.progress.subscribe(), Wait::Commit(seq)).await,
            None => Ok(()),
        }
    }

    /// Ends the session for everybody here, whether or not its stream was sealed: nothing is led any more, nothing is
    /// taken, who waits is told. What is open stays in the write-ahead files.
    pub fn abandon(&self) {
        self.0.machine.lock().fence();
        self.0.progress.send_modify(|progress| progress.fenced = true);
        self.notify_all();
        self.0.room.notify_waiters();
        self.0.wal_stop.store(true, Ordering::SeqCst);
        self.wake_wal_writer();
    }

    /// Flushes, writes a last checkpoint and ends the write-ahead thread. The front doors are closed before.
    pub async fn close(&self) -> Result<(), LogError> {
        let flushed = self.flush().await;
        if flushed.is_ok() {
            super::uploader::write_checkpoint(self).await;
        }
        self.0.wal_stop.store(true, Ordering::SeqCst);
        self.wake_wal_writer();
        flushed
    }
}

/// The log could not start.
#[derive(Debug, thiserror::Error)]
pub enum LogStartError {
    /// The local disk is in the way.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The write-ahead thread could not be started.
    #[error("cannot start the write-ahead thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The first segment could not be committed.
    #[error("cannot take over the partitions: {0}")]
    Log(LogError),
}

#[derive(Debug, Default, Clone, Copy)]
struct Wake {
    cut: bool,
    deadline: bool,
    wal: bool,
}

/// Room for one append; given back when dropped unused.
#[derive(Debug)]
pub struct Permit {
    log: Log,
    bytes: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.log.0.machine.lock().release(self.bytes);
            self.log.0.room.notify_waiters();
        }
    }
}

/// An append whose verdict is known but may not be told yet.
#[derive(Debug)]
pub struct PendingAppend {
    outcome: Outcome,
    progress: watch::Receiver<Progress>,
}

impl PendingAppend {
    /// Waits until the verdict may be told. Cancelling it loses only the reply.
    pub async fn wait(mut self) -> Result<Appended, LogError> {
        wait_for(&mut self.progress, self.outcome.wait).await?;
        self.outcome.result
    }
}

async fn wait_for(progress: &mut watch::Receiver<Progress>, wait: Wait) -> Result<(), LogError> {
    let reached = |progress: &Progress| match wait {
        Wait::Nothing => true,
        Wait::Wal(ticket) => progress.wal >= ticket || progress.committed > ticket.seq,
        Wait::Commit(seq) => progress.committed > seq,
    };
    match progress.wait_for(|progress| progress.fenced || reached(progress)).await {
        Ok(progress) if reached(&progress) => Ok(()),
        _ => Err(LogError::Fenced),
    }
}

/// See [`Log::subscribe`].
#[derive(Debug)]
pub struct Subscription {
    log: Log,
    id: u64,
    partitions: Vec<TopicPartition>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut subscribers = self.log.0.subscribers.lock();
        for partition in &self.partitions {
            if let Some(waiters) = subscribers.get_mut(partition) {
                waiters.retain(|(id, _)| *id != self.id);
                if waiters.is_empty() {
                    subscribers.remove(partition);
                }
            }
        }
    }
}
