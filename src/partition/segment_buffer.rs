//! The open segment and the segments that were cut and wait for their commit.
//!
//! Batches are copied once, into large chunks; everything after that (write-ahead file, upload, readers at the end of the
//! log) shares those chunks.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use crate::base::{SessionId, TopicPartition};
use crate::format::entry::{BatchFacts, Entry};
use crate::format::frame::{self, FRAME_HEADER_BYTES, FrameKind};
use crate::format::prelude::{ObjectKind, PRELUDE_BYTES, Prelude};
use crate::format::segment::{ControlFacts, Footer, Indexed, Section};

use super::limits::BATCH_OVERHEAD_BYTES;

/// Consecutive bytes of a segment; never splits a frame.
#[derive(Debug, Clone)]
pub struct Block {
    /// Position of the first byte in the segment.
    pub position: u32,
    /// The bytes.
    pub bytes: Bytes,
}

/// An entry of a segment with its place.
#[derive(Debug, Clone)]
pub struct Placed {
    /// What it means.
    pub entry: Entry,
    /// Position of its frame in the segment.
    pub position: u32,
    /// Length of its frame in bytes.
    pub frame_bytes: u32,
}

/// The segment that appends go into.
#[derive(Debug)]
pub struct OpenSegment {
    /// Its place in the stream.
    pub seq: u64,
    /// Its unique id.
    pub object_id: Uuid,
    /// When its first byte came, microseconds since boot.
    pub first_us: u64,
    /// When its last byte came, microseconds since boot.
    pub last_us: u64,
    /// Whether replies wait for its commit.
    pub replies_wait: bool,
    /// Whether replies wait for its write-ahead file.
    pub wal_replies_wait: bool,
    /// Bytes that count against the memory limit.
    pub memory_bytes: u64,
    blocks: Vec<Block>,
    chunk: BytesMut,
    chunk_position: u32,
    chunk_bytes: usize,
    order: HashMap<TopicPartition, usize>,
    sections: Vec<(TopicPartition, Vec<Placed>)>,
}

impl OpenSegment {
    /// An empty segment: just its prelude. `chunk` is what was left over from the one before.
    pub fn new(
        session: SessionId,
        seq: u64,
        object_id: Uuid,
        now_us: u64,
        chunk: BytesMut,
        chunk_bytes: usize,
    ) -> Self {
        let mut segment = Self {
            seq,
            object_id,
            first_us: now_us,
            last_us: now_us,
            replies_wait: false,
            wal_replies_wait: false,
            memory_bytes: 0,
            blocks: Vec::new(),
            chunk,
            chunk_position: 0,
            chunk_bytes,
            order: HashMap::new(),
            sections: Vec::new(),
        };
        segment.reserve(PRELUDE_BYTES);
        segment.chunk.extend_from_slice(&Prelude { kind: ObjectKind::Segment, object_id, session, seq }.encode());
        segment
    }

    /// The entries of a partition, in order.
    pub fn entries_of(&self, partition: TopicPartition) -> &[Placed] {
        self.order.get(&partition).map_or(&[], |at| &self.sections[*at].1)
    }

    /// Length so far in bytes.
    pub fn len(&self) -> u32 {
        self.chunk_position + self.chunk.len() as u32
    }

    /// Whether there is nothing but the prelude.
    pub fn is_empty(&self) -> bool {
        self.sections.is_empty()
    }

    /// Copies a batch in, its offset and epoch assigned. Returns its facts.
    pub fn append_batch(
        &mut self,
        partition: TopicPartition,
        batch: &[u8],
        facts: &mut BatchFacts,
        now_us: u64,
    ) -> u32 {
        let position = self.begin(partition, FrameKind::Batch, facts.append_ms, batch.len());
        let payload = self.chunk.len();
        self.chunk.extend_from_slice(batch);
        crate::protocol::batch::header::assign(&mut self.chunk[payload..], facts.base_offset, facts.leader_epoch);
        let start = payload - FRAME_HEADER_BYTES;
        frame::seal_frame(&mut self.chunk[start..], FrameKind::Batch);
        facts.position = position;
        self.placed(partition, Entry::Batch(*facts), position, now_us)
    }

    /// Writes a control entry. Returns where it ends.
    pub fn append_control(&mut self, partition: TopicPartition, entry: Entry, append_ms: i64, now_us: u64) -> u32 {
        let payload = entry.encode_control();
        let kind = entry.kind();
        let position = self.begin(partition, kind, append_ms, payload.len());
        let start = self.chunk.len() - FRAME_HEADER_BYTES;
        self.chunk.extend_from_slice(&payload);
        frame::seal_frame(&mut self.chunk[start..], kind);
        self.placed(partition, entry, position, now_us)
    }

    fn begin(&mut self, partition: TopicPartition, kind: FrameKind, append_ms: i64, payload_bytes: usize) -> u32 {
        self.reserve(FRAME_HEADER_BYTES + payload_bytes);
        let position = self.len();
        frame::put_header(&mut self.chunk, kind, partition, append_ms, payload_bytes);
        position
    }

