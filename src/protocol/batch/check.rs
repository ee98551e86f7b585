//! Whether a produced record set may enter the log.
//!
//! Kafka's rules for produce version 3 and later (`LogValidator`, `ProduceRequest.validateRecords`): exactly one batch
//! per partition, magic 2, a CRC that holds, one offset per record. Uncompressed records are walked, since that is
//! cheap; compressed ones only where their keys matter (compacted topics), so that a broker spends no time inflating
//! what it stores as it came.

use bytes::{Bytes, BytesMut};

use super::compression::Compression;
use super::header::{BatchHeader, CRC_START, HEADER_BYTES};
use super::records::{MAX_DECOMPRESSED_BYTES, RawRecord, RecordError, take_record};

const TIMESTAMP_TYPE_BIT: i16 = 0x08;
const ATTRIBUTES_AT: usize = CRC_START;
const MAX_TIMESTAMP_AT: usize = 35;
/// No timestamp (Kafka's `RecordBatch.NO_TIMESTAMP`).
const NO_TIMESTAMP: i64 = -1;
/// Attribute bits that a producer may set: codec, timestamp type, transactional, control (refused apart).
const KNOWN_ATTRIBUTES: i16 = 0x3f;

/// What a topic asks of its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchRules {
    /// `max.message.bytes`: most bytes of a whole batch, inclusive.
    pub max_message_bytes: usize,
    /// `message.timestamp.type=LogAppendTime`: the broker's time replaces the producer's.
    pub log_append_time: bool,
    /// `message.timestamp.before.max.ms`: how far a record's timestamp may lie in the past; `i64::MAX` for any.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`: how far it may lie in the future; `i64::MAX` for any.
    pub timestamp_after_max_ms: i64,
    /// `cleanup.policy` contains `compact`: every record needs a key.
    pub compacted: bool,
}

impl Default for BatchRules {
    /// Kafka's defaults of a topic.
    fn default() -> Self {
        Self {
            max_message_bytes: 1_048_588,
            log_append_time: false,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 3_600_000,
            compacted: false,
        }
    }
}

/// A batch that may enter the log.
#[derive(Debug, Clone)]
pub struct CheckedBatch {
    /// Its header, as it is in `bytes`.
    pub header: BatchHeader,
    /// The whole batch and nothing after it; the producer's bytes, unless a timestamp had to be rewritten.
    pub bytes: Bytes,
    /// Append time in milliseconds since the Unix epoch, or -1 where the topic keeps the producer's.
    pub log_append_time_ms: i64,
}

