//! The state of one partition: what the fold makes of its entries, and what `Acquired` entries and checkpoints carry.
//!
//! Encoded as `version u16`, then sections `tag varint, length varint, bytes`, in tag order. Every section is required
//! reading: an unknown tag means a newer writer. Collections are in a fixed order, so equal states have equal bytes.

use std::collections::{BTreeMap, VecDeque};

use bytes::{BufMut, BytesMut};

use super::FormatError;
use super::codec::{Cursor, put_signed, put_varint};
pub use super::runs::{ObjectRef, Run};
use super::runs::{decode_runs, decode_segment_runs, encode_runs, encode_segment_runs};

/// Newest version of the state encoding.
pub const STATE_VERSION: u16 = 1;
/// Batches of a producer that are remembered to recognise its retries (Kafka's number, and its clients' limit of requests
/// in flight).
pub const PRODUCER_BATCHES: usize = 5;

/// An aborted transaction, for `read_committed` fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AbortedTxn {
    /// The producer.
    pub producer_id: i64,
    /// First offset of the transaction.
    pub first_offset: i64,
    /// Offset of the abort marker.
    pub last_offset: i64,
}

/// The start of a leader epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: i32,
    /// Offset of the first record appended under it.
    pub start_offset: i64,
}

/// A batch of an idempotent producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProducerBatch {
    /// Sequence of the first record.
    pub first_sequence: i32,
    /// Sequence of the last record.
    pub last_sequence: i32,
    /// Offset of the last record.
    pub last_offset: i64,
    /// Largest timestamp of the batch.
    pub timestamp: i64,
}

impl ProducerBatch {
    /// Offset of the first record.
    pub fn base_offset(&self) -> i64 {
        self.last_offset - self.offset_delta()
    }

    fn offset_delta(&self) -> i64 {
        // Sequences wrap from i32::MAX to 0.
        let delta = i64::from(self.last_sequence) - i64::from(self.first_sequence);
        if delta < 0 { delta + i64::from(i32::MAX) + 1 } else { delta }
    }
}

/// What is known of an idempotent or transactional producer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProducerState {
    /// Newest epoch seen.
    pub epoch: i16,
    /// Epoch of the transaction coordinator that last wrote a marker, or -1.
    pub coordinator_epoch: i32,
    /// First offset of the open transaction.
    pub txn_first_offset: Option<i64>,
    /// Broker's time of the last append, in milliseconds since the Unix epoch.
    pub last_append_ms: i64,
    /// The last batches, oldest first; at most [`PRODUCER_BATCHES`].
    pub batches: VecDeque<ProducerBatch>,
}

/// Everything known of a partition after some prefix of its entries.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PartitionState {
    /// Epoch under which the stream's session leads it.
    pub leader_epoch: i32,
    /// First offset that can be read.
    pub log_start: i64,
    /// Offset that the next record gets: the high watermark of what the fold has seen.
    pub next_offset: i64,
    /// Starts of leader epochs, oldest first.
    pub epochs: Vec<EpochStart>,
    /// Where the batches are, in offset order.
    pub runs: VecDeque<Run>,
    /// Idempotent producers by id.
    pub producers: BTreeMap<i64, ProducerState>,
    /// Aborted transactions in the order of their markers.
    pub aborted: VecDeque<AbortedTxn>,
}

const POSITIONS: u64 = 1;
const EPOCHS: u64 = 2;
const SEGMENT_RUNS: u64 = 3;
const PRODUCERS: u64 = 4;
const ABORTED: u64 = 5;
const RUNS: u64 = 6;

impl PartitionState {
    /// First offset of the oldest open transaction, or the next offset.
    pub fn last_stable(&self) -> i64 {
        self.producers.values().filter_map(|p| p.txn_first_offset).min().unwrap_or(self.next_offset)
    }

    /// Appends the encoded state.
    pub fn encode(&self, into: &mut BytesMut) {
        into.put_u16_le(STATE_VERSION);
        let mut section = BytesMut::new();
        put_signed(&mut section, i64::from(self.leader_epoch));
        put_signed(&mut section, self.log_start);
        put_signed(&mut section, self.next_offset);
        put_section(into, POSITIONS, &mut section);
        if !self.epochs.is_empty() {
            self.encode_epochs(&mut section);
            put_section(into, EPOCHS, &mut section);
        }
        // A partition that was never compacted is written as it always was.
        let compacted = self.runs.iter().any(|run| !matches!(run.object, ObjectRef::Segment { .. }));
        if !compacted && !self.runs.is_empty() {
            encode_segment_runs(&mut section, &self.runs);
            put_section(into, SEGMENT_RUNS, &mut section);
        }
        if !self.producers.is_empty() {
            self.encode_producers(&mut section);
            put_section(into, PRODUCERS, &mut section);
        }
        if !self.aborted.is_empty() {
            self.encode_aborted(&mut section);
            put_section(into, ABORTED, &mut section);
        }
        if compacted {
            encode_runs(&mut section, &self.runs);
            put_section(into, RUNS, &mut section);
        }
    }

