//! The footer of a segment: an index that says everything of its batches but their records, so that recovery and readers
//! need not scan.
//!
//! ```text
//! prelude (64) | frames … | footer | trailer (24)
//! trailer:  0 4 footer length in bytes    4 4 CRC-32C of the footer    8 4 position of the footer
//!          12 4 CRC-32C of bytes 0..12   16 8 magic "ESKRFOOT"
//! ```

use std::ops::Range;

use bytes::{BufMut, BytesMut};

use super::FormatError;
use super::codec::{Cursor, crc32c, put_signed, put_varint};
use super::entry::{BatchFacts, Marker};
use super::frame::{FRAME_HEADER_BYTES, FrameKind};
use super::prelude::PRELUDE_BYTES;
use crate::base::TopicPartition;

/// Length of the trailer in bytes.
pub const TRAILER_BYTES: usize = 24;
const TRAILER_MAGIC: &[u8; 8] = b"ESKRFOOT";
/// A segment never grows past this, so positions fit 32 bits with room to spare.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 31;

/// A control frame, as the footer knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlFacts {
    /// Its kind; never [`FrameKind::Batch`].
    pub kind: FrameKind,
    /// Position of the frame in the segment, in bytes.
    pub position: u32,
    /// Length of the whole frame in bytes.
    pub frame_bytes: u32,
}

/// One frame, as the footer knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indexed {
    /// A batch.
    Batch(BatchFacts),
    /// Anything else: read the frame.
    Control(ControlFacts),
}

impl Indexed {
    /// Position of the frame in the segment, in bytes.
    pub fn position(&self) -> u32 {
        match self {
            Self::Batch(batch) => batch.position,
            Self::Control(control) => control.position,
        }
    }

    /// Length of the whole frame in bytes.
    pub fn frame_bytes(&self) -> u32 {
        match self {
            Self::Batch(batch) => batch.frame_bytes(),
            Self::Control(control) => control.frame_bytes,
        }
    }
}

/// The frames of one partition in a segment, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// The partition.
    pub partition: TopicPartition,
    /// Its frames.
    pub entries: Vec<Indexed>,
}

impl Section {
    /// The batches among the entries.
    pub fn batches(&self) -> impl Iterator<Item = &BatchFacts> {
        self.entries.iter().filter_map(|entry| match entry {
            Indexed::Batch(batch) => Some(batch),
            Indexed::Control(_) => None,
        })
    }
}

/// The index of a segment, sections sorted by partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Footer {
    /// One section a partition.
    pub sections: Vec<Section>,
}

impl Footer {
    /// The frames of one partition.
    pub fn section(&self, partition: TopicPartition) -> Option<&Section> {
        let at = self.sections.binary_search_by(|section| section.partition.cmp(&partition)).ok()?;
        self.sections.get(at)
    }

    /// Footer and trailer, to follow frames that end at `position`.
    pub fn encode(&self, position: u32) -> BytesMut {
        let mut bytes = BytesMut::new();
        put_varint(&mut bytes, self.sections.len() as u64);
        for section in &self.sections {
            bytes.put_slice(section.partition.topic_id.as_bytes());
            put_varint(&mut bytes, section.partition.partition as u64);
            put_varint(&mut bytes, section.entries.len() as u64);
            let mut last = Deltas::default();
            for entry in &section.entries {
                last.put(&mut bytes, entry);
            }
        }
        let (length, crc) = (bytes.len() as u32, crc32c(&bytes));
        let start = bytes.len();
        bytes.put_u32_le(length);
        bytes.put_u32_le(crc);
        bytes.put_u32_le(position);
        let trailer_crc = crc32c(&bytes[start..]);
        bytes.put_u32_le(trailer_crc);
        bytes.put_slice(TRAILER_MAGIC);
        bytes
    }

