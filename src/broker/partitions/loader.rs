//! Reads the states of partitions from the streams of those who led them before.
//!
//! The state is in the newest of the streams that an assignment names which acquired the partition *under that leader
//! epoch*: a session that led it before, gave it away and got it back holds an older state too, which must not be taken.
//! A living broker that gave a partition away is asked for it first; if it does not answer at once its stream does.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use parking_lot::Mutex;

use super::machine::Load;
use crate::base::{SessionId, TopicPartition};
use crate::broker::metrics::Metrics;
use crate::cluster::Catalogue;
use crate::format::keys;
use crate::format::metadata::{BrokerRecord, FromStream};
use crate::format::state::PartitionState;
use crate::objstore::ObjectStore;
use crate::partition::Log;
use crate::partition::stream::{StreamError, StreamState, load_released, load_stream};

/// How long a living broker may take to tell the states in which it gave partitions away, in milliseconds. Its stream says
/// the same.
const TELL_TIMEOUT_MS: u64 = 250;

/// States that another broker told, with the leader epochs under which the partitions were given away.
pub type Told = Vec<(TopicPartition, i32, PartitionState)>;

/// The other brokers of the cluster, as far as they tell what they gave away.
#[async_trait]
pub trait Peers: fmt::Debug + Send + Sync + 'static {
    /// Asks `broker` for the states in which it gave partitions away, each under its leader epoch: those that it knows. At
    /// most for `timeout_ms`.
    async fn released(
        &self,
        broker: &BrokerRecord,
        wanted: &[(TopicPartition, i32)],
        timeout_ms: u64,
    ) -> Result<Told, String>;
}

/// No other broker is asked: every state is read from a stream.
#[derive(Debug, Clone, Copy)]
pub struct NoPeers;

#[async_trait]
impl Peers for NoPeers {
    async fn released(&self, _: &BrokerRecord, _: &[(TopicPartition, i32)], _: u64) -> Result<Told, String> {
        Ok(Vec::new())
    }
}

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
    /// Other brokers.
    pub peers: Arc<dyn Peers>,
    /// Counters.
    pub metrics: Metrics,
}

/// What was read of other sessions' streams, for one batch of loads.
#[derive(Default)]
struct Read {
    told: HashMap<(TopicPartition, i32), PartitionState>,
    streams: HashMap<SessionId, StreamState>,
    released: HashMap<(SessionId, u64), BTreeMap<TopicPartition, PartitionState>>,
}

impl Loader {
    /// The states of `wanted`, each with its outcome.
    pub async fn load(&self, wanted: Vec<Load>) -> Vec<(Load, Result<PartitionState, StreamError>)> {
        let mut read = Read { told: self.ask(&wanted).await, ..Read::default() };
        let mut loaded = Vec::with_capacity(wanted.len());
        for load in wanted {
            let state = self.one(&load, &mut read).await;
            loaded.push((load, state));
        }
        loaded
    }

    /// Asks the living brokers that gave `wanted` away, all at once.
    async fn ask(&self, wanted: &[Load]) -> HashMap<(TopicPartition, i32), PartitionState> {
        let image = self.catalogue.image();
        let mut given: BTreeMap<SessionId, Vec<(TopicPartition, i32)>> = BTreeMap::new();
        for load in wanted {
            let Some(newest) = load.from.first().filter(|from| from.session != self.log.session()) else { continue };
            given.entry(newest.session).or_default().push((load.partition, newest.leader_epoch));
        }
        let asked = given.iter().filter_map(|(session, wanted)| {
            let broker = image.brokers.get(&session.broker_id).filter(|broker| broker.session == *session)?;
            Some(async move { (session, self.peers.released(broker, wanted, TELL_TIMEOUT_MS).await) })
        });
        let mut told = HashMap::new();
        for (session, answer) in join_all(asked).await {
            match answer {
                Ok(states) => {
                    told.extend(states.into_iter().map(|(partition, epoch, state)| ((partition, epoch), state)));
                }
                Err(error) => tracing::debug!(%session, error, "it does not tell what it gave away; its stream does"),
            }
        }
        told
    }

    async fn one(&self, load: &Load, read: &mut Read) -> Result<PartitionState, StreamError> {
        for from in &load.from {
            if let Some(state) = self.state_in(load.partition, from, read).await? {
                return Ok(state);
            }
        }
        state_or_empty(load.partition, load.acquired, None)
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
        if let Some(state) = read.told.remove(&(partition, from.leader_epoch))
            && state.leader_epoch == from.leader_epoch
        {
            self.metrics.loads_told.inc();
            return Ok(Some(state));
        }
        self.metrics.loads_read.inc();
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

/// The state that was found, or an empty one for a partition that no stream ever held: it was created and never written.
///
/// Errors: `Missing` if `acquired` says that some stream did hold it. An empty state would forget everything in it and give
/// its offsets away again.
pub fn state_or_empty(
    partition: TopicPartition,
    acquired: bool,
    found: Option<PartitionState>,
) -> Result<PartitionState, StreamError> {
    match found {
        Some(state) => Ok(state),
        None if !acquired => Ok(PartitionState::default()),
        None => Err(StreamError::Lost { partition }),
    }
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
