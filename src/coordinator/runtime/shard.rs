//! One partition's machine at work: loads it, feeds it, appends what it yields, sends its replies.
//!
//! Invariants: inputs are handled one at a time; appends go to the log in the order in which the machine made them; a
//! reply goes only when the machine lets it go. An append that fails for good costs the shard its state: everybody who
//! waits is told to find the coordinator again, and the state is read from the log anew once nothing is in flight.
//!
//! A crash leaves the log. A cancelled caller leaves its reply unread, nothing else.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesOrdered, StreamExt};
use kafka_protocol::error::ResponseError;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::limits::{
    BATCH_BYTES, GAUGES_INTERVAL_MS, MAX_IN_FLIGHT_APPENDS, MAX_IN_FLIGHT_BYTES, MAX_PARKED_REPLIES, RETRY_PAUSE_MS,
};
use super::load::{Loaded, load};
use super::log::{Commit, CoordinatorLog, LogFailure};
use super::machine::{Effects, Machine, Now, RawRecord, ReplyTo, Ticket};
use super::metrics::RuntimeMetrics;
use super::rewrite::{Next, Rewriter};
use crate::base::{Clock, ErrorKind};
use crate::protocol::batch::build_batch;

/// A request on its way to the shard.
pub(super) struct Request<M: Machine> {
    pub(super) input: M::Input,
    pub(super) reply: oneshot::Sender<M::Reply>,
}

/// What a shard needs of the world.
pub(super) struct Shard<M: Machine> {
    pub(super) partition: i32,
    pub(super) log: Arc<dyn CoordinatorLog>,
    pub(super) clock: Clock,
    pub(super) metrics: RuntimeMetrics,
    pub(super) make: Arc<dyn Fn() -> M + Send + Sync>,
    pub(super) loads: Arc<Semaphore>,
    pub(super) requests: mpsc::Receiver<Request<M>>,
    pub(super) resigned: CancellationToken,
    pub(super) stopping: CancellationToken,
    /// The shard that served the partition before in this process has settled.
    pub(super) after: Option<CancellationToken>,
    /// To be cancelled when nothing of this shard is in flight any more.
    pub(super) ended: CancellationToken,
}

/// A batch on its way to the log.
struct Outgoing {
    batch: Bytes,
    records: usize,
    tag: Tag,
}

/// Whom to tell about a batch's commit.
#[derive(Clone, Copy)]
enum Tag {
    /// One of several batches of a step, not the last.
    Part,
    /// The last batch of a step.
    Step(Ticket),
    /// A slice of the rewritten state, not its last batch.
    SliceHead { first: bool },
    /// The last batch of a slice; `alone` if it is also the first.
    SliceEnd { alone: bool },
}

struct InFlight {
    tag: Tag,
    bytes: usize,
    records: usize,
    appended_us: u64,
    result: Result<i64, LogFailure>,
}

type Admission = BoxFuture<'static, (Outgoing, Result<Commit, LogFailure>)>;

/// The part of a shard that lives from one load to the next failure.
struct Serving<M: Machine> {
    machine: M,
    waiting: HashMap<ReplyTo, oneshot::Sender<M::Reply>>,
    next_reply: u64,
    outgoing: VecDeque<Outgoing>,
    outgoing_bytes: usize,
    rewriter: Rewriter,
    /// Where the log ends, as far as commits have told.
    end_offset: i64,
    /// Offset of the first batch of the slice under way.
    slice_offset: Option<i64>,
    clock: Clock,
}

/// Appends that have their place and are not committed.
#[derive(Default)]
struct Pipeline {
    admitting: Option<Admission>,
    commits: FuturesOrdered<BoxFuture<'static, InFlight>>,
    bytes: usize,
}

impl<M: Machine> Shard<M> {
    /// Runs until the shard is resigned or the process stops.
    pub(super) async fn run(mut self) {
        if let Some(after) = self.after.take() {
            self.wait_for(after.cancelled_owned()).await;
        }
        let mut left = Pipeline::default();
        loop {
            self.metrics.loading_shards.inc();
            let loaded = self.load(&mut left).await;
            self.metrics.loading_shards.dec();
            let Some((machine, loaded)) = loaded else { break };
            self.metrics.active_shards.inc();
            let failed = self.serve(machine, loaded, &mut left).await;
            self.metrics.active_shards.dec();
            if !failed {
                break;
            }
        }
        self.requests.close();
        while let Some(request) = self.requests.recv().await {
            refuse(request, ResponseError::NotCoordinator);
        }
        let stopping = self.stopping.clone();
        tokio::select! {
            biased;
            () = settle(&mut left) => {}
            () = stopping.cancelled() => {}
        }
        self.ended.cancel();
    }

