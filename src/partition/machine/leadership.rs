//! The third part of the machine: partitions come and go (DESIGN 2.3 and 2.4).
//!
//! Invariant: a stream's checkpoints hold the state of every partition that the session leads, and of every one that it
//! gave away, until that is dropped or acquired again *and* the entry that says so is committed.

use crate::base::TopicPartition;
use crate::format::entry::Entry;
use crate::format::state::{ObjectRef, PartitionState};

use super::super::api::LogError;
use super::super::fold::fold;
use super::super::live::{Live, Release};
use super::{Machine, Now, Ticket};

/// A partition that was given away: its state stays in the stream's checkpoints until nobody needs it.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) state: PartitionState,
    pub(super) dropping: bool,
}

impl Machine {
    /// Takes a partition over in `state` (empty for a new one) under `leader_epoch`.
    ///
    /// The producers of one that was written before have waited for a leader: what they send now need not wait for the bucket
    /// of quiescent cuts as well.
    pub fn acquire(
        &mut self,
        now: Now,
        partition: TopicPartition,
        leader_epoch: i32,
        mut state: PartitionState,
    ) -> Ticket {
        state.leader_epoch = leader_epoch;
        if state.next_offset > 0 {
            self.bucket.refill(now.boot_us);
        }
        let ticket = self.append_control(now, partition, Entry::Acquired(Box::new(state.clone())));
        self.partitions.insert(partition, Live::new(state));
        ticket
    }

    /// Gives a partition away (DESIGN 2.4): appends end at once, and a `Released` entry with the whole state, uncommitted
    /// batches included, goes into the stream behind them. Whoever leads next may take the state from there as soon as the
    /// entry is committed. Readers are served until [`Machine::forget_led`].
    ///
    /// Errors: `NotLeader`, also if it is being released or dropped already; `Environment` if its entries do not fit its
    /// state, which is a bug.
    pub fn give_away(&mut self, now: Now, partition: TopicPartition) -> Result<Ticket, LogError> {
        let live = self.partition(partition)?;
        if live.release != Release::No {
            return Err(LogError::NotLeader(partition));
        }
        let mut state = live.state.clone();
        let cut = self.cut.iter().map(|segment| (segment.seq, segment.entries_of(partition)));
        let open = self.open.iter().map(|segment| (segment.seq, segment.entries_of(partition)));
        for (seq, entries) in cut.chain(open) {
            let object = ObjectRef::Segment { session: self.session, seq };
            for placed in entries {
                if let Entry::Acquired(acquired) = &placed.entry {
                    // What stands before it belongs to an earlier time under this session.
                    state.clone_from(acquired);
                    continue;
                }
                fold(&mut state, object, &placed.entry).map_err(|error| {
                    LogError::Environment(format!("the entries of partition {partition} do not fit its state: {error}"))
                })?;
            }
        }
        if let Some(live) = self.partitions.get_mut(&partition) {
            live.release = Release::Pending;
        }
        Ok(self.append_control(now, partition, Entry::Released(Box::new(state))))
    }

    /// A released partition has a new leader: readers are sent there. Its state stays in the stream.
    pub fn forget_led(&mut self, partition: TopicPartition) {
        let gone = self.partitions.remove(&partition);
        if let Some(live) = gone.filter(|live| live.release == Release::Committed) {
            self.released.insert(partition, Given { state: live.state, dropping: false });
        }
    }

    /// The state of a partition that was given away, and under which leader epoch it was led, by partition.
    pub fn given_away(&self) -> impl Iterator<Item = (TopicPartition, i32)> {
        self.released.iter().filter(|(_, given)| !given.dropping).map(|(p, given)| (*p, given.state.leader_epoch))
    }

    /// The state in which a partition was given away under `leader_epoch`, if this session still has it.
    pub fn given_state(&self, partition: TopicPartition, leader_epoch: i32) -> Option<&PartitionState> {
        let given = self.released.get(&partition).map(|given| &given.state);
        given.filter(|state| state.leader_epoch == leader_epoch)
    }

    /// Nobody needs the state of a partition that was given away any more: it leaves the stream. One that came back is left
    /// alone: a `Dropped` behind the new `Acquired` would take that away too, and its commit replaces the old state anyway.
    pub fn drop_given(&mut self, now: Now, partition: TopicPartition) -> Option<Ticket> {
        if self.partitions.contains_key(&partition) {
            return None;
        }
        let given = self.released.get_mut(&partition).filter(|given| !given.dropping)?;
        given.dropping = true;
        Some(self.append_control(now, partition, Entry::Dropped))
    }

    /// Deletes a partition. Appends end at once, the rest with the commit.
    pub fn drop_partition(&mut self, now: Now, partition: TopicPartition) -> Result<Ticket, LogError> {
        self.partition(partition)?;
        if let Some(live) = self.partitions.get_mut(&partition) {
            // Also while it is being released: a deleted topic needs no new leader.
            live.dropping = true;
        }
        Ok(self.append_control(now, partition, Entry::Dropped))
    }

    /// A `Dropped` entry is committed. What was acquired again behind it stays.
    pub(super) fn dropped(&mut self, partition: TopicPartition) {
        if self.released.get(&partition).is_some_and(|given| given.dropping) {
            self.released.remove(&partition);
        }
        if self.partitions.get(&partition).is_some_and(|live| live.dropping) {
            self.partitions.remove(&partition);
            self.pending.retain(|(owner, _), _| *owner != partition);
        }
    }
}
