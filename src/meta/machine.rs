//! The semantics of the store, pure: keys, revisions, transactions, leases. The shells (`memory.rs`, `embedded.rs`) add
//! a lock, a file, watches and time.
//!
//! What each write does is a [`Change`], the one thing that moves the keys: operations judge and give a change, the shell
//! makes it durable and then applies it, and the replay of a file applies the same changes. Limits are those of etcd, counted as etcd counts them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;

use super::{Compare, Event, KeyValue, MAX_REQUEST_BYTES, MAX_TXN_OPERATIONS, MetaError, Snapshot, Write};
use crate::base::HashSet;

/// The effect of one revision: puts and deletes of distinct keys. Empty changes are not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The revision that it makes.
    pub revision: u64,
    /// What happened, in the order of the writes.
    pub events: Vec<Event>,
}

/// What a transaction comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// A compare failed.
    Conflict,
    /// The compares hold and nothing is to be written.
    Unchanged {
        /// The store's revision.
        revision: u64,
    },
    /// To be made durable, then applied.
    Change(Change),
}

/// The state of a store.
#[derive(Debug, Default)]
pub struct Machine {
    revision: u64,
    keys: BTreeMap<String, Entry>,
    leases: BTreeMap<i64, Lease>,
    last_lease: i64,
    live_bytes: u64,
}

#[derive(Debug, Clone)]
struct Entry {
    value: Bytes,
    create_revision: u64,
    mod_revision: u64,
    lease: i64,
}

#[derive(Debug)]
struct Lease {
    ttl_ms: u64,
    deadline_ms: u64,
    keys: BTreeSet<String>,
}

impl Machine {
    /// The revision of the last change; 0 before the first.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Bytes of all keys and values.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// One key.
    pub fn get(&self, key: &str) -> Option<KeyValue> {
        self.keys.get(key).map(|entry| entry.at(key))
    }

    /// Every key that starts with `prefix`.
    pub fn range(&self, prefix: &str) -> Snapshot {
        let from: Bound<&str> = Bound::Included(prefix);
        let entries = self
            .keys
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, entry)| entry.at(key))
            .collect();
        Snapshot { entries, revision: self.revision }
    }

    /// Judges a transaction; nothing is applied.
    pub fn txn(&self, compares: &[Compare], writes: &[Write], now_ms: u64) -> Result<Judged, MetaError> {
        check_limits(compares, writes)?;
        let holds = |compare: &Compare| {
            compare.mod_revision == self.keys.get(&compare.key).map_or(0, |entry| entry.mod_revision)
        };
        if !compares.iter().all(holds) {
            return Ok(Judged::Conflict);
        }
        let alive = |id: &i64| self.leases.get(id).is_some_and(|lease| lease.deadline_ms > now_ms);
        for write in writes {
            if let Write::Put { lease, .. } = write
                && *lease != 0
                && !alive(lease)
            {
                return Err(MetaError::LeaseExpired { lease: *lease });
            }
        }
        let revision = self.revision + 1;
        let event = |write: &Write| match write {
            Write::Put { key, value, lease } => Some(Event::Put(KeyValue {
                key: key.clone(),
                value: value.clone(),
                create_revision: self.keys.get(key).map_or(revision, |entry| entry.create_revision),
                mod_revision: revision,
                lease: *lease,
            })),
            Write::Delete { key } => self.keys.contains_key(key).then(|| Event::Delete { key: key.clone(), revision }),
        };
        let change = self.next_change(writes.iter().filter_map(event).collect());
        Ok(change.map_or(Judged::Unchanged { revision: self.revision }, Judged::Change))
    }

    /// A new lease; `now_ms` is of a clock that never goes back.
    pub fn grant(&mut self, ttl_ms: u64, now_ms: u64) -> i64 {
        self.last_lease += 1;
        let lease = Lease { ttl_ms, deadline_ms: now_ms.saturating_add(ttl_ms), keys: BTreeSet::new() };
        self.leases.insert(self.last_lease, lease);
        self.last_lease
    }

    /// Moves a lease's end to its ttl from now; one that is over cannot be revived.
    pub fn keep_alive(&mut self, lease: i64, now_ms: u64) -> Result<(), MetaError> {
        let alive = self.leases.get_mut(&lease).filter(|lease| lease.deadline_ms > now_ms);
        let found = alive.ok_or(MetaError::LeaseExpired { lease })?;
        found.deadline_ms = now_ms.saturating_add(found.ttl_ms);
        Ok(())
    }

    /// The deletes that the end of a lease makes; apply them, then [`Machine::end_lease`].
    pub fn lease_change(&self, lease: i64) -> Option<Change> {
        let revision = self.revision + 1;
        let keys = self.leases.get(&lease)?.keys.iter();
        self.next_change(keys.map(|key| Event::Delete { key: key.clone(), revision }).collect())
    }

    /// Forgets a lease.
    pub fn end_lease(&mut self, lease: i64) {
        self.leases.remove(&lease);
    }

    /// Leases whose time is over.
    pub fn expired(&self, now_ms: u64) -> Vec<i64> {
        self.leases.iter().filter(|(_, lease)| lease.deadline_ms <= now_ms).map(|(id, _)| *id).collect()
    }

    /// When the next lease ends, if there is one.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.leases.values().map(|lease| lease.deadline_ms).min()
    }

    /// Deletes of every key that hangs on a lease this machine does not know: after a replay, those of the process
    /// before.
    pub fn orphans_change(&self) -> Option<Change> {
        let revision = self.revision + 1;
        let orphan = |entry: &Entry| entry.lease != 0 && !self.leases.contains_key(&entry.lease);
        let keys = self.keys.iter().filter(|(_, entry)| orphan(entry)).map(|(key, _)| key.clone());
        self.next_change(keys.map(|key| Event::Delete { key, revision }).collect())
    }

    fn next_change(&self, events: Vec<Event>) -> Option<Change> {
        (!events.is_empty()).then(|| Change { revision: self.revision + 1, events })
    }

    /// Moves the state by one change (which must be the next one, or a snapshot's).
    pub fn apply(&mut self, change: &Change) {
        self.revision = change.revision;
        for event in &change.events {
            match event {
                Event::Put(entry) => self.put(entry),
                Event::Delete { key, .. } => self.remove(key),
                Event::Resync => {}
            }
        }
    }

    fn put(&mut self, put: &KeyValue) {
        self.remove(&put.key);
        let entry = Entry {
            value: put.value.clone(),
            create_revision: put.create_revision,
            mod_revision: put.mod_revision,
            lease: put.lease,
        };
        if let Some(lease) = self.leases.get_mut(&put.lease) {
            lease.keys.insert(put.key.clone());
        }
        self.live_bytes += (put.key.len() + put.value.len()) as u64;
        self.keys.insert(put.key.clone(), entry);
    }

    fn remove(&mut self, key: &str) {
        let Some(entry) = self.keys.remove(key) else { return };
        self.live_bytes -= (key.len() + entry.value.len()) as u64;
        if let Some(lease) = self.leases.get_mut(&entry.lease) {
            lease.keys.remove(key);
        }
    }
}

