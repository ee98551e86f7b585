//! The file of the embedded metadata store: a header, then records, each one change of the store (or a part of a snapshot
//! that stands for all changes before it).
//!
//! All integers are little-endian.
//!
//! ```text
//! file    magic "ESKRMETA" · version u32 (1) · crc u32 of the 12 bytes before
//! record  mark u32 · payload length u32 · crc u32 of these 8 bytes · crc u32 of the payload · payload
//! payload kind u8 (1 change, 2 part of a snapshot, 3 last part of it) · revision u64 · count u32 · that many operations
//! put     1 u8 · key length u32 · key (UTF-8) · create revision u64 · mod revision u64 · lease i64 · value length u32 · value
//! delete  2 u8 · key length u32 · key
//! ```
//!
//! A file begins with a snapshot (of nothing, when it is new), which is whole before the file gets its name; changes follow,
//! each with the next revision.
//!
//! CRCs are CRC-32C. A record is only written once the one before is durable, so at most the last record of a file can be
//! torn; [`scan`] tells a torn tail (cut it, its change was never acknowledged) from damage (stop).

#[cfg(test)]
mod tests;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm::Crc32Iscsi, checksum};

const MAGIC: &[u8; 8] = b"ESKRMETA";
const VERSION: u32 = 1;
/// Length of the file's header in bytes.
pub const HEADER_BYTES: usize = 16;
/// "EMR" and 1.
const MARK: u32 = u32::from_le_bytes(*b"EMR\x01");
const RECORD_HEADER_BYTES: usize = 16;
/// Smallest unit that a disk writes whole.
const SECTOR_BYTES: usize = 512;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// The next change.
    Change,
    /// A part of the snapshot that the file begins with; more follow.
    SnapshotPart,
    /// The last part of the snapshot.
    SnapshotEnd,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: RecordKind,
    /// The store's revision after it.
    pub revision: u64,
    /// What it does, in order.
    pub operations: Vec<Operation>,
}

/// One operation of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Sets a key.
    Put {
        /// The key.
        key: String,
        /// Revision of its creation.
        create_revision: u64,
        /// Revision of this write.
        mod_revision: u64,
        /// Lease it hangs on, or 0.
        lease: i64,
        /// The value.
        value: Bytes,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: String,
    },
}

/// Why a file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetalogError {
    /// The header is not one.
    #[error("it does not start with the header of an Esker metadata file")]
    NotMetadata,
    /// Written by a newer Esker.
    #[error(
        "it has format version {found}, this Esker knows version {VERSION}: run the version that wrote it, or a newer one"
    )]
    Newer {
        /// Its version.
        found: u32,
    },
    /// A record that was whole once is not any more.
    #[error("the record at byte {position} is damaged ({reason})")]
    Damaged {
        /// Where the record starts, in bytes.
        position: usize,
        /// What is wrong.
        reason: &'static str,
    },
}

