//! Who leads what, after a session has ended: its partitions get a new leader, a higher epoch, and the streams that the
//! new leader takes their state from.
//!
//! Invariants: an epoch grows by one with every change of leader; a stream is named in `from` until the new leader's own
//! stream holds the state ([`Catalogue::clear_from`]), so a leader that dies before leaves the older streams in the list; a
//! stream that is sealed at 0 holds nothing and is never named.
//!
//! A crash between two transactions of a batch leaves some partitions moved; the next call moves the rest.

use std::collections::{BTreeMap, HashMap};

use super::batch::{Piece, pack};
use super::catalogue::Catalogue;
use super::error::TopicError;
use super::image::{ClusterImage, Topic};
use super::keys::Key;
use super::limits::MAX_FROM_STREAMS;
use crate::base::{SessionId, TopicPartition};
use crate::format::metadata::{AssignmentChunk, AssignmentRecord, FromStream, MetadataValue, PARTITIONS_PER_CHUNK};

/// Rounds of planning and writing before a batch gives up because others are always faster.
const MAX_ROUNDS: usize = 8;

impl Catalogue {
    /// Assigns to `session` every partition whose leader is one of the `sealed` sessions (with the sequence number of its
    /// seal). Returns when the image shows it. Repeating it is fine.
    pub async fn assign_to(&self, session: SessionId, sealed: &HashMap<SessionId, u64>) -> Result<(), TopicError> {
        self.rewrite(|_, _, assignment| take_over(assignment, session, sealed)).await
    }

    /// Empties `from` of partitions whose state the local stream now holds: those that `session` still leads under the
    /// given leader epoch.
    pub async fn clear_from(&self, session: SessionId, partitions: &[(TopicPartition, i32)]) -> Result<(), TopicError> {
        let done: HashMap<TopicPartition, i32> = partitions.iter().copied().collect();
        self.rewrite(|topic, index, assignment| {
            let epoch = done.get(&topic.partition(index as i32)).copied();
            let holds = assignment.session == session && epoch == Some(assignment.leader_epoch);
            Ok((holds && !assignment.from.is_empty())
                .then(|| AssignmentRecord { from: Vec::new(), ..assignment.clone() }))
        })
        .await
    }

    /// Rewrites every assignment for which `change` has a new value, in as few transactions as the limits allow.
    async fn rewrite(
        &self,
        change: impl Fn(&Topic, usize, &AssignmentRecord) -> Result<Option<AssignmentRecord>, TopicError>,
    ) -> Result<(), TopicError> {
        for _ in 0..MAX_ROUNDS {
            let image = self.image();
            let pieces = self.changed_chunks(&image, &change)?;
            if pieces.is_empty() {
                return Ok(());
            }
            let mut newest = 0;
            for group in pack(&pieces) {
                match self.commit(&image, &pieces[group]).await? {
                    Some(revision) => newest = newest.max(revision),
                    None => break,
                }
            }
            self.wait_for(newest).await;
        }
        Err(TopicError::Contended("Other changes of the assignments were always faster; try again.".to_owned()))
    }

    fn changed_chunks(
        &self,
        image: &ClusterImage,
        change: impl Fn(&Topic, usize, &AssignmentRecord) -> Result<Option<AssignmentRecord>, TopicError>,
    ) -> Result<Vec<Piece>, TopicError> {
        let mut pieces = Vec::new();
        for topic in image.topics() {
            let mut changed: BTreeMap<usize, Vec<AssignmentRecord>> = BTreeMap::new();
            for (index, assignment) in topic.partitions.iter().enumerate() {
                let Some(new) = change(topic, index, assignment)? else { continue };
                let number = index / PARTITIONS_PER_CHUNK;
                let chunk = changed.entry(number).or_insert_with(|| {
                    let rest = topic.partitions.iter().skip(number * PARTITIONS_PER_CHUNK);
                    rest.take(PARTITIONS_PER_CHUNK).cloned().collect()
                });
                chunk[index % PARTITIONS_PER_CHUNK] = new;
            }
            for (number, partitions) in changed {
                let key = self.shared().keys.key(&Key::Assignments(topic.id, number as u32));
                let mut piece = Piece::default();
                piece.compare(key.clone(), topic.chunk_revisions.get(number).copied().unwrap_or(0));
                piece.put(key, AssignmentChunk { partitions }.encode());
                pieces.push(piece);
            }
        }
        Ok(pieces)
    }
}

/// The assignment after its leader's stream was sealed, or `None` if its leader is not among the `sealed`.
#[expect(clippy::implicit_hasher, reason = "one kind of map in this house")]
pub fn take_over(
    assignment: &AssignmentRecord,
    session: SessionId,
    sealed: &HashMap<SessionId, u64>,
) -> Result<Option<AssignmentRecord>, TopicError> {
    if assignment.session == session {
        return Ok(None);
    }
    let Some(sealed_seq) = sealed.get(&assignment.session).copied() else { return Ok(None) };
    let Some(leader_epoch) = assignment.leader_epoch.checked_add(1) else {
        return Err(TopicError::Broken("a partition has used up its leader epochs".to_owned()));
    };
    let mut from = assignment.from.clone();
    if sealed_seq > 0 {
        from.insert(0, FromStream { session: assignment.session, leader_epoch: assignment.leader_epoch, sealed_seq });
    }
    if from.len() > MAX_FROM_STREAMS {
        return Err(TopicError::LimitReached(format!(
            "{MAX_FROM_STREAMS} leaders in a row ended before they had written down a partition's state; the broker cannot \
             take it over without losing track of an older stream"
        )));
    }
    Ok(Some(AssignmentRecord { session, leader_epoch, from }))
}
