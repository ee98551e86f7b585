//! The bytes of a compacted run: the same prelude, frames, footer and trailer as a segment has, batches only, partition
//! after partition. Pure.

use bytes::{Bytes, BytesMut};

use super::plan::Window;
use crate::base::TopicPartition;
use crate::format::entry::BatchFacts;
use crate::format::frame::{FRAME_HEADER_BYTES, FrameKind, put_frame};
use crate::format::prelude::Prelude;
use crate::format::segment::{Footer, Indexed, MAX_SEGMENT_BYTES, Section};
use crate::format::state::{ObjectRef, Run};
use crate::protocol::batch::BatchHeader;

/// Why a batch does not go in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// What was read is no record batch.
    #[error("what was read at offset {0} is no record batch")]
    NoBatch(i64),
    /// The batches do not join.
    #[error("a batch begins at offset {found} where {expected} should follow")]
    Seam {
        /// Offset that should have come.
        expected: i64,
        /// Base offset of the batch that came.
        found: i64,
    },
    /// The object would be too large.
    #[error("the object would be larger than an object may be")]
    TooLarge,
}

/// A finished object.
#[derive(Debug)]
pub struct Built {
    /// Its bytes.
    pub bytes: Bytes,
    /// Where each partition's batches lie in it.
    pub runs: Vec<(TopicPartition, Vec<Run>)>,
}

/// See the module. Windows are begun in the order of partitions and offsets.
#[derive(Debug)]
pub struct Builder {
    object: ObjectRef,
    bytes: BytesMut,
    sections: Vec<Section>,
    runs: Vec<(TopicPartition, Vec<Run>)>,
    wall_ms: i64,
}

/// A window that is being filled.
#[derive(Debug)]
pub struct Filling {
    window: Window,
    position: usize,
    next_offset: i64,
    entries: Vec<Indexed>,
    max_timestamp: i64,
    batch_bytes: u64,
}

impl Filling {
    /// Offset of the batch that comes next; the window's end when it is full.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Whether everything is in.
    pub fn is_full(&self) -> bool {
        self.next_offset >= self.window.next_offset
    }
}

impl Builder {
    /// An empty run. `expected_bytes` of batches will come, about; frames say that they were written at `wall_ms`.
    pub fn new(object: ObjectRef, prelude: &Prelude, expected_bytes: u64, wall_ms: i64) -> Self {
        let mut bytes = BytesMut::with_capacity(usize::try_from(expected_bytes + expected_bytes / 64).unwrap_or(0));
        bytes.extend_from_slice(&prelude.encode());
        Self { object, bytes, sections: Vec::new(), runs: Vec::new(), wall_ms }
    }

    /// Begins a window.
    pub fn begin(&self, window: Window) -> Filling {
        Filling {
            position: self.bytes.len(),
            next_offset: window.first_offset,
            entries: Vec::new(),
            max_timestamp: i64::MIN,
            batch_bytes: 0,
            window,
        }
    }

    /// Adds the next batch of a window. One that lies behind the window's end is left out.
    pub fn push(&mut self, filling: &mut Filling, batch: &Bytes) -> Result<(), BuildError> {
        let header = BatchHeader::decode(batch).ok_or(BuildError::NoBatch(filling.next_offset))?;
        if header.base_offset >= filling.window.next_offset {
            return Ok(());
        }
        if header.base_offset != filling.next_offset || header.last_offset() >= filling.window.next_offset {
            return Err(BuildError::Seam { expected: filling.next_offset, found: header.base_offset });
        }
        let position = u32::try_from(self.bytes.len()).map_err(|_| BuildError::TooLarge)?;
        // Room for the footer, which is smaller than the frames that it lists.
        if (self.bytes.len() + FRAME_HEADER_BYTES + batch.len()) as u64 > MAX_SEGMENT_BYTES / 2 {
            return Err(BuildError::TooLarge);
        }
        put_frame(&mut self.bytes, FrameKind::Batch, filling.window.partition, self.wall_ms, batch);
        filling.entries.push(Indexed::Batch(BatchFacts::of(&header, batch, position, self.wall_ms)));
        filling.next_offset = header.last_offset() + 1;
        filling.max_timestamp = filling.max_timestamp.max(header.max_timestamp);
        filling.batch_bytes += batch.len() as u64;
        Ok(())
    }

    /// A window is full.
    pub fn finish_window(&mut self, filling: Filling) {
        let Filling { window, position, next_offset, entries, max_timestamp, batch_bytes } = filling;
        // Positions fit: `push` has seen to it.
        let run = Run {
            first_offset: window.first_offset,
            next_offset,
            max_timestamp,
            object: self.object,
            position: position as u32,
            length: (self.bytes.len() - position) as u32,
            batch_bytes: batch_bytes as u32,
        };
        match self.sections.last_mut() {
            Some(section) if section.partition == window.partition => section.entries.extend(entries),
            _ => self.sections.push(Section { partition: window.partition, entries }),
        }
        self.runs.push((window.partition, vec![run]));
    }

    /// A window cannot be filled: what is there of it goes.
    pub fn give_up(&mut self, filling: &Filling) {
        self.bytes.truncate(filling.position);
    }

    /// Whether nothing is in.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Footer and trailer.
    pub fn finish(mut self) -> Built {
        let footer = Footer { sections: self.sections }.encode(self.bytes.len() as u32);
        self.bytes.extend_from_slice(&footer);
        Built { bytes: self.bytes.freeze(), runs: self.runs }
    }
}
