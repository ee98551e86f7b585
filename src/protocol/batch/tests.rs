#![allow(clippy::unwrap_used)]

use bytes::{Bytes, BytesMut};
use kafka_protocol::records::{
    Compression as TheirCompression, Record as TheirRecord, RecordBatchDecoder, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};
use proptest::prelude::*;

use super::varint::{put_varint, put_varlong, read_varint, read_varlong, varint_bytes, varlong_bytes};
use super::*;

const NOW: i64 = 1_700_000_000_000;

fn blob(longest: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..longest).prop_map(Bytes::from)
}

fn new_record() -> impl Strategy<Value = NewRecord> {
    (
        NOW - 1000..NOW,
        prop::option::of(blob(20)),
        prop::option::of(blob(200)),
        prop::collection::vec(("[a-z]{0,5}".prop_map(Bytes::from), prop::option::of(blob(9))), 0..3),
    )
        .prop_map(|(timestamp, key, value, headers)| NewRecord { timestamp, key, value, headers })
}

fn codec() -> impl Strategy<Value = Compression> {
    (0_i16..5).prop_map(|id| Compression::from_id(id).unwrap())
}

fn batch_of(records: &[NewRecord], codec: Compression) -> Bytes {
    records.iter().cloned().fold(BatchBuilder::new().compression(codec), BatchBuilder::record).build()
}

fn same(record: &Record, of: &NewRecord) -> bool {
    record.timestamp == of.timestamp && record.key == of.key && record.value == of.value && record.headers == of.headers
}

fn with_header(batch: &Bytes, change: impl FnOnce(&mut BatchHeader)) -> Bytes {
    let mut header = BatchHeader::decode(batch).unwrap();
    change(&mut header);
    let mut bytes = BytesMut::new();
    header.encode(&mut bytes);
    bytes.extend_from_slice(&batch[HEADER_BYTES..]);
    let crc = crc_of(&bytes);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.freeze()
}

fn plain() -> Bytes {
    build_batch(&[(Some("a".into()), Some("1".into())), (None, Some("2".into()))], NOW)
}

fn refusal(batch: &Bytes) -> BatchError {
    check_batch(batch, &BatchRules::default(), NOW).unwrap_err()
}

