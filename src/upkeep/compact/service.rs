//! The shell of compaction.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::build::{BuildError, Builder};
use super::plan::{self, Job, Policy, Window};
use crate::base::{Clock, Rng, Tasks, TopicPartition, crash};
use crate::cluster::Catalogue;
use crate::fetch::{FetchError, Reader};
use crate::format::prelude::{ObjectKind, Prelude};
use crate::format::state::{ObjectRef, Run};
use crate::objstore::unique::{CommitOutcome, CreatePolicy, create_unique};
use crate::objstore::{ObjectStore, StoreError};
use crate::partition::{Isolation, Log, LogError};
use crate::upkeep::metrics::UpkeepMetrics;

/// Bytes of one read of the sources.
const READ_BYTES: usize = 4 << 20;
/// A window spans at most this part of a topic's retention.
const SPANS_PER_RETENTION: u64 = 8;
/// … but no window is cut for less than this, in milliseconds.
const LEAST_SPAN_MS: u64 = 60_000;

/// Paces of compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionSettings {
    /// Milliseconds between two looks; 0 for no compaction.
    pub interval_ms: u64,
    /// What is worth a new object.
    pub policy: Policy,
    /// Bytes of batches copied per second, on the average.
    pub bytes_per_s: u64,
}

/// What compaction works on.
#[derive(Debug, Clone)]
pub struct Compaction {
    /// The log of this session.
    pub log: Log,
    /// Reads the sources, from memory and caches where they are.
    pub reader: Reader,
    /// Retention of topics.
    pub catalogue: Catalogue,
    /// Where objects go.
    pub store: Arc<dyn ObjectStore>,
    /// Paces.
    pub settings: CompactionSettings,
    /// Time.
    pub clock: Clock,
    /// Object ids and jitter.
    pub rng: Rng,
    /// Counters.
    pub metrics: UpkeepMetrics,
}

/// A partition that could not be read is looked at again after this long, in milliseconds.
const RETRY_MS: u64 = 300_000;

/// What is remembered from one look to the next, by partition, in milliseconds since boot.
#[derive(Debug, Default)]
pub struct Waits {
    /// Since when they have had batches in segments.
    since: HashMap<TopicPartition, u64>,
    /// Until when they are passed over, because they could not be read.
    passed_over: HashMap<TopicPartition, u64>,
}

#[derive(Debug, thiserror::Error)]
enum CompactError {
    #[error(transparent)]
    Read(#[from] FetchError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("the batches before offset {0} cannot be read at the moment")]
    Incomplete(i64),
}

impl Compaction {
    /// Runs until the tasks are stopped.
    pub fn start(self, tasks: &Tasks) {
        if self.settings.interval_ms == 0 {
            return;
        }
        let stopping = tasks.stopping();
        tasks.spawn("compaction", async move {
            let mut waits = Waits::default();
            let pause = Duration::from_millis(self.settings.interval_ms);
            while stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
                if stopping.run_until_cancelled(self.round(&mut waits)).await.is_none() {
                    return;
                }
            }
        });
    }

    /// One look at everything, and what comes of it.
    pub async fn round(&self, waits: &mut Waits) {
        for job in self.plan(waits) {
            let (begun_ms, bytes) = (self.clock.boot_ms(), job.bytes());
            if let Err(error) = self.run(&job, waits).await {
                self.metrics.compaction_failures.inc();
                tracing::warn!(%error, bytes, "compaction waits for the next round");
                return;
            }
            // The pace: what was copied in less time than it may take is waited for.
            let least_ms = bytes.saturating_mul(1_000) / self.settings.bytes_per_s.max(1);
            let took_ms = self.clock.boot_ms().saturating_sub(begun_ms);
            tokio::time::sleep(Duration::from_millis(least_ms.saturating_sub(took_ms))).await;
        }
    }