impl Entry {
    fn at(&self, key: &str) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: self.value.clone(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            lease: self.lease,
        }
    }
}

/// etcd's limits: compares and writes are counted apart, each at most [`MAX_TXN_OPERATIONS`]; the size is that of the
/// encoded request; a key may be written once.
pub fn check_limits(compares: &[Compare], writes: &[Write]) -> Result<(), MetaError> {
    let operations = compares.len().max(writes.len());
    if operations > MAX_TXN_OPERATIONS {
        return Err(MetaError::TooLarge(format!(
            "{operations} operations in one transaction, at most {MAX_TXN_OPERATIONS} are possible"
        )));
    }
    let bytes = request_bytes(compares, writes);
    if bytes > MAX_REQUEST_BYTES {
        return Err(MetaError::TooLarge(format!(
            "a transaction of {bytes} bytes, at most {MAX_REQUEST_BYTES} are possible"
        )));
    }
    let mut written = HashSet::default();
    for write in writes {
        let (Write::Put { key, .. } | Write::Delete { key }) = write;
        if !written.insert(key.as_str()) {
            return Err(MetaError::TooLarge(format!("key '{key}' is written more than once in one transaction")));
        }
    }
    Ok(())
}

/// Bytes that etcd's server counts: the transaction's protobuf encoding inside its raft request, whose own header (an id,
/// a user name and an auth revision) is taken at its usual size.
fn request_bytes(compares: &[Compare], writes: &[Write]) -> usize {
    const RAFT_HEADER_BYTES: usize = 16;
    let compare = |compare: &Compare| {
        // result is EQUAL (0, left out), target is MOD.
        2 + bytes_field(compare.key.len())
            + if compare.mod_revision == 0 { 2 } else { 1 + varint(compare.mod_revision) }
    };
    let write = |write: &Write| match write {
        Write::Put { key, value, lease } => {
            let lease = if *lease == 0 { 0 } else { 1 + varint(*lease as u64) };
            bytes_field(bytes_field(key.len()) + optional_bytes_field(value.len()) + lease)
        }
        Write::Delete { key } => bytes_field(bytes_field(key.len())),
    };
    let compares: usize = compares.iter().map(|one| bytes_field(compare(one))).sum();
    let writes: usize = writes.iter().map(|one| bytes_field(write(one))).sum();
    RAFT_HEADER_BYTES + bytes_field(compares + writes)
}

/// A length-delimited field: tag, length, bytes.
fn bytes_field(length: usize) -> usize {
    1 + varint(length as u64) + length
}

fn optional_bytes_field(length: usize) -> usize {
    if length == 0 { 0 } else { bytes_field(length) }
}

fn varint(value: u64) -> usize {
    (64 - value.leading_zeros() as usize).div_ceil(7).max(1)
}
