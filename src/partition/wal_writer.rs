//! The write-ahead thread: one writer, files one after the other, syncs shared by all replies that wait (group commit).
//!
//! A failed write or sync (full disk) is repeated until it succeeds: positions are explicit, so repeating is harmless, and
//! meanwhile the limits hold producers back. A failed `fdatasync` may have dropped dirty pages (the fsyncgate of 2018), so
//! every byte of the files that were not synced is written again from memory before the next one.

use std::thread;
use std::time::Duration;

use crate::base::crash;
use crate::wal::{WalDir, WalError, WalFile};

use super::machine::{Ticket, WalWork};
use super::service::{Log, WalFsync};

const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Starts the thread, unless there are no write-ahead files.
pub fn spawn(log: &Log) -> std::io::Result<()> {
    let Some(directory) = log.0.wal_dir.clone() else { return Ok(()) };
    let log = log.clone();
    thread::Builder::new().name("write-ahead".to_owned()).spawn(move || {
        let tasks = log.0.tasks.clone();
        let mut writer = Writer { log, directory, current: None, unsynced: Vec::new() };
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| writer.run()));
        if run.is_err() {
            tasks.fail("the write-ahead thread panicked".to_owned());
        }
    })?;
    Ok(())
}

struct Writer {
    log: Log,
    directory: WalDir,
    current: Option<(u64, WalFile)>,
    /// Finished files that were not synced: before a later file's sync counts, theirs must have happened.
    unsynced: Vec<(u64, WalFile)>,
}

impl Writer {
    fn run(&mut self) {
        loop {
            let work = self.log.0.machine.lock().wal_work();
            match work {
                Some(work) => self.perform(&work),
                None if self.log.0.wal_stop.load(std::sync::atomic::Ordering::SeqCst) => return,
                None => {
                    let mut wanted = self.log.0.wal_wanted.lock();
                    while !*wanted {
                        self.log.0.wal_signal.wait(&mut wanted);
                    }
                    *wanted = false;
                }
            }
        }
    }

    fn perform(&mut self, work: &WalWork) {
        let mut reported = false;
        let mut result = self.write(work);
        while let Err(error) = result {
            self.log.0.metrics.wal_errors.inc();
            if !reported {
                tracing::error!(%error, "cannot write ahead; producers wait until it works again");
                reported = true;
            }
            if self.log.0.wal_stop.load(std::sync::atomic::Ordering::SeqCst) {
                return;
            }
            thread::sleep(RETRY_PAUSE);
            result = self.write_again(work).and_then(|()| self.write(work));
        }
        if reported {
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
