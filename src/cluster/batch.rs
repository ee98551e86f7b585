//! Transactions of several independent pieces, packed up to the store's limits.

use std::collections::BTreeSet;

use crate::meta::{Compare, MAX_TXN_OPERATIONS, Write};

use super::limits::{BYTES_PER_TXN, WRITES_PER_TXN};

/// What must hold, and what is then written, all or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Piece {
    /// Conditions.
    pub compares: Vec<Compare>,
    /// Writes.
    pub writes: Vec<Write>,
}

impl Piece {
    /// Adds a condition.
    pub fn compare(&mut self, key: String, mod_revision: u64) {
        self.compares.push(Compare { key, mod_revision });
    }

    /// Adds a put without a lease.
    pub fn put(&mut self, key: String, value: bytes::Bytes) {
        self.writes.push(Write::Put { key, value, lease: 0 });
    }

    /// Adds a delete.
    pub fn delete(&mut self, key: String) {
        self.writes.push(Write::Delete { key });
    }

    fn bytes(&self) -> usize {
        let write = |write: &Write| match write {
            Write::Put { key, value, .. } => key.len() + value.len() + 32,
            Write::Delete { key } => key.len() + 16,
        };
        let compares: usize = self.compares.iter().map(|compare| compare.key.len() + 32).sum();
        compares + self.writes.iter().map(write).sum::<usize>()
    }
}

/// Packs pieces, in order, into as few groups as the limits allow; a piece is never split. Gives the pieces' indexes.
pub fn pack(pieces: &[Piece]) -> Vec<std::ops::Range<usize>> {
    let mut groups: Vec<std::ops::Range<usize>> = Vec::new();
    let mut compares: BTreeSet<(&str, u64)> = BTreeSet::new();
    let (mut writes, mut bytes) = (0, 0);
    for (at, piece) in pieces.iter().enumerate() {
        let own = piece.compares.iter().map(|compare| (compare.key.as_str(), compare.mod_revision));
        compares.extend(own.clone());
        writes += piece.writes.len();
        bytes += piece.bytes();
        let fits = compares.len() < MAX_TXN_OPERATIONS && writes <= WRITES_PER_TXN && bytes <= BYTES_PER_TXN;
        match groups.last_mut() {
            Some(group) if fits => group.end = at + 1,
            _ => {
                groups.push(at..at + 1);
                (compares, writes, bytes) = (own.collect(), piece.writes.len(), piece.bytes());
            }
        }
    }
    groups
}

/// One transaction of the pieces and a guard, if there is one. A condition that several pieces share comes once.
pub fn join(guard: Option<Compare>, pieces: &[Piece]) -> (Vec<Compare>, Vec<Write>) {
    let mut compares = Vec::from_iter(guard);
    let mut seen: BTreeSet<(&str, u64)> = BTreeSet::new();
    let mut writes = Vec::new();
    for piece in pieces {
        let new = piece.compares.iter().filter(|compare| seen.insert((&compare.key, compare.mod_revision)));
        compares.extend(new.cloned());
        writes.extend(piece.writes.iter().cloned());
    }
    (compares, writes)
}
