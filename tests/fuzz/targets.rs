//! What is done to the bytes of each fuzz target: every decoder that meets bytes from the network, the disk or the bucket.
//!
//! Shared by `fuzz/` (coverage-guided) and by the cargo test `fuzz` (random and damaged inputs, the same on every run of
//! a seed). A target panics if a decoder does, or if what was decoded contradicts its bytes.
//!
//! Checksums would keep nearly all inputs from the code behind them. So each target reads its input twice: as it is, and
//! with the checksums written anew.

use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, checksum};
use esker::format::entry::Entry;
use esker::format::frame::{FRAME_HEADER_BYTES, FrameKind, read_frame, seal_frame};
use esker::format::prelude::{PRELUDE_BYTES, Prelude};
use esker::format::segment::{Indexed, read_footer};
use esker::format::{checkpoint, frame};
use esker::protocol::batch::{BatchHeader, BatchRules, HEADER_BYTES, check_batch, crc_of, records_within};
use esker::protocol::shape;
use esker::wal::{scan, scan_bytes};
use kafka_protocol::messages::{ApiKey, RequestHeader, RequestKind};
use kafka_protocol::protocol::Decodable;

/// A name and what is done to an input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("wire", wire),
    ("segment", segment),
    ("write_ahead", write_ahead),
    ("checkpoint", checkpoint_object),
    ("batch", batch),
];

/// Decompressed records of one batch; small, so that bombs do not slow the search down.
const MAX_RECORDS_BYTES: usize = 1 << 20;
const NOW_MS: i64 = 1_700_000_000_000;

