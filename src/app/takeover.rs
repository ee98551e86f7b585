//! From old sessions to a new one: finish and seal what this broker left behind, register, take the partitions over, start
//! the log (DESIGN 2.3, restart with the disk intact).
//!
//! Every step can be repeated: a crash anywhere in here is finished by the next start.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use prometheus_client::registry::Registry;

use crate::base::{SessionId, TopicPartition, crash};
use crate::cluster::{Catalogue, Identity, Registration, Sessions};
use crate::format::metadata::AssignmentRecord;
use crate::format::state::PartitionState;
use crate::objstore::ObjectStore;
use crate::partition::recovery::{RecoveryPlace, finish_stream};
use crate::partition::stream::{StreamState, load_stream};
use crate::partition::{Log, LogOptions};
use crate::wal::WalDir;

/// What a takeover works with.
pub struct Takeover<'a> {
    /// Sessions on record.
    pub sessions: &'a Sessions,
    /// Who this broker is.
    pub identity: &'a Identity,
    /// Time to live of the new session's lease, in ms.
    pub lease_ttl_ms: u64,
    /// Topics and assignments.
    pub catalogue: &'a Catalogue,
    /// Where streams and write-ahead files are.
    pub place: RecoveryPlace,
    /// Whether there are write-ahead files at all.
    pub has_wal: bool,
}

/// What came of it.
pub struct TakenOver {
    /// The new session.
    pub registration: Registration,
    /// Its log, with every partition acquired.
    pub log: Log,
    /// Files whose records could not be appended any more.
    pub lost_files: Vec<PathBuf>,
}

