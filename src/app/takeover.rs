//! From old sessions to a new one: finish and seal what this data directory still holds of them, then register (DESIGN 2.3,
//! restart with the disk intact). Partitions come back by way of the controller.
//!
//! Only streams whose write-ahead files are here are finished here, whatever broker id they were written under: another
//! process may have had this id meanwhile, on another machine. A stream that nobody finishes is sealed by the controller.
//!
//! Every step can be repeated: a crash anywhere in here is finished by the next start.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Context;

use crate::base::{SessionId, crash};
use crate::cluster::{Identity, Registration, Sessions};
use crate::partition::recovery::{RecoveryPlace, finish_stream};
use crate::partition::stream::StreamState;
use crate::wal::WalDir;

/// Streams that were read already.
pub type Streams = HashMap<SessionId, StreamState>;

/// What a takeover works with.
pub struct Takeover<'a> {
    /// Sessions on record.
    pub sessions: &'a Sessions,
    /// Who this broker is.
    pub identity: &'a Identity,
    /// Time to live of the new session's lease, in ms.
    pub lease_ttl_ms: u64,
    /// Where streams and write-ahead files are.
    pub place: RecoveryPlace,
    /// Whether there are write-ahead files at all.
    pub has_wal: bool,
}

/// What came of it.
pub struct TakenOver {
    /// The new session.
    pub registration: Registration,
    /// The streams that were finished.
    pub streams: Streams,
    /// Files whose records could not be appended any more.
    pub lost_files: Vec<PathBuf>,
}

impl Takeover<'_> {
    /// Does it all. `phase` hears what is going on.
    pub async fn run(self, phase: &impl Fn(&str)) -> anyhow::Result<TakenOver> {
        let mut streams = Streams::new();
        let lost_files = self.finish_old_streams(&mut streams, phase).await?;
        phase("registering");
        let registration = self.sessions.register(self.identity, self.lease_ttl_ms).await?;
        crash::point("takeover-after-register");
        Ok(TakenOver { registration, streams, lost_files })
    }

    async fn finish_old_streams(&self, streams: &mut Streams, phase: &impl Fn(&str)) -> anyhow::Result<Vec<PathBuf>> {
        if !self.has_wal {
            return Ok(Vec::new());
        }
        let left: Vec<SessionId> = WalDir::sessions(&self.place.disk, &self.place.wal_root)?;
        if left.is_empty() {
            return Ok(Vec::new());
        }
        let on_record: HashMap<SessionId, bool> =
            self.sessions.all().await?.into_iter().map(|(session, sealed)| (session, sealed.is_some())).collect();
        let mut lost_files = Vec::new();
        for session in left {
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
}
