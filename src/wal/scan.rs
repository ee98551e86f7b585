//! Reading a write-ahead file back after a crash.

use bytes::Bytes;

use crate::base::TopicPartition;
use crate::format::FormatError;
use crate::format::entry::Entry;
use crate::format::frame::{FRAME_HEADER_BYTES, read_frame};
use crate::format::prelude::{ObjectKind, PRELUDE_BYTES, Prelude};
use crate::format::segment::{ControlFacts, Footer, Indexed, Section, read_footer};

/// A whole frame of a write-ahead file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScannedEntry {
    /// Whose it is.
    pub partition: TopicPartition,
    /// What it means.
    pub entry: Entry,
    /// Position of the frame in bytes.
    pub position: u32,
    /// Length of the frame in bytes.
    pub frame_bytes: u32,
}

/// What a write-ahead file holds.
#[derive(Debug, Clone)]
pub struct Scan {
    /// Whose file it is.
    pub prelude: Prelude,
    /// Its whole frames, in order.
    pub entries: Vec<ScannedEntry>,
    /// Where the last whole frame ends.
    pub frames_end: u32,
    /// The file has its footer: it was finished, nothing is torn.
    pub complete: bool,
    /// Why reading stopped, when the file is not complete and does not simply end behind a frame.
    pub torn: Option<FormatError>,
}

/// Reads a file's bytes. Fails only if not even the prelude is whole, or if it is no segment's.
pub fn scan_bytes(bytes: &[u8]) -> Result<Scan, FormatError> {
    match Prelude::decode(bytes)?.kind {
        ObjectKind::Segment => scan_object(bytes),
        _ => Err(FormatError::WrongMagic("a segment")),
    }
}

/// [`scan_bytes`] of any object that is made of frames: a compacted run too.
pub fn scan_object(bytes: &[u8]) -> Result<Scan, FormatError> {
    let prelude = Prelude::decode(bytes)?;
    if !matches!(prelude.kind, ObjectKind::Segment | ObjectKind::Run) {
        return Err(FormatError::WrongMagic("a segment or a compacted run"));
    }
    let (complete, limit) = match read_footer(bytes) {
        Ok((trailer, _)) => (true, trailer.footer_position as usize),
        Err(_) => (false, bytes.len()),
    };
    let mut scan = Scan { prelude, entries: Vec::new(), frames_end: PRELUDE_BYTES as u32, complete, torn: None };
    let mut at = PRELUDE_BYTES;
    while at < limit {
        let read = read_frame(&bytes[at..limit])
            .and_then(|(header, payload)| Ok((header, Entry::decode(&header, payload, at as u32)?, payload.len())));
        match read {
            Ok((header, entry, payload_bytes)) => {
                let frame_bytes = (FRAME_HEADER_BYTES + payload_bytes) as u32;
                let (partition, position) = (header.partition, at as u32);
                scan.entries.push(ScannedEntry { partition, entry, position, frame_bytes });
                at += frame_bytes as usize;
                scan.frames_end = at as u32;
            }
            Err(error) => {
                scan.torn = Some(error);
                scan.complete = false;
                break;
            }
        }
    }
    Ok(scan)
}

/// Reads a file's bytes and gives the bytes of the segment it stands for: as they are when it is complete, otherwise its
/// whole frames with a new footer. `None` when there is no whole frame.
pub fn scan(bytes: Bytes) -> Result<(Scan, Option<Vec<Bytes>>), FormatError> {
    let scan = scan_bytes(&bytes)?;
    if scan.complete {
        return Ok((scan, Some(vec![bytes])));
    }
    if scan.entries.is_empty() {
        return Ok((scan, None));
    }
    let footer = scan.footer().encode(scan.frames_end).freeze();
    let frames = bytes.slice(..scan.frames_end as usize);
    Ok((scan, Some(vec![frames, footer])))
}

impl Scan {
    /// The index of the frames.
    pub fn footer(&self) -> Footer {
        let mut sections: Vec<Section> = Vec::new();
        let mut sorted: Vec<&ScannedEntry> = self.entries.iter().collect();
        sorted.sort_by_key(|entry| (entry.partition, entry.position));
        for scanned in sorted {
            let indexed = match &scanned.entry {
                Entry::Batch(facts) => Indexed::Batch(*facts),
                other => Indexed::Control(ControlFacts {
                    kind: other.kind(),
                    position: scanned.position,
                    frame_bytes: scanned.frame_bytes,
                }),
            };
            match sections.last_mut() {
                Some(section) if section.partition == scanned.partition => section.entries.push(indexed),
                _ => sections.push(Section { partition: scanned.partition, entries: vec![indexed] }),
            }
        }
        Footer { sections }
    }
}
