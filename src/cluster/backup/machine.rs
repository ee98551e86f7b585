//! What a backup holds, and when one is due. Pure: images and times come in.

use crate::cluster::image::ClusterImage;
use crate::cluster::topics::record_of;
use crate::format::catalogue::{CatalogueBackup, SavedDeletion, SavedSession, SavedTopic};

/// A change waits this long for others that come with it, in milliseconds.
pub const SETTLE_MS: u64 = 500;
/// Least time between two tries, in milliseconds.
pub const INTERVAL_MS: u64 = 5_000;

/// What is saved of `image`, whose version counts as session epochs do once `epoch_base` is added. `None` while the image
/// shows no cluster yet.
pub fn backup_of(image: &ClusterImage, epoch_base: u64) -> Option<CatalogueBackup> {
    if image.cluster_id.is_empty() {
        return None;
    }
    let topics = image.topics().map(|topic| SavedTopic {
        topic: record_of(topic),
        leader_epochs: topic.partitions.iter().map(|assignment| assignment.leader_epoch).collect(),
    });
    let deletions = image.deletions.iter().map(|(id, record)| SavedDeletion { id: *id, deletion: (**record).clone() });
    let sessions = image
        .sessions
        .iter()
        .map(|(session, sealed)| SavedSession { session: *session, sealed: sealed.map(|sealed| sealed.seq) });
    Some(CatalogueBackup {
        revision: epoch_base.saturating_add(image.version),
        cluster_id: image.cluster_id.clone(),
        created_ms: image.created_ms,
        next_producer_id: image.next_producer_id,
        topics: topics.collect(),
        deletions: deletions.collect(),
        sessions: sessions.collect(),
    })
}

/// Remembers which version of the catalogue is saved, and when to try next. Times are of a clock that never goes back.
#[derive(Debug, Default)]
pub struct Schedule {
    /// Version that the newest backup is known to show; `None` before that is known.
    saved: Option<u64>,
    /// Newest version that was seen.
    seen: u64,
    /// Since when something is not saved.
    waiting_since_ms: Option<u64>,
    /// Not before.
    not_before_ms: u64,
}

impl Schedule {
    /// The catalogue is at `version`.
    pub fn saw(&mut self, version: u64, now_ms: u64) {
        self.seen = self.seen.max(version);
        if self.saved.is_none_or(|saved| self.seen > saved) {
            self.waiting_since_ms.get_or_insert(now_ms);
        }
    }

    /// When the next try is due; `None` while nothing is to be saved.
    pub fn due_ms(&self) -> Option<u64> {
        self.waiting_since_ms.map(|since_ms| (since_ms + SETTLE_MS).max(self.not_before_ms))
    }

    /// For how long something has not been saved, in milliseconds.
    pub fn waiting_ms(&self, now_ms: u64) -> u64 {
        self.waiting_since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms))
    }

    /// What was there at `version` is saved; `wrote` says whether that took an object.
    pub fn saved(&mut self, version: u64, wrote: bool, now_ms: u64) {
        self.saved = Some(version);
        self.waiting_since_ms = (self.seen > version).then_some(now_ms);
        if wrote {
            self.not_before_ms = now_ms + INTERVAL_MS;
        }
    }

    /// The try failed.
    pub fn failed(&mut self, now_ms: u64) {
        self.not_before_ms = now_ms + INTERVAL_MS;
    }
}