    fn placed(&mut self, partition: TopicPartition, entry: Entry, position: u32, now_us: u64) -> u32 {
        let end = self.len();
        let frame_bytes = end - position;
        let at = *self.order.entry(partition).or_insert_with(|| {
            self.sections.push((partition, Vec::new()));
            self.sections.len() - 1
        });
        self.sections[at].1.push(Placed { entry, position, frame_bytes });
        self.memory_bytes += u64::from(frame_bytes) + BATCH_OVERHEAD_BYTES;
        self.last_us = now_us;
        end
    }

    /// Makes room for a whole frame in the current chunk, or starts a new chunk.
    fn reserve(&mut self, bytes: usize) {
        if self.chunk.capacity() - self.chunk.len() < bytes {
            self.close_block();
            self.chunk = BytesMut::with_capacity(bytes.max(self.chunk_bytes));
        }
    }

    fn close_block(&mut self) {
        if !self.chunk.is_empty() {
            let bytes = self.chunk.split().freeze();
            let position = self.chunk_position;
            self.chunk_position += bytes.len() as u32;
            self.blocks.push(Block { position, bytes });
        }
    }

    /// Blocks that begin at or after `position`, which must be a block's end or 0.
    pub fn blocks_from(&mut self, position: u32) -> Vec<Block> {
        self.close_block();
        blocks_from(&self.blocks, position).to_vec()
    }

    /// Ends the segment: the footer is made, the rest of the chunk goes back.
    pub fn cut(mut self) -> (CutSegment, BytesMut) {
        self.close_block();
        let position = self.chunk_position;
        self.sections.sort_by_key(|section| section.0);
        let footer = Footer { sections: self.sections.iter().map(indexed).collect() }.encode(position).freeze();
        let cut = CutSegment {
            seq: self.seq,
            object_id: self.object_id,
            first_us: self.first_us,
            object_bytes: u64::from(position) + footer.len() as u64,
            footer: Block { position, bytes: footer },
            blocks: self.blocks,
            sections: self.sections,
            memory_bytes: self.memory_bytes,
            wal_replies_wait: self.wal_replies_wait,
            wal_complete: false,
            uploading: false,
            uploaded: false,
        };
        (cut, self.chunk)
    }
}

fn indexed((partition, entries): &(TopicPartition, Vec<Placed>)) -> Section {
    let entries = entries
        .iter()
        .map(|placed| match &placed.entry {
            Entry::Batch(facts) => Indexed::Batch(*facts),
            other => Indexed::Control(ControlFacts {
                kind: other.kind(),
                position: placed.position,
                frame_bytes: placed.frame_bytes,
            }),
        })
        .collect();
    Section { partition: *partition, entries }
}

fn blocks_from(blocks: &[Block], position: u32) -> &[Block] {
    let first = blocks.partition_point(|block| block.position < position);
    &blocks[first..]
}

/// A segment on its way into the store.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not the states of one machine")]
pub struct CutSegment {
    /// Its place in the stream.
    pub seq: u64,
    /// Its unique id.
    pub object_id: Uuid,
    /// When its first byte came, microseconds since boot.
    pub first_us: u64,
    /// Length of the whole object.
    pub object_bytes: u64,
    /// Footer and trailer.
    pub footer: Block,
    /// Prelude and frames; empty once spilled (the write-ahead file has them).
    pub blocks: Vec<Block>,
    /// What the frames mean, by partition in order.
    pub sections: Vec<(TopicPartition, Vec<Placed>)>,
    /// Bytes that count against the memory limit.
    pub memory_bytes: u64,
    /// Whether replies wait for its write-ahead file.
    pub wal_replies_wait: bool,
    /// The write-ahead file holds all of it, footer included (and is synced where replies depended on it).
    pub wal_complete: bool,
    /// An upload was started.
    pub uploading: bool,
    /// The object exists.
    pub uploaded: bool,
}

impl CutSegment {
    /// Blocks that begin at or after `position`, the footer last.
    pub fn blocks_from(&self, position: u32) -> Vec<Block> {
        let mut blocks = blocks_from(&self.blocks, position).to_vec();
        blocks.push(self.footer.clone());
        blocks
    }

    /// The entries of a partition, in order.
    pub fn entries_of(&self, partition: TopicPartition) -> &[Placed] {
        let found = self.sections.binary_search_by_key(&partition, |section| section.0);
        found.map_or(&[], |at| &self.sections[at].1)
    }

    /// The bytes of a batch, if the segment was not spilled.
    pub fn batch(&self, facts: &BatchFacts) -> Option<Bytes> {
        let at = self.blocks.partition_point(|block| block.position <= facts.position).checked_sub(1)?;
        let block = &self.blocks[at];
        let start = (facts.position - block.position) as usize + FRAME_HEADER_BYTES;
        let end = start + facts.batch_bytes as usize;
        (end <= block.bytes.len()).then(|| block.bytes.slice(start..end))
    }
}
