//! The records inside a batch.
//!
//! A record is a varint length and then: attributes (1 byte), timestamp delta, offset delta, key, value, headers; key,
//! value and header values carry a varint length, -1 for null. Source: Kafka's `DefaultRecord`, KIP-82.

use bytes::Bytes;

use super::compression::{Compression, DecompressError};
use super::header::{BatchHeader, HEADER_BYTES};
use super::varint::{read_varint, read_varlong};

/// Most bytes that the records of one batch may become when decompressed, unless the caller says otherwise: a bound
/// against bombs, 128 times Kafka's default batch limit.
pub const MAX_DECOMPRESSED_BYTES: usize = 128 * 1024 * 1024;

/// One record, sharing the batch's (or the decompressed) bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its offset in the partition.
    pub offset: i64,
    /// Its timestamp in milliseconds since the Unix epoch: the producer's, or the append time where the batch says so.
    pub timestamp: i64,
    /// Key, if it has one.
    pub key: Option<Bytes>,
    /// Value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in order; names are UTF-8 by convention, not by check.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// Why a batch's records could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Shorter than a header, or than its header says.
    #[error("the batch is cut short")]
    Truncated,
    /// Attribute bits of no known codec.
    #[error("unknown compression codec {0}")]
    UnknownCompression(i16),
    /// The codec failed.
    #[error(transparent)]
    Decompress(#[from] DecompressError),
    /// The records do not follow their format.
    #[error("record {index} is malformed: {reason}")]
    Malformed {
        /// Position in the batch, from 0.
        index: i32,
        /// Which rule was broken.
        reason: &'static str,
    },
}

/// A record as it lies in the bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawRecord<'a> {
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers_count: i32,
    pub headers: &'a [u8],
}

/// Takes one record from the front of `from`, headers included in the check.
pub(crate) fn take_record<'a>(from: &mut &'a [u8]) -> Result<RawRecord<'a>, &'static str> {
    let length = read_varint(from).ok_or("bad length")?;
    let length = usize::try_from(length).map_err(|_| "negative length")?;
    let mut body = from.get(..length).ok_or("it ends past the batch")?;
    *from = &from[length..];
    let (_attributes, rest) = body.split_first().ok_or("it is empty")?;
    body = rest;
    let timestamp_delta = read_varlong(&mut body).ok_or("bad timestamp delta")?;
    let offset_delta = read_varint(&mut body).ok_or("bad offset delta")?;
    let key = take_nullable(&mut body).ok_or("bad key length")?;
    let value = take_nullable(&mut body).ok_or("bad value length")?;
    let headers_count = read_varint(&mut body).ok_or("bad header count")?;
    if headers_count < 0 {
        return Err("negative header count");
    }
    let headers = body;
    for _ in 0..headers_count {
        take_header(&mut body).ok_or("bad header")?;
    }
    if body.is_empty() {
        Ok(RawRecord { timestamp_delta, offset_delta, key, value, headers_count, headers })
    } else {
        Err("it is longer than its fields")
    }
}

fn take_header<'a>(from: &mut &'a [u8]) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let name = take_nullable(from)??;
    let value = take_nullable(from)?;
    Some((name, value))
}

/// Outer `None` for bad bytes, inner for null.
#[expect(clippy::option_option, reason = "bad and null are two answers")]
fn take_nullable<'a>(from: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = read_varint(from)?;
    if length == -1 {
        return Some(None);
    }
    let (taken, rest) = from.split_at_checked(usize::try_from(length).ok()?)?;
    *from = rest;
    Some(Some(taken))
}

/// The records of a whole batch; decompressed, at most [`MAX_DECOMPRESSED_BYTES`]. The CRC is not checked.
///
/// Bytes after the batch (as its header bounds it) are not looked at.
pub fn records(batch: &Bytes) -> Result<Records, RecordError> {
    records_within(batch, MAX_DECOMPRESSED_BYTES)
}

/// [`records`] with the caller's limit on decompressed bytes.
pub fn records_within(batch: &Bytes, limit_bytes: usize) -> Result<Records, RecordError> {
    let header = BatchHeader::decode(batch).ok_or(RecordError::Truncated)?;
    let end = header.total_bytes();
    if end < HEADER_BYTES || end > batch.len() {
        return Err(RecordError::Truncated);
    }
    let codec = header.compression();
    let codec = Compression::from_id(codec).ok_or(RecordError::UnknownCompression(codec))?;
    let data = codec.decompress(&batch.slice(HEADER_BYTES..end), limit_bytes)?;
    Ok(Records { header, data, position: 0, index: 0, previous_delta: -1 })
}

/// Iterator over a batch's records; ends after the first error.
#[derive(Debug, Clone)]
pub struct Records {
    header: BatchHeader,
    data: Bytes,
    position: usize,
    index: i32,
    previous_delta: i32,
}

impl Records {
    /// The batch's header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    fn next_record(&mut self) -> Result<Record, &'static str> {
        let mut rest = &self.data[self.position..];
        let raw = take_record(&mut rest)?;
        self.position = self.data.len() - rest.len();
        // Deltas of compacted batches have gaps, but they grow and stay within the batch.
        if raw.offset_delta <= self.previous_delta || raw.offset_delta > self.header.last_offset_delta {
            return Err("its offset is out of order or outside the batch");
        }
        self.previous_delta = raw.offset_delta;
        let mut fields = raw.headers;
        let mut headers = Vec::new();
        for _ in 0..raw.headers_count {
            let (name, value) = take_header(&mut fields).ok_or("bad header")?;
            headers.push((self.data.slice_ref(name), value.map(|value| self.data.slice_ref(value))));
        }
        let timestamp = if self.header.is_log_append_time() {
            self.header.max_timestamp
        } else {
            self.header.base_timestamp.wrapping_add(raw.timestamp_delta)
        };
        Ok(Record {
            offset: self.header.base_offset.wrapping_add(i64::from(raw.offset_delta)),
            timestamp,
            key: raw.key.map(|key| self.data.slice_ref(key)),
            value: raw.value.map(|value| self.data.slice_ref(value)),
            headers,
        })
    }
}

impl Iterator for Records {
    type Item = Result<Record, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.index;
        if index >= self.header.records_count {
            let left = self.position < self.data.len();
            self.position = self.data.len();
            return left.then_some(Err(RecordError::Malformed { index, reason: "bytes follow the last record" }));
        }
        match self.next_record() {
            Ok(record) => {
                self.index += 1;
                Some(Ok(record))
            }
            Err(reason) => {
                self.index = i32::MAX;
                self.position = self.data.len();
                Some(Err(RecordError::Malformed { index, reason }))
            }
        }
    }
}
