//! Frames: the entries of segments and write-ahead files, one after the other behind the prelude.
//!
//! ```text
//!  0  4  CRC-32C of bytes 4..40 and the covered part of the payload
//!  4  4  payload length in bytes
//!  8  1  kind (see `FrameKind`)
//!  9  3  zero
//! 12  4  partition
//! 16 16  topic id
//! 32  8  broker's time of writing, milliseconds since the Unix epoch
//! 40  …  payload
//! ```
//! For a batch the covered part is its first 21 bytes: they hold the batch's own CRC-32C, which covers the rest, so every
//! byte is under a checksum and the records are summed once. For every other kind it is the whole payload.

use bytes::{BufMut, BytesMut};

use super::FormatError;
use super::codec::{Cursor, crc32c_parts};
use crate::base::TopicPartition;
use crate::protocol::batch::header::{BatchHeader, CRC_START, HEADER_BYTES};

/// Length of a frame's header in bytes.
pub const FRAME_HEADER_BYTES: usize = 40;

/// What a frame's payload is. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A record batch v2, offsets assigned.
    Batch = 1,
    /// The partition's full state: this stream owns it from here on.
    Acquired = 2,
    /// The partition's full state: this stream no longer owns it.
    Released = 3,
    /// Log start moved up.
    LogStartMoved = 4,
    /// Idle idempotent producers were forgotten.
    ProducersExpired = 5,
    /// The partition was deleted.
    Dropped = 6,
    /// Batches lie in other objects than before.
    RunsReplaced = 7,
}

impl FrameKind {
    /// The kind with this stored number.
    pub fn from_u8(number: u8) -> Option<Self> {
        [
            Self::Batch,
            Self::Acquired,
            Self::Released,
            Self::LogStartMoved,
            Self::ProducersExpired,
            Self::Dropped,
            Self::RunsReplaced,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
    }
}

/// A frame's header, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the payload is.
    pub kind: FrameKind,
    /// Whose it is.
    pub partition: TopicPartition,
    /// Broker's time of writing, in milliseconds since the Unix epoch.
    pub append_ms: i64,
    /// Payload length in bytes.
    pub payload_bytes: u32,
}

/// Appends a whole frame. For a batch, offsets must have been assigned before.
pub fn put_frame(into: &mut BytesMut, kind: FrameKind, partition: TopicPartition, append_ms: i64, payload: &[u8]) {
    let start = into.len();
    put_header(into, kind, partition, append_ms, payload.len());
    into.put_slice(payload);
    seal_frame(&mut into[start..], kind);
}

/// Appends a header with a zero checksum; the payload and [`seal_frame`] follow.
pub fn put_header(
    into: &mut BytesMut,
    kind: FrameKind,
    partition: TopicPartition,
    append_ms: i64,
    payload_bytes: usize,
) {
    into.put_u32_le(0);
    into.put_u32_le(payload_bytes as u32);
    into.put_u8(kind as u8);
    into.put_bytes(0, 3);
    into.put_i32_le(partition.partition);
    into.put_slice(partition.topic_id.as_bytes());
    into.put_i64_le(append_ms);
}

/// Writes the checksum of a frame whose header and payload are complete.
pub fn seal_frame(frame: &mut [u8], kind: FrameKind) {
    let crc = checksum(frame, kind);
    frame[..4].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(frame: &[u8], kind: FrameKind) -> u32 {
    let payload = &frame[FRAME_HEADER_BYTES..];
    let covered = if kind == FrameKind::Batch { &payload[..CRC_START.min(payload.len())] } else { payload };
    crc32c_parts(&[&frame[4..FRAME_HEADER_BYTES], covered])
}

/// Reads the frame at the start of `bytes` and checks every checksum. Returns header and payload; the frame's length is
/// [`FRAME_HEADER_BYTES`] plus the payload's.
pub fn read_frame(bytes: &[u8]) -> Result<(FrameHeader, &[u8]), FormatError> {
    let mut cursor = Cursor::new(bytes, "frame");
    let crc = cursor.u32()?;
    let payload_bytes = cursor.u32()?;
    let kind = cursor.u8()?;
    cursor.take(3)?;
    let partition = cursor.i32()?;
    let topic_id = cursor.uuid()?;
    let append_ms = cursor.i64()?;
    let payload = cursor.take(payload_bytes as usize)?;
    let frame = &bytes[..FRAME_HEADER_BYTES + payload.len()];
    let Some(kind) = FrameKind::from_u8(kind) else {
        // An unknown kind under a good checksum comes from a newer writer; otherwise it is damage.
        return Err(if crc32c_parts(&[&frame[4..]]) == crc {
            FormatError::Newer { what: "frame kind", found: u16::from(kind), supported: FrameKind::RunsReplaced as u16 }
        } else {
            FormatError::Checksum("frame")
        });
    };
    if checksum(frame, kind) != crc {
        return Err(FormatError::Checksum("frame"));
    }
    if partition < 0 {
        return Err(FormatError::Invalid("frame"));
    }
    if kind == FrameKind::Batch {
        check_batch(payload)?;
    }
    let header = FrameHeader { kind, partition: TopicPartition { topic_id, partition }, append_ms, payload_bytes };
    Ok((header, payload))
}

/// Checks that `batch` is exactly one record batch v2 whose CRC holds.
pub fn check_batch(batch: &[u8]) -> Result<BatchHeader, FormatError> {
    let header = BatchHeader::decode(batch).ok_or(FormatError::Truncated("record batch"))?;
    if header.total_bytes() != batch.len() || header.magic != 2 || batch.len() < HEADER_BYTES {
        return Err(FormatError::Invalid("record batch"));
    }
    if crc32c_parts(&[&batch[CRC_START..]]) != header.crc {
        return Err(FormatError::Checksum("record batch"));
    }
    Ok(header)
}