    /// Reads the footer's own bytes (without the trailer).
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(bytes, "segment footer");
        let count = cursor.count(18)?;
        let mut sections: Vec<Section> = Vec::with_capacity(count);
        for _ in 0..count {
            let topic_id = cursor.uuid()?;
            let partition = TopicPartition { topic_id, partition: cursor.varint_as()? };
            if sections.last().is_some_and(|before| before.partition >= partition) {
                return Err(FormatError::Invalid("segment footer"));
            }
            let entries_count = cursor.count(3)?;
            let mut entries = Vec::with_capacity(entries_count);
            let mut last = Deltas::default();
            for _ in 0..entries_count {
                entries.push(last.take(&mut cursor)?);
            }
            sections.push(Section { partition, entries });
        }
        cursor.finish()?;
        Ok(Self { sections })
    }
}

/// What a segment's trailer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// Position of the footer, which is where the frames end.
    pub footer_position: u32,
    /// Length of the footer in bytes.
    pub footer_bytes: u32,
    crc: u32,
}

impl Trailer {
    /// Reads the last [`TRAILER_BYTES`] of a segment of `object_bytes` bytes.
    pub fn decode(trailer: &[u8], object_bytes: u64) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(trailer, "segment trailer");
        let (footer_bytes, crc, footer_position, own_crc) =
            (cursor.u32()?, cursor.u32()?, cursor.u32()?, cursor.u32()?);
        if cursor.take(8)? != TRAILER_MAGIC {
            return Err(FormatError::WrongMagic("a whole segment"));
        }
        if crc32c(&trailer[..12]) != own_crc {
            return Err(FormatError::Checksum("segment trailer"));
        }
        if u64::from(footer_position) + u64::from(footer_bytes) + TRAILER_BYTES as u64 != object_bytes
            || (footer_position as usize) < PRELUDE_BYTES
        {
            return Err(FormatError::Invalid("segment trailer"));
        }
        Ok(Self { footer_position, footer_bytes, crc })
    }

    /// Where the footer is.
    pub fn footer_range(&self) -> Range<u64> {
        let start = u64::from(self.footer_position);
        start..start + u64::from(self.footer_bytes)
    }

    /// Checks and reads the footer.
    pub fn decode_footer(&self, footer: &[u8]) -> Result<Footer, FormatError> {
        if footer.len() != self.footer_bytes as usize {
            return Err(FormatError::Truncated("segment footer"));
        }
        if crc32c(footer) != self.crc {
            return Err(FormatError::Checksum("segment footer"));
        }
        Footer::decode(footer)
    }
}

/// Reads the footer of a whole segment held in memory.
pub fn read_footer(segment: &[u8]) -> Result<(Trailer, Footer), FormatError> {
    let start = segment.len().checked_sub(TRAILER_BYTES).ok_or(FormatError::Truncated("segment"))?;
    let trailer = Trailer::decode(&segment[start..], segment.len() as u64)?;
    let range = trailer.footer_range();
    let footer = trailer.decode_footer(&segment[range.start as usize..range.end as usize])?;
    Ok((trailer, footer))
}

const HAS_PRODUCER: u8 = 0x40;
const HAS_MARKER: u8 = 0x80;

/// Entries are stored as differences from the one before in the same section.
#[derive(Default)]
struct Deltas {
    position: u32,
    offset: i64,
    timestamp: i64,
    append_ms: i64,
    leader_epoch: i32,
    producer_id: i64,
}

