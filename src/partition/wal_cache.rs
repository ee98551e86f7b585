//! Which committed write-ahead files are still on the local disk, to be read instead of the store, within the budget of
//! write-ahead bytes.

use std::collections::BTreeMap;

/// See the module.
#[derive(Debug)]
pub struct WalCache {
    limit_bytes: u64,
    bytes: u64,
    files: BTreeMap<u64, u64>,
}

impl WalCache {
    /// Nothing kept yet; `limit_bytes` is shared with the files that are not committed.
    pub fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, bytes: 0, files: BTreeMap::new() }
    }

    /// Whether the file of `seq` is kept.
    pub fn contains(&self, seq: u64) -> bool {
        self.files.contains_key(&seq)
    }

    /// Keeps the committed file of `seq`.
    pub fn keep(&mut self, seq: u64, bytes: u64) {
        self.bytes += bytes;
        self.files.insert(seq, bytes);
    }

    /// The oldest files that have to go while `uncommitted_bytes` are in use beside them.
    pub fn trim(&mut self, uncommitted_bytes: u64) -> Vec<u64> {
        let mut gone = Vec::new();
        while self.bytes + uncommitted_bytes > self.limit_bytes {
            let Some((seq, bytes)) = self.files.pop_first() else { break };
            self.bytes -= bytes;
            gone.push(seq);
        }
        gone
    }
}
