//! Whether clients may come, and why not.

use std::sync::Arc;

use parking_lot::Mutex;

type Check = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// The answer of `/readyz`. Cheap to clone; clones share one state. Starts as not ready.
#[derive(Clone)]
pub struct Readiness(Arc<Mutex<State>>);

struct State {
    /// Why the process as a whole is not ready, if it isn't.
    phase: Option<String>,
    /// Parts that can be degraded while the process serves.
    checks: Vec<Check>,
}

impl Readiness {
    /// Not ready, because of `reason`.
    pub fn starting(reason: &str) -> Self {
        Self(Arc::new(Mutex::new(State { phase: Some(reason.to_owned()), checks: Vec::new() })))
    }

    /// Not ready (any more), because of `reason`.
    pub fn not_ready(&self, reason: &str) {
        self.0.lock().phase = Some(reason.to_owned());
    }

    /// Ready, unless a check says otherwise.
    pub fn ready(&self) {
        self.0.lock().phase = None;
    }

    /// Asks `check` on every `/readyz`; it gives the reason while its part is degraded. It must not block.
    pub fn add_check(&self, check: impl Fn() -> Option<String> + Send + Sync + 'static) {
        self.0.lock().checks.push(Box::new(check));
    }

    /// Why clients should stay away; `None` if they may come.
    pub fn reason(&self) -> Option<String> {
        let state = self.0.lock();
        state.phase.clone().or_else(|| state.checks.iter().find_map(|check| check()))
    }
}
