//! Sessions: one life of a broker, claimed with a lease.
//!
//! Order of a start: [`Sessions::take_id`], finish and seal the streams whose write-ahead files are here,
//! [`Sessions::mark_sealed`], [`Sessions::register`], lead what the controller assigns,
//! [`Registration::announce`].
//!
//! Order of the writes: the claim first (its revision makes the session's epoch, so epochs only grow), then, in one
//! transaction that compares the claim, the session's record. A crash between the two leaves a claim that ends with its
//! lease, and no stream. A crash later leaves an unsealed session that the next start finds.
//!
//! Leases are for liveness only: a session that lost its lease may still write, until its stream is sealed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

use super::error::ClusterError;
use super::image::ClusterImage;
use super::keys::{Key, KeySpace};
use super::metrics::Metrics;
use crate::base::{Clock, SessionId, Tasks};
use crate::format::metadata::{BrokerRecord, ClaimRecord, ControllerRecord, MetadataValue, Sealed, SessionRecord};
use crate::meta::{Compare, KeyValue, MetaError, MetaStore, TxnOutcome, Write};

/// Keep-alives sent per time to live.
const KEEP_ALIVES_PER_TTL: u64 = 3;
/// Tries to replace one's own claim before giving up: only a second process of the same directory could change it.
const MAX_CLAIM_TRIES: usize = 8;

/// Who registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The broker's id.
    pub broker_id: i32,
    /// Id of the data directory that this process has locked, kept in it.
    pub directory_id: Uuid,
    /// Host name, for people.
    pub host: String,
    /// Process id, for people.
    pub pid: u32,
}

/// Where the metadata of sessions is.
#[derive(Debug, Clone)]
pub struct Sessions {
    /// The store.
    pub store: Arc<dyn MetaStore>,
    /// Its keys.
    pub keys: KeySpace,
    /// For records' times.
    pub clock: Clock,
}

impl Sessions {
    /// Earlier sessions of this broker id whose streams are not sealed, oldest first.
    ///
    /// Errors: `BrokerIdInUse` if a process with another data directory has the id now.
    pub async fn unsealed(&self, identity: &Identity, lease_ttl_ms: u64) -> Result<Vec<SessionId>, ClusterError> {
        self.claim_of(identity, lease_ttl_ms).await?;
        let mut unsealed = Vec::new();
        for entry in self.store.range(&self.keys.sessions_of(identity.broker_id)).await?.entries {
            let Some(Key::Session(session)) = self.keys.parse(&entry.key) else { continue };
            if SessionRecord::decode(&entry.key, &entry.value)?.sealed.is_none() {
                unsealed.push(session);
            }
        }
        Ok(unsealed)
    }

    /// Every session that is on record, with where it was sealed.
    pub async fn all(&self) -> Result<Vec<(SessionId, Option<Sealed>)>, ClusterError> {
        let mut sessions = Vec::new();
        for entry in self.store.range(&format!("{}sessions/", self.keys.root())).await?.entries {
            let Some(Key::Session(session)) = self.keys.parse(&entry.key) else { continue };
            sessions.push((session, SessionRecord::decode(&entry.key, &entry.value)?.sealed));
        }
        Ok(sessions)
    }

    /// Records that the stream of `session` is sealed at `seq`. Repeating it is fine; another seq is refused.
    pub async fn mark_sealed(&self, session: SessionId, seq: u64) -> Result<(), ClusterError> {
        let key = self.keys.key(&Key::Session(session));
        loop {
            let Some(entry) = self.store.get(&key).await? else {
                return Err(ClusterError::Contended(format!("session {session} is not on record")));
            };
            let record = SessionRecord::decode(&entry.key, &entry.value)?;
            match record.sealed {
                Some(sealed) if sealed.seq == seq => return Ok(()),
                Some(sealed) => {
                    return Err(ClusterError::Contended(format!(
                        "session {session} is on record as sealed at {}, not at {seq}",
                        sealed.seq
                    )));
                }
                None => {}
            }
            let sealed = Some(Sealed { seq, at_ms: self.clock.wall_ms() });
            let value = SessionRecord { sealed, ..record }.encode();
            let compare = Compare { key: key.clone(), mod_revision: entry.mod_revision };
            let write = Write::Put { key: key.clone(), value, lease: 0 };
            if let TxnOutcome::Committed { .. } = self.store.txn(vec![compare], vec![write]).await? {
                return Ok(());
            }
        }
    }