    /// Waits, refusing requests meanwhile.
    async fn wait_for(&mut self, done: impl Future<Output = ()>) {
        tokio::pin!(done);
        loop {
            tokio::select! {
                biased;
                () = self.resigned.cancelled() => return,
                () = self.stopping.cancelled() => return,
                () = &mut done => return,
                request = self.requests.recv() => match request {
                    Some(request) => refuse(request, ResponseError::CoordinatorLoadInProgress),
                    None => return,
                },
            }
        }
    }

    fn now(&self) -> Now {
        Now { boot_ms: self.clock.boot_ms(), wall_ms: self.clock.wall_ms() }
    }

    /// Waits out what is in flight, then reads the log; again and again until it works. `None` when it is time to stop.
    async fn load(&mut self, left: &mut Pipeline) -> Option<(M, Loaded)> {
        self.wait_for(settle(left)).await;
        let (partition, log, clock) = (self.partition, self.log.clone(), self.clock.clone());
        let (metrics, make, loads) = (self.metrics.clone(), self.make.clone(), self.loads.clone());
        let refusal = Arc::new(parking_lot::Mutex::new(ResponseError::CoordinatorLoadInProgress));
        let refused_with = refusal.clone();
        let mut loading = async move {
            loop {
                // The semaphore is never closed; without a permit the load only competes with the others.
                let permit = loads.acquire().await.ok();
                let started_us = clock.boot_us();
                let mut machine = make();
                match load(&*log, partition, &mut machine, &metrics).await {
                    Ok(loaded) => {
                        let took_us = clock.boot_us().saturating_sub(started_us);
                        metrics.load_seconds.observe(took_us as f64 / 1e6);
                        tracing::debug!(partition, ?loaded, took_ms = took_us / 1000, "loaded a coordinator shard");
                        return (machine, loaded);
                    }
                    Err(error) => {
                        tracing::warn!(partition, %error, "cannot load a coordinator shard; trying again");
                        *refused_with.lock() = match error.kind {
                            ErrorKind::Fenced | ErrorKind::NotFound | ErrorKind::Conflict => {
                                ResponseError::NotCoordinator
                            }
                            _ => ResponseError::CoordinatorLoadInProgress,
                        };
                    }
                }
                drop(permit);
                tokio::time::sleep(Duration::from_millis(RETRY_PAUSE_MS)).await;
            }
        }
        .boxed();
        loop {
            tokio::select! {
                biased;
                () = self.resigned.cancelled() => return None,
                () = self.stopping.cancelled() => return None,
                loaded = &mut loading => return Some(loaded),
                request = self.requests.recv() => refuse(request?, *refusal.lock()),
            }
        }
    }

    /// Serves until an append fails (`true`) or it is time to stop; `pipeline` keeps what is still in flight.
    async fn serve(&mut self, machine: M, loaded: Loaded, pipeline: &mut Pipeline) -> bool {
        let mut serving = Serving {
            machine,
            waiting: HashMap::new(),
            next_reply: 0,
            outgoing: VecDeque::new(),
            outgoing_bytes: 0,
            rewriter: Rewriter::new(loaded.log_bytes),
            end_offset: loaded.next_offset,
            slice_offset: None,
            clock: self.clock.clone(),
        };
        let mut moving: Option<BoxFuture<'static, ()>> = None;
        let mut gauges_at_ms = Some(self.clock.boot_ms());
        let effects = serving.machine.loaded(self.now());
        serving.take(effects);
        let failed = loop {
            self.rewrite(&mut serving, pipeline, &mut moving);
            self.admit_next(&mut serving, pipeline);
            let deadline_ms = [serving.machine.next_deadline(), gauges_at_ms].into_iter().flatten().min();
            let sleep_ms = deadline_ms.map(|at_ms| at_ms.saturating_sub(self.clock.boot_ms()));
            tokio::select! {
                biased;
                () = self.resigned.cancelled() => break false,
                () = self.stopping.cancelled() => break false,
                Some(done) = pipeline.commits.next(), if !pipeline.commits.is_empty() => {
                    pipeline.bytes -= done.bytes;
                    if !self.commit(&mut serving, done, &mut moving) {
                        break true;
                    }
                }
                (outgoing, admitted) = or_never(&mut pipeline.admitting) => {
                    pipeline.admitting = None;
                    if !self.admitted(pipeline, outgoing, admitted) {
                        break true;
                    }
                }
                () = or_never(&mut moving) => moving = None,
                () = sleep(sleep_ms) => {
                    let now = self.now();
                    if gauges_at_ms.is_some_and(|at_ms| at_ms <= now.boot_ms) {
                        gauges_at_ms = None;
                        serving.machine.publish_gauges();
                    }
                    if serving.machine.next_deadline().is_some_and(|at_ms| at_ms <= now.boot_ms) {
                        let effects = serving.machine.poll(now);
                        serving.take(effects);
                        gauges_at_ms.get_or_insert(now.boot_ms + GAUGES_INTERVAL_MS);
                    }
                }
                request = self.requests.recv() => {
                    let Some(request) = request else { break false };
                    self.handle(&mut serving, pipeline, request);
                    gauges_at_ms.get_or_insert(self.clock.boot_ms() + GAUGES_INTERVAL_MS);
                }
            }
        };
        for (to, reply) in serving.machine.unload() {
            serving.answer(to, reply);
        }
        failed
    }

