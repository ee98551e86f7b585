//! Cutting when due, uploading in parallel, committing in order, writing checkpoints.
//!
//! An upload is repeated until it is known to have happened or to have lost: the machine never hears "maybe".

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::crash;
use crate::format::prelude::{ObjectKind, Prelude};
use crate::format::{checkpoint, keys};
use crate::objstore::unique::{CommitOutcome, CreatePolicy, create_unique, create_unique_from_file};
use crate::objstore::{Payload, StoreError};
use crate::wal::on_disk;

use super::machine::{Committed, UploadWork, WalMode};
use super::service::Log;

/// One round of tries of an upload; then it is reported and begun again.
const UPLOAD_ROUND_MS: u64 = 30_000;
const UPLOAD_PAUSE: Duration = Duration::from_millis(500);

/// Cuts the open segment whenever it is due.
pub async fn cut_when_due(log: Log) {
    let stopping = log.0.tasks.stopping();
    loop {
        let now_us = log.0.clock.boot_us();
        let due = log.0.machine.lock().cut_due_us(now_us);
        match due {
            Some(at) if at <= now_us => {
                let reason = log.0.machine.lock().cut_if_due(now_us);
                if let Some(reason) = reason {
                    log.count_cut(reason);
                    log.wake_wal_writer();
                    start_uploads(&log);
                    trim_wal_cache(&log);
                }
            }
            Some(at) => {
                tokio::select! {
                biased;
                                    () = tokio::time::sleep(Duration::from_micros(at - now_us)) => {}
                                    () = log.0.cutter.notified() => {}
                                    () = stopping.cancelled() => return,
                                }
            }
            None => {
                tokio::select! {
                biased;
                                    () = log.0.cutter.notified() => {}
                                    () = stopping.cancelled() => return,
                                }
            }
        }
    }
}

/// Starts every upload that may start.
pub fn start_uploads(log: &Log) {
    loop {
        let Some(work) = log.0.machine.lock().upload_work() else { return };
        log.0.spawn_upload(log.clone(), work);
    }
}

impl super::service::Inner {
    fn spawn_upload(&self, log: Log, work: UploadWork) {
        self.tasks.spawn_on(&self.runtime, "segment upload", upload(log, work));
    }
}

async fn upload(log: Log, work: UploadWork) {
    let key = keys::segment(log.session(), work.seq);
    let stopping = log.0.tasks.stopping();
    let mut failures = 0_u64;
    crash::point("upload-before-create");
    loop {
        match upload_once(&log, &key, &work).await {
            Ok(CommitOutcome::Committed) => break,
            Ok(CommitOutcome::LostTo(prelude)) => return fence(&log, &key, &prelude),
            Err(error) => {
                failures += 1;
                log.0.metrics.upload_retries.inc();
                if failures == 1 || failures.is_multiple_of(20) {
                    tracing::warn!(%key, %error, failures, "cannot upload a segment; trying again");
                }
            }
        }
        tokio::select! {
        biased;
                    () = tokio::time::sleep(UPLOAD_PAUSE) => {}
                    () = stopping.cancelled() => return,
                }
    }
    if failures > 0 {
        tracing::info!(%key, failures, "the segment is uploaded after all");
    }
    crash::point("upload-after-create");
    let commits = log.0.machine.lock().uploaded(work.seq);
    match commits {
        Ok(commits) => commits.iter().for_each(|commit| committed(&log, commit)),
        Err(error) => {
            tracing::error!(%key, %error, "a committed segment does not fit the state; this is a bug");
            log.0.tasks.fail(format!("segment '{key}' does not fit the state: {error}"));
            return;
        }
    }
    start_uploads(&log);
    log.0.cutter.notify_one();
}

async fn upload_once(log: &Log, key: &str, work: &UploadWork) -> Result<CommitOutcome, StoreError> {
    let policy = CreatePolicy {
        deadline_ms: UPLOAD_ROUND_MS,
        hedge_after_ms: log.0.hedge_after_ms,
        ..CreatePolicy::new(log.0.rng.clone())
    };
    let store = &log.0.store;
    let mut payload = Payload(work.blocks.iter().map(|block| block.bytes.clone()).collect());
    if payload.is_empty() {
        payload = read_back(log, work).await?;
    }
    match (&log.0.wal_dir, log.0.wal_mode) {
        (Some(directory), WalMode::BecomesObject) => {
            let file = directory.path(work.seq);
            create_unique_from_file(store, key, &file, payload, work.object_id, &policy).await
        }
        _ => create_unique(store, key, payload, work.object_id, &policy).await,
    }
}