impl Takeover<'_> {
    /// Does it all. `options` makes the log's options once the session is known; `phase` hears what is going on.
    pub async fn run(
        self,
        options: impl FnOnce(SessionId) -> LogOptions,
        metrics: &mut Registry,
        phase: impl Fn(&str),
    ) -> anyhow::Result<TakenOver> {
        let mut streams = HashMap::new();
        let lost_files = self.finish_old_streams(&mut streams, &phase).await?;
        phase("registering");
        let registration = self.sessions.register(self.identity, self.lease_ttl_ms).await?;
        let session = registration.session();
        crash::point("takeover-after-register");
        self.catalogue.lead_as(session);
        self.become_controller(&registration).await?;
        self.assign(session).await?;
        crash::point("takeover-after-assign");
        phase("loading the partitions");
        let acquired = self.load(session, streams).await?;
        let held: Vec<(TopicPartition, i32)> =
            acquired.iter().map(|(partition, epoch, _)| (*partition, *epoch)).collect();
        let count = held.len();
        phase(&format!("taking over {count} partitions"));
        let log = Log::start(options(session), acquired, metrics).await?;
        crash::point("takeover-after-acquired");
        self.catalogue.clear_from(session, &held).await.map_err(|error| anyhow!("{error}"))?;
        tracing::info!(%session, partitions = count, "session started");
        Ok(TakenOver { registration, log, lost_files })
    }

    async fn finish_old_streams(
        &self,
        streams: &mut HashMap<SessionId, StreamState>,
        phase: &impl Fn(&str),
    ) -> anyhow::Result<Vec<PathBuf>> {
        let mut unsealed: BTreeSet<SessionId> =
            self.sessions.unsealed(self.identity, self.lease_ttl_ms).await?.into_iter().collect();
        if self.has_wal {
            // Files of a session that is sealed already, or that the metadata store has forgotten, are not left lying.
            let left: Vec<SessionId> = WalDir::sessions(&self.place.disk, &self.place.wal_root)?;
            unsealed.extend(left.into_iter().filter(|session| session.broker_id == self.identity.broker_id));
        }
        let on_record: HashMap<SessionId, bool> =
            self.sessions.all().await?.into_iter().map(|(session, sealed)| (session, sealed.is_some())).collect();
        let mut lost_files = Vec::new();
        for session in unsealed {
            phase(&format!("finishing session {session}"));
            let finished = finish_stream(&self.place, session, |uploaded, total| {
                phase(&format!("finishing session {session}: {uploaded} of {total} segments uploaded"));
            })
            .await
            .with_context(|| format!("cannot finish the stream of session {session}"))?;
            tracing::info!(%session, sealed_at = finished.stream.next_seq, uploaded = finished.uploaded_segments, "old session finished and sealed");
            crash::point("recovery-before-mark");
            if on_record.get(&session) == Some(&false) {
                self.sessions.mark_sealed(session, finished.stream.next_seq).await?;
            }
            lost_files.extend(finished.lost_files);
            streams.insert(session, finished.stream);
        }
        Ok(lost_files)
    }

    /// Assignments are the controller's to change; this version runs one broker, which is it.
    async fn become_controller(&self, registration: &Registration) -> anyhow::Result<()> {
        if !registration.campaign().await? {
            bail!("another broker controls this cluster; this version runs one broker per cluster");
        }
        let mut versions = self.catalogue.subscribe();
        while self.catalogue.image().controller != Some(registration.session()) {
            versions.changed().await.context("the catalogue has stopped")?;
        }
        Ok(())
    }

    async fn assign(&self, session: SessionId) -> anyhow::Result<()> {
        let own = |owner: &SessionId| owner.broker_id == self.identity.broker_id;
        let sealed: HashMap<SessionId, u64> = self
            .sessions
            .all()
            .await?
            .into_iter()
            .filter_map(|(owner, sealed)| Some((owner, sealed?.seq)))
            .filter(|(owner, _)| own(owner))
            .collect();
        self.catalogue.assign_to(session, &sealed).await.map_err(|error| anyhow!("{error}"))
    }

    /// The state of every partition that `session` now leads: from the newest stream that acquired it under the epoch that
    /// the assignment names (DESIGN 2.3).
    async fn load(
        &self,
        session: SessionId,
        mut streams: HashMap<SessionId, StreamState>,
    ) -> anyhow::Result<Vec<(TopicPartition, i32, PartitionState)>> {
        let image = self.catalogue.image();
        let mut acquired = Vec::new();
        for (partition, assignment) in image.led_by(session) {
            for from in &assignment.from {
                if let Entry::Vacant(unread) = streams.entry(from.session) {
                    let stream = load(&self.place.store, from.session).await?;
                    if stream.next_seq != from.sealed_seq {
                        bail!(
                            "the stream of session {} ends at segment {}, but was sealed at {}: objects under '{}' are \
                             missing; restore them before this broker starts",
                            from.session,
                            stream.next_seq,
                            from.sealed_seq,
                            crate::format::keys::stream_prefix(from.session),
                        );
                    }
                    unread.insert(stream);
                }
            }
            let state = newest_state(partition, assignment, &mut streams);
            acquired.push((partition, assignment.leader_epoch, state));
        }
        Ok(acquired)
    }
}

/// The state that the new leader of a partition begins with: from the newest stream of `from` that acquired it under the
/// epoch named there; empty when none did. The state is taken out of `streams`.
#[expect(clippy::implicit_hasher, reason = "one kind of map in this house")]
pub fn newest_state(
    partition: TopicPartition,
    assignment: &AssignmentRecord,
    streams: &mut HashMap<SessionId, StreamState>,
) -> PartitionState {
    for from in &assignment.from {
        let Some(stream) = streams.get_mut(&from.session) else { continue };
        let same_epoch = |state: &PartitionState| state.leader_epoch == from.leader_epoch;
        if stream.partitions.get(&partition).is_some_and(same_epoch)
            && let Some(state) = stream.partitions.remove(&partition)
        {
            return state;
        }
    }
    // No stream ever acquired it: it was created and never written.
    PartitionState::default()
}

async fn load(store: &Arc<dyn ObjectStore>, session: SessionId) -> anyhow::Result<StreamState> {
    load_stream(store, session).await.with_context(|| format!("cannot read the stream of session {session}"))
}
