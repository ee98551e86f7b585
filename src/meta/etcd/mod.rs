//! The store in etcd (3.4 to 3.6): several brokers, one cluster.
//!
//! Spoken to over gRPC with messages written out in [`wire`]; [`client`] says how calls find a member, log in and are
//! repeated, [`watch`] how watches survive. Everything that decides (`endpoints`, `status`, `assembler`) is pure.
//!
//! Invariants: a transaction is sent a second time only if the first one certainly was not and never will be carried out; a
//! watch gives each revision whole, once, in order, or says `Resync`; reads are linearizable (etcd asks its quorum for each).
//!
//! A crash leaves what etcd has; leases end by themselves. Cancellation: an operation whose future is dropped may or may not
//! happen, like one whose answer was lost.
//!
//! What differs from the other stores within the trait's words: leases live for whole seconds (rounded up) and at least for
//! etcd's own minimum (2 s with its default election timeout); keys that are no UTF-8, which Esker never writes, are left out.

mod assembler;
pub mod client;
mod endpoints;
mod login;
pub mod options;
mod status;
#[cfg(test)]
mod tests;
mod watch;
mod wire;

use std::collections::BTreeSet;
use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

pub use options::{EtcdOptions, Tls, User};

use super::machine::check_limits;
use super::metrics::Metrics;
use super::{Compare, KeyValue, MetaError, MetaStore, Snapshot, TxnOutcome, Watch, Write};
use crate::base::{Clock, Rng};
use assembler::key_value;
use client::{CallError, Client, Repeat};

/// Keys of one page of a range; fewer when they are large.
const PAGE_KEYS: i64 = 512;
/// Ranges that begin again because their revision was compacted away between two pages.
const MAX_RANGE_TRIES: u32 = 5;

/// The store. Clones share connections and login.
#[derive(Clone)]
pub struct EtcdMeta {
    client: Client,
    rng: Rng,
}

impl EtcdMeta {
    /// A store that connects when it is first asked.
    ///
    /// Errors: `Environment` for endpoints and certificates that make no sense.
    pub fn new(options: EtcdOptions, clock: Clock, rng: Rng, metrics: Metrics) -> Result<Self, MetaError> {
        Ok(Self { client: Client::new(options, clock, rng.clone(), metrics)?, rng })
    }

    /// One page of a range, at `revision` (0 for the newest); large pages are asked for again in halves.
    async fn page(&self, key: &Bytes, end: &Bytes, revision: i64) -> Result<wire::RangeResponse, CallError> {
        let mut limit = PAGE_KEYS;
        loop {
            let request = wire::RangeRequest { key: key.clone(), range_end: end.clone(), limit, revision };
            match self.client.call("range", request, Repeat::Freely).await {
                Err(CallError::AnswerTooLarge) if limit > 1 => limit /= 2,
                answer => return answer,
            }
        }
    }

    /// All pages of a range, as of the first one's revision.
    async fn pages(&self, prefix: &str) -> Result<Snapshot, CallError> {
        let end = range_end(prefix);
        let mut key = first_key(prefix);
        let mut snapshot = Snapshot { entries: Vec::new(), revision: 0 };
        loop {
            let page = self.page(&key, &end, snapshot.revision as i64).await?;
            if snapshot.revision == 0 {
                snapshot.revision = page.header.map_or(0, |header| header.revision as u64);
            }
            if let Some(last) = page.kvs.last() {
                key = [&last.key[..], b"\0"].concat().into();
            }
            let (more, found) = (page.more && !page.kvs.is_empty(), page.kvs.into_iter().filter_map(key_value));
            snapshot.entries.extend(found);
            if !more {
                return Ok(snapshot);
            }
        }
    }

