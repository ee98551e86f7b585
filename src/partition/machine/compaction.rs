//! The fourth part of the machine: batches that were copied into a compacted run are read from there from now on.
//!
//! Invariant: a run's entries stand before the seq that its key names ([`ObjectRef::Run`]), or nowhere. So whoever sees the
//! stream reach that seq knows whether anything refers to the run, without knowing how long its writer may have been paused
//! between writing the object and saying so.

use crate::base::TopicPartition;
use crate::format::entry::Entry;
use crate::format::state::{ObjectRef, Run};

use super::super::api::LogError;
use super::super::fold::replaced;
use super::super::segment_buffer::Placed;
use super::{Machine, Now, Ticket};

/// Segments that the stream may grow by while a run is written.
pub const COMMIT_WITHIN_SEGMENTS: u64 = 1 << 16;

impl Machine {
    /// The name of a run that is about to be written.
    pub fn allot_run(&mut self) -> ObjectRef {
        let number = self.runs_allotted;
        self.runs_allotted += 1;
        ObjectRef::Run { session: self.session, number, commit_before: self.next_seq + COMMIT_WITHIN_SEGMENTS }
    }

    /// Puts `runs`, all in objects of this session's [`Machine::allot_run`] that exist by now, in the place of those that lie
    /// there. `None` if log start has passed them all meanwhile.
    ///
    /// Errors: `NotLeader`; `Retriable` if it took so long that the runs may be garbage, or if the partition's runs have
    /// changed: nothing was changed.
    pub fn replace_runs(
        &mut self,
        now: Now,
        partition: TopicPartition,
        runs: Vec<Run>,
    ) -> Result<Option<Ticket>, LogError> {
        let state = &self.writable(partition)?.state;
        let ours = |run: &Run| match run.object {
            ObjectRef::Run { session, commit_before, .. } => session == self.session && self.next_seq < commit_before,
            ObjectRef::Segment { .. } => false,
        };
        if !runs.iter().all(ours) {
            return Err(LogError::Retriable(format!("the compacted runs of partition {partition} came too late")));
        }
        // The runs are judged by what is committed; a second change on its way could not be told from damage later.
        let on_its_way =
            |entries: &[Placed]| entries.iter().any(|placed| matches!(placed.entry, Entry::RunsReplaced(_)));
        let cut = self.cut.iter().any(|segment| on_its_way(segment.entries_of(partition)));
        if cut || self.open.iter().any(|segment| on_its_way(segment.entries_of(partition))) {
            return Err(LogError::Retriable(format!("other runs of partition {partition} are being replaced")));
        }
        match replaced(state, &runs) {
            Ok(None) => Ok(None),
            Ok(Some(_)) => Ok(Some(self.append_background(now, partition, Entry::RunsReplaced(runs)))),
            Err(error) => Err(LogError::Retriable(format!("the runs of partition {partition} have changed: {error}"))),
        }
    }
}