    fn handle(&self, serving: &mut Serving<M>, pipeline: &Pipeline, request: Request<M>) {
        let in_flight = pipeline.commits.len() + serving.outgoing.len();
        let full = in_flight >= MAX_IN_FLIGHT_APPENDS || pipeline.bytes + serving.outgoing_bytes >= MAX_IN_FLIGHT_BYTES;
        if serving.waiting.len() >= MAX_PARKED_REPLIES || (full && M::may_append(&request.input)) {
            self.metrics.refused.inc();
            return refuse(request, ResponseError::CoordinatorNotAvailable);
        }
        let to = ReplyTo(serving.next_reply);
        serving.next_reply += 1;
        serving.waiting.insert(to, request.reply);
        let effects = serving.machine.step(self.now(), to, request.input);
        serving.take(effects);
    }

    /// Hands the next batch to the log, if it is not busy with one.
    fn admit_next(&self, serving: &mut Serving<M>, pipeline: &mut Pipeline) {
        if pipeline.admitting.is_some() {
            return;
        }
        let Some(outgoing) = serving.outgoing.pop_front() else { return };
        serving.outgoing_bytes -= outgoing.batch.len();
        serving.rewriter.appended(outgoing.batch.len());
        pipeline.admitting = Some(self.admission(outgoing, None));
    }

    fn admission(&self, outgoing: Outgoing, pause: Option<Duration>) -> Admission {
        let (log, partition, batch) = (self.log.clone(), self.partition, outgoing.batch.clone());
        async move {
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            let admitted = log.append(partition, batch).await;
            (outgoing, admitted)
        }
        .boxed()
    }

    /// A batch has its place in the log, or not. `false` if it never will.
    fn admitted(&self, pipeline: &mut Pipeline, outgoing: Outgoing, admitted: Result<Commit, LogFailure>) -> bool {
        match admitted {
            Ok(commit) => {
                let (tag, bytes, records) = (outgoing.tag, outgoing.batch.len(), outgoing.records);
                let appended_us = self.clock.boot_us();
                self.metrics.appends.inc();
                self.metrics.append_bytes.inc_by(bytes as u64);
                pipeline.bytes += bytes;
                let done = move |result| InFlight { tag, bytes, records, appended_us, result };
                pipeline.commits.push_back(commit.map(done).boxed());
                true
            }
            Err(error) if matches!(error.kind, ErrorKind::Overloaded | ErrorKind::Retriable) => {
                tracing::debug!(partition = self.partition, %error, "no room in the log; trying again");
                let pause = Some(Duration::from_millis(RETRY_PAUSE_MS));
                pipeline.admitting = Some(self.admission(outgoing, pause));
                true
            }
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&self, error: &LogFailure) -> bool {
        self.metrics.failures.inc();
        tracing::warn!(partition = self.partition, %error, "an append of the coordinator failed; loading its log again");
        false
    }

    /// A batch is committed, or failed. `false` if it failed.
    fn commit(&self, serving: &mut Serving<M>, done: InFlight, moving: &mut Option<BoxFuture<'static, ()>>) -> bool {
        let offset = match done.result {
            Ok(offset) => offset,
            Err(error) => return self.fail(&error),
        };
        let took_us = self.clock.boot_us().saturating_sub(done.appended_us);
        self.metrics.commit_seconds.observe(took_us as f64 / 1e6);
        serving.end_offset = serving.end_offset.max(offset + done.records as i64);
        match done.tag {
            Tag::Part => {}
            Tag::Step(ticket) => {
                let effects = serving.machine.committed(self.now(), ticket);
                serving.take(effects);
            }
            Tag::SliceHead { first } => {
                if first {
                    serving.slice_offset = Some(offset);
                }
            }
            Tag::SliceEnd { alone } => {
                let first = if alone { offset } else { serving.slice_offset.unwrap_or(offset) };
                let next = serving.rewriter.committed(&serving.machine, first);
                self.go_on(serving, next, moving);
            }
        }
        true
    }

    /// Starts to rewrite the log when it is worth it.
    fn rewrite(&self, serving: &mut Serving<M>, pipeline: &Pipeline, moving: &mut Option<BoxFuture<'static, ()>>) {
        let quiet = serving.outgoing.is_empty() && pipeline.admitting.is_none() && pipeline.commits.is_empty();
        let next = serving.rewriter.begin(&serving.machine, quiet.then_some(serving.end_offset));
        self.go_on(serving, next, moving);
    }

    fn go_on(&self, serving: &mut Serving<M>, next: Next, moving: &mut Option<BoxFuture<'static, ()>>) {
        match next {
            Next::Idle => {}
            Next::Slice(records) => serving.push_slice(records),
            Next::MoveLogStart(offset) => {
                self.metrics.rewrites.inc();
                let (log, partition) = (self.log.clone(), self.partition);
                let move_start = async move {
                    match log.move_log_start(partition, offset).await {
                        Ok(()) => tracing::info!(partition, offset, "rewrote a coordinator's log to its live state"),
                        Err(error) => {
                            tracing::warn!(partition, offset, %error, "cannot move log start; a later try will");
                        }
                    }
                };
                *moving = Some(move_start.boxed());
            }
        }
    }
}

impl<M: Machine> Serving<M> {
    fn answer(&mut self, to: ReplyTo, reply: M::Reply) {
        if let Some(waiting) = self.waiting.remove(&to) {
            // The caller may be gone.
            let _ = waiting.send(reply);
        }
    }

