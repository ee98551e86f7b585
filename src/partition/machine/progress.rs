//! The second half of the machine: what goes to the write-ahead files and the store, and what comes of it.

use std::collections::BTreeMap;

use crate::base::TopicPartition;
use crate::format::entry::Entry;
use crate::format::state::{ObjectRef, PartitionState};

use super::super::fold::FoldError;
use super::super::segment_buffer::{Block, CutSegment};
use super::{Committed, Machine, UploadWork, WalMode, WalWork};

impl Machine {
    /// The next bytes for the write-ahead files.
    pub fn wal_work(&mut self) -> Option<WalWork> {
        if self.wal_mode == WalMode::None {
            return None;
        }
        let (seq, position) = (self.wal_seq, self.wal_position);
        if let Some(segment) = self.cut.iter().find(|segment| segment.seq == seq) {
            let blocks = segment.blocks_from(position);
            let end = segment.object_bytes as u32;
            (self.wal_seq, self.wal_position) = (seq + 1, 0);
            return Some(WalWork { seq, blocks, finish: true, sync: segment.wal_replies_wait, end });
        }
        let open = self.open.as_mut().filter(|open| open.seq == seq && !open.is_empty())?;
        let blocks = open.blocks_from(position);
        if blocks.is_empty() && !self.wal_sync_wanted {
            return None;
        }
        let end = open.len();
        self.wal_position = end;
        let sync = std::mem::take(&mut self.wal_sync_wanted);
        Some(WalWork { seq, blocks, finish: false, sync, end })
    }

    /// Everything of `seq` that is in memory, to be written again after a failed sync (the kernel may have dropped what it
    /// could not write). Empty once it is committed or spilled.
    pub fn wal_again(&mut self, seq: u64) -> Vec<Block> {
        match self.open.as_mut().filter(|open| open.seq == seq) {
            Some(open) => open.blocks_from(0),
            None => self.cut.iter().find(|s| s.seq == seq).map_or_else(Vec::new, |s| s.blocks_from(0)),
        }
    }

    /// Bytes of the open segment that the write-ahead file does not have yet, and whether a reply waits for them.
    pub fn wal_backlog(&self) -> (u64, bool) {
        if self.wal_mode == WalMode::None {
            return (0, false);
        }
        if self.cut.iter().any(|segment| segment.seq >= self.wal_seq) {
            return (u64::MAX, true);
        }
        let written = self.wal_position;
        let bytes = self.open.as_ref().map_or(0, |open| open.len().saturating_sub(written));
        (u64::from(bytes), self.wal_sync_wanted)
    }

    /// The write-ahead file of `seq` is whole.
    pub fn wal_done(&mut self, seq: u64) {
        if let Some(segment) = self.cut.iter_mut().find(|segment| segment.seq == seq) {
            segment.wal_complete = true;
        }
    }

    /// The next segment to upload, if one may start.
    pub fn upload_work(&mut self) -> Option<UploadWork> {
        if self.fenced || self.cut.iter().filter(|s| s.uploading && !s.uploaded).count() >= self.limits.uploads {
            return None;
        }
        let wal_mode = self.wal_mode;
        let mut before_whole = true;
        let segment = self.cut.iter_mut().find(|segment| {
            let ready = match wal_mode {
                WalMode::None => true,
                WalMode::Mirror => before_whole,
                WalMode::BecomesObject => before_whole && segment.wal_complete,
            };
            before_whole &= segment.wal_complete || segment.uploaded;
            ready && !segment.uploading
        })?;
        segment.uploading = true;
        let mut blocks = segment.blocks.clone();
        if !blocks.is_empty() {
            blocks.push(segment.footer.clone());
        }
        Some(UploadWork { seq: segment.seq, object_id: segment.object_id, blocks, object_bytes: segment.object_bytes })
    }

    /// The object of `seq` exists and is ours. Applies every commit that this allows, in order.
    pub fn uploaded(&mut self, seq: u64) -> Result<Vec<Committed>, FoldError> {
        if let Some(segment) = self.cut.iter_mut().find(|segment| segment.seq == seq) {
            segment.uploaded = true;
        }
        let mut commits = Vec::new();
        while self.cut.front().is_some_and(|front| front.uploaded) && !self.fenced {
            if let Some(segment) = self.cut.pop_front() {
                commits.push(self.commit(&segment)?);
            }
        }
        Ok(commits)
    }

    fn commit(&mut self, segment: &CutSegment) -> Result<Committed, FoldError> {
        let object = ObjectRef::Segment { session: self.session, seq: segment.seq };
        let mut touched = Vec::with_capacity(segment.sections.len());
        for (partition, entries) in &segment.sections {
            touched.push(*partition);
            for placed in entries {
                if placed.entry == Entry::Dropped {
                    self.dropped(*partition);
                    continue;
                }
                let Some(live) = self.partitions.get_mut(partition) else { continue };
                if matches!(placed.entry, Entry::Acquired(_)) {
                    // From here on the stream holds the newer state.
                    self.released.remove(partition);
                }
                live.commit(object, &placed.entry, segment)?;
                if let Entry::Batch(facts) = &placed.entry {
                    let key = (*partition, facts.producer_id);
                    if self.pending.get(&key).is_some_and(|pending| pending.last.seq == segment.seq) {
                        self.pending.remove(&key);
                    }
                }
            }
        }
        self.committed = segment.seq + 1;
        self.memory_bytes -= segment.memory_bytes;
        self.uncommitted_bytes -= segment.object_bytes.min(self.uncommitted_bytes);
        for evicted in self.tail.push(segment) {
            for partition in evicted.partitions {
                if let Some(live) = self.partitions.get_mut(&partition) {
                    live.evict_tail(evicted.seq);
                }
            }
        }
        Ok(Committed { seq: segment.seq, first_us: segment.first_us, object_bytes: segment.object_bytes, touched })
    }

    /// Whether a checkpoint is due; says so once, the caller then takes it.
    pub fn checkpoint_due(&self, now_us: u64) -> bool {
        let since = self.committed - self.checkpointed;
        since >= self.limits.checkpoint_segments
            || (since > 0 && now_us.saturating_sub(self.checkpoint_us) >= self.limits.checkpoint_interval_us)
    }

    /// The committed states in order, and the last segment they contain. `None` before the first commit.
    pub fn checkpoint(&mut self, now_us: u64) -> Option<(u64, BTreeMap<TopicPartition, &PartitionState>)> {
        let seq = self.committed.checked_sub(1)?;
        self.checkpointed = self.committed;
        self.checkpoint_us = now_us;
        let owned = self.partitions.iter().filter(|(_, live)| live.owned).map(|(p, live)| (*p, &live.state));
        let given = self.released.iter().map(|(partition, given)| (*partition, &given.state));
        Some((seq, given.chain(owned).collect()))
    }
}
