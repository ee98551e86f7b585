//! The write-ahead writer, a thread of its own: one writer, files one after the other, syncs shared by all replies that wait (group commit).
//!
//! A failed write or sync (full disk) is repeated until it succeeds: positions are explicit, so repeating is harmless, and
//! meanwhile the limits hold producers back. A failed `fdatasync` may have dropped dirty pages (the fsyncgate of 2018), so
//! every byte of the files that were not synced is written again from memory before the next one.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use crate::base::crash;
use crate::wal::{WalDir, WalError, WalFile};

use super::machine::{Ticket, WalWork};
use super::service::{Log, WalFsync};

const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Starts the writer, unless there are no write-ahead files: a thread, or a task over a disk that keeps nobody waiting.
pub fn spawn(log: &Log) -> std::io::Result<()> {
    let Some(directory) = log.0.wal_dir.clone() else { return Ok(()) };
    let latency = directory.disk().latency();
    let tasks = log.0.tasks.clone();
    let mut writer = Writer { log: log.clone(), directory, current: None, unsynced: Vec::new(), failing: false };
    if let Some(latency) = latency {
        tasks.spawn("write-ahead", async move { writer.run_as_task(latency).await });
        return Ok(());
    }
    thread::Builder::new().name("write-ahead".to_owned()).spawn(move || {
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| writer.run()));
        if run.is_err() {
            tasks.fail("the write-ahead thread panicked".to_owned());
        }
    })?;
    Ok(())
}

/// Wakes the writer; rung while it is at work it makes it look once more.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<bool>,
    thread: Condvar,
    task: Notify,
}

impl Bell {
    /// There may be work.
    pub fn ring(&self) {
        *self.rung.lock() = true;
        self.thread.notify_one();
        self.task.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock();
        while !*rung {
            self.thread.wait(&mut rung);
        }
        *rung = false;
    }
}

struct Writer {
    log: Log,
    directory: WalDir,
    current: Option<(u64, WalFile)>,
    /// Finished files that were not synced: before a later file's sync counts, theirs must have happened.
    unsynced: Vec<(u64, WalFile)>,
    /// The last attempt failed.
    failing: bool,
}

impl Writer {
    fn run(&mut self) {
        loop {
            let work = self.log.0.machine.lock().wal_work();
            let Some(work) = work else {
                if self.stopped() {
                    return;
                }
                self.log.0.wal_bell.wait();
                continue;
            };
            while !self.attempt(&work) {
                if self.stopped() {
                    return;
                }
                thread::sleep(RETRY_PAUSE);
            }
        }
    }

    /// The same, where nothing may block.
    async fn run_as_task(&mut self, latency: Duration) {
        let stopping = self.log.0.tasks.stopping();
        loop {
            let work = self.log.0.machine.lock().wal_work();
            let Some(work) = work else {
                if self.stopped() || stopping.run_until_cancelled(self.log.0.wal_bell.task.notified()).await.is_none() {
                    return;
                }
                continue;
            };
            tokio::time::sleep(latency).await;
            while !self.attempt(&work) {
                if self.stopped() || stopping.run_until_cancelled(tokio::time::sleep(RETRY_PAUSE)).await.is_none() {
                    return;
                }
            }
        }
    }

    fn stopped(&self) -> bool {
        self.log.0.wal_stop.load(Ordering::SeqCst)
    }

    /// Does the work and tells who waits for it; `false` if it has to be done again.
    fn attempt(&mut self, work: &WalWork) -> bool {
        let again = if self.failing { self.write_again(work) } else { Ok(()) };
        if let Err(error) = again.and_then(|()| self.write(work)) {
            self.log.0.metrics.wal_errors.inc();
            if !self.failing {
                tracing::error!(%error, "cannot write ahead; producers wait until it works again");
            }
            self.failing = true;
            return false;
        }
        if std::mem::take(&mut self.failing) {
            tracing::info!("writing ahead works again");
        }
        let synced = work.sync || self.log.0.wal_fsync == WalFsync::Never;
        if work.finish {
            self.log.0.machine.lock().wal_done(work.seq);
            if let Some(file) = self.current.take()
                && !synced
            {
                self.unsynced.push(file);
            }
        }
        if synced {
            let reached = if work.finish {
                Ticket { seq: work.seq + 1, end: 0 }
            } else {
                Ticket { seq: work.seq, end: work.end }
            };
            self.log.0.progress.send_modify(|progress| progress.wal = progress.wal.max(reached));
        }
        if work.finish {
            super::uploader::start_uploads(&self.log);
        }
        true
    }

    /// After a failure nothing is believed that was not synced.
    fn write_again(&mut self, work: &WalWork) -> Result<(), WalError> {
        if self.log.0.wal_fsync == WalFsync::Never || !work.sync {
            return Ok(());
        }
        for (seq, file) in self.unsynced.iter_mut().chain(&mut self.current) {
            let blocks = self.log.0.machine.lock().wal_again(*seq);
            for block in &blocks {
                file.write_at(u64::from(block.position), &block.bytes)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, work: &WalWork) -> Result<(), WalError> {
        if self.current.as_ref().is_none_or(|(seq, _)| *seq != work.seq) {
            self.current = Some((work.seq, self.directory.start(work.seq)?));
        }
        let Some((_, file)) = &mut self.current else { return Ok(()) };
        crash::point("wal-before-write");
        for block in &work.blocks {
            file.write_at(u64::from(block.position), &block.bytes)?;
        }
        crash::point("wal-after-write");
        if work.sync && self.log.0.wal_fsync == WalFsync::Group {
            let committed = self.log.0.progress.borrow().committed;
            self.unsynced.retain(|(seq, _)| *seq >= committed);
            for (_, earlier) in &mut self.unsynced {
                earlier.sync()?;
            }
            self.unsynced.clear();
            file.sync()?;
            crash::point("wal-after-sync");
            self.log.0.metrics.wal_syncs.inc();
        } else if self.unsynced.len() > 64 {
            let committed = self.log.0.progress.borrow().committed;
            self.unsynced.retain(|(seq, _)| *seq >= committed);
        }
        Ok(())
    }
}
