//! Whether what this session believes is still the newest: asked before a client is told something that it could not take
//! back.
//!
//! A broker that slept for longer than its lease knows an old high watermark until it learns that its stream was sealed. An
//! offset that lies past that end may be a good one at the new leader, and a client that is told OFFSET_OUT_OF_RANGE jumps
//! (`auto.offset.reset`). So the stream is looked at first, with one small read of the object store; who asks meanwhile
//! shares the next look. Dropping the future leaves nothing behind.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;

use super::BrokerLog;

/// Longest wait for the object store, in milliseconds.
const WAIT_MS: u64 = 5_000;

/// What is known of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nobody had sealed its stream when it was asked.
    Current,
    /// Another has: its partitions have other leaders, or will have.
    Over,
    /// The object store did not say.
    Unknown(String),
}

/// Asks for one session, one look at a time.
#[derive(Debug, Default)]
pub struct Confirm {
    begun: AtomicU64,
    /// The number of the last look and what it found.
    last: Mutex<(u64, Option<Standing>)>,
}

impl Confirm {
    /// What a look that began after this call finds.
    pub async fn confirm(&self, log: &dyn BrokerLog) -> Standing {
        let before = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if let (number, Some(found)) = &*last
            && *number > before
        {
            return found.clone();
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let found = match tokio::time::timeout(Duration::from_millis(WAIT_MS), log.is_current()).await {
            Ok(Ok(true)) => Standing::Current,
            Ok(Ok(false)) => Standing::Over,
            Ok(Err(error)) => Standing::Unknown(error.to_string()),
            Err(_) => Standing::Unknown(format!("the object store did not answer within {WAIT_MS} ms")),
        };
        *last = (number, Some(found.clone()));
        found
    }
}