/// The header of a new file.
pub fn header() -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc(&header[..12]);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Appends an encoded record.
pub fn encode(record: &Record, into: &mut BytesMut) {
    let start = into.len();
    into.put_bytes(0, RECORD_HEADER_BYTES);
    into.put_u8(match record.kind {
        RecordKind::Change => 1,
        RecordKind::SnapshotPart => 2,
        RecordKind::SnapshotEnd => 3,
    });
    into.put_u64_le(record.revision);
    into.put_u32_le(record.operations.len() as u32);
    for operation in &record.operations {
        match operation {
            Operation::Put { key, create_revision, mod_revision, lease, value } => {
                into.put_u8(1);
                put_bytes(into, key.as_bytes());
                into.put_u64_le(*create_revision);
                into.put_u64_le(*mod_revision);
                into.put_i64_le(*lease);
                put_bytes(into, value);
            }
            Operation::Delete { key } => {
                into.put_u8(2);
                put_bytes(into, key.as_bytes());
            }
        }
    }
    let record = &mut into[start..];
    let (head, payload) = record.split_at_mut(RECORD_HEADER_BYTES);
    head[0..4].copy_from_slice(&MARK.to_le_bytes());
    head[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    let head_crc = crc(&head[..8]);
    head[8..12].copy_from_slice(&head_crc.to_le_bytes());
    head[12..16].copy_from_slice(&crc(payload).to_le_bytes());
}

/// Reads a whole file: its records and the length of the good part, behind which lies nothing or a torn record.
pub fn scan(file: &Bytes) -> Result<(Vec<Record>, usize), MetalogError> {
    check_header(file)?;
    let mut records: Vec<Record> = Vec::new();
    let mut position = HEADER_BYTES;
    let mut in_snapshot = true;
    while position < file.len() {
        let damaged = |reason| MetalogError::Damaged { position, reason };
        match read_record(file, position) {
            Ok((record, next)) => {
                let last = records.last().map(|last| last.revision);
                let follows = if in_snapshot {
                    record.kind != RecordKind::Change && last.is_none_or(|last| record.revision == last)
                } else {
                    record.kind == RecordKind::Change
                        && last.and_then(|last| last.checked_add(1)) == Some(record.revision)
                };
                if !follows {
                    return Err(damaged("it does not follow the one before"));
                }
                in_snapshot = record.kind == RecordKind::SnapshotPart;
                records.push(record);
                position = next;
            }
            Err(reason) if !in_snapshot && is_torn(file, position) => {
                tracing::debug!(position, reason, "the metadata file ends in a torn record");
                break;
            }
            Err(reason) => return Err(damaged(reason)),
        }
    }
    if in_snapshot {
        return Err(MetalogError::Damaged { position, reason: "the snapshot ends too early" });
    }
    Ok((records, position))
}

fn check_header(file: &[u8]) -> Result<(), MetalogError> {
    if file.len() < HEADER_BYTES || &file[..8] != MAGIC {
        return Err(MetalogError::NotMetadata);
    }
    let (mut version, mut stored) = (&file[8..12], &file[12..16]);
    if stored.get_u32_le() != crc(&file[..12]) {
        return Err(MetalogError::Damaged { position: 0, reason: "checksum of the file's header" });
    }
    let found = version.get_u32_le();
    if found == VERSION { Ok(()) } else { Err(MetalogError::Newer { found }) }
}

/// Whether the bad record at `position` can be the remains of an interrupted write: no whole record follows, and either
/// the file ends inside it or a sector of it was never written (reads as zeros).
fn is_torn(file: &Bytes, position: usize) -> bool {
    let rest = &file[position..];
    let mark = MARK.to_le_bytes();
    let followed = rest
        .windows(4)
        .enumerate()
        .skip(1)
        .any(|(at, window)| window == mark && read_record(file, position + at).is_ok());
    if followed {
        return false;
    }
    let end = match record_bounds(file, position) {
        Ok(end) => end,
        Err(Bounds::BadHeader) => file.len(),
        Err(Bounds::Cut) => return true,
    };
    let mut from = position;
    while from < end {
        let to = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
        if file[from..to].iter().all(|byte| *byte == 0) {
            return true;
        }
        from = to;
    }
    false
}

enum Bounds {
    /// The header's checksum fails: the length is not known.
    BadHeader,
    /// The file ends inside the record.
    Cut,
}

fn record_bounds(file: &[u8], position: usize) -> Result<usize, Bounds> {
    let mut head = file.get(position..position + RECORD_HEADER_BYTES).ok_or(Bounds::Cut)?;
    let head_crc = crc(&head[..8]);
    let (mark, length, stored) = (head.get_u32_le(), head.get_u32_le(), head.get_u32_le());
    if mark != MARK || stored != head_crc {
        return Err(Bounds::BadHeader);
    }
    let end = position + RECORD_HEADER_BYTES + length as usize;
    if end > file.len() { Err(Bounds::Cut) } else { Ok(end) }
}

fn read_record(file: &Bytes, position: usize) -> Result<(Record, usize), &'static str> {
    let end = record_bounds(file, position).map_err(|bounds| match bounds {
        Bounds::BadHeader => "checksum of the record's header",
        Bounds::Cut => "the file ends inside it",
    })?;
    let mut stored = &file[position + 12..position + 16];
    let payload = file.slice(position + RECORD_HEADER_BYTES..end);
    if stored.get_u32_le() != crc(&payload) {
        return Err("checksum of the record");
    }
    decode(payload).map(|record| (record, end)).ok_or("its fields make no sense")
}

fn decode(mut payload: Bytes) -> Option<Record> {
    let kind = match payload.try_get_u8().ok()? {
        1 => RecordKind::Change,
        2 => RecordKind::SnapshotPart,
        3 => RecordKind::SnapshotEnd,
        _ => return None,
    };
    let revision = payload.try_get_u64_le().ok()?;
    let count = payload.try_get_u32_le().ok()?;
    let mut operations = Vec::new();
    for _ in 0..count {
        operations.push(match payload.try_get_u8().ok()? {
            1 => Operation::Put {
                key: get_text(&mut payload)?,
                create_revision: payload.try_get_u64_le().ok()?,
                mod_revision: payload.try_get_u64_le().ok()?,
                lease: payload.try_get_i64_le().ok()?,
                value: get_bytes(&mut payload)?,
            },
            2 => Operation::Delete { key: get_text(&mut payload)? },
            _ => return None,
        });
    }
    payload.is_empty().then_some(Record { kind, revision, operations })
}

fn put_bytes(into: &mut BytesMut, bytes: &[u8]) {
    into.put_u32_le(bytes.len() as u32);
    into.put_slice(bytes);
}

fn get_bytes(from: &mut Bytes) -> Option<Bytes> {
    let length = from.try_get_u32_le().ok()? as usize;
    (length <= from.len()).then(|| from.split_to(length))
}

fn get_text(from: &mut Bytes) -> Option<String> {
    String::from_utf8(get_bytes(from)?.to_vec()).ok()
}

fn crc(bytes: &[u8]) -> u32 {
    checksum(Crc32Iscsi, bytes) as u32
}
