use proptest::prelude::*;

use super::*;

fn backup() -> CatalogueBackup {
    let topic = |name: &str, id, configs: &[(&str, &str)], leader_epochs: Vec<i32>| SavedTopic {
        topic: TopicRecord {
            name: name.to_owned(),
            id: Uuid::from_u128(id),
            partitions: leader_epochs.len() as u32,
            replication_factor: 3,
            configs: configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            created_ms: 1_700_000_000_000,
        },
        leader_epochs,
    };
    let session = |broker_id, epoch| SessionId { broker_id, epoch };
    CatalogueBackup {
        revision: 4711,
        cluster_id: "MkU3OEVBNTcwNTJENDM2Qk".to_owned(),
        created_ms: 1_700_000_000_000,
        next_producer_id: 3000,
        topics: vec![
            topic("__consumer_offsets", 8, &[("cleanup.policy", "compact")], vec![0, 2]),
            topic("orders", 7, &[], vec![5]),
        ],
        deletions: vec![SavedDeletion {
            id: Uuid::from_u128(6),
            deletion: DeletionRecord { name: "old".to_owned(), partitions: 1, deleted_ms: 1_700_000_000_500 },
        }],
        sessions: vec![
            SavedSession { session: session(1, 42), sealed: Some(17) },
            SavedSession { session: session(1, 61), sealed: None },
        ],
    }
}

#[test]
fn it_is_written_as_it_always_was() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/catalogue/v1.txt");
    let golden = std::fs::read(path).expect("the fixture");
    assert_eq!(String::from_utf8_lossy(&backup().encode()), String::from_utf8_lossy(&golden));
    assert_eq!(CatalogueBackup::decode(&golden), Ok(backup()));
}

#[test]
fn another_revision_of_the_same_catalogue_is_the_same() {
    let later = CatalogueBackup { revision: 4712, ..backup() };
    assert!(backup().same_content(&later));
    let others = [
        CatalogueBackup { next_producer_id: 4000, ..backup() },
        CatalogueBackup { topics: Vec::new(), ..backup() },
        CatalogueBackup { deletions: Vec::new(), ..backup() },
        CatalogueBackup { sessions: Vec::new(), ..backup() },
        CatalogueBackup { cluster_id: "other".to_owned(), ..backup() },
        CatalogueBackup { created_ms: 0, ..backup() },
    ];
    assert!(others.iter().all(|other| !backup().same_content(other)));
}

#[test]
fn what_is_newer_damaged_or_something_else_is_called_that() {
    let text = String::from_utf8(backup().encode().to_vec()).expect("text");
    let newer = text.replace("format: 1", "format: 2");
    let found = FormatError::Newer { what: "the catalogue backup", found: 2, supported: 1 };
    assert_eq!(CatalogueBackup::decode(newer.as_bytes()), Err(found));
    let damaged = text.replace("orders", "0rders");
    assert_eq!(CatalogueBackup::decode(damaged.as_bytes()), Err(FormatError::Checksum(WHAT)));
    let other = CatalogueBackup::decode(b"esker object store\nformat: 1\n");
    assert_eq!(other, Err(FormatError::WrongMagic("a catalogue backup")));
    assert_eq!(CatalogueBackup::decode(b""), Err(FormatError::Truncated(WHAT)));
    let mut misshapen = backup();
    misshapen.topics[0].leader_epochs.pop();
    assert_eq!(CatalogueBackup::decode(&misshapen.encode()), Err(FormatError::Invalid(WHAT)));
}

proptest! {
    #[test]
    fn damage_is_noticed(at in 0..800_usize, bit in 0..8_u8) {
        let mut bytes = backup().encode().to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(CatalogueBackup::decode(&bytes).is_err());
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = CatalogueBackup::decode(&bytes);
        let _ = CatalogueBackup::decode(&[b"esker catalogue\nformat: 1\n".as_slice(), &bytes].concat());
    }
}
