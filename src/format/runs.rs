//! Where the batches of a partition lie: runs of them in stored objects, and how lists of runs are written.
//!
//! ```text
//! varint sessions, each: broker id i32, epoch u64
//! varint runs, each: varint slot in the table above (times two, plus one for a compacted run)
//!   segment: signed seq, as the difference from the last segment's
//!   compacted run: varint number, varint commit before
//!   signed first offset (from the last run's end), signed offsets in it, signed timestamp (from the last run's),
//!   varint position, varint length, varint bytes of batches
//! ```
//! States of partitions that were never compacted use the older form: slots are not doubled, all runs are in segments.

use bytes::{BufMut, BytesMut};

use super::FormatError;
use super::codec::{Cursor, put_signed, put_varint};
use crate::base::SessionId;

/// A stored object that holds batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectRef {
    /// Segment `seq` of a session's stream.
    Segment {
        /// The stream.
        session: SessionId,
        /// Position in the stream, from 0.
        seq: u64,
    },
    /// A compacted run that a session wrote.
    Run {
        /// Who wrote it.
        session: SessionId,
        /// Which of its runs, from 0.
        number: u64,
        /// The entry that puts it into partitions stands in a segment of the session before this seq, or nowhere.
        commit_before: u64,
    },
}

impl ObjectRef {
    /// The object's key in the store.
    pub fn key(&self) -> String {
        match self {
            Self::Segment { session, seq } => super::keys::segment(*session, *seq),
            Self::Run { session, number, commit_before } => super::keys::run(*session, *number, *commit_before),
        }
    }

    /// The session that wrote it.
    pub fn session(&self) -> SessionId {
        match self {
            Self::Segment { session, .. } | Self::Run { session, .. } => *session,
        }
    }
}

/// Some consecutive batches of one partition inside one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    /// First offset (inclusive).
    pub first_offset: i64,
    /// End offset (exclusive): the next record's.
    pub next_offset: i64,
    /// Largest record timestamp, in milliseconds since the Unix epoch.
    pub max_timestamp: i64,
    /// Where the bytes are.
    pub object: ObjectRef,
    /// Byte position of the partition's first frame in the object.
    pub position: u32,
    /// Bytes from `position` to the end of the partition's last frame; frames of other partitions may lie between.
    pub length: u32,
    /// Sum of the batches' own lengths in bytes.
    pub batch_bytes: u32,
}

/// Which kinds of objects a list may name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Segments,
    Any,
}

/// Appends a list of runs, whatever objects they are in.
pub fn encode_runs<'a>(into: &mut BytesMut, runs: impl IntoIterator<Item = &'a Run> + Copy) {
    encode(into, runs, Form::Any);
}

/// Appends a list of runs that are all in segments (others have no place in this form).
pub fn encode_segment_runs<'a>(into: &mut BytesMut, runs: impl IntoIterator<Item = &'a Run> + Copy) {
    encode(into, runs, Form::Segments);
}

/// Reads what [`encode_runs`] wrote.
pub fn decode_runs(cursor: &mut Cursor<'_>) -> Result<Vec<Run>, FormatError> {
    decode(cursor, Form::Any)
}

/// Reads what [`encode_segment_runs`] wrote.
pub fn decode_segment_runs(cursor: &mut Cursor<'_>) -> Result<Vec<Run>, FormatError> {
    decode(cursor, Form::Segments)
}

/// Sessions are named by their place in a table: a partition's runs come from few of them.
fn encode<'a>(into: &mut BytesMut, runs: impl IntoIterator<Item = &'a Run> + Copy, form: Form) {
    let mut sessions: Vec<SessionId> = Vec::new();
    let mut slots = Vec::new();
    for run in runs {
        let session = run.object.session();
        let known = sessions.iter().rposition(|known| *known == session);
        slots.push(known.unwrap_or(sessions.len()));
        if known.is_none() {
            sessions.push(session);
        }
    }
    put_varint(into, sessions.len() as u64);
    for session in &sessions {
        into.put_i32_le(session.broker_id);
        into.put_u64_le(session.epoch);
    }
    put_varint(into, slots.len() as u64);
    let (mut offset, mut timestamp, mut last_seq) = (0, 0, 0);
    for (run, slot) in runs.into_iter().zip(slots) {
        let slot = slot as u64;
        match (run.object, form) {
            (ObjectRef::Segment { seq, .. }, _) => {
                put_varint(into, if form == Form::Any { slot * 2 } else { slot });
                put_signed(into, seq as i64 - last_seq);
                last_seq = seq as i64;
            }
            (ObjectRef::Run { number, commit_before, .. }, _) => {
                put_varint(into, slot * 2 + 1);
                put_varint(into, number);
                put_varint(into, commit_before);
            }
        }
        put_signed(into, run.first_offset - offset);
        put_signed(into, run.next_offset - run.first_offset);
        put_signed(into, run.max_timestamp.wrapping_sub(timestamp));
        put_varint(into, u64::from(run.position));
        put_varint(into, u64::from(run.length));
        put_varint(into, u64::from(run.batch_bytes));
        (offset, timestamp) = (run.next_offset, run.max_timestamp);
    }
}

fn decode(cursor: &mut Cursor<'_>, form: Form) -> Result<Vec<Run>, FormatError> {
    let invalid = FormatError::Invalid("runs");
    let mut sessions = Vec::new();
    for _ in 0..cursor.count(12)? {
        sessions.push(SessionId { broker_id: cursor.i32()?, epoch: cursor.u64()? });
    }
    let count = cursor.count(8)?;
    let mut runs = Vec::with_capacity(count);
    let (mut offset, mut timestamp, mut last_seq) = (0_i64, 0_i64, 0_i64);
    for _ in 0..count {
        let tag: u64 = cursor.varint()?;
        let (slot, compacted) = if form == Form::Any { (tag / 2, tag % 2 == 1) } else { (tag, false) };
        let session = usize::try_from(slot).ok().and_then(|slot| sessions.get(slot));
        let session = *session.ok_or(invalid.clone())?;
        let object = if compacted {
            ObjectRef::Run { session, number: cursor.varint()?, commit_before: cursor.varint()? }
        } else {
            last_seq = cursor.delta(last_seq)?;
            ObjectRef::Segment { session, seq: u64::try_from(last_seq).map_err(|_| invalid.clone())? }
        };
        let first_offset = cursor.delta(offset)?;
        let next_offset = cursor.delta(first_offset)?;
        timestamp = timestamp.wrapping_add(cursor.signed()?);
        if next_offset < first_offset {
            return Err(invalid);
        }
        runs.push(Run {
            first_offset,
            next_offset,
            max_timestamp: timestamp,
            object,
            position: cursor.varint_as()?,
            length: cursor.varint_as()?,
            batch_bytes: cursor.varint_as()?,
        });
        offset = next_offset;
    }
    Ok(runs)
}
