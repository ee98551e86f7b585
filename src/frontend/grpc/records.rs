//! Records of `esker.v1` as record batches, and back.

use bytes::Bytes;

use crate::partition::AbortedTxn;
use crate::protocol::batch::{BatchBuilder, BatchHeader, Compression, HEADER_BYTES, NewRecord, RecordError, records};
use crate::protocol::grpc::v1;

/// Codec of a request.
///
/// Errors: its number is none of those in the .proto file.
pub fn compression(of: i32) -> Result<Compression, String> {
    let named = v1::Compression::try_from(of).map_err(|_| format!("there is no compression {of}"))?;
    Ok(match named {
        v1::Compression::Unspecified => Compression::None,
        v1::Compression::Gzip => Compression::Gzip,
        v1::Compression::Snappy => Compression::Snappy,
        v1::Compression::Lz4 => Compression::Lz4,
        v1::Compression::Zstd => Compression::Zstd,
    })
}

/// One batch of `records`, which are not empty; those without a timestamp get `now_ms`.
pub fn to_batch(
    records: impl IntoIterator<Item = v1::Record>,
    now_ms: i64,
    compression: Compression,
    producer: Option<(i64, i16, i32)>,
) -> Bytes {
    let mut batch = BatchBuilder::new().compression(compression);
    if let Some((id, epoch, sequence)) = producer {
        batch = batch.producer(id, epoch, sequence);
    }
    for v1::Record { key, value, headers, timestamp_ms, offset: _ } in records {
        let headers = headers.into_iter().map(|header| (Bytes::from(header.key), header.value)).collect();
        batch = batch.record(NewRecord { timestamp: timestamp_ms.unwrap_or(now_ms), key, value, headers });
    }
    batch.build()
}

/// The batches that readers are given: no control batches, and none of an aborted transaction, which is one of `aborted` (all that
/// overlap the batches; none where aborted records are to be read).
pub fn readable(batches: &[Bytes], aborted: &[AbortedTxn]) -> Vec<Bytes> {
    let wanted = |batch: &&Bytes| {
        // One that has no header is refused by whoever reads its records.
        let Some(header) = BatchHeader::decode(batch) else { return true };
        let of = |txn: &AbortedTxn| {
            txn.producer_id == header.producer_id && (txn.first_offset..=txn.last_offset).contains(&header.base_offset)
        };
        !(header.is_control() || header.is_transactional() && aborted.iter().any(of))
    };
    batches.iter().filter(wanted).cloned().collect()
}

/// The records of whole batches from `offset` on, without control records.
///
/// Errors: a batch cannot be read.
pub fn from_batches(batches: &[Bytes], offset: i64) -> Result<Vec<v1::Record>, RecordError> {
    let mut found = Vec::new();
    for batch in batches {
        let read = records(batch)?;
        if read.header().is_control() {
            continue;
        }
        for record in read {
            let record = record?;
            if record.offset < offset {
                continue;
            }
            let header = |(key, value): (Bytes, Option<Bytes>)| v1::Header {
                key: String::from_utf8_lossy(&key).into_owned(),
                value,
            };
            found.push(v1::Record {
                key: record.key,
                value: record.value,
                headers: record.headers.into_iter().map(header).collect(),
                timestamp_ms: Some(record.timestamp),
                offset: record.offset,
            });
        }
    }
    Ok(found)
}

/// The batches as slices of one piece of memory that holds nothing else. As they were read they are slices of the cache's pages
/// and of open segments, and even the smallest keeps a whole one of those from being freed.
pub fn in_one_piece(batches: &[Bytes]) -> Vec<Bytes> {
    let mut left = Bytes::from(batches.concat());
    batches.iter().map(|batch| left.split_to(batch.len())).collect()
}

/// The batches one after the other.
pub fn joined(batches: &[Bytes]) -> Bytes {
    match batches {
        [one] => one.clone(),
        several => several.concat().into(),
    }
}

/// What a message costs of a reader's credit beside its records, in bytes: one that reads many small batches pays for them.
pub const MESSAGE_BYTES: u64 = HEADER_BYTES as u64;
