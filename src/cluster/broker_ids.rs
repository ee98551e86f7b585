//! Broker ids: asked for, remembered, or handed out.
//!
//! An id is free when no key `claims/<id>` exists. Taking it is one transaction that compares exactly that, so two
//! processes never get one id. A claim hangs on a lease: the id of a process that died is free again once its lease has
//! expired. That is safe because nothing is told apart by the id alone: streams, write-ahead files and assignments carry the
//! session, whose epoch only grows. What an earlier owner of the id has left (a session that is not sealed) is not this
//! process's to finish, unless its write-ahead files are in its own data directory.
//!
//! A crash leaves at most a claim of this data directory, which its next start replaces, or which ends with its lease.
//! Dropping the future leaves the same.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::error::ClusterError;
use super::keys::Key;
use super::registration::{Identity, Sessions};
use crate::format::metadata::{ClaimRecord, MetadataValue};

/// The lowest id that is handed out. 0 is left to those who ask for it.
const FIRST_ID: i32 = 1;
/// Ids tried before giving up because others are always faster.
const MAX_TRIES: usize = 1_000;

/// Who wants a broker id, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdWish {
    /// This one or none (`--broker-id`).
    pub asked: Option<i32>,
    /// The one that the data directory remembers: this one, unless somebody else has it now.
    pub remembered: Option<i32>,
    /// Id of the data directory that this process has locked.
    pub directory_id: Uuid,
    /// Host name, for people.
    pub host: String,
    /// Process id, for people.
    pub pid: u32,
}

impl IdWish {
    fn identity(&self, broker_id: i32) -> Identity {
        Identity { broker_id, directory_id: self.directory_id, host: self.host.clone(), pid: self.pid }
    }
}

impl Sessions {
    /// Claims a broker id: the one asked for; else the one remembered, if nobody else has it; else one that this data
    /// directory has a claim on already; else the lowest free one from 1 on. The claim is held for `lease_ttl_ms`:
    /// [`Sessions::register`] with the returned identity takes it over without a gap in which another could have it.
    ///
    /// Errors: `BrokerIdInUse` if the id was asked for and another data directory has it; `Meta` (repeat it).
    pub async fn take_id(&self, wish: &IdWish, lease_ttl_ms: u64) -> Result<Identity, ClusterError> {
        let lease = self.store.lease_grant(lease_ttl_ms).await?;
        let taken = self.claim_some(wish, lease, lease_ttl_ms).await;
        if taken.is_err() {
            // Otherwise it ends by itself.
            let _ = self.store.lease_revoke(lease).await;
        }
        taken
    }

    async fn claim_some(&self, wish: &IdWish, lease: i64, lease_ttl_ms: u64) -> Result<Identity, ClusterError> {
        if let Some(asked) = wish.asked {
            let identity = wish.identity(asked);
            self.claim(&identity, lease, lease_ttl_ms).await?;
            return Ok(identity);
        }
        let (own, mut others) = self.claims(wish.directory_id).await?;
        for _ in 0..MAX_TRIES {
            let preferred = wish.remembered.into_iter().chain(own.iter().copied()).find(|id| !others.contains(id));
            let Some(id) = preferred.or_else(|| (FIRST_ID..i32::MAX).find(|id| !others.contains(id))) else { break };
            let identity = wish.identity(id);
            match self.claim(&identity, lease, lease_ttl_ms).await {
                Ok(_) => {
                    if let Some(remembered) = wish.remembered.filter(|remembered| *remembered != id) {
                        tracing::warn!(
                            remembered,
                            broker_id = id,
                            "another process has the broker id of this data directory; this broker gets another one"
                        );
                    }
                    return Ok(identity);
                }
                Err(ClusterError::BrokerIdInUse { broker_id, .. }) => others.insert(broker_id),
                Err(error) => return Err(error),
            };
        }
        Err(ClusterError::Contended("other brokers were always faster to take a broker id; try again".to_owned()))
    }

    /// The ids that are claimed now: by this data directory, and by others.
    async fn claims(&self, directory_id: Uuid) -> Result<(BTreeSet<i32>, BTreeSet<i32>), ClusterError> {
        let (mut own, mut others) = (BTreeSet::new(), BTreeSet::new());
        for entry in self.store.range(&self.keys.claims()).await?.entries {
            let Some(Key::Claim(id)) = self.keys.parse(&entry.key) else { continue };
            let claim = ClaimRecord::decode(&entry.key, &entry.value)?;
            let whose = if claim.directory_id == directory_id { &mut own } else { &mut others };
            whose.insert(id);
        }
        Ok((own, others))
    }
}