    fn take(&mut self, effects: Effects<M::Reply>) {
        for (to, reply) in effects.replies {
            self.answer(to, reply);
        }
        let Some((ticket, records)) = effects.append else { return };
        let mut batches = batches(records, self.clock.wall_ms());
        let last = batches.pop();
        for (batch, records) in batches {
            self.push(Outgoing { batch, records, tag: Tag::Part });
        }
        if let Some((batch, records)) = last {
            self.push(Outgoing { batch, records, tag: Tag::Step(ticket) });
        }
    }

    fn push_slice(&mut self, records: Vec<RawRecord>) {
        let mut batches = batches(records, self.clock.wall_ms());
        let last = batches.pop();
        let alone = batches.is_empty();
        for (index, (batch, records)) in batches.into_iter().enumerate() {
            self.push(Outgoing { batch, records, tag: Tag::SliceHead { first: index == 0 } });
        }
        if let Some((batch, records)) = last {
            self.push(Outgoing { batch, records, tag: Tag::SliceEnd { alone } });
        }
    }

    fn push(&mut self, outgoing: Outgoing) {
        self.outgoing_bytes += outgoing.batch.len();
        self.outgoing.push_back(outgoing);
    }
}

/// Record batches of about [`BATCH_BYTES`], with how many records each holds.
fn batches(records: Vec<RawRecord>, wall_ms: i64) -> Vec<(Bytes, usize)> {
    let mut batches = Vec::new();
    let mut batch: Vec<(Option<Bytes>, Option<Bytes>)> = Vec::new();
    let mut bytes = 0;
    for record in records {
        if bytes + record.bytes() > BATCH_BYTES && !batch.is_empty() {
            batches.push((build_batch(&batch, wall_ms), batch.len()));
            batch.clear();
            bytes = 0;
        }
        bytes += record.bytes();
        batch.push((Some(record.key), record.value));
    }
    if !batch.is_empty() {
        batches.push((build_batch(&batch, wall_ms), batch.len()));
    }
    batches
}

fn refuse<M: Machine>(request: Request<M>, error: ResponseError) {
    let reply = M::refuse(&request.input, error);
    // The caller may be gone.
    let _ = request.reply.send(reply);
}

/// Waits until nothing that was handed to the log is undecided.
async fn settle(left: &mut Pipeline) {
    if let Some(admitting) = &mut left.admitting {
        let (_, admitted) = admitting.await;
        left.admitting = None;
        if let Ok(commit) = admitted {
            let done = |result| InFlight { tag: Tag::Part, bytes: 0, records: 0, appended_us: 0, result };
            left.commits.push_back(commit.map(done).boxed());
        }
    }
    while left.commits.next().await.is_some() {}
    left.bytes = 0;
}

async fn or_never<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn sleep(ms: Option<u64>) {
    match ms {
        Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        None => std::future::pending().await,
    }
}
