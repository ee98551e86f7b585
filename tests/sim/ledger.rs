//! What the streams say, judged as it happens: every object of a stream is read when it is created, whoever gets the reply.
//!
//! It knows the commit order itself: a segment counts when all before it are there and no seal stands among them. Of every
//! partition it asks what no client could see: that one session commits under one leader epoch, that epochs only grow,
//! that each batch begins where the one before ended, and that a leader takes over the whole of what its predecessors left.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use esker::base::{SessionId, TopicPartition};
use esker::format::entry::Entry;
use esker::format::frame::read_frame;
use esker::format::keys::parse_segment;
use esker::format::prelude::{ObjectKind, Prelude};
use esker::format::segment::{Indexed, read_footer};
use parking_lot::Mutex;

/// See the module. Clones share one.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    streams: BTreeMap<SessionId, Stream>,
    partitions: BTreeMap<TopicPartition, Committed>,
    wrong: Vec<String>,
}

#[derive(Default)]
struct Stream {
    /// The seq that is committed next.
    next: u64,
    sealed: bool,
    /// Created before one of their predecessors.
    early: BTreeMap<u64, Bytes>,
}

/// What is committed of a partition.
#[derive(Debug, Clone, Default)]
pub struct Committed {
    /// The offset after the last record.
    pub end: i64,
    /// Who has committed under which leader epoch.
    pub leaders: BTreeMap<i32, SessionId>,
}

impl Ledger {
    /// An object has come into being.
    pub fn created(&self, key: &str, bytes: Bytes) {
        let Some((session, seq)) = parse_segment(key) else { return };
        let mut known = self.0.lock();
        let known = &mut *known;
        let stream = known.streams.entry(session).or_default();
        // A collected object may come back by a request that was long on its way: nobody reads it.
        if stream.sealed || seq < stream.next {
            return;
        }
        stream.early.insert(seq, bytes);
        while let Some(bytes) = known.streams.get_mut(&session).and_then(Stream::take_next) {
            if let Err(what) = commit(&mut known.partitions, session, &bytes) {
                known.wrong.push(format!("{key}: {what}"));
            }
        }
    }

    /// The offset after the last committed record; 0 if nothing is.
    pub fn end(&self, partition: TopicPartition) -> i64 {
        self.0.lock().partitions.get(&partition).map_or(0, |committed| committed.end)
    }

    /// Everything that is committed.
    pub fn partitions(&self) -> BTreeMap<TopicPartition, Committed> {
        self.0.lock().partitions.clone()
    }

    /// What must not be, so far.
    pub fn wrong(&self) -> Vec<String> {
        self.0.lock().wrong.clone()
    }
}

impl Stream {
    fn take_next(&mut self) -> Option<Bytes> {
        let bytes = self.early.remove(&self.next).filter(|_| !self.sealed)?;
        if Prelude::decode(&bytes).is_ok_and(|prelude| prelude.kind == ObjectKind::Seal) {
            self.sealed = true;
            self.early.clear();
            return None;
        }
        self.next += 1;
        Some(bytes)
    }
}

fn commit(
    partitions: &mut BTreeMap<TopicPartition, Committed>,
    session: SessionId,
    bytes: &[u8],
) -> Result<(), String> {
    let (_, footer) = read_footer(bytes).map_err(|error| error.to_string())?;
    for section in &footer.sections {
        let partition = section.partition;
        let known = partitions.entry(partition).or_default();
        for entry in &section.entries {
            let facts = match entry {
                Indexed::Batch(facts) => facts,
                Indexed::Control(control) => {
                    let frame = &bytes[control.position as usize..][..control.frame_bytes as usize];
                    let (header, payload) = read_frame(frame).map_err(|error| error.to_string())?;
                    let entry = Entry::decode(&header, payload, control.position).map_err(|error| error.to_string())?;
                    if let Entry::Acquired(state) | Entry::Released(state) = entry
                        && state.next_offset != known.end
                    {
                        let (kind, next, end) = (header.kind, state.next_offset, known.end);
                        return Err(format!("{partition}: {kind:?} at offset {next}, {end} is where it ends"));
                    }
                    continue;
                }
            };
            let epoch = facts.leader_epoch;
            let before = *known.leaders.entry(epoch).or_insert(session);
            if before != session {
                return Err(format!("{partition}: {before} and {session} both commit under leader epoch {epoch}"));
            }
            if let Some((newest, other)) = known.leaders.last_key_value().filter(|(newest, _)| **newest > epoch) {
                return Err(format!("{partition}: epoch {epoch} commits after epoch {newest} of {other}"));
            }
            if facts.base_offset != known.end {
                let (base, end) = (facts.base_offset, known.end);
                return Err(format!("{partition}: a batch at {base} under epoch {epoch}, {end} is where it ends"));
            }
            known.end = facts.last_offset + 1;
        }
    }
    Ok(())
}
