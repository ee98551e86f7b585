//! Reads the states of partitions from the streams of those who led them before.
//!
//! The state is in the newest of the streams that an assignment names which acquired the partition *under that leader
//! epoch*: a session that led it before, gave it away and got it back holds an older state too, which must not be taken.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use super::machine::Load;
use crate::base::{SessionId, TopicPartition};
use crate::cluster::Catalogue;
use crate::format::keys;
use crate::format::metadata::FromStream;
use crate::format::state::PartitionState;
use crate::objstore::ObjectStore;
use crate::partition::Log;
use crate::partition::stream::{StreamError, StreamState, load_released, load_stream};

/// See the module.
#[derive(Debug, Clone)]
pub struct Loader {
    /// Where streams are.
    pub store: Arc<dyn ObjectStore>,
    /// Which sessions have ended.
    pub catalogue: Catalogue,
    /// This session's own log, which may have given a partition away that comes back.
    pub log: Log,
    /// Streams that were read already, when this process finished them.
    pub finished: Arc<Mutex<HashMap<SessionId, StreamState>>>,
}

/// What was read of other sessions' streams, for one batch of loads.
#[derive(Default)]
struct Read {
    streams: HashMap<SessionId, StreamState>,
    released: HashMap<(SessionId, u64), BTreeMap<TopicPartition, PartitionState>>,
}

impl Loader {
    /// The states of `wanted`, each with its outcome.
    pub async fn load(&self, wanted: Vec<Load>) -> Vec<(Load, Result<PartitionState, StreamError>)> {
        let mut read = Read::default();
        let mut loaded = Vec::with_capacity(wanted.len());
        for load in wanted {
            let state = self.one(&load, &mut read).await;
            loaded.push((load, state));
        }
        loaded
    }

    async fn one(&self, load: &Load, read: &mut Read) -> Result<PartitionState, StreamError> {
        for from in &load.from {
            if let Some(state) = self.state_in(load.partition, from, read).await? {
                return Ok(state);
            }
        }
        // No stream ever acquired it: it was created and never written.
        Ok(PartitionState::default())
    }

    async fn state_in(
        &self,
        partition: TopicPartition,
        from: &FromStream,
        read: &mut Read,
    ) -> Result<Option<PartitionState>, StreamError> {
        if from.session == self.log.session() {
            return Ok(self.log.given_state(partition, from.leader_epoch));
        }
        let lives = !self.catalogue.image().is_sealed(from.session);
        if let Some(seq) = from.sealed_seq.checked_sub(1).filter(|_| lives) {
            // Given away by a living broker: its last word is in one segment.
            let at = (from.session, seq);
            let released = match read.released.entry(at) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unread) => unread.insert(load_released(&self.store, from.session, seq).await?),
            };
            let state = released.remove(&partition);
            if let Some(state) = state.filter(|state| state.leader_epoch == from.leader_epoch) {
                return Ok(Some(state));
            }
        }
        let stream = match read.streams.entry(from.session) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unread) => unread.insert(self.whole(from).await?),
        };
        Ok(take(stream, partition, from.leader_epoch))
    }

    /// The stream that `from` names, read as far as it must reach.
    async fn whole(&self, from: &FromStream) -> Result<StreamState, StreamError> {
        let finished = self.finished.lock().remove(&from.session);
        let stream = match finished {
            Some(stream) => stream,
            None => load_stream(&self.store, from.session).await?,
        };
        if stream.next_seq < from.sealed_seq {
            return Err(StreamError::Missing {
                session: from.session,
                missing: format!(
                    "it ends at segment {}, but was committed up to {}: objects under '{}' are missing; restore them",
                    stream.next_seq,
                    from.sealed_seq,
                    keys::stream_prefix(from.session),
                ),
            });
        }
        Ok(stream)
    }
}

fn take(stream: &mut StreamState, partition: TopicPartition, leader_epoch: i32) -> Option<PartitionState> {
    let same_epoch = stream.partitions.get(&partition).is_some_and(|state| state.leader_epoch == leader_epoch);
    if same_epoch { stream.partitions.remove(&partition) } else { None }
}

/// The newest state of a partition among `streams`, following an assignment's `from`; `None` if none of them has it.
#[expect(clippy::implicit_hasher, reason = "one kind of map in this house")]
pub fn newest_state(
    partition: TopicPartition,
    from: &[FromStream],
    streams: &mut HashMap<SessionId, StreamState>,
) -> Option<PartitionState> {
    from.iter().find_map(|from| take(streams.get_mut(&from.session)?, partition, from.leader_epoch))
}