    /// Which of the leases of these writes is gone; `None` if all are there.
    async fn gone_lease(&self, writes: &[Write]) -> Result<Option<i64>, MetaError> {
        let leases: BTreeSet<i64> = writes
            .iter()
            .filter_map(|write| match write {
                Write::Put { lease, .. } if *lease != 0 => Some(*lease),
                _ => None,
            })
            .collect();
        if leases.len() == 1 {
            return Ok(leases.first().copied());
        }
        for id in leases {
            match self.client.call("lease look-up", wire::LeaseTimeToLiveRequest { id }, Repeat::Freely).await {
                Ok(answer) if answer.ttl > 0 => {}
                Ok(_) | Err(CallError::LeaseGone) => return Ok(Some(id)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

impl fmt::Debug for EtcdMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.client.fmt(f)
    }
}

#[async_trait]
impl MetaStore for EtcdMeta {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetaError> {
        let request = wire::RangeRequest { key: bytes(key), ..Default::default() };
        let answer = self.client.call("get", request, Repeat::Freely).await?;
        Ok(answer.kvs.into_iter().next().and_then(key_value))
    }

    async fn range(&self, prefix: &str) -> Result<Snapshot, MetaError> {
        for _ in 0..MAX_RANGE_TRIES {
            match self.pages(prefix).await {
                Err(CallError::Compacted) => {}
                answer => return Ok(answer?),
            }
        }
        let reason = format!("compacted between two pages {MAX_RANGE_TRIES} times in a row");
        Err(MetaError::Unavailable { operation: "range", reason })
    }

    async fn txn(&self, compares: Vec<Compare>, writes: Vec<Write>) -> Result<TxnOutcome, MetaError> {
        check_limits(&compares, &writes)?;
        let mut success: Vec<wire::RequestOp> = writes.iter().map(write).collect();
        if success.is_empty() {
            // A transaction without any operation is answered by a member from its own, perhaps old, copy; one that reads is
            // not.
            let key = compares.first().map_or_else(|| first_key(""), |compare| bytes(&compare.key));
            let read = wire::Request::Range(wire::RangeRequest { key, limit: 1, ..Default::default() });
            success.push(wire::RequestOp { request: Some(read) });
        }
        let request = wire::TxnRequest { compare: compares.into_iter().map(compare).collect(), success };
        match self.client.call("transaction", request, Repeat::IfNotDone).await {
            Ok(answer) if answer.succeeded => {
                let revision = answer.header.map_or(0, |header| header.revision as u64);
                Ok(TxnOutcome::Committed { revision })
            }
            Ok(_) => Ok(TxnOutcome::Conflict),
            Err(CallError::LeaseGone) => Err(match self.gone_lease(&writes).await? {
                Some(lease) => MetaError::LeaseExpired { lease },
                None => MetaError::Unavailable {
                    operation: "transaction",
                    reason: "a lease was not found that is there now; it has not happened".to_owned(),
                },
            }),
            Err(error) => Err(error.into()),
        }
    }

    async fn watch(&self, prefix: &str, from: u64) -> Result<Watch, MetaError> {
        watch::watch(&self.client, prefix, from).await
    }

    async fn lease_grant(&self, ttl_ms: u64) -> Result<i64, MetaError> {
        let ttl = i64::try_from(ttl_ms.div_ceil(1000).max(1)).unwrap_or(i64::MAX);
        loop {
            // Chosen here, so that repeating the request cannot make two leases.
            let id = ((self.rng.u64() >> 1) as i64).max(1);
            match self.client.call("lease grant", wire::LeaseGrantRequest { ttl, id }, Repeat::Freely).await {
                Ok(_) | Err(CallError::LeaseExists { repeated: true }) => return Ok(id),
                Err(CallError::LeaseExists { repeated: false }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn lease_keep_alive(&self, lease: i64) -> Result<(), MetaError> {
        // One question and one answer of a method that could carry many.
        let request = wire::LeaseKeepAliveRequest { id: lease };
        match self.client.call("lease keep-alive", request, Repeat::Freely).await {
            Ok(answer) if answer.ttl > 0 => Ok(()),
            Ok(_) | Err(CallError::LeaseGone) => Err(MetaError::LeaseExpired { lease }),
            Err(error) => Err(error.into()),
        }
    }

    async fn lease_revoke(&self, lease: i64) -> Result<(), MetaError> {
        match self.client.call("lease revoke", wire::LeaseRevokeRequest { id: lease }, Repeat::Freely).await {
            Ok(_) | Err(CallError::LeaseGone) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// etcd has no empty key; `\0` is its first.
fn first_key(prefix: &str) -> Bytes {
    if prefix.is_empty() { Bytes::from_static(b"\0") } else { bytes(prefix) }
}

/// The first key after all that start with `prefix`; `\0`, which etcd takes for "no end", when there is none.
fn range_end(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

fn compare(compare: Compare) -> wire::Compare {
    wire::Compare {
        result: 0,
        target: wire::Compare::MOD,
        key: compare.key.into(),
        target_union: Some(wire::Target::ModRevision(compare.mod_revision as i64)),
    }
}

fn write(write: &Write) -> wire::RequestOp {
    let request = match write {
        Write::Put { key, value, lease } => {
            wire::Request::Put(wire::PutRequest { key: bytes(key), value: value.clone(), lease: *lease })
        }
        Write::Delete { key } => wire::Request::DeleteRange(wire::DeleteRangeRequest { key: bytes(key) }),
    };
    wire::RequestOp { request: Some(request) }
}
