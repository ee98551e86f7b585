//! The 61-byte header of a record batch v2.

use bytes::{Buf, BufMut, BytesMut};

/// Length of the header up to and including the record count, in bytes.
pub const HEADER_BYTES: usize = 61;
/// Bytes before the part that the batch's CRC-32C covers: base offset, length, leader epoch, magic, crc.
pub const CRC_START: usize = 21;
/// `baseOffset` and `batchLength` are not counted by `batchLength`.
pub const LENGTH_OVERHEAD: usize = 12;
/// No producer id (not idempotent).
pub const NO_PRODUCER_ID: i64 = -1;

const COMPRESSION_MASK: i16 = 0x07;
const TIMESTAMP_TYPE_MASK: i16 = 0x08;
const TRANSACTIONAL_MASK: i16 = 0x10;
const CONTROL_MASK: i16 = 0x20;
const DELETE_HORIZON_MASK: i16 = 0x40;

/// The header's fields, decoded; big-endian on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Bytes after this field (so the whole batch is 12 more).
    pub batch_length: i32,
    /// Epoch of the leader that appended it; -1 from producers.
    pub partition_leader_epoch: i32,
    /// Always 2.
    pub magic: i8,
    /// CRC-32C of everything from `attributes` to the end.
    pub crc: u32,
    /// Compression, timestamp type, transactional, control, delete horizon.
    pub attributes: i16,
    /// Offset of the last record, less `base_offset`.
    pub last_offset_delta: i32,
    /// Timestamp of the first record, in milliseconds since the Unix epoch (or the delete horizon).
    pub base_timestamp: i64,
    /// Largest timestamp, in milliseconds since the Unix epoch.
    pub max_timestamp: i64,
    /// Idempotent producer, or [`NO_PRODUCER_ID`].
    pub producer_id: i64,
    /// The producer's epoch, or -1.
    pub producer_epoch: i16,
    /// Sequence of the first record, or -1.
    pub base_sequence: i32,
    /// Records in the batch.
    pub records_count: i32,
}

impl BatchHeader {
    /// Reads the header; `None` if there are fewer than [`HEADER_BYTES`]. Values are not judged.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER_BYTES {
            return None;
        }
        Some(Self {
            base_offset: bytes.get_i64(),
            batch_length: bytes.get_i32(),
            partition_leader_epoch: bytes.get_i32(),
            magic: bytes.get_i8(),
            crc: bytes.get_u32(),
            attributes: bytes.get_i16(),
            last_offset_delta: bytes.get_i32(),
            base_timestamp: bytes.get_i64(),
            max_timestamp: bytes.get_i64(),
            producer_id: bytes.get_i64(),
            producer_epoch: bytes.get_i16(),
            base_sequence: bytes.get_i32(),
            records_count: bytes.get_i32(),
        })
    }

    /// Appends the header's 61 bytes.
    pub fn encode(&self, into: &mut BytesMut) {
        into.put_i64(self.base_offset);
        into.put_i32(self.batch_length);
        into.put_i32(self.partition_leader_epoch);
        into.put_i8(self.magic);
        into.put_u32(self.crc);
        into.put_i16(self.attributes);
        into.put_i32(self.last_offset_delta);
        into.put_i64(self.base_timestamp);
        into.put_i64(self.max_timestamp);
        into.put_i64(self.producer_id);
        into.put_i16(self.producer_epoch);
        into.put_i32(self.base_sequence);
        into.put_i32(self.records_count);
    }

    /// Length of the whole batch in bytes.
    pub fn total_bytes(&self) -> usize {
        usize::try_from(self.batch_length).unwrap_or(0) + LENGTH_OVERHEAD
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// Compression codec: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd, others unknown.
    pub fn compression(&self) -> i16 {
        self.attributes & COMPRESSION_MASK
    }

    /// Whether timestamps are the broker's append time.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & TIMESTAMP_TYPE_MASK != 0
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_MASK != 0
    }

    /// Whether the batch holds a control record (a transaction marker), not data.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_MASK != 0
    }

    /// Whether `base_timestamp` is a delete horizon (compacted batches).
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON_MASK != 0
    }

    /// Whether an idempotent producer wrote it.
    pub fn has_producer_id(&self) -> bool {
        self.producer_id != NO_PRODUCER_ID
    }

    /// Sequence of the last record; sequences wrap from `i32::MAX` to 0.
    pub fn last_sequence(&self) -> i32 {
        sequence_add(self.base_sequence, self.last_offset_delta)
    }
}

/// `sequence + by`, wrapping from `i32::MAX` to 0 as producers do (`DefaultRecordBatch.incrementSequence`).
pub fn sequence_add(sequence: i32, by: i32) -> i32 {
    if sequence > i32::MAX - by { by - (i32::MAX - sequence) - 1 } else { sequence + by }
}

/// Sets base offset and leader epoch of an encoded batch in place; neither is covered by the CRC.
///
/// # Panics
/// If `batch` is shorter than a header: callers have checked it.
pub fn assign(batch: &mut [u8], base_offset: i64, leader_epoch: i32) {
    batch[0..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
}
