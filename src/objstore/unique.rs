//! Creating an object that says who wrote it, so that "I don't know" becomes "mine" or "lost".
//!
//! A create may be written though its answer is lost, and may be answered "exists" because of our own earlier try. Every
//! durable object begins with a 64-byte prelude whose bytes 16..32 are its own UUID; reading them back decides.
//!
//! Invariants
//! - [`CommitOutcome::Committed`] only after the store said so, or after our UUID was read at the key of a store where
//!   what can be read is durable.
//! - [`CommitOutcome::LostTo`] only after another object was read at the key.
//! - An error after an unanswered try is always `Unavailable`: nothing here ever claims that bytes were not written when
//!   they may have been. Such a key may still be filled **later** by the request that is under way: whoever gives up must
//!   not reuse the key for other bytes without accepting that it lost to itself.
//!
//! Cancellation (dropping the future) leaves the same doubt as `Unavailable`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::{Created, ObjectStore, Payload, StoreError};
use crate::base::{Backoff, Rng};
use crate::format::prelude::PRELUDE_BYTES;

/// Where the object's UUID lies in the prelude (see [`crate::format::prelude`]).
pub const PRELUDE_ID: std::ops::Range<usize> = 16..32;

/// How a create of a unique object ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitOutcome {
    /// The key holds our bytes, durably.
    Committed,
    /// The key holds another object; these are its first bytes (at most [`PRELUDE_BYTES`]).
    LostTo(Bytes),
}

/// How long and how hard to try.
#[derive(Debug, Clone)]
pub struct CreatePolicy {
    /// Most creates sent, hedges not counted; at least one is.
    pub attempts: u32,
    /// After this time the answer is `Unavailable`, in milliseconds.
    pub deadline_ms: u64,
    /// Pauses between tries.
    pub backoff: Backoff,
    /// When a create has been unanswered this long, in milliseconds, the same request is sent a second time beside it.
    pub hedge_after_ms: Option<u64>,
    /// Jitter of the pauses.
    pub rng: Rng,
}

impl CreatePolicy {
    /// Tries for one minute, without hedging.
    pub fn new(rng: Rng) -> Self {
        Self { attempts: u32::MAX, deadline_ms: 60_000, backoff: Backoff::default(), hedge_after_ms: None, rng }
    }
}

/// Creates `key` with `payload`, whose prelude holds `id`.
///
/// Errors: `Unavailable` (ambiguous) when the attempts or the time are used up, `Refused` or `Config` when the store
/// refused the very first try for good.
pub async fn create_unique(
    store: &Arc<dyn ObjectStore>,
    key: &str,
    payload: Payload,
    id: Uuid,
    policy: &CreatePolicy,
) -> Result<CommitOutcome, StoreError> {
    within_deadline(Attempt { store, key, payload, file: None, id, policy }).await
}

/// Like [`create_unique`], for bytes that also lie in the local file `file` (see [`ObjectStore::create_from_file`]).
pub async fn create_unique_from_file(
    store: &Arc<dyn ObjectStore>,
    key: &str,
    file: &Path,
    payload: Payload,
    id: Uuid,
    policy: &CreatePolicy,
) -> Result<CommitOutcome, StoreError> {
    within_deadline(Attempt { store, key, payload, file: Some(file.to_owned()), id, policy }).await
}

async fn within_deadline(attempt: Attempt<'_>) -> Result<CommitOutcome, StoreError> {
    let limit = Duration::from_millis(attempt.policy.deadline_ms);
    match timeout(limit, attempt.run()).await {
        Ok(ended) => ended,
        Err(_) => Err(attempt.unavailable(format!("no clear answer within {} ms", attempt.policy.deadline_ms))),
    }
}

struct Attempt<'a> {
    store: &'a Arc<dyn ObjectStore>,
    key: &'a str,
    payload: Payload,
    file: Option<PathBuf>,
    id: Uuid,
    policy: &'a CreatePolicy,
}

/// What is at the key.
enum Found {
    Nothing,
    Ours,
    Other(Bytes),
    Unknown,
}

impl Attempt<'_> {
    async fn run(&self) -> Result<CommitOutcome, StoreError> {
        let mut may_have_landed = false;
        let mut tries = 0_u32;
        loop {
            let exists = match self.create_hedged().await {
                Ok(Created::Yes) => return Ok(CommitOutcome::Committed),
                Ok(Created::Exists) => true,
                Err(StoreError::Unavailable { reason, .. }) => {
                    tracing::debug!(key = self.key, reason, "create not answered clearly");
                    may_have_landed = true;
                    false
                }
                Err(other) if may_have_landed => return Err(self.unavailable(other.to_string())),
                Err(other) => return Err(other),
            };
            // On a local store a file can be read before it is durable; only a create that meets it makes it so.
            if exists || !self.store.is_local() {
                match self.look().await? {
                    Found::Ours => return Ok(CommitOutcome::Committed),
                    Found::Other(prelude) => return Ok(CommitOutcome::LostTo(prelude)),
                    // Absent, or deleted since, or no answer: the same create again is harmless and decides.
                    Found::Nothing | Found::Unknown => {}
                }
            }
            tries += 1;
            if tries >= self.policy.attempts {
                return Err(self.unavailable(format!("no clear answer after {tries} tries")));
            }
            sleep(self.policy.backoff.pause(tries, &self.policy.rng)).await;
        }
    }

    async fn look(&self) -> Result<Found, StoreError> {
        match self.store.get_range(self.key, 0..PRELUDE_BYTES as u64).await {
            Ok(prelude) if prelude.get(PRELUDE_ID) == Some(self.id.as_bytes()) => Ok(Found::Ours),
            Ok(prelude) => Ok(Found::Other(prelude)),
            Err(StoreError::NotFound { .. }) => Ok(Found::Nothing),
            Err(StoreError::Unavailable { .. }) => Ok(Found::Unknown),
            Err(other) => Err(self.unavailable(format!("cannot read back what is there: {other}"))),
        }
    }

    async fn create_once(&self) -> Result<Created, StoreError> {
        match &self.file {
            Some(file) => self.store.create_from_file(self.key, file, self.payload.clone()).await,
            None => self.store.create(self.key, self.payload.clone()).await,
        }
    }

    /// One create; a second, identical one beside it when the first is slow. Any clear answer of either ends it.
    async fn create_hedged(&self) -> Result<Created, StoreError> {
        let Some(hedge_after_ms) = self.policy.hedge_after_ms else { return self.create_once().await };
        let first = match select(self.create_once_boxed(), Box::pin(sleep(Duration::from_millis(hedge_after_ms)))).await
        {
            Either::Left((answer, _)) => return answer,
            Either::Right(((), first)) => first,
        };
        match select(first, self.create_once_boxed()).await {
            Either::Left((Err(StoreError::Unavailable { .. }), other))
            | Either::Right((Err(StoreError::Unavailable { .. }), other)) => match other.await {
                // One of the two may have landed, whatever the other was told.
                Err(StoreError::Refused { reason, .. }) => Err(self.unavailable(reason)),
                answer => answer,
            },
            Either::Left((Err(refused), _)) | Either::Right((Err(refused), _)) => {
                Err(self.unavailable(refused.to_string()))
            }
            Either::Left((answer, _)) | Either::Right((answer, _)) => answer,
        }
    }

    fn create_once_boxed(&self) -> futures::future::BoxFuture<'_, Result<Created, StoreError>> {
        Box::pin(self.create_once())
    }

    fn unavailable(&self, reason: String) -> StoreError {
        StoreError::Unavailable { operation: "create", key: self.key.to_owned(), reason }
    }
}
