//! What frames mean: the input of the fold.

use bytes::{Buf, BytesMut};

use super::FormatError;
use super::codec::{Cursor, put_signed, put_varint};
use super::frame::{FrameHeader, FrameKind, check_batch};
use super::runs::{decode_runs, encode_runs};
use super::state::{PartitionState, Run};
use crate::protocol::batch::header::{BatchHeader, HEADER_BYTES};

/// A transaction marker inside a control batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Marker {
    /// Whether the transaction was committed (else aborted).
    pub commit: bool,
    /// Epoch of the transaction coordinator that wrote it.
    pub coordinator_epoch: i32,
}

/// Everything the fold and the index need to know of a batch; the records stay where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BatchFacts {
    /// Position of the frame in the segment, in bytes.
    pub position: u32,
    /// Length of the batch (the frame's payload) in bytes.
    pub batch_bytes: u32,
    /// Offset of the first record.
    pub base_offset: i64,
    /// Offset of the last record (inclusive).
    pub last_offset: i64,
    /// Largest timestamp in milliseconds since the Unix epoch.
    pub max_timestamp: i64,
    /// The batch's attributes.
    pub attributes: i16,
    /// Epoch of the leader that appended it.
    pub leader_epoch: i32,
    /// Idempotent producer, or -1.
    pub producer_id: i64,
    /// Its epoch, or -1.
    pub producer_epoch: i16,
    /// Sequence of the first record, or -1.
    pub base_sequence: i32,
    /// Broker's time of writing in milliseconds since the Unix epoch.
    pub append_ms: i64,
    /// Set when the batch is a transaction marker.
    pub marker: Option<Marker>,
}

impl BatchFacts {
    /// The facts of a batch whose offsets are assigned. Without a producer its epoch and sequence mean nothing, and are -1.
    pub fn of(header: &BatchHeader, batch: &[u8], position: u32, append_ms: i64) -> Self {
        let (producer_id, producer_epoch, base_sequence) = match header.producer_id {
            0.. => (header.producer_id, header.producer_epoch, header.base_sequence),
            _ => (-1, -1, -1),
        };
        Self {
            position,
            batch_bytes: header.total_bytes() as u32,
            base_offset: header.base_offset,
            last_offset: header.last_offset(),
            max_timestamp: header.max_timestamp,
            attributes: header.attributes,
            leader_epoch: header.partition_leader_epoch,
            producer_id,
            producer_epoch,
            base_sequence,
            append_ms,
            marker: header.is_control().then(|| read_marker(batch)).flatten(),
        }
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    /// Length of the whole frame in bytes.
    pub fn frame_bytes(&self) -> u32 {
        self.batch_bytes + super::frame::FRAME_HEADER_BYTES as u32
    }
}

/// Reads the end-transaction marker of a control batch (KIP-98: key = version i16, type i16; value = version i16,
/// coordinator epoch i32). `None` when it is another kind of control record.
fn read_marker(batch: &[u8]) -> Option<Marker> {
    let mut cursor = Cursor::new(batch.get(HEADER_BYTES..)?, "control record");
    cursor.signed().ok()?; // record length
    cursor.u8().ok()?; // attributes
    cursor.signed().ok()?; // timestamp delta
    cursor.signed().ok()?; // offset delta
    let key_bytes: usize = cursor.signed_as().ok()?;
    let mut key = cursor.take(key_bytes).ok()?;
    let value_bytes: usize = cursor.signed_as().ok()?;
    let mut value = cursor.take(value_bytes).ok()?;
    if key.len() < 4 || value.len() < 6 {
        return None;
    }
    key.get_i16();
    let kind = key.get_i16();
    value.get_i16();
    let coordinator_epoch = value.get_i32();
    match kind {
        0 => Some(Marker { commit: false, coordinator_epoch }),
        1 => Some(Marker { commit: true, coordinator_epoch }),
        _ => None,
    }
}

/// One event in the life of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Entry {
    /// Records were appended.
    Batch(BatchFacts),
    /// This stream owns the partition from here on, in this state.
    Acquired(Box<PartitionState>),
    /// This stream gave the partition away in this state.
    Released(Box<PartitionState>),
    /// Offsets before this one are gone.
    LogStartMoved {
        /// New log start.
        log_start: i64,
    },
    /// Producers that last wrote at or before this time (milliseconds since the Unix epoch) and have no open transaction
    /// are forgotten.
    ProducersExpired {
        /// The newest `last_append_ms` that expires (inclusive).
        up_to_ms: i64,
    },
    /// The partition was deleted.
    Dropped,
    /// The batches from the first of these runs to the last are read from them from now on, and from nowhere else: the same
    /// batches, byte for byte. Not empty; in offset order, each begins where the one before ends.
    RunsReplaced(Vec<Run>),
}

impl Entry {
    /// The frame kind of the entry.
    pub fn kind(&self) -> FrameKind {
        match self {
            Self::Batch(_) => FrameKind::Batch,
            Self::Acquired(_) => FrameKind::Acquired,
            Self::Released(_) => FrameKind::Released,
            Self::LogStartMoved { .. } => FrameKind::LogStartMoved,
            Self::ProducersExpired { .. } => FrameKind::ProducersExpired,
            Self::Dropped => FrameKind::Dropped,
            Self::RunsReplaced(_) => FrameKind::RunsReplaced,
        }
    }

    /// The payload of a control entry's frame. A batch's payload is the batch itself, not made here: empty.
    pub fn encode_control(&self) -> BytesMut {
        let mut bytes = BytesMut::new();
        match self {
            Self::Batch(_) | Self::Dropped => {}
            Self::Acquired(state) | Self::Released(state) => state.encode(&mut bytes),
            Self::LogStartMoved { log_start } => put_varint(&mut bytes, (*log_start).max(0) as u64),
            Self::ProducersExpired { up_to_ms } => put_signed(&mut bytes, *up_to_ms),
            Self::RunsReplaced(runs) => encode_runs(&mut bytes, runs),
        }
        bytes
    }

    /// Reads a frame (already checked by `read_frame`) that stands at `position`.
    pub fn decode(header: &FrameHeader, payload: &[u8], position: u32) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(payload, "control entry");
        let entry = match header.kind {
            FrameKind::Batch => {
                let batch = check_batch(payload)?;
                let records = i64::from(batch.last_offset_delta) + 1;
                if batch.base_offset < 0 || records < 1 || batch.base_offset.checked_add(records).is_none() {
                    return Err(FormatError::Invalid("record batch"));
                }
                return Ok(Self::Batch(BatchFacts::of(&batch, payload, position, header.append_ms)));
            }
            FrameKind::Acquired => Self::Acquired(Box::new(PartitionState::decode(&mut cursor)?)),
            FrameKind::Released => Self::Released(Box::new(PartitionState::decode(&mut cursor)?)),
            FrameKind::LogStartMoved => Self::LogStartMoved { log_start: cursor.varint_as()? },
            FrameKind::ProducersExpired => Self::ProducersExpired { up_to_ms: cursor.signed()? },
            FrameKind::Dropped => Self::Dropped,
            FrameKind::RunsReplaced => {
                let runs = decode_runs(&mut cursor)?;
                if runs.is_empty() || runs.windows(2).any(|pair| pair[0].next_offset != pair[1].first_offset) {
                    return Err(FormatError::Invalid("control entry"));
                }
                Self::RunsReplaced(runs)
            }
        };
        cursor.finish()?;
        Ok(entry)
    }
}