proptest! {
    #[test]
    fn varints_come_back(a: i32, b: i64) {
        let mut bytes = BytesMut::new();
        put_varint(&mut bytes, a);
        prop_assert_eq!(bytes.len(), varint_bytes(a));
        put_varlong(&mut bytes, b);
        prop_assert_eq!(bytes.len(), varint_bytes(a) + varlong_bytes(b));
        let mut rest = &bytes[..];
        prop_assert_eq!(read_varint(&mut rest), Some(a));
        prop_assert_eq!(read_varlong(&mut rest), Some(b));
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn what_is_built_is_accepted_and_read_back(
        records_in in prop::collection::vec(new_record(), 1..20), codec in codec(),
    ) {
        let batch = batch_of(&records_in, codec);
        let checked = check_batch(&batch, &BatchRules::default(), NOW).unwrap();
        prop_assert_eq!(&checked.bytes, &batch);
        let out: Vec<Record> = records(&batch).unwrap().map(Result::unwrap).collect();
        prop_assert_eq!(out.len(), records_in.len());
        for (index, (got, want)) in out.iter().zip(&records_in).enumerate() {
            prop_assert_eq!(got.offset, index as i64);
            prop_assert!(same(got, want), "{got:?} is not {want:?}");
        }
    }

    #[test]
    fn an_independent_decoder_agrees(records_in in prop::collection::vec(new_record(), 1..20)) {
        let batch = batch_of(&records_in, Compression::None);
        let theirs = RecordBatchDecoder::decode(&mut batch.clone()).unwrap();
        prop_assert_eq!(theirs.records.len(), records_in.len());
        for (got, want) in theirs.records.iter().zip(&records_in) {
            prop_assert_eq!(got.timestamp, want.timestamp);
            prop_assert_eq!(&got.key, &want.key);
            prop_assert_eq!(&got.value, &want.value);
        }
    }

    #[test]
    fn an_independent_encoder_is_read(
        records_in in prop::collection::vec((prop::option::of(blob(9)), prop::option::of(blob(99))), 1..20),
        producer: bool,
    ) {
        let theirs: Vec<TheirRecord> = records_in.iter().enumerate().map(|(index, (key, value))| TheirRecord {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: if producer { 7 } else { -1 },
            producer_epoch: if producer { 0 } else { -1 },
            timestamp_type: TimestampType::Creation,
            offset: index as i64,
            sequence: if producer { index as i32 } else { -1 },
            timestamp: NOW + index as i64,
            key: key.clone(),
            value: value.clone(),
            headers: [].into_iter().collect(),
        }).collect();
        let mut bytes = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: TheirCompression::None };
        RecordBatchEncoder::encode(&mut bytes, &theirs, &options).unwrap();
        let batch = bytes.freeze();
        // Their encoder may split a set where sequences do not run on; ours are single batches.
        prop_assume!(BatchHeader::decode(&batch).unwrap().total_bytes() == batch.len());
        check_batch(&batch, &BatchRules::default(), NOW).unwrap();
        let out: Vec<Record> = records(&batch).unwrap().map(Result::unwrap).collect();
        prop_assert_eq!(out.len(), records_in.len());
        for (got, (key, value)) in out.iter().zip(&records_in) {
            prop_assert_eq!(&got.key, key);
            prop_assert_eq!(&got.value, value);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in blob(300)) {
        let _ = check_batch(&bytes, &BatchRules::default(), NOW);
        if let Ok(records) = records(&bytes) {
            records.for_each(drop);
        }
    }

    #[test]
    fn no_damage_makes_it_panic_even_with_a_true_crc(
        records_in in prop::collection::vec(new_record(), 1..5), codec in codec(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), compacted: bool,
    ) {
        let mut bytes = BytesMut::from(&batch_of(&records_in, codec)[..]);
        for (at, value) in damage {
            // Everything behind the length, so that the check goes deep.
            let at = 12 + at.index(bytes.len() - 12);
            bytes[at] = value;
        }
        let crc = crc_of(&bytes);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        let batch = bytes.freeze();
        let rules = BatchRules { compacted, ..BatchRules::default() };
        let checked = check_batch(&batch, &rules, NOW);
        let read = records(&batch).map(Iterator::collect::<Result<Vec<_>, _>>);
        if let Ok(checked) = checked
            && (checked.header.compression() == 0 || compacted)
        {
            prop_assert!(matches!(read, Ok(Ok(_))), "accepted and unreadable: {read:?}");
        }
    }

    #[test]
    fn a_flipped_bit_under_the_crc_is_seen(at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut bytes = BytesMut::from(&plain()[..]);
        let at = 17 + at.index(bytes.len() - 17);
        bytes[at] ^= 1_u8 << bit;
        let refused = matches!(refusal(&bytes.freeze()), BatchError::Crc { .. });
        prop_assert!(refused);
    }
}

#[test]
fn hostile_varints_are_refused() {
    assert_eq!(read_varint(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0x01][..]), None);
    assert_eq!(read_varint(&mut &[0xff, 0xff, 0xff, 0xff, 0x7f][..]), None);
    assert_eq!(read_varint(&mut &[0x80][..]), None);
    assert_eq!(read_varlong(&mut &[0xff; 11][..]), None);
    assert_eq!(read_varlong(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02][..]), None);
}