    /// Reads a state that fills the rest of the cursor.
    pub fn decode(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        let version = cursor.u16()?;
        if version > STATE_VERSION {
            return Err(FormatError::Newer { what: "partition state", found: version, supported: STATE_VERSION });
        }
        let mut state = Self::default();
        while cursor.remaining() > 0 {
            let tag = cursor.varint()?;
            let length: usize = cursor.varint_as()?;
            let mut section = Cursor::new(cursor.take(length)?, "partition state");
            match tag {
                POSITIONS => {
                    state.leader_epoch = section.signed_as()?;
                    state.log_start = section.signed()?;
                    state.next_offset = section.signed()?;
                }
                EPOCHS => state.decode_epochs(&mut section)?,
                SEGMENT_RUNS => state.runs = decode_segment_runs(&mut section)?.into(),
                RUNS => state.runs = decode_runs(&mut section)?.into(),
                PRODUCERS => state.decode_producers(&mut section)?,
                ABORTED => state.decode_aborted(&mut section)?,
                _ => {
                    return Err(FormatError::Newer {
                        what: "partition state section",
                        found: u16::try_from(tag).unwrap_or(u16::MAX),
                        supported: RUNS as u16,
                    });
                }
            }
            section.finish()?;
        }
        if state.log_start < 0 || state.next_offset < state.log_start {
            return Err(FormatError::Invalid("partition state"));
        }
        Ok(state)
    }

    fn encode_epochs(&self, section: &mut BytesMut) {
        put_varint(section, self.epochs.len() as u64);
        let mut last = EpochStart { epoch: 0, start_offset: 0 };
        for epoch in &self.epochs {
            put_signed(section, i64::from(epoch.epoch) - i64::from(last.epoch));
            put_signed(section, epoch.start_offset - last.start_offset);
            last = *epoch;
        }
    }

    fn decode_epochs(&mut self, section: &mut Cursor<'_>) -> Result<(), FormatError> {
        let mut last = EpochStart { epoch: 0, start_offset: 0 };
        for _ in 0..section.count(2)? {
            last = EpochStart {
                epoch: i32::try_from(section.delta(i64::from(last.epoch))?)
                    .map_err(|_| FormatError::Invalid("partition state"))?,
                start_offset: section.delta(last.start_offset)?,
            };
            self.epochs.push(last);
        }
        Ok(())
    }

    fn encode_producers(&self, section: &mut BytesMut) {
        put_varint(section, self.producers.len() as u64);
        let mut last_id = 0;
        for (id, producer) in &self.producers {
            put_signed(section, id.wrapping_sub(last_id));
            last_id = *id;
            put_signed(section, i64::from(producer.epoch));
            put_signed(section, i64::from(producer.coordinator_epoch));
            put_signed(section, producer.txn_first_offset.unwrap_or(-1));
            put_signed(section, producer.last_append_ms);
            put_varint(section, producer.batches.len() as u64);
            for batch in &producer.batches {
                put_signed(section, i64::from(batch.first_sequence));
                put_signed(section, i64::from(batch.last_sequence));
                put_signed(section, batch.last_offset);
                put_signed(section, batch.timestamp.wrapping_sub(producer.last_append_ms));
            }
        }
    }

    fn decode_producers(&mut self, section: &mut Cursor<'_>) -> Result<(), FormatError> {
        let mut id = 0_i64;
        for _ in 0..section.count(6)? {
            id = id.wrapping_add(section.signed()?);
            let epoch = section.signed_as()?;
            let coordinator_epoch = section.signed_as()?;
            let first = section.signed()?;
            let last_append_ms = section.signed()?;
            let mut batches = VecDeque::new();
            for _ in 0..section.count(4)? {
                batches.push_back(ProducerBatch {
                    first_sequence: section.signed_as()?,
                    last_sequence: section.signed_as()?,
                    last_offset: section.signed()?,
                    timestamp: last_append_ms.wrapping_add(section.signed()?),
                });
            }
            if batches.len() > PRODUCER_BATCHES {
                return Err(FormatError::Invalid("partition state"));
            }
            let txn_first_offset = (first >= 0).then_some(first);
            self.producers
                .insert(id, ProducerState { epoch, coordinator_epoch, txn_first_offset, last_append_ms, batches });
        }
        Ok(())
    }

    fn encode_aborted(&self, section: &mut BytesMut) {
        put_varint(section, self.aborted.len() as u64);
        for txn in &self.aborted {
            put_signed(section, txn.producer_id);
            put_signed(section, txn.first_offset);
            put_signed(section, txn.last_offset.wrapping_sub(txn.first_offset));
        }
    }

    fn decode_aborted(&mut self, section: &mut Cursor<'_>) -> Result<(), FormatError> {
        for _ in 0..section.count(3)? {
            let producer_id = section.signed()?;
            let first_offset = section.signed()?;
            let last_offset = first_offset.wrapping_add(section.signed()?);
            self.aborted.push_back(AbortedTxn { producer_id, first_offset, last_offset });
        }
        Ok(())
    }
}

fn put_section(into: &mut BytesMut, tag: u64, section: &mut BytesMut) {
    put_varint(into, tag);
    put_varint(into, section.len() as u64);
    into.put_slice(section);
    section.clear();
}
