//! Room for batches on their way: so many bytes of all calls together, and of each call a share, so that one of them never
//! keeps the others waiting.
//!
//! Whoever waits for room loses its place when its future is dropped, and holds nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::frontend::grpc::metrics::Metrics;
use crate::protocol::grpc::v1::{Error, Reason};

/// Bytes of batches on their way, of all calls together.
const HELD_BYTES: usize = 256 << 20;
/// The same of one call. A request that is larger waits until the call holds nothing else.
const CALL_BYTES: usize = 32 << 20;

/// The room of all calls. Clones share it.
#[derive(Debug, Clone)]
pub struct Held {
    all: Arc<Semaphore>,
    metrics: Metrics,
}

/// One call's part of it. Clones share it.
#[derive(Debug, Clone)]
pub struct Share {
    own: Arc<Semaphore>,
    of: Held,
}

/// What a request takes of both, until it is dropped.
#[derive(Debug)]
pub struct Room {
    _permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Held {
    /// Room that is counted by `metrics` when it is refused.
    pub fn new(metrics: Metrics) -> Self {
        Self { all: Arc::new(Semaphore::new(HELD_BYTES)), metrics }
    }

    /// The share of a new call.
    pub fn share(&self) -> Share {
        Share { own: Arc::new(Semaphore::new(CALL_BYTES)), of: self.clone() }
    }
}

impl Share {
    /// Room for a request of `bytes`; waits for at most `wait_ms` milliseconds.
    ///
    /// Errors: there is none so far; nothing has happened to the request.
    pub async fn take(self, bytes: usize, wait_ms: u64) -> Result<Room, Error> {
        let permits = |most: usize| u32::try_from(bytes.min(most)).unwrap_or(u32::MAX);
        let take = async {
            let own = self.own.clone().acquire_many_owned(permits(CALL_BYTES)).await;
            own.ok().zip(self.of.all.clone().acquire_many_owned(permits(HELD_BYTES)).await.ok())
        };
        if let Ok(Some(permits)) = tokio::time::timeout(Duration::from_millis(wait_ms), take).await {
            return Ok(Room { _permits: permits });
        }
        self.of.metrics.refuse("held_bytes");
        let message = "no room for the records: those that were sent before are not written yet".to_owned();
        Err(Error { reason: Reason::Overloaded.into(), message, retriable: true, leader: None })
    }
}