fn crc32c(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// A frame from a Kafka client, without its length.
pub fn wire(frame: &[u8]) {
    let Some((prelude, _)) = frame.split_first_chunk::<4>() else { return };
    let version = i16::from_be_bytes([prelude[2], prelude[3]]);
    let Ok(api) = ApiKey::try_from(i16::from_be_bytes([prelude[0], prelude[1]])) else { return };
    let range = api.valid_versions();
    if !(range.min..=range.max).contains(&version) {
        return;
    }
    let mut body = Bytes::copy_from_slice(frame);
    if RequestHeader::decode(&mut body, api.request_header_version(version)).is_err() {
        return;
    }
    // The decoder allocates what the bytes claim; it is only called on bytes that were walked.
    if shape::check(api, version, &body).is_ok() {
        let _ = RequestKind::decode(api, &mut body, version);
    }
}

/// A segment from the store.
pub fn segment(object: &[u8]) {
    read_segment(object);
    let mut mended = object.to_vec();
    mend_prelude(&mut mended);
    mend_segment(&mut mended);
    read_segment(&mended);
}

fn read_segment(object: &[u8]) {
    let Ok((trailer, footer)) = read_footer(object) else { return };
    let again = footer.encode(trailer.footer_position).freeze();
    let position = trailer.footer_position as usize;
    if again == object[position..] {
        let decoded = read_footer(&[&object[..position], &again].concat());
        assert_eq!(decoded.map(|(_, footer)| footer), Ok(footer.clone()));
    }
    for section in &footer.sections {
        assert_eq!(footer.section(section.partition).map(|found| found.partition), Some(section.partition));
        for entry in &section.entries {
            let (start, length) = (entry.position() as usize, entry.frame_bytes() as usize);
            let Some(bytes) = object.get(start..).and_then(|rest| rest.get(..length)) else { continue };
            let Ok((header, payload)) = read_frame(bytes) else { continue };
            let decoded = Entry::decode(&header, payload, entry.position());
            if let (Indexed::Batch(_), Ok(Entry::Batch(facts))) = (entry, decoded) {
                assert_eq!(facts.frame_bytes() as usize, FRAME_HEADER_BYTES + payload.len());
            }
        }
    }
}

/// A write-ahead file after a crash.
pub fn write_ahead(file: &[u8]) {
    read_write_ahead(file);
    let mut mended = file.to_vec();
    mend_prelude(&mut mended);
    mend_frames(&mut mended);
    read_write_ahead(&mended);
    mend_segment(&mut mended);
    read_write_ahead(&mended);
}

fn read_write_ahead(file: &[u8]) {
    let Ok(scanned) = scan_bytes(file) else { return };
    let mut end = PRELUDE_BYTES as u32;
    for entry in &scanned.entries {
        assert_eq!(entry.position, end, "frames follow one another");
        end += entry.frame_bytes;
    }
    assert_eq!(scanned.frames_end, end);
    assert!(end as usize <= file.len());
    // What recovery would upload must be a segment with these frames.
    if let Ok((again, Some(chunks))) = scan(Bytes::copy_from_slice(file)) {
        assert_eq!(again.entries, scanned.entries);
        let object = chunks.concat();
        let (trailer, footer) = read_footer(&object).expect("a recovered segment has a footer");
        assert_eq!(trailer.footer_position, end);
        if !scanned.complete {
            assert_eq!(footer, scanned.footer());
        }
    }
}

/// A checkpoint from the store.
pub fn checkpoint_object(object: &[u8]) {
    read_checkpoint(object);
    let mut mended = object.to_vec();
    mend_prelude(&mut mended);
    mend_checkpoint(&mut mended);
    read_checkpoint(&mended);
}

fn read_checkpoint(object: &[u8]) {
    let Ok((_, index)) = checkpoint::read_index(object) else { return };
    for located in &index {
        let bytes = &object[located.range.start as usize..located.range.end as usize];
        if let Ok(state) = located.decode(bytes) {
            let mut again = BytesMut::new();
            state.encode(&mut again);
        }
    }
    if let Ok((prelude, states)) = checkpoint::decode(object) {
        let again = checkpoint::encode(&prelude, states.iter().map(|(partition, state)| (*partition, state)));
        let (prelude_again, states_again) = checkpoint::decode(&again).expect("what was written is read back");
        assert_eq!((prelude_again, states_again), (prelude, states));
    }
}

/// A record batch from a producer, and its records.
pub fn batch(bytes: &[u8]) {
    read_batch(bytes);
    let mut mended = bytes.to_vec();
    mend_batch(&mut mended);
    read_batch(&mended);
}

fn read_batch(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let _ = frame::check_batch(&bytes);
    for (log_append_time, compacted) in [(false, false), (true, true)] {
        let rules = BatchRules { log_append_time, compacted, ..BatchRules::default() };
        if let Ok(checked) = check_batch(&bytes, &rules, NOW_MS) {
            assert_eq!(checked.header.total_bytes(), checked.bytes.len());
            assert!(frame::check_batch(&checked.bytes).is_ok(), "what is accepted can be stored");
            assert_eq!(checked.header.last_offset_delta + 1, checked.header.records_count);
        }
    }
    if let Ok(found) = records_within(&bytes, MAX_RECORDS_BYTES) {
        for record in found.take(10_000) {
            if record.is_err() {
                break;
            }
        }
    }
}

fn put_u32_le(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn u32_le(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn mend_prelude(bytes: &mut [u8]) {
    if bytes.len() >= PRELUDE_BYTES && Prelude::decode(bytes).is_err() {
        let crc = crc32c(&bytes[..60]);
        put_u32_le(bytes, 60, crc);
    }
}

/// Footer and trailer of a segment: where the trailer says, or all between prelude and trailer.
fn mend_segment(bytes: &mut [u8]) {
    let Some(trailer) = bytes.len().checked_sub(24).filter(|at| *at >= PRELUDE_BYTES) else { return };
    let position = (u32_le(bytes, trailer + 8) as usize).clamp(PRELUDE_BYTES, trailer);
    let crc = crc32c(&bytes[position..trailer]);
    put_u32_le(bytes, trailer, (trailer - position) as u32);
    put_u32_le(bytes, trailer + 4, crc);
    put_u32_le(bytes, trailer + 8, position as u32);
    let crc = crc32c(&bytes[trailer..trailer + 12]);
    put_u32_le(bytes, trailer + 12, crc);
}

fn mend_frames(bytes: &mut [u8]) {
    let mut at = PRELUDE_BYTES;
    while bytes.len() >= at + FRAME_HEADER_BYTES {
        let length = FRAME_HEADER_BYTES + u32_le(bytes, at + 4) as usize;
        let Some(frame) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..length)) else { return };
        if frame[8] == FrameKind::Batch as u8 {
            mend_batch(&mut frame[FRAME_HEADER_BYTES..]);
        }
        if let Some(kind) = FrameKind::from_u8(frame[8]) {
            seal_frame(frame, kind);
        }
        at += length;
    }
}

/// Index and trailer of a checkpoint; the states' checksums stay as they are, unless the index is as it was written.
fn mend_checkpoint(bytes: &mut [u8]) {
    let Some(trailer) = bytes.len().checked_sub(24).filter(|at| *at >= PRELUDE_BYTES) else { return };
    let position = (u32_le(bytes, trailer + 8) as usize).clamp(PRELUDE_BYTES, trailer);
    let mend_index = |bytes: &mut [u8]| {
        let crc = crc32c(&bytes[position..trailer]);
        put_u32_le(bytes, trailer, (trailer - position) as u32);
        put_u32_le(bytes, trailer + 4, crc);
        put_u32_le(bytes, trailer + 8, position as u32);
        put_u32_le(bytes, trailer + 12, 0);
    };
    mend_index(bytes);
    // An index of one partition: its state's checksum is the last four bytes.
    if let Ok((_, index)) = checkpoint::read_index(bytes)
        && let [located] = &index[..]
    {
        let crc = crc32c(&bytes[located.range.start as usize..located.range.end as usize]);
        put_u32_le(bytes, trailer - 4, crc);
        mend_index(bytes);
    }
}

fn mend_batch(bytes: &mut [u8]) {
    if bytes.len() < HEADER_BYTES {
        return;
    }
    let length = bytes.len() as i32 - 12;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[16] = 2;
    let crc = crc_of(bytes);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(BatchHeader::decode(bytes).map(|header| header.total_bytes()), Some(bytes.len()));
}
