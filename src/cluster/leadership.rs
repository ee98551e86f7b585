//! Who leads what, read from the metadata store itself.
//!
//! The catalogue's image is never wrong about the past, only late, which is enough to serve by. Who deletes objects needs to
//! know what is so now.

use std::collections::{BTreeMap, HashSet};

use super::error::ClusterError;
use super::keys::Key;
use super::registration::Sessions;
use crate::base::SessionId;
use crate::format::metadata::{AssignmentChunk, ControllerRecord, MetadataValue};

/// The controller and all assignments at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The controller's session, if there is one.
    pub controller: Option<SessionId>,
    /// Every session that leads a partition.
    pub leaders: HashSet<SessionId>,
    /// Every session whose stream may still hold the newest state of a partition.
    pub from: HashSet<SessionId>,
    /// Revision of each record of assignments, by key.
    revisions: BTreeMap<String, u64>,
}

impl Leadership {
    /// Whether no assignment that was there `before` has changed meanwhile, and the controller is the same. Topics may have
    /// come and gone.
    pub fn unchanged_since(&self, before: &Self) -> bool {
        let same = |(key, revision): (&String, &u64)| self.revisions.get(key).is_none_or(|now| now == revision);
        self.controller == before.controller && before.revisions.iter().all(same)
    }
}

impl Sessions {
    /// Reads the controller and all assignments. The controller is read last, so that assignments are at least as old.
    pub async fn leadership(&self) -> Result<Leadership, ClusterError> {
        let mut now = Leadership::default();
        for entry in self.store.range(&self.keys.assignments()).await?.entries {
            for assignment in AssignmentChunk::decode(&entry.key, &entry.value)?.partitions {
                now.leaders.insert(assignment.session);
                now.from.extend(assignment.from.iter().map(|from| from.session));
            }
            now.revisions.insert(entry.key, entry.mod_revision);
        }
        if let Some(entry) = self.store.get(&self.keys.key(&Key::Controller)).await? {
            now.controller = Some(ControllerRecord::decode(&entry.key, &entry.value)?.session);
        }
        Ok(now)
    }
}
