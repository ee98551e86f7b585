//! Batches that the broker writes itself (coordinator records, compaction) and that tests need.

use bytes::{BufMut, Bytes, BytesMut};

use super::check::crc_of;
use super::compression::Compression;
use super::header::{BatchHeader, CRC_START, HEADER_BYTES, LENGTH_OVERHEAD, NO_PRODUCER_ID};
use super::varint::{put_varint, put_varlong, varint_bytes, varlong_bytes};

const TIMESTAMP_TYPE_BIT: i16 = 0x08;
const TRANSACTIONAL_BIT: i16 = 0x10;
const CONTROL_BIT: i16 = 0x20;

/// A record to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewRecord {
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// Key, or null.
    pub key: Option<Bytes>,
    /// Value, or null.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// An uncompressed batch of (key, value) records with one timestamp, base offset 0, no producer.
///
/// `records` must not be empty: the log refuses an empty batch.
pub fn build_batch(records: &[(Option<Bytes>, Option<Bytes>)], timestamp_ms: i64) -> Bytes {
    let mut builder = BatchBuilder::new();
    for (key, value) in records {
        builder = builder.record(NewRecord {
            timestamp: timestamp_ms,
            key: key.clone(),
            value: value.clone(),
            headers: Vec::new(),
        });
    }
    builder.build()
}

/// Builds one batch, field by field.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    header: BatchHeader,
    compression: Compression,
    records: Vec<(i32, NewRecord)>,
    last_offset_delta: Option<i32>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// An empty, uncompressed batch at offset 0 without a producer.
    pub fn new() -> Self {
        Self {
            header: BatchHeader {
                base_offset: 0,
                batch_length: 0,
                partition_leader_epoch: -1,
                magic: 2,
                crc: 0,
                attributes: 0,
                last_offset_delta: -1,
                base_timestamp: -1,
                max_timestamp: -1,
                producer_id: NO_PRODUCER_ID,
                producer_epoch: -1,
                base_sequence: -1,
                records_count: 0,
            },
            compression: Compression::None,
            records: Vec::new(),
            last_offset_delta: None,
        }
    }

    /// Offset of the first record.
    pub fn base_offset(mut self, offset: i64) -> Self {
        self.header.base_offset = offset;
        self
    }

    /// Epoch of the leader.
    pub fn leader_epoch(mut self, epoch: i32) -> Self {
        self.header.partition_leader_epoch = epoch;
        self
    }

    /// An idempotent producer's id, epoch and the sequence of the first record.
    pub fn producer(mut self, id: i64, epoch: i16, base_sequence: i32) -> Self {
        self.header.producer_id = id;
        self.header.producer_epoch = epoch;
        self.header.base_sequence = base_sequence;
        self
    }

    /// Marks the batch as part of a transaction.
    pub fn transactional(mut self) -> Self {
        self.header.attributes |= TRANSACTIONAL_BIT;
        self
    }

    /// Marks the batch as control records.
    pub fn control(mut self) -> Self {
        self.header.attributes |= CONTROL_BIT;
        self
    }

    /// Marks timestamps as append time.
    pub fn log_append_time(mut self) -> Self {
        self.header.attributes |= TIMESTAMP_TYPE_BIT;
        self
    }

    /// Compresses the records.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Appends a record at the next offset.
    pub fn record(mut self, record: NewRecord) -> Self {
        let delta = self.records.last().map_or(0, |(delta, _)| delta + 1);
        self.records.push((delta, record));
        self
    }

    /// Appends a record at `offset_delta` from the base (compaction leaves gaps); deltas must grow.
    pub fn record_at(mut self, offset_delta: i32, record: NewRecord) -> Self {
        self.records.push((offset_delta, record));
        self
    }

    /// Sets the last offset delta where it is not the last record's (compaction keeps the batch's end).
    pub fn last_offset_delta(mut self, delta: i32) -> Self {
        self.last_offset_delta = Some(delta);
        self
    }

    /// Appends a record of a key and a value.
    pub fn key_value(self, timestamp: i64, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.record(NewRecord { timestamp, key: Some(key.into()), value: Some(value.into()), headers: Vec::new() })
    }

    /// The encoded batch, CRC included.
    ///
    /// # Panics
    /// If the batch would exceed 2 GiB, or a codec fails to write into memory.
    pub fn build(self) -> Bytes {
        let mut header = self.header;
        header.attributes |= self.compression.id();
        header.records_count = self.records.len() as i32;
        header.last_offset_delta =
            self.last_offset_delta.unwrap_or_else(|| self.records.last().map_or(-1, |(delta, _)| *delta));
        header.base_timestamp = self.records.first().map_or(-1, |(_, record)| record.timestamp);
        header.max_timestamp = self.records.iter().map(|(_, record)| record.timestamp).max().unwrap_or(-1);

        let delta_ms = |record: &NewRecord| record.timestamp.wrapping_sub(header.base_timestamp);
        let lengths = self.records.iter().map(|(delta, record)| record_bytes(*delta, delta_ms(record), record));
        let body_bytes: usize = lengths.map(|length| varint_bytes(length as i32) + length).sum();
        // Records go where they stay, each byte copied once; the header is written over the room before them.
        let mut batch = BytesMut::with_capacity(HEADER_BYTES + body_bytes);
        batch.put_bytes(0, HEADER_BYTES);
        for (delta, record) in &self.records {
            put_varint(&mut batch, record_bytes(*delta, delta_ms(record), record) as i32);
            put_record(&mut batch, *delta, delta_ms(record), record);
        }
        if self.compression != Compression::None {
            let packed = self.compression.compress(&batch[HEADER_BYTES..]).expect("writing into memory does not fail");
            batch.truncate(HEADER_BYTES);
            batch.put_slice(&packed);
        }
        let length = batch.len() - LENGTH_OVERHEAD;
        header.batch_length = i32::try_from(length).expect("a batch is under 2 GiB");

        let mut head = BytesMut::with_capacity(HEADER_BYTES);
        header.encode(&mut head);
        batch[..HEADER_BYTES].copy_from_slice(&head);
        let crc = crc_of(&batch);
        batch[CRC_START - 4..CRC_START].copy_from_slice(&crc.to_be_bytes());
        batch.freeze()
    }
}

fn put_record(into: &mut BytesMut, offset_delta: i32, timestamp_delta: i64, record: &NewRecord) {
    into.put_u8(0);
    put_varlong(into, timestamp_delta);
    put_varint(into, offset_delta);
    put_nullable(into, record.key.as_ref());
    put_nullable(into, record.value.as_ref());
    put_varint(into, record.headers.len() as i32);
    for (name, value) in &record.headers {
        put_nullable(into, Some(name));
        put_nullable(into, value.as_ref());
    }
}

/// Bytes that [`put_record`] writes.
fn record_bytes(offset_delta: i32, timestamp_delta: i64, record: &NewRecord) -> usize {
    let nullable = |value: Option<&Bytes>| value.map_or(1, |value| varint_bytes(value.len() as i32) + value.len());
    let headers: usize =
        record.headers.iter().map(|(name, value)| nullable(Some(name)) + nullable(value.as_ref())).sum();
    1 + varlong_bytes(timestamp_delta)
        + varint_bytes(offset_delta)
        + nullable(record.key.as_ref())
        + nullable(record.value.as_ref())
        + varint_bytes(record.headers.len() as i32)
        + headers
}

fn put_nullable(into: &mut BytesMut, value: Option<&Bytes>) {
    match value {
        None => put_varint(into, -1),
        Some(value) => {
            put_varint(into, value.len() as i32);
            into.put_slice(value);
        }
    }
}