    /// As [`Sessions::mark_sealed`], for a session of another broker that is taken for dead: clients are not shown it any
    /// more, and its broker id is free.
    pub async fn retire(&self, session: SessionId, seq: u64) -> Result<(), ClusterError> {
        self.mark_sealed(session, seq).await?;
        let claim_key = self.keys.key(&Key::Claim(session.broker_id));
        let broker_key = self.keys.key(&Key::Broker(session.broker_id));
        let claim = Compare { key: claim_key.clone(), mod_revision: self.keys.claim_revision(session) };
        let gone = vec![Write::Delete { key: claim_key }, Write::Delete { key: broker_key }];
        // A conflict says that the id has a new session (or none): then there is nothing to take away.
        self.store.txn(vec![claim], gone).await?;
        Ok(())
    }

    /// Forgets sessions that were sealed at least `keep_ms` ago and that no assignment of `image` names: how many. Their
    /// objects are garbage collection's business, not this one's.
    pub async fn forget_old(&self, image: &ClusterImage, keep_ms: i64) -> Result<usize, ClusterError> {
        let assignments = image.topics().flat_map(|topic| &topic.partitions);
        let named: HashSet<SessionId> = assignments
            .flat_map(|assignment| {
                std::iter::once(assignment.session).chain(assignment.from.iter().map(|from| from.session))
            })
            .collect();
        let before_ms = self.clock.wall_ms().saturating_sub(keep_ms);
        let mut forgotten = 0;
        for entry in self.store.range(&format!("{}sessions/", self.keys.root())).await?.entries {
            let Some(Key::Session(session)) = self.keys.parse(&entry.key) else { continue };
            let sealed = SessionRecord::decode(&entry.key, &entry.value)?.sealed;
            if sealed.is_none_or(|sealed| sealed.at_ms > before_ms) || named.contains(&session) {
                continue;
            }
            let compare = Compare { key: entry.key.clone(), mod_revision: entry.mod_revision };
            let outcome = self.store.txn(vec![compare], vec![Write::Delete { key: entry.key }]).await?;
            forgotten += usize::from(outcome != TxnOutcome::Conflict);
        }
        Ok(forgotten)
    }

    /// The claim on the broker id, if it is this data directory's own (of a dead process); `BrokerIdInUse` otherwise.
    async fn claim_of(&self, identity: &Identity, ttl_ms: u64) -> Result<Option<KeyValue>, ClusterError> {
        let Some(entry) = self.store.get(&self.keys.key(&Key::Claim(identity.broker_id))).await? else {
            return Ok(None);
        };
        let claim = ClaimRecord::decode(&entry.key, &entry.value)?;
        if claim.directory_id == identity.directory_id {
            return Ok(Some(entry));
        }
        let (broker_id, host, pid) = (identity.broker_id, claim.host, claim.pid);
        Err(ClusterError::BrokerIdInUse { broker_id, host, pid, ttl_ms })
    }

    /// Claims the identity's broker id on `lease`; the claim of a dead process with the same data directory is replaced in
    /// the same transaction. Returns the claim's revision, and the lease of the one that was replaced.
    ///
    /// Errors: `BrokerIdInUse`.
    pub(super) async fn claim(
        &self,
        identity: &Identity,
        lease: i64,
        lease_ttl_ms: u64,
    ) -> Result<(u64, Option<i64>), ClusterError> {
        let key = self.keys.key(&Key::Claim(identity.broker_id));
        for _ in 0..MAX_CLAIM_TRIES {
            let old = self.claim_of(identity, lease_ttl_ms).await?;
            let (directory_id, host, pid) = (identity.directory_id, identity.host.clone(), identity.pid);
            let claim = ClaimRecord { directory_id, host, pid, started_ms: self.clock.wall_ms() }.encode();
            let unchanged = Compare { key: key.clone(), mod_revision: old.as_ref().map_or(0, |old| old.mod_revision) };
            let take = Write::Put { key: key.clone(), value: claim, lease };
            if let TxnOutcome::Committed { revision } = self.store.txn(vec![unchanged], vec![take]).await? {
                return Ok((revision, old.map(|old| old.lease)));
            }
        }
        Err(ClusterError::Contended(format!(
            "the claim on broker id {} changes all the time; try again",
            identity.broker_id
        )))
    }

    /// Starts a session.
    ///
    /// Errors: `BrokerIdInUse`; `Meta` (repeat it: an unanswered try leaves at most a claim of this directory, which the
    /// next try replaces).
    pub async fn register(&self, identity: &Identity, lease_ttl_ms: u64) -> Result<Registration, ClusterError> {
        let lease = self.store.lease_grant(lease_ttl_ms).await?;
        let (revision, old_lease) = match self.claim(identity, lease, lease_ttl_ms).await {
            Ok(claimed) => claimed,
            Err(error) => {
                self.store.lease_revoke(lease).await?;
                return Err(error);
            }
        };
        if let Some(old) = old_lease {
            // Of this process before it had a session, or of a dead one: this process holds the directory's lock. The lease
            // takes what else hangs on it along.
            self.store.lease_revoke(old).await?;
        }
        let claim_key = self.keys.key(&Key::Claim(identity.broker_id));
        let started_ms = self.clock.wall_ms();
        let session = SessionId { broker_id: identity.broker_id, epoch: self.keys.epoch(revision) };
        let claim = Compare { key: claim_key, mod_revision: revision };
        let record = SessionRecord { started_ms, sealed: None }.encode();
        let write = Write::Put { key: self.keys.key(&Key::Session(session)), value: record, lease: 0 };
        if self.store.txn(vec![claim.clone()], vec![write]).await? == TxnOutcome::Conflict {
            return Err(ClusterError::SessionEnded(session));
        }
        let ended = watch::Sender::new(false);
        Ok(Registration { sessions: self.clone(), session, lease, lease_ttl_ms, claim, ended: Arc::new(ended) })
    }
}