#[test]
fn each_broken_rule_has_its_error() {
    assert_eq!(refusal(&Bytes::new()), BatchError::Empty);
    assert!(matches!(refusal(&plain().slice(..30)), BatchError::Length { .. }));
    assert!(matches!(refusal(&plain().slice(..plain().len() - 1)), BatchError::Length { .. }));
    let twice = Bytes::from([plain(), plain()].concat());
    assert_eq!(refusal(&twice), BatchError::MoreThanOne);
    for magic in [0, 1, 3] {
        assert_eq!(refusal(&with_header(&plain(), |h| h.magic = magic)), BatchError::Magic { magic });
    }
    assert_eq!(refusal(&with_header(&plain(), |h| h.attributes |= 5)), BatchError::UnknownCompression(5));
    let invalid: [fn(&mut BatchHeader); 7] = [
        |h| h.records_count = 0,
        |h| h.last_offset_delta = 5,
        |h| h.records_count = -1,
        |h| h.attributes |= 0x20,
        |h| h.producer_id = -2,
        |h| h.producer_id = 4,
        |h| h.attributes |= 0x10,
    ];
    for change in invalid {
        assert!(matches!(refusal(&with_header(&plain(), change)), BatchError::Invalid(_)));
    }
    let small = BatchRules { max_message_bytes: plain().len() - 1, ..BatchRules::default() };
    assert!(matches!(check_batch(&plain(), &small, NOW), Err(BatchError::TooLarge { .. })));
    let exact = BatchRules { max_message_bytes: plain().len(), ..BatchRules::default() };
    assert!(check_batch(&plain(), &exact, NOW).is_ok());
}

#[test]
fn a_compacted_topic_needs_keys_in_every_codec() {
    let rules = BatchRules { compacted: true, ..BatchRules::default() };
    for id in 0..5 {
        let codec = Compression::from_id(id).unwrap();
        let keyless = BatchBuilder::new()
            .compression(codec)
            .key_value(NOW, "k", "v")
            .record(NewRecord { timestamp: NOW, ..NewRecord::default() })
            .build();
        assert_eq!(check_batch(&keyless, &rules, NOW).unwrap_err(), BatchError::KeyMissing { index: 1 });
        let keyed = BatchBuilder::new().compression(codec).key_value(NOW, "k", "v").build();
        assert!(check_batch(&keyed, &rules, NOW).is_ok());
    }
}

#[test]
fn timestamps_are_judged_or_replaced() {
    let rules = BatchRules { timestamp_before_max_ms: 100, timestamp_after_max_ms: 50, ..BatchRules::default() };
    let at = |timestamp| check_batch(&build_batch(&[(None, None)], timestamp), &rules, NOW);
    assert!(at(NOW - 100).is_ok() && at(NOW + 50).is_ok() && at(-1).is_ok());
    assert!(matches!(at(NOW - 101), Err(BatchError::Timestamp { .. })));
    assert!(matches!(at(NOW + 51), Err(BatchError::Timestamp { .. })));

    let append_time = BatchRules { log_append_time: true, ..rules };
    let checked = check_batch(&build_batch(&[(None, Some("v".into()))], 5), &append_time, NOW).unwrap();
    assert_eq!(checked.log_append_time_ms, NOW);
    assert_eq!(BatchHeader::decode(&checked.bytes), Some(checked.header));
    assert_eq!(checked.header.crc, crc_of(&checked.bytes));
    assert_eq!(records(&checked.bytes).unwrap().next().unwrap().unwrap().timestamp, NOW);
}

#[test]
fn a_wrong_max_timestamp_is_corrected() {
    let checked = check_batch(&with_header(&plain(), |h| h.max_timestamp = 3), &BatchRules::default(), NOW).unwrap();
    assert_eq!(checked.header.max_timestamp, NOW);
    assert_eq!(checked.header.crc, crc_of(&checked.bytes));
}

#[test]
fn a_bomb_stops_at_the_limit() {
    for id in 1..5 {
        let codec = Compression::from_id(id).unwrap();
        let bomb = batch_of(
            &[NewRecord { timestamp: NOW, value: Some(vec![0; 4 << 20].into()), ..NewRecord::default() }],
            codec,
        );
        let stopped = records_within(&bomb, 1 << 20).unwrap_err();
        assert!(matches!(stopped, RecordError::Decompress(_)), "{codec:?}: {stopped}");
        assert!(records(&bomb).unwrap().all(|record| record.is_ok()));
    }
}

#[test]
fn raw_snappy_is_read_too() {
    let packed = snap::raw::Encoder::new().compress_vec(b"hello hello hello").unwrap();
    assert_eq!(Compression::Snappy.decompress(&packed.into(), 100).unwrap(), "hello hello hello");
}
