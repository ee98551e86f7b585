//! Bytes of an object, as the pages that hold them.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// Consecutive bytes of one object. Slices that lie within one page share its memory; others are copied together.
#[derive(Debug, Clone, Default)]
pub struct ObjectBytes {
    start: u64,
    chunks: Vec<Bytes>,
}

impl ObjectBytes {
    /// `chunks` follow each other without gaps from byte `start` of the object.
    pub fn new(start: u64, chunks: Vec<Bytes>) -> Self {
        Self { start, chunks }
    }

    /// Position in the object of the first byte (inclusive).
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Position in the object after the last byte (exclusive).
    pub fn end(&self) -> u64 {
        self.start + self.chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>()
    }

    /// Bytes `range.start` (inclusive) to `range.end` (exclusive) of the object; `None` if any of them is not here.
    pub fn slice(&self, range: Range<u64>) -> Option<Bytes> {
        if range.start < self.start || range.end < range.start {
            return None;
        }
        let wanted = usize::try_from(range.end - range.start).ok()?;
        let mut skip = range.start - self.start;
        let mut joined: Option<BytesMut> = None;
        for chunk in &self.chunks {
            let length = chunk.len() as u64;
            if skip >= length {
                skip -= length;
                continue;
            }
            let from = skip as usize;
            skip = 0;
            let missing = wanted - joined.as_ref().map_or(0, BytesMut::len);
            let to = chunk.len().min(from + missing);
            if joined.is_none() && to - from == wanted {
                return Some(chunk.slice(from..to));
            }
            let all = joined.get_or_insert_with(|| BytesMut::with_capacity(wanted));
            all.extend_from_slice(&chunk[from..to]);
            if all.len() == wanted {
                return joined.map(BytesMut::freeze);
            }
        }
        (wanted == 0 && range.start <= self.end()).then(Bytes::new)
    }
}