impl Deltas {
    fn put(&mut self, into: &mut BytesMut, entry: &Indexed) {
        match entry {
            Indexed::Control(control) => {
                into.put_u8(control.kind as u8);
                put_varint(into, u64::from(control.position - self.position));
                put_varint(into, u64::from(control.frame_bytes));
            }
            Indexed::Batch(batch) => {
                let has_producer = batch.producer_id >= 0;
                let mut tag = FrameKind::Batch as u8;
                if has_producer {
                    tag |= HAS_PRODUCER;
                }
                if batch.marker.is_some() {
                    tag |= HAS_MARKER;
                }
                into.put_u8(tag);
                put_varint(into, u64::from(batch.position - self.position));
                put_varint(into, u64::from(batch.batch_bytes));
                put_signed(into, batch.base_offset - self.offset);
                put_varint(into, (batch.last_offset - batch.base_offset) as u64);
                put_signed(into, batch.max_timestamp.wrapping_sub(self.timestamp));
                put_signed(into, batch.append_ms.wrapping_sub(self.append_ms));
                put_signed(into, i64::from(batch.leader_epoch) - i64::from(self.leader_epoch));
                put_varint(into, u64::from(batch.attributes as u16));
                if has_producer {
                    put_signed(into, batch.producer_id.wrapping_sub(self.producer_id));
                    put_signed(into, i64::from(batch.producer_epoch));
                    put_signed(into, i64::from(batch.base_sequence));
                    self.producer_id = batch.producer_id;
                }
                if let Some(marker) = batch.marker {
                    into.put_u8(u8::from(marker.commit));
                    put_signed(into, i64::from(marker.coordinator_epoch));
                }
                self.offset = batch.last_offset + 1;
                self.timestamp = batch.max_timestamp;
                self.append_ms = batch.append_ms;
                self.leader_epoch = batch.leader_epoch;
            }
        }
        self.position = entry.position();
    }

    fn take(&mut self, cursor: &mut Cursor<'_>) -> Result<Indexed, FormatError> {
        let invalid = FormatError::Invalid("segment footer");
        let tag = cursor.u8()?;
        let step: u32 = cursor.varint_as()?;
        self.position = self.position.checked_add(step).ok_or(invalid.clone())?;
        let kind = FrameKind::from_u8(tag & !(HAS_PRODUCER | HAS_MARKER)).ok_or(invalid.clone())?;
        if kind != FrameKind::Batch {
            let frame_bytes = cursor.varint_as()?;
            return Ok(Indexed::Control(ControlFacts { kind, position: self.position, frame_bytes }));
        }
        let batch_bytes: u32 = cursor.varint_as()?;
        if u64::from(self.position) + u64::from(batch_bytes) + FRAME_HEADER_BYTES as u64 > u64::from(u32::MAX) {
            return Err(invalid);
        }
        let base_offset = cursor.delta(self.offset)?;
        let records = cursor.varint_as::<u32>()?;
        let last_offset = base_offset.checked_add(i64::from(records)).ok_or(invalid.clone())?;
        self.offset = last_offset.checked_add(1).ok_or(invalid.clone())?;
        self.timestamp = self.timestamp.wrapping_add(cursor.signed()?);
        self.append_ms = self.append_ms.wrapping_add(cursor.signed()?);
        self.leader_epoch = i32::try_from(cursor.delta(i64::from(self.leader_epoch))?).map_err(|_| invalid)?;
        let attributes = cursor.varint_as::<u16>()? as i16;
        let (mut producer_id, mut producer_epoch, mut base_sequence) = (-1, -1, -1);
        if tag & HAS_PRODUCER != 0 {
            self.producer_id = self.producer_id.wrapping_add(cursor.signed()?);
            producer_id = self.producer_id;
            producer_epoch = cursor.signed_as()?;
            base_sequence = cursor.signed_as()?;
        }
        let marker = if tag & HAS_MARKER == 0 {
            None
        } else {
            Some(Marker { commit: cursor.u8()? != 0, coordinator_epoch: cursor.signed_as()? })
        };
        Ok(Indexed::Batch(BatchFacts {
            position: self.position,
            batch_bytes,
            base_offset,
            last_offset,
            max_timestamp: self.timestamp,
            attributes,
            leader_epoch: self.leader_epoch,
            producer_id,
            producer_epoch,
            base_sequence,
            append_ms: self.append_ms,
            marker,
        }))
    }
}