/// A registered session. Clones share it.
#[derive(Debug, Clone)]
pub struct Registration {
    sessions: Sessions,
    session: SessionId,
    lease: i64,
    lease_ttl_ms: u64,
    /// Holds as long as the claim is this session's.
    claim: Compare,
    ended: Arc<watch::Sender<bool>>,
}

impl Registration {
    /// The session.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Shows the broker to clients and other brokers, or changes what is shown.
    pub async fn announce(&self, broker: &BrokerRecord) -> Result<(), ClusterError> {
        let key = self.sessions.keys.key(&Key::Broker(self.session.broker_id));
        let write = Write::Put { key, value: broker.encode(), lease: self.lease };
        match self.sessions.store.txn(vec![self.claim.clone()], vec![write]).await? {
            TxnOutcome::Committed { .. } => Ok(()),
            TxnOutcome::Conflict => Err(self.over()),
        }
    }

    /// Tries to become the controller; whether this session is it now. Wins only if nobody is.
    pub async fn campaign(&self) -> Result<bool, ClusterError> {
        let key = self.sessions.keys.key(&Key::Controller);
        let vacant = Compare { key: key.clone(), mod_revision: 0 };
        let value = ControllerRecord { session: self.session }.encode();
        let write = Write::Put { key: key.clone(), value, lease: self.lease };
        let outcome = self.sessions.store.txn(vec![self.claim.clone(), vacant], vec![write]).await?;
        if let TxnOutcome::Committed { .. } = outcome {
            return Ok(true);
        }
        match self.sessions.store.get(&key).await? {
            Some(entry) => Ok(ControllerRecord::decode(&entry.key, &entry.value)?.session == self.session),
            None => Err(self.over()),
        }
    }

    /// Becomes the controller in place of one that looks dead: whether this session is it now. Wins only if the controller's
    /// key is still the one of `revision`. Safe even if the other lives: its transactions compare that key.
    pub async fn usurp(&self, revision: u64) -> Result<bool, ClusterError> {
        let key = self.sessions.keys.key(&Key::Controller);
        let unchanged = Compare { key: key.clone(), mod_revision: revision };
        let value = ControllerRecord { session: self.session }.encode();
        let write = Write::Put { key, value, lease: self.lease };
        let outcome = self.sessions.store.txn(vec![self.claim.clone(), unchanged], vec![write]).await?;
        Ok(matches!(outcome, TxnOutcome::Committed { .. }))
    }

    /// Keeps the lease alive in a task of `tasks` until it ends or they stop.
    pub fn keep_alive(&self, tasks: &Tasks, metrics: Metrics) {
        let (registration, stop) = (self.clone(), tasks.stopping());
        tasks.spawn("session lease", async move {
            let pause = Duration::from_millis((registration.lease_ttl_ms / KEEP_ALIVES_PER_TTL).max(1));
            while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
                match registration.sessions.store.lease_keep_alive(registration.lease).await {
                    Ok(()) => {
                        metrics.lease_keep_alives.inc();
                    }
                    Err(MetaError::LeaseExpired { .. }) => {
                        tracing::warn!(session = %registration.session, "the session's lease has expired");
                        registration.over();
                        return;
                    }
                    Err(error) => {
                        metrics.lease_keep_alive_errors.inc();
                        tracing::warn!(%error, "the session's lease could not be extended; trying again");
                    }
                }
            }
        });
    }

    /// Turns true when the session has lost its lease or its broker id.
    pub fn ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// Gives the broker id back at a clean stop. The session's record stays until its stream is sealed.
    pub async fn release(&self) -> Result<(), ClusterError> {
        self.ended.send_replace(true);
        Ok(self.sessions.store.lease_revoke(self.lease).await?)
    }

    /// Takes the session for ended, whatever the store says.
    pub fn end(&self) {
        self.ended.send_replace(true);
    }

    fn over(&self) -> ClusterError {
        self.ended.send_replace(true);
        ClusterError::SessionEnded(self.session)
    }
}