    /// What is worth compacting now.
    fn plan(&self, waits: &mut Waits) -> Vec<Job> {
        let (now_ms, policy) = (self.clock.boot_ms(), &self.settings.policy);
        let image = self.catalogue.image();
        let spans: HashMap<_, _> = image
            .topics()
            .filter(|topic| topic.settings.cleanup_delete)
            .filter_map(|topic| {
                let span_ms = topic.settings.retention_ms? / SPANS_PER_RETENTION;
                Some((topic.id, span_ms.max(LEAST_SPAN_MS)))
            })
            .collect();
        let (mut windows, mut runs, mut still) = (Vec::new(), 0, HashMap::new());
        waits.passed_over.retain(|_, until_ms| *until_ms > now_ms);
        self.log.each_writable_state(|partition, state| {
            runs += state.runs.len();
            if !plan::has_segments(&state.runs) || waits.passed_over.contains_key(&partition) {
                return;
            }
            let since_ms = *waits.since.get(&partition).unwrap_or(&now_ms);
            still.insert(partition, since_ms);
            let span_ms = spans.get(&partition.topic_id).copied();
            let waited_ms = now_ms.saturating_sub(since_ms);
            let found = plan::windows(partition, &state.runs, state.log_start, policy, span_ms, waited_ms);
            if found.last().is_some_and(|last| last.next_offset == state.next_offset) {
                // What comes from now on begins to wait anew.
                still.insert(partition, now_ms);
            }
            windows.extend(found);
        });
        waits.since = still;
        self.metrics.partition_runs.set(runs as i64);
        let jobs = plan::jobs(windows, policy.run_bytes);
        self.metrics.compaction_backlog_bytes.set(jobs.iter().map(Job::bytes).sum::<u64>() as i64);
        jobs
    }

    /// Writes one object and has its partitions read from it.
    async fn run(&self, job: &Job, waits: &mut Waits) -> Result<(), StoreError> {
        let object = self.log.allot_run();
        let ObjectRef::Run { session, number, .. } = object else { return Ok(()) };
        let id = self.rng.uuid();
        let prelude = Prelude { kind: ObjectKind::Run, object_id: id, session, seq: number };
        let mut builder = Builder::new(object, &prelude, job.bytes(), self.clock.wall_ms());
        let mut sources = 0;
        for window in &job.windows {
            match self.copy(&mut builder, *window).await {
                Ok(()) => sources += window.runs as u64,
                Err(error) => {
                    self.metrics.compaction_skips.inc();
                    // One that moved away or lost its oldest records meanwhile is no news.
                    if !matches!(error, CompactError::Read(FetchError::Log(_))) {
                        let until_ms = self.clock.boot_ms() + RETRY_MS;
                        waits.passed_over.insert(window.partition, until_ms);
                        tracing::warn!(partition = %window.partition, %error, "a partition is not compacted for a while");
                    }
                }
            }
        }
        if builder.is_empty() {
            return Ok(());
        }
        let built = builder.finish();
        let object_bytes = built.bytes.len() as u64;
        crash::point("compact-before-create");
        let policy = CreatePolicy::new(self.rng.clone());
        match create_unique(&self.store, &object.key(), built.bytes.into(), id, &policy).await? {
            CommitOutcome::Committed => {}
            CommitOutcome::LostTo(_) => {
                tracing::error!(key = object.key(), "another object has the name of a new run; it is left alone");
                return Ok(());
            }
        }
        crash::point("compact-after-create");
        self.metrics.compacted_objects.inc();
        self.metrics.compacted_bytes.inc_by(object_bytes);
        self.replace(built.runs).await;
        self.metrics.compacted_runs.inc_by(sources);
        crash::point("compact-after-commit");
        Ok(())
    }

    /// Reads a window into the builder; leaves nothing of it there if it fails.
    async fn copy(&self, builder: &mut Builder, window: Window) -> Result<(), CompactError> {
        let mut filling = builder.begin(window);
        while !filling.is_full() {
            let from = filling.next_offset();
            let read = self.reader.read(window.partition, from, READ_BYTES, Isolation::ReadUncommitted, true).await;
            let copied = match read {
                Ok(read) if read.batches.is_empty() => Err(CompactError::Incomplete(window.next_offset)),
                Ok(read) => {
                    let mut push = |batch| builder.push(&mut filling, batch).map_err(CompactError::from);
                    read.batches.iter().try_for_each(&mut push)
                }
                Err(error) => Err(error.into()),
            };
            let stuck = copied.is_ok() && filling.next_offset() == from;
            let ended = if stuck { Err(CompactError::Incomplete(window.next_offset)) } else { copied };
            if let Err(error) = ended {
                builder.give_up(&filling);
                return Err(error);
            }
        }
        builder.finish_window(filling);
        Ok(())
    }

    async fn replace(&self, runs: Vec<(TopicPartition, Vec<Run>)>) {
        let partitions: Vec<TopicPartition> = runs.iter().map(|(partition, _)| *partition).collect();
        for (partition, replaced) in partitions.into_iter().zip(self.log.replace_runs(runs).await) {
            match replaced {
                // It moved away, or its runs changed: what was written of it is never referred to.
                Ok(()) | Err(LogError::NotLeader(_) | LogError::Fenced | LogError::Retriable(_)) => {}
                Err(error) => tracing::warn!(%partition, %error, "a partition keeps its runs"),
            }
        }
    }
}