/// Why a batch may not enter the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// No batch at all.
    #[error("a produce request needs one record batch per partition, this one has none")]
    Empty,
    /// Bytes follow the first batch.
    #[error("a produce request may hold one record batch per partition, this one holds more")]
    MoreThanOne,
    /// Fewer bytes than the batch claims, or an impossible length.
    #[error("the batch is cut short or its length {batch_length} is wrong ({actual_bytes} bytes are there)")]
    Length {
        /// The length field.
        batch_length: i32,
        /// Bytes received.
        actual_bytes: usize,
    },
    /// Message format 0 or 1 (Kafka before 0.11), or one not invented yet.
    #[error("message format (magic) {magic} is not supported: record batches are of format 2")]
    Magic {
        /// The magic byte.
        magic: i8,
    },
    /// The checksum does not hold.
    #[error("the batch's CRC is {computed:#010x} where {stored:#010x} is written: it was damaged on the way")]
    Crc {
        /// From the header.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// Larger than the topic allows.
    #[error("the batch has {bytes} bytes, the topic allows {limit_bytes} (max.message.bytes)")]
    TooLarge {
        /// Size of the batch.
        bytes: usize,
        /// `max.message.bytes`.
        limit_bytes: usize,
    },
    /// A codec that does not exist.
    #[error("unknown compression codec {0}")]
    UnknownCompression(i16),
    /// Timestamps outside what the topic allows.
    #[error("timestamp {timestamp} is outside {earliest}..={latest}, which the topic allows at this moment")]
    Timestamp {
        /// The timestamp in milliseconds since the Unix epoch.
        timestamp: i64,
        /// Earliest allowed.
        earliest: i64,
        /// Latest allowed.
        latest: i64,
    },
    /// A record of a compacted topic has no key.
    #[error("record {index} has no key, which a compacted topic needs")]
    KeyMissing {
        /// Position in the batch, from 0.
        index: i32,
    },
    /// Header or records break the format.
    #[error("the batch is invalid: {0}")]
    Invalid(&'static str),
    /// Records break the format.
    #[error(transparent)]
    Records(#[from] RecordError),
}

/// CRC-32C (Castagnoli) of an encoded batch, from its attributes to its end.
///
/// # Panics
/// If `batch` is shorter than 21 bytes: callers have checked it.
pub fn crc_of(batch: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &batch[CRC_START..]) as u32
}

/// Checks what a client produced to one partition at `now_ms` (milliseconds since the Unix epoch).
///
/// Base offset and leader epoch of the bytes are not looked at: the log assigns them.
pub fn check_batch(records: &Bytes, rules: &BatchRules, now_ms: i64) -> Result<CheckedBatch, BatchError> {
    if records.is_empty() {
        return Err(BatchError::Empty);
    }
    // Magic lies at byte 16 in every format, so an old message set is recognised even where it is short.
    if let Some(&magic) = records.get(16)
        && magic != 2
    {
        return Err(BatchError::Magic { magic: magic as i8 });
    }
    let cut = |batch_length| BatchError::Length { batch_length, actual_bytes: records.len() };
    let mut header = BatchHeader::decode(records).ok_or_else(|| cut(-1))?;
    let total = header.total_bytes();
    if total < HEADER_BYTES || total > records.len() || header.batch_length < 0 {
        return Err(cut(header.batch_length));
    }
    if total < records.len() {
        return Err(BatchError::MoreThanOne);
    }
    if total > rules.max_message_bytes {
        return Err(BatchError::TooLarge { bytes: total, limit_bytes: rules.max_message_bytes });
    }
    let computed = crc_of(records);
    if computed != header.crc {
        return Err(BatchError::Crc { stored: header.crc, computed });
    }
    check_header(&header)?;

    let codec =
        Compression::from_id(header.compression()).ok_or(BatchError::UnknownCompression(header.compression()))?;
    let mut times = Times { first: header.base_timestamp, min: header.base_timestamp, max: header.max_timestamp };
    let body = records.slice(HEADER_BYTES..);
    if codec == Compression::None {
        times = walk(&body, &header, rules.compacted)?;
    } else if rules.compacted {
        let body = codec.decompress(&body, MAX_DECOMPRESSED_BYTES).map_err(RecordError::from)?;
        times = walk(&body, &header, true)?;
    }

    let mut bytes = records.clone();
    if rules.log_append_time {
        header.attributes |= TIMESTAMP_TYPE_BIT;
        header.max_timestamp = now_ms;
        bytes = rewrite(records, &mut header);
        return Ok(CheckedBatch { header, bytes, log_append_time_ms: now_ms });
    }
    check_times(times, rules, now_ms)?;
    if header.is_log_append_time() || times.max != header.max_timestamp {
        header.attributes &= !TIMESTAMP_TYPE_BIT;
        header.max_timestamp = times.max;
        bytes = rewrite(records, &mut header);
    }
    Ok(CheckedBatch { header, bytes, log_append_time_ms: NO_TIMESTAMP })
}

fn check_header(header: &BatchHeader) -> Result<(), BatchError> {
    if header.records_count <= 0 {
        return Err(BatchError::Invalid("it holds no records"));
    }
    if header.last_offset_delta != header.records_count - 1 {
        return Err(BatchError::Invalid("its last offset does not fit its record count"));
    }
    if header.is_control() {
        return Err(BatchError::Invalid("clients may not write control records"));
    }
    if header.attributes & !KNOWN_ATTRIBUTES != 0 {
        return Err(BatchError::Invalid("it has attributes that producers do not set"));
    }
    if header.producer_id < -1 {
        return Err(BatchError::Invalid("its producer id is negative"));
    }
    if header.has_producer_id() && (header.producer_epoch < 0 || header.base_sequence < 0) {
        return Err(BatchError::Invalid("it has a producer id without an epoch or a sequence"));
    }
    if header.is_transactional() && !header.has_producer_id() {
        return Err(BatchError::Invalid("it is transactional and has no producer id"));
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Times {
    first: i64,
    min: i64,
    max: i64,
}

fn walk(mut body: &[u8], header: &BatchHeader, keys_needed: bool) -> Result<Times, BatchError> {
    let base = header.base_timestamp;
    let mut times = Times { first: base, min: i64::MAX, max: i64::MIN };
    for index in 0..header.records_count {
        let malformed = |reason| BatchError::Records(RecordError::Malformed { index, reason });
        let RawRecord { timestamp_delta, offset_delta, key, .. } = take_record(&mut body).map_err(malformed)?;
        if offset_delta != index {
            return Err(malformed("its offset delta is not its position"));
        }
        if keys_needed && key.is_none() {
            return Err(BatchError::KeyMissing { index });
        }
        let timestamp = base.wrapping_add(timestamp_delta);
        times.min = times.min.min(timestamp);
        times.max = times.max.max(timestamp);
    }
    if body.is_empty() { Ok(times) } else { Err(BatchError::Invalid("bytes follow the last record")) }
}

fn check_times(times: Times, rules: &BatchRules, now_ms: i64) -> Result<(), BatchError> {
    let earliest = now_ms.saturating_sub(rules.timestamp_before_max_ms);
    let latest = now_ms.saturating_add(rules.timestamp_after_max_ms);
    for timestamp in [times.first, times.min, times.max] {
        if timestamp != NO_TIMESTAMP && !(earliest..=latest).contains(&timestamp) {
            return Err(BatchError::Timestamp { timestamp, earliest, latest });
        }
    }
    Ok(())
}

/// The batch with the header's attributes and max timestamp, and the CRC that they need.
fn rewrite(records: &Bytes, header: &mut BatchHeader) -> Bytes {
    let mut batch = BytesMut::from(&records[..]);
    batch[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&header.attributes.to_be_bytes());
    batch[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&header.max_timestamp.to_be_bytes());
    header.crc = crc_of(&batch);
    batch[CRC_START - 4..CRC_START].copy_from_slice(&header.crc.to_be_bytes());
    batch.freeze()
}
