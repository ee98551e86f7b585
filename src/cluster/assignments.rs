//! Changing assignments in the metadata store: the controller's moves, and what a leader does with its own partitions.
//!
//! The controller's transactions compare its election key; all compare the revision of each record that they replace, so a
//! paused controller or a leader with an old view changes nothing. A crash between two transactions of a batch leaves some
//! partitions changed; the next call changes the rest.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::batch::{Piece, pack};
use super::catalogue::{Catalogue, Guard};
use super::error::TopicError;
use super::image::{ClusterImage, Topic};
use super::keys::Key;
use super::placement::{next_epoch, take_over};
use crate::base::{SessionId, TopicPartition};
use crate::format::metadata::{AssignmentChunk, AssignmentRecord, FromStream, MetadataValue, PARTITIONS_PER_CHUNK};

/// Rounds of planning and writing before a batch gives up because others are always faster.
const MAX_ROUNDS: usize = 16;

/// A partition that its leader gave away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handover {
    /// Epoch under which it was led.
    pub leader_epoch: i32,
    /// Who leads next.
    pub target: SessionId,
    /// The segment that holds its `Released` entry.
    pub released_seq: u64,
}

impl Catalogue {
    /// As the controller `own`: new leaders of partitions whose leaders' streams are sealed. Repeating it is fine.
    pub async fn take_over(
        &self,
        own: SessionId,
        leaders: &BTreeMap<TopicPartition, SessionId>,
    ) -> Result<(), TopicError> {
        self.rewrite(Guard::Controller(own), |image, topic, index, assignment| {
            let Some(leader) = leaders.get(&topic.partition(index as i32)) else { return Ok(None) };
            if !image.is_sealed(assignment.session) {
                return Ok(None);
            }
            let sealed = image.sessions.get(&assignment.session).copied().flatten();
            let sealed: HashMap<SessionId, u64> = [(assignment.session, sealed.map_or(0, |sealed| sealed.seq))].into();
            take_over(assignment, *leader, &sealed)
        })
        .await
    }

    /// As the controller `own`: who is to lead next, of partitions that are led.
    pub async fn set_targets(
        &self,
        own: SessionId,
        targets: &BTreeMap<TopicPartition, Option<SessionId>>,
    ) -> Result<(), TopicError> {
        self.rewrite(Guard::Controller(own), |image, topic, index, assignment| {
            let Some(target) = targets.get(&topic.partition(index as i32)) else { return Ok(None) };
            let target = target.filter(|target| *target != assignment.session);
            let unchanged = assignment.target == target || image.is_sealed(assignment.session);
            Ok((!unchanged).then(|| AssignmentRecord { target, ..assignment.clone() }))
        })
        .await
    }

    /// As the leader `own`: gives partitions away whose `Released` entries are committed, to their targets, or to itself under
    /// a new epoch where there is no target any more. Those whose target was changed meanwhile are left alone.
    pub async fn hand_over(
        &self,
        own: SessionId,
        given: &BTreeMap<TopicPartition, Handover>,
    ) -> Result<(), TopicError> {
        self.rewrite(Guard::Records, |_, topic, index, assignment| {
            let Some(handover) = given.get(&topic.partition(index as i32)) else { return Ok(None) };
            let ours = assignment.session == own && assignment.leader_epoch == handover.leader_epoch;
            let wanted = assignment.target == Some(handover.target) || handover.target == own;
            if !ours || !wanted {
                return Ok(None);
            }
            // The entry holds the whole state: earlier streams are not needed.
            let released = FromStream {
                session: own,
                leader_epoch: assignment.leader_epoch,
                sealed_seq: handover.released_seq + 1,
            };
            let leader_epoch = next_epoch(assignment)?;
            let from = vec![released];
            Ok(Some(AssignmentRecord { session: handover.target, leader_epoch, from, target: None, acquired: true }))
        })
        .await
    }

    /// As the leader `own`: writes down that the own stream now holds the state of partitions, those that it still leads
    /// under the given leader epoch: earlier streams are not needed any more, and none may be missing later.
    pub async fn clear_from(
        &self,
        own: SessionId,
        partitions: &BTreeMap<TopicPartition, i32>,
    ) -> Result<(), TopicError> {
        self.rewrite(Guard::Records, |_, topic, index, assignment| {
            let epoch = partitions.get(&topic.partition(index as i32)).copied();
            let holds = assignment.session == own && epoch == Some(assignment.leader_epoch);
            Ok((holds && !(assignment.from.is_empty() && assignment.acquired)).then(|| AssignmentRecord {
                from: Vec::new(),
                acquired: true,
                ..assignment.clone()
            }))
        })
        .await
    }

    /// Rewrites every assignment for which `change` has a new value, in as few transactions as the limits allow.
    async fn rewrite(
        &self,
        guard: Guard,
        change: impl Fn(&ClusterImage, &Topic, usize, &AssignmentRecord) -> Result<Option<AssignmentRecord>, TopicError>,
    ) -> Result<(), TopicError> {
        for _ in 0..MAX_ROUNDS {
            let image = self.image();
            let pieces = self.changed_chunks(&image, &change)?;
            if pieces.is_empty() {
                return Ok(());
            }
            let mut newest = 0;
            for group in pack(&pieces) {
                match self.commit(&image, guard, &pieces[group]).await? {
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
        change: impl Fn(&ClusterImage, &Topic, usize, &AssignmentRecord) -> Result<Option<AssignmentRecord>, TopicError>,
    ) -> Result<Vec<Piece>, TopicError> {
        let mut pieces = Vec::new();
        for topic in image.topics() {
            let mut changed: BTreeMap<usize, Vec<AssignmentRecord>> = BTreeMap::new();
            for (index, assignment) in topic.partitions.iter().enumerate() {
                let Some(new) = change(image, topic, index, assignment)? else { continue };
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
                for session in newly_named(topic, number, &partitions) {
                    // A session that was sealed meanwhile may have been collected too: it is never named anew.
                    let keys = &self.shared().keys;
                    piece.compare(keys.key(&Key::Claim(session.broker_id)), keys.claim_revision(session));
                }
                piece.put(key, AssignmentChunk { partitions }.encode());
                pieces.push(piece);
            }
        }
        Ok(pieces)
    }
}

/// Sessions that a chunk names as leaders or targets and did not name before.
fn newly_named(topic: &Topic, number: usize, partitions: &[AssignmentRecord]) -> BTreeSet<SessionId> {
    let named = |assignment: &AssignmentRecord| std::iter::once(assignment.session).chain(assignment.target);
    let before = topic.partitions.iter().skip(number * PARTITIONS_PER_CHUNK).take(PARTITIONS_PER_CHUNK);
    let before: BTreeSet<SessionId> = before.flat_map(named).collect();
    let now: BTreeSet<SessionId> = partitions.iter().flat_map(named).collect();
    now.difference(&before).copied().collect()
}

/// Whether `from` names the stream of `session` under `leader_epoch`: then its state may still be read.
pub fn names(from: &[FromStream], session: SessionId, leader_epoch: i32) -> bool {
    from.iter().any(|stream| stream.session == session && stream.leader_epoch == leader_epoch)
}
