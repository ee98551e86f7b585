use proptest::prelude::*;

use super::*;

fn record() -> impl Strategy<Value = Vec<Operation>> {
    let key = "[a-z/é]{0,12}";
    let put = (key, any::<u64>(), any::<u64>(), any::<i64>(), prop::collection::vec(any::<u8>(), 0..700)).prop_map(
        |(key, create_revision, mod_revision, lease, value)| Operation::Put {
            key,
            create_revision,
            mod_revision,
            lease,
            value: value.into(),
        },
    );
    prop::collection::vec(prop_oneof![put, key.prop_map(|key| Operation::Delete { key })], 0..5)
}

fn file(records: &[Record]) -> Bytes {
    let mut bytes = BytesMut::from(&header()[..]);
    for record in records {
        encode(record, &mut bytes);
    }
    bytes.freeze()
}

fn changes(operations: Vec<Vec<Operation>>) -> Vec<Record> {
    let record = |(operations, revision)| {
        let kind = if revision == 1 { RecordKind::SnapshotEnd } else { RecordKind::Change };
        Record { kind, revision, operations }
    };
    operations.into_iter().zip(1..).map(record).collect()
}

proptest! {
    #[test]
    fn what_is_written_is_read(operations in prop::collection::vec(record(), 1..8)) {
        let records = changes(operations);
        let bytes = file(&records);
        prop_assert_eq!(scan(&bytes), Ok((records, bytes.len())));
    }

    #[test]
    fn a_cut_file_gives_whole_records(operations in prop::collection::vec(record(), 1..6), cut in 0.0..1.0f64) {
        let records = changes(operations);
        let bytes = file(&records);
        let cut = HEADER_BYTES + ((bytes.len() - HEADER_BYTES) as f64 * cut) as usize;
        let scanned = scan(&bytes.slice(..cut));
        if cut < file(&records[..1]).len() {
            prop_assert!(scanned.is_err(), "a snapshot is whole or the file is damaged");
            return Ok(());
        }
        let (read, good) = scanned.expect("torn, not damaged");
        prop_assert!(good <= cut);
        prop_assert_eq!(&read[..], &records[..read.len()]);
        prop_assert_eq!(file(&read).len(), good);
    }

    #[test]
    fn any_bytes_are_judged_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), with_header: bool) {
        let mut file = if with_header { header().to_vec() } else { Vec::new() };
        file.extend(bytes);
        let _ = scan(&Bytes::from(file));
    }

    #[test]
    fn a_flipped_bit_never_changes_what_is_read(
        operations in prop::collection::vec(record(), 1..5),
        at in 0.0..1.0f64,
        bit in 0..8u8,
    ) {
        let records = changes(operations);
        let mut bytes = file(&records).to_vec();
        let at = (bytes.len() as f64 * at) as usize;
        bytes[at] ^= 1 << bit;
        if let Ok((read, _)) = scan(&Bytes::from(bytes)) {
            prop_assert_eq!(&read[..], &records[..read.len()]);
            prop_assert!(read.len() + 1 >= records.len(), "only a last record can be taken for torn");
        }
    }
}

#[test]
fn revisions_must_follow_each_other() {
    use RecordKind::{Change, SnapshotEnd, SnapshotPart};
    let scanned = |records: &[(RecordKind, u64)]| {
        let record = |&(kind, revision): &(RecordKind, u64)| Record { kind, revision, operations: Vec::new() };
        scan(&file(&records.iter().map(record).collect::<Vec<_>>())).map(|(records, _)| records.len())
    };
    assert_eq!(scanned(&[(SnapshotPart, 4), (SnapshotEnd, 4), (Change, 5), (Change, 6)]), Ok(4));
    for wrong in [
        &[][..],
        &[(Change, 1)],
        &[(SnapshotPart, 4)],
        &[(SnapshotPart, 4), (SnapshotEnd, 5)],
        &[(SnapshotPart, 4), (Change, 5)],
        &[(SnapshotEnd, 4), (SnapshotEnd, 4)],
        &[(SnapshotEnd, 4), (Change, 4)],
        &[(SnapshotEnd, 4), (Change, 6)],
        &[(SnapshotEnd, u64::MAX), (Change, 0)],
    ] {
        assert!(matches!(scanned(wrong), Err(MetalogError::Damaged { .. })), "{wrong:?}");
    }
}

#[test]
fn a_newer_version_is_refused_with_its_number() {
    let mut bytes = header();
    bytes[8] = 2;
    let sum = crc(&bytes[..12]);
    bytes[12..].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(scan(&Bytes::copy_from_slice(&bytes)), Err(MetalogError::Newer { found: 2 }));
}

#[test]
fn the_bytes_are_those_of_version_1() {
    let put = Operation::Put {
        key: "a/b".to_owned(),
        create_revision: 2,
        mod_revision: 3,
        lease: 4,
        value: Bytes::from_static(b"v"),
    };
    let delete = Operation::Delete { key: "c".to_owned() };
    let records = [
        Record { kind: RecordKind::SnapshotEnd, revision: 2, operations: Vec::new() },
        Record { kind: RecordKind::Change, revision: 3, operations: vec![put, delete] },
    ];
    let hex = include_str!("../../../tests/golden/metadata/metalog_v1.hex").trim();
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
    let golden: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    assert_eq!(file(&records), golden);
}
