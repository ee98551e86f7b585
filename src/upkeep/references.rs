//! What must stay, of all brokers together: their partitions' indexes name objects of each other's streams, ended ones too.
//!
//! The controller collects, nobody else. It has its own partitions' states in memory and reads the others' from their
//! streams. Assignments are read from the metadata store before and after: when one has changed in between, a state may
//! have been on its way from one stream to another and seen in neither, so nothing is known and nothing is collected.

use std::collections::HashSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::collect::LiveSet;
use super::deletions::Traces;
use crate::base::SessionId;
use crate::cluster::{ClusterError, Sessions};
use crate::format::state::ObjectRef;
use crate::objstore::{ObjectStore, StoreError};
use crate::partition::stream::{StreamError, load_stream};

/// Streams of other brokers that are read at the same time.
const PARALLEL_STREAMS: usize = 4;

/// Why it is not known what must stay.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    /// The metadata store.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The object store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stream.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// Partitions moved meanwhile.
    #[error("partitions were moved meanwhile")]
    Moved,
}

/// What all streams together tell.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// What must stay.
    pub live: LiveSet,
    /// What is left of deleted topics, if that was asked for.
    pub traces: Traces,
}

/// What must stay, and, if `trace`, what is left of topics, for which more streams are read; `None` if session `own` is not
/// the controller. `own_state` tells how far the stream of `own` had come, and then what its partitions name; it is called
/// once.
pub async fn known(
    sessions: &Sessions,
    store: &Arc<dyn ObjectStore>,
    own: SessionId,
    trace: bool,
    own_state: impl FnOnce() -> (u64, HashSet<ObjectRef>),
) -> Result<Option<Known>, Unknown> {
    let before = sessions.leadership().await?;
    if before.controller != Some(own) {
        return Ok(None);
    }
    let on_record = sessions.all().await?;
    let unsealed = on_record.iter().filter(|(_, sealed)| sealed.is_none()).map(|(session, _)| *session);
    let mut live = LiveSet {
        streams: unsealed.chain(before.leaders.iter().copied()).chain(before.from.iter().copied()).collect(),
        ended_before: on_record.iter().map(|(session, _)| session.epoch).fold(own.epoch, u64::max),
        ..LiveSet::default()
    };
    live.streams.insert(own);
    let read = if trace {
        // Those who lead nothing may still hold a deleted topic.
        live.streams.clone()
    } else {
        // A state that `own` is still to take over, or has given away, is in a stream.
        let others = before.leaders.iter().filter(|leader| **leader != own);
        others.chain(before.from.iter()).copied().collect()
    };
    let reads: Vec<_> = read.into_iter().map(|session| load_stream(store, session)).collect();
    let mut traces = Traces::default();
    let mut states = stream::iter(reads).buffer_unordered(PARALLEL_STREAMS);
    while let Some(state) = states.try_next().await? {
        live.objects.extend(state.partitions.values().flat_map(|state| state.runs.iter().map(|run| run.object)));
        traces.topics.extend(state.partitions.keys().map(|partition| partition.topic_id));
        traces.ends.insert(state.session, state.next_seq);
        live.ends.insert(state.session, state.next_seq);
    }
    let (own_end, own_objects) = own_state();
    live.ends.insert(own, own_end);
    live.objects.extend(own_objects);
    if !sessions.leadership().await?.unchanged_since(&before) {
        return Err(Unknown::Moved);
    }
    Ok(Some(Known { live, traces }))
}
