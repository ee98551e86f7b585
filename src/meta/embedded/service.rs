//! The store's one worker: takes operations in order, makes their changes durable, applies and publishes them, ends
//! leases in time.

use std::path::Path;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::file::{AppendError, LogFile};
use super::lock::DirectoryLock;
use crate::base::Clock;
use crate::meta::machine::{Change, Machine};
use crate::meta::watchers::Watchers;
use crate::meta::{MetaError, Watch};

/// Longest sleep between two looks at the leases, in milliseconds.
const LEASE_CHECK_MS: u64 = 60_000;

/// What an operation comes to.
pub enum Outcome<T> {
    /// The answer.
    Done(T),
    /// The answer, once the change is durable.
    Write(T, Change),
}

type Judge = Box<dyn FnOnce(&mut Machine, u64) -> (Option<Change>, Reply) + Send>;
type Reply = Box<dyn FnOnce(Result<(), MetaError>) + Send>;

/// What the worker is asked.
pub enum Request {
    /// Judge, make durable, reply.
    Operation(Judge),
    /// Open a watch.
    Watch {
        /// Start of the keys.
        prefix: String,
        /// First revision.
        from: u64,
        /// The watch.
        reply: oneshot::Sender<Result<Watch, MetaError>>,
    },
    /// End a lease.
    Revoke {
        /// The lease.
        lease: i64,
        /// Done.
        reply: oneshot::Sender<Result<(), MetaError>>,
    },
    /// Release the file and stop.
    Close(oneshot::Sender<()>),
}

impl Request {
    /// An operation whose answer goes to `reply`. A caller that has gone away does not matter.
    pub fn operation<T: Send + 'static>(
        judge: impl FnOnce(&mut Machine, u64) -> Result<Outcome<T>, MetaError> + Send + 'static,
        reply: oneshot::Sender<Result<T, MetaError>>,
    ) -> Self {
        Self::Operation(Box::new(move |machine, now_ms| {
            let (answer, change) = match judge(machine, now_ms) {
                Ok(Outcome::Done(answer)) => (Ok(answer), None),
                Ok(Outcome::Write(answer, change)) => (Ok(answer), Some(change)),
                Err(error) => (Err(error), None),
            };
            let reply: Reply = Box::new(move |durable| {
                let _ = reply.send(durable.and(answer));
            });
            (change, reply)
        }))
    }
}

/// The worker's state.
pub struct Service {
    clock: Clock,
    machine: Machine,
    watchers: Watchers,
    /// `None` after a failed sync: the disk's content is not known.
    file: Option<LogFile>,
    _lock: DirectoryLock,
}

impl Service {
    /// Locks the directory and reads the file. Blocks.
    pub fn open(directory: &Path, clock: Clock) -> Result<Self, MetaError> {
        let trouble = |error| MetaError::Environment(format!("cannot create {}: {error}", directory.display()));
        std::fs::create_dir_all(directory).map_err(trouble)?;
        let lock = DirectoryLock::take(&directory.join("metadata.lock"))?;
        let mut machine = Machine::default();
        let mut file = LogFile::open(directory, &mut machine)?;
        if let Some(change) = machine.orphans_change() {
            file.append(&change).map_err(|error| failed(&error))?;
            machine.apply(&change);
        }
        let watchers = Watchers::starting_after(machine.revision());
        Ok(Self { clock, machine, watchers, file: Some(file), _lock: lock })
    }

    /// Works until every handle is gone or one asks to close.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        loop {
            let request = tokio::select! {
                biased;
                request = queue.recv() => Some(request),
                () = self.until_lease_ends() => None,
            };
            let now_ms = self.clock.boot_ms();
            for lease in self.machine.expired(now_ms) {
                if let Err(error) = self.end_lease(lease).await {
                    tracing::error!(lease, %error, "an expired lease's keys could not be deleted; trying again");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            match request {
                None => {}
                Some(None) => return,
                Some(Some(Request::Operation(judge))) => {
                    let (change, reply) = judge(&mut self.machine, now_ms);
                    let durable = match change {
                        Some(change) => self.commit(change).await,
                        None => self.usable(),
                    };
                    reply(durable);
                }
                Some(Some(Request::Watch { prefix, from, reply })) => {
                    let _ = reply.send(Ok(self.watchers.watch(&prefix, from)));
                }
                Some(Some(Request::Revoke { lease, reply })) => {
                    let _ = reply.send(self.end_lease(lease).await);
                }
                Some(Some(Request::Close(closed))) => {
                    drop(queue);
                    drop(self);
                    let _ = closed.send(());
                    return;
                }
            }
        }
    }

    async fn until_lease_ends(&self) {
        match self.machine.next_deadline_ms() {
            Some(deadline_ms) => {
                let left_ms = deadline_ms.saturating_sub(self.clock.boot_ms()).clamp(1, LEASE_CHECK_MS);
                tokio::time::sleep(Duration::from_millis(left_ms)).await;
            }
            None => std::future::pending().await,
        }
    }

    async fn end_lease(&mut self, lease: i64) -> Result<(), MetaError> {
        if let Some(change) = self.machine.lease_change(lease) {
            self.commit(change).await?;
        }
        self.machine.end_lease(lease);
        Ok(())
    }

    fn usable(&self) -> Result<(), MetaError> {
        if self.file.is_some() { Ok(()) } else { Err(unusable()) }
    }

    /// Durable first, then visible.
    async fn commit(&mut self, change: Change) -> Result<(), MetaError> {
        let mut file = self.file.take().ok_or_else(unusable)?;
        let append = tokio::task::spawn_blocking(move || {
            let result = file.append(&change);
            (file, change, result)
        });
        let (file, change, result) = append
            .await
            .map_err(|error| MetaError::Environment(format!("the metadata file's writer stopped: {error}")))?;
        match result {
            Ok(()) => self.file = Some(file),
            Err(error) => {
                if matches!(error, AppendError::Refused(_)) {
                    self.file = Some(file);
                }
                return Err(failed(&error));
            }
        }
        self.machine.apply(&change);
        self.watchers.publish(change);
        self.rewrite_if_large();
        Ok(())
    }

    /// Rare (once per few MiB of changes) and short, so it may hold up the worker's thread.
    fn rewrite_if_large(&mut self) {
        let live_bytes = self.machine.live_bytes();
        let Some(file) = self.file.as_mut().filter(|file| file.wants_rewrite(live_bytes)) else { return };
        match file.rewrite(&self.machine) {
            Ok(()) => {}
            Err(AppendError::Refused(error)) => {
                tracing::warn!(%error, "the metadata file could not be made smaller; it stays as it is");
            }
            Err(AppendError::Unknown(error)) => {
                tracing::error!(%error, "the metadata file was replaced, but the directory could not be synced");
                self.file = None;
            }
        }
    }
}

fn failed(error: &AppendError) -> MetaError {
    let (AppendError::Refused(error) | AppendError::Unknown(error)) = error;
    MetaError::Environment(format!("the metadata file could not be written: {error}"))
}

fn unusable() -> MetaError {
    MetaError::Environment(
        "the metadata file could not be synced to disk earlier, so its content is not known: start the broker again"
            .to_owned(),
    )
}