/// The bytes of a spilled segment.
async fn read_back(log: &Log, work: &UploadWork) -> Result<Payload, StoreError> {
    let Some(directory) = &log.0.wal_dir else { return Ok(Payload::default()) };
    let path = directory.path(work.seq);
    let unavailable = |reason: String| StoreError::Unavailable {
        operation: "read back the write-ahead file",
        key: path.display().to_string(),
        reason,
    };
    let file = path.clone();
    let read = on_disk(directory.disk(), move |disk| disk.read(&file)).await;
    let bytes = read.map_err(|error| unavailable(error.to_string()))?;
    if bytes.len() as u64 == work.object_bytes {
        Ok(bytes.into())
    } else {
        Err(unavailable(format!("{} bytes instead of {}", bytes.len(), work.object_bytes)))
    }
}

fn committed(log: &Log, commit: &Committed) {
    let now_us = log.0.clock.boot_us();
    let metrics = &log.0.metrics;
    metrics.committed_segments.inc();
    metrics.committed_bytes.inc_by(commit.object_bytes);
    metrics.commit_seconds.observe(now_us.saturating_sub(commit.first_us) as f64 / 1e6);
    match (&log.0.wal_dir, log.0.wal_mode) {
        (Some(_), WalMode::Mirror) => log.0.wal_cache.lock().keep(commit.seq, commit.object_bytes),
        (Some(directory), WalMode::BecomesObject) => remove_file(log, directory, commit.seq),
        _ => {}
    }
    trim_wal_cache(log);
    let due = {
        let machine = log.0.machine.lock();
        metrics.unflushed_bytes.set(machine.memory_bytes() as i64);
        metrics.uncommitted_bytes.set(machine.uncommitted_bytes() as i64);
        metrics.memory_tail_bytes.set(machine.tail_bytes() as i64);
        metrics.partitions.set(machine.partitions().count() as i64);
        machine.checkpoint_due(now_us)
    };
    crash::point("commit-before-reply");
    log.0.progress.send_modify(|progress| progress.committed = progress.committed.max(commit.seq + 1));
    log.notify(&commit.touched);
    log.0.room.notify_waiters();
    if due && !log.0.checkpointing.swap(true, Ordering::SeqCst) {
        let checkpointer = log.clone();
        log.0.tasks.spawn_on(&log.0.runtime, "checkpoint", async move {
            write_checkpoint(&checkpointer).await;
            checkpointer.0.checkpointing.store(false, Ordering::SeqCst);
        });
    }
}

fn remove_file(log: &Log, directory: &crate::wal::WalDir, seq: u64) {
    if let Err(error) = directory.remove(seq) {
        log.0.metrics.wal_errors.inc();
        tracing::warn!(%error, "a committed write-ahead file stays on disk");
    }
}

fn trim_wal_cache(log: &Log) {
    let Some(directory) = &log.0.wal_dir else { return };
    let uncommitted_bytes = log.0.machine.lock().uncommitted_bytes();
    for seq in log.0.wal_cache.lock().trim(uncommitted_bytes) {
        remove_file(log, directory, seq);
    }
}

/// The stream has ended: nothing is led any more, everybody who waits is told.
pub fn fence(log: &Log, key: &str, prelude: &[u8]) {
    let by = match Prelude::decode(prelude) {
        Ok(prelude) if prelude.kind == ObjectKind::Seal => "a seal".to_owned(),
        Ok(prelude) => format!("object {} of session {}", prelude.object_id, prelude.session),
        Err(error) => format!("bytes that are no esker object ({error})"),
    };
    tracing::error!(%key, by, "this session was ended: its next segment's key is taken");
    log.0.machine.lock().fence();
    log.0.progress.send_modify(|progress| progress.fenced = true);
    log.notify_all();
    log.0.room.notify_waiters();
}

/// Writes a checkpoint of what is committed. A failure is logged; the next one makes up for it.
pub async fn write_checkpoint(log: &Log) {
    let now_us = log.0.clock.boot_us();
    let (session, id) = (log.session(), log.0.rng.uuid());
    let encoded = {
        let mut machine = log.0.machine.lock();
        machine.checkpoint(now_us).map(|(seq, states)| {
            let prelude = Prelude { kind: ObjectKind::Checkpoint, object_id: id, session, seq };
            (seq, checkpoint::encode(&prelude, states))
        })
    };
    let Some((seq, bytes)) = encoded else { return };
    let length = bytes.len();
    crash::point("checkpoint-before-put");
    match log.0.store.put(&keys::checkpoint(session, seq), bytes.into()).await {
        Ok(()) => {
            crash::point("checkpoint-after-put");
            log.0.metrics.checkpoints.inc();
            log.0.metrics.checkpoint_bytes.set(length as i64);
            tracing::debug!(%session, seq, bytes = length, "checkpoint written");
        }
        Err(error) => tracing::warn!(%session, seq, %error, "cannot write a checkpoint"),
    }
}
