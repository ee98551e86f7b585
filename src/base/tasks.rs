//! Task supervision: every background task has a name, stops on one signal, and its panic stops the process loudly
//! instead of leaving a broker that looks alive.

use std::future::Future;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of one broker (or of one part of it).
///
/// Cancellation is cooperative: tasks watch [`Tasks::stopping`] and return when they can. [`Tasks::stop`] asks and waits.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    failed: Arc<parking_lot::Mutex<Option<String>>>,
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `future` until it returns. A panic in it is recorded and stops every other task.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn_on(&tokio::runtime::Handle::current(), name, future);
    }

    /// As [`Tasks::spawn`], from a thread outside the runtime.
    pub fn spawn_on(
        &self,
        runtime: &tokio::runtime::Handle,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        let tasks = self.clone();
        let spawner = async move {
            if let Err(error) = tokio::spawn(future).await
                && error.is_panic()
            {
                tracing::error!(task = name, %error, "a task panicked; stopping");
                tasks.fail(format!("task '{name}' panicked: {error}"));
            }
        };
        self.tracker.spawn_on(spawner, runtime);
    }

    /// Resolves when the tasks should stop.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Records why everything must stop and asks every task to.
    pub fn fail(&self, why: String) {
        self.failed.lock().get_or_insert(why);
        self.stop.cancel();
    }

    /// Why the tasks were stopped by [`Tasks::fail`] or a panic, if they were.
    pub fn failure(&self) -> Option<String> {
        self.failed.lock().clone()
    }

    /// Asks every task to stop and waits until all have.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
