//! A checkpoint: the states of all partitions of a session after one of its segments.
//!
//! ```text
//! prelude (64; seq = last segment folded in) | states … | index | trailer (24)
//! index:   count varint, then for each partition in order: topic id 16, partition varint, length varint, CRC-32C u32
//! trailer: 0 4 index length   4 4 CRC-32C of the index   8 8 position of the index (u64)   16 8 magic "ESKRCKIX"
//! ```
//! States stand one after the other from byte 64 in index order, so one partition is one ranged read.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use super::FormatError;
use super::codec::{Cursor, crc32c, put_varint};
use super::prelude::{ObjectKind, PRELUDE_BYTES, Prelude};
use super::state::PartitionState;
use crate::base::TopicPartition;

/// Length of the trailer in bytes.
pub const TRAILER_BYTES: usize = 24;
const MAGIC: &[u8; 8] = b"ESKRCKIX";

/// Where one partition's state is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The partition.
    pub partition: TopicPartition,
    /// Its bytes in the object.
    pub range: Range<u64>,
    crc: u32,
}

/// Builds a checkpoint; partitions must come in order.
pub fn encode<'a>(prelude: &Prelude, states: impl IntoIterator<Item = (TopicPartition, &'a PartitionState)>) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_slice(&prelude.encode());
    let mut entries = Vec::new();
    for (partition, state) in states {
        let start = bytes.len();
        state.encode(&mut bytes);
        entries.push((partition, bytes.len() - start, crc32c(&bytes[start..])));
    }
    let index_position = bytes.len();
    put_varint(&mut bytes, entries.len() as u64);
    for (partition, length, crc) in entries {
        bytes.put_slice(partition.topic_id.as_bytes());
        put_varint(&mut bytes, partition.partition as u64);
        put_varint(&mut bytes, length as u64);
        bytes.put_u32_le(crc);
    }
    let index = &bytes[index_position..];
    let (length, crc) = (index.len() as u32, crc32c(index));
    bytes.put_u32_le(length);
    bytes.put_u32_le(crc);
    bytes.put_u64_le(index_position as u64);
    bytes.put_slice(MAGIC);
    bytes.freeze()
}

/// Reads the index of a whole checkpoint.
pub fn read_index(object: &[u8]) -> Result<(Prelude, Vec<Located>), FormatError> {
    let prelude = Prelude::decode(object)?;
    if prelude.kind != ObjectKind::Checkpoint {
        return Err(FormatError::WrongMagic("a checkpoint"));
    }
    let trailer_at = object.len().checked_sub(TRAILER_BYTES).ok_or(FormatError::Truncated("checkpoint"))?;
    let mut trailer = Cursor::new(&object[trailer_at..], "checkpoint trailer");
    let (length, crc, position) = (trailer.u32()?, trailer.u32()?, trailer.u64()?);
    if trailer.take(8)? != MAGIC {
        return Err(FormatError::WrongMagic("a whole checkpoint"));
    }
    if position.checked_add(u64::from(length)) != Some(trailer_at as u64) || (position as usize) < PRELUDE_BYTES {
        return Err(FormatError::Invalid("checkpoint trailer"));
    }
    let index = &object[position as usize..trailer_at];
    if crc32c(index) != crc {
        return Err(FormatError::Checksum("checkpoint index"));
    }
    let mut cursor = Cursor::new(index, "checkpoint index");
    let count = cursor.count(22)?;
    let mut entries = Vec::with_capacity(count);
    let mut at = PRELUDE_BYTES as u64;
    for _ in 0..count {
        let partition = TopicPartition { topic_id: cursor.uuid()?, partition: cursor.varint_as()? };
        let end = at.checked_add(cursor.varint()?).ok_or(FormatError::Invalid("checkpoint index"))?;
        if end > position {
            return Err(FormatError::Invalid("checkpoint index"));
        }
        entries.push(Located { partition, range: at..end, crc: cursor.u32()? });
        at = end;
    }
    cursor.finish()?;
    Ok((prelude, entries))
}

impl Located {
    /// Reads the state from its own bytes.
    pub fn decode(&self, state: &[u8]) -> Result<PartitionState, FormatError> {
        if crc32c(state) != self.crc {
            return Err(FormatError::Checksum("partition state"));
        }
        PartitionState::decode(&mut Cursor::new(state, "partition state"))
    }
}

/// Reads a whole checkpoint.
pub fn decode(object: &[u8]) -> Result<(Prelude, Vec<(TopicPartition, PartitionState)>), FormatError> {
    let (prelude, index) = read_index(object)?;
    let mut states = Vec::with_capacity(index.len());
    for entry in index {
        let bytes = &object[entry.range.start as usize..entry.range.end as usize];
        states.push((entry.partition, entry.decode(bytes)?));
    }
    Ok((prelude, states))
}
