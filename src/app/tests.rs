use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;

use uuid::Uuid;

use super::cli::{Action, parse};
use super::data_dir::{DataDir, DataDirError};
use super::identity;
use super::listen::{ListenError, reserve};
use super::options::id_wish;
use crate::base::{Clock, Rng, SessionId, TopicPartition};
use crate::broker::newest_state;
use crate::cluster::{self, KeySpace, Sessions};
use crate::config::{BrokerSettings, Settings};
use crate::format::FormatError;
use crate::format::identity::Identity;
use crate::format::metadata::FromStream;
use crate::format::state::PartitionState;
use crate::meta::{MemoryMeta, MetaStore};
use crate::objstore::{MemoryStore, ObjectStore, Payload};
use crate::partition::stream::StreamState;

fn arguments(text: &str) -> Vec<OsString> {
    text.split_whitespace().map(OsString::from).collect()
}

fn no_file(_: &str) -> std::io::Result<String> {
    Err(std::io::ErrorKind::NotFound.into())
}

fn try_parse(text: &str) -> Result<Action, String> {
    parse(arguments(text), &BTreeMap::new(), no_file).map_err(|error| error.0)
}

#[test]
fn a_state_is_taken_only_from_the_epoch_it_is_listed_with() {
    let partition = TopicPartition::new(Uuid::from_u128(1), 0);
    let session = |epoch| SessionId { broker_id: 1, epoch };
    let stream = |epoch: u64, leader_epoch| {
        let state = PartitionState { leader_epoch, next_offset: epoch as i64, ..PartitionState::default() };
        let partitions = [(partition, state)].into();
        (session(epoch), StreamState { session: session(epoch), next_seq: 9, sealed: true, partitions })
    };
    let from = |epoch, leader_epoch| FromStream { session: session(epoch), leader_epoch, sealed_seq: 9 };
    let taken = |from: &[FromStream]| {
        let mut streams = [stream(1, 0), stream(2, 1), stream(3, 5)].into();
        newest_state(partition, from, &mut streams).map_or(0, |state| state.next_offset)
    };
    assert_eq!(taken(&[from(2, 1), from(1, 0)]), 2);
    // Session 3 led it under epoch 5 once; under 6 it died before its Acquired was committed.
    assert_eq!(taken(&[from(3, 6), from(2, 1)]), 2);
    assert_eq!(taken(&[from(4, 7), from(1, 0)]), 1);
    assert_eq!(taken(&[]), 0);
}

#[test]
fn no_sub_command_prints_help() {
    for text in ["esker", "esker --help", "esker -h"] {
        let Ok(Action::Print(help)) = try_parse(text) else { panic!("{text}") };
        assert!(help.contains("serve") && help.contains("Kafka"), "{help}");
    }
}

#[test]
fn help_tells_default_bounds_and_other_places() {
    let Ok(Action::Print(help)) = try_parse("esker serve --help") else { panic!("no help") };
    for part in ["--flush-linger", "ESKER_FLUSH_LINGER", "flush.linger", "10ms (file, memory), 250ms (s3)", "0..1min"] {
        assert!(help.contains(part), "{part} in {help}");
    }
    let Ok(Action::Print(short)) = try_parse("esker serve -h") else { panic!("no help") };
    assert!(short.contains("--data-dir") && !short.contains("--flush-linger"), "{short}");
}

#[test]
fn mistakes_are_usage_errors() {
    for (text, part) in [
        ("esker brew", "unrecognized subcommand"),
        ("esker serve --flush-lingr 5ms", "--flush-linger"),
        ("esker serve --flush-linger", "a value is required"),
        ("esker serve --flush-linger 5", "the unit is missing"),
        ("esker serve --config nowhere.toml", "the settings file 'nowhere.toml' cannot be read"),
        ("esker serve leftover", "unexpected argument"),
    ] {
        let message = try_parse(text).err().unwrap_or_else(|| panic!("{text} was accepted"));
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn flags_variables_and_file_meet() {
    let variables = BTreeMap::from([
        ("ESKER_CONFIG".to_owned(), "e.toml".to_owned()),
        ("ESKER_BROKER_ID".to_owned(), "2".to_owned()),
    ]);
    let file = |path: &str| {
        assert_eq!(path, "e.toml");
        Ok("broker_id = 3\nzone = 'z'\ntopics.auto_create = true".to_owned())
    };
    let done = parse(arguments("esker serve --broker-id 1 --topics-auto-create=false"), &variables, file);
    let Ok(Action::Serve(loaded)) = done else { panic!("{done:?}") };
    assert_eq!(loaded.settings.broker.broker_id, Some(1));
    assert_eq!(loaded.settings.broker.zone.as_deref(), Some("z"));
    assert!(!loaded.settings.topics.auto_create);
}

#[test]
fn a_data_directory_remembers_the_id_that_it_was_last_given() {
    let temp = tempfile::tempdir().unwrap();
    let mut fresh = DataDir::open(temp.path(), None).unwrap();
    assert_eq!(fresh.broker_id(), None);
    fresh.belong_to("cluster-a", 4, Uuid::from_u128(7)).unwrap();
    drop(fresh);
    let mut again = DataDir::open(temp.path(), None).unwrap();
    assert_eq!((again.broker_id(), again.directory_id()), (Some(4), Some(Uuid::from_u128(7))));
    // Another has id 4 now.
    again.belong_to("cluster-a", 6, Uuid::from_u128(8)).unwrap();
    assert_eq!(again.broker_id(), Some(6));
    drop(again);
    let again = DataDir::open(temp.path(), Some(6)).unwrap();
    assert_eq!(again.directory_id(), Some(Uuid::from_u128(7)), "the directory is the same");
}

#[test]
fn a_broker_alone_is_number_one_unless_told_otherwise() {
    let wish = |asked, remembered| {
        let settings = Settings {
            broker: BrokerSettings { broker_id: asked, ..BrokerSettings::default() },
            ..Settings::default()
        };
        id_wish(&settings, remembered, Uuid::nil(), "here".to_owned(), 1).asked
    };
    assert_eq!(wish(None, None), Some(1));
    assert_eq!(wish(None, Some(3)), Some(3));
    assert_eq!(wish(Some(5), None), Some(5));
}

#[test]
fn a_data_directory_is_one_brokers_of_one_cluster() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("data");
    let mut first = DataDir::open(&path, Some(1)).unwrap();
    assert_eq!(first.directory_id(), None);
    let holder = DataDir::open(&path, Some(1)).unwrap_err();
    assert!(
        matches!(&holder, DataDirError::InUse(_, pid) if pid.contains(&std::process::id().to_string())),
        "{holder}"
    );
    first.belong_to("cluster-a", 1, Uuid::from_u128(7)).unwrap();
    drop(first);
    let mut again = DataDir::open(&path, Some(1)).unwrap();
    assert_eq!(again.directory_id(), Some(Uuid::from_u128(7)));
    again.belong_to("cluster-a", 1, Uuid::from_u128(8)).unwrap();
    assert_eq!(again.directory_id(), Some(Uuid::from_u128(7)));
    let other = again.belong_to("cluster-b", 1, Uuid::from_u128(8)).unwrap_err().to_string();
    assert!(other.contains("belongs to cluster cluster-a") && other.contains("cluster-b"), "{other}");
    drop(again);
    let broker = DataDir::open(&path, Some(2)).unwrap_err().to_string();
    assert!(broker.contains("belongs to broker 1, and --broker-id is 2"), "{broker}");
}

#[test]
fn a_foreign_or_newer_or_damaged_directory_is_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("thesis.txt"), "precious").unwrap();
    assert!(matches!(DataDir::open(temp.path(), Some(1)), Err(DataDirError::Foreign(_))));

    let temp = tempfile::tempdir().unwrap();
    let version = temp.path().join("VERSION");
    let identity = Identity::DataDirectory { cluster_id: "c".to_owned(), directory_id: Uuid::nil(), broker_id: 1 };
    std::fs::write(&version, identity.encode().replace("format: 1", "format: 2")).unwrap();
    let newer = DataDir::open(temp.path(), Some(1)).unwrap_err().to_string();
    assert!(newer.contains("format version 2") && newer.contains("use a newer esker"), "{newer}");
    for damaged in ["", "hello", &identity.encode().replace("broker: 1", "broker: 2"), &"x".repeat(10_000)] {
        std::fs::write(&version, damaged).unwrap();
        let error = DataDir::open(temp.path(), Some(1)).unwrap_err();
        assert!(matches!(error, DataDirError::Version { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(&version).unwrap(), damaged);
    }
}

#[test]
fn identities_read_back_and_any_change_is_seen() {
    let identities = [
        Identity::DataDirectory { cluster_id: "5bF3nJ2p".to_owned(), directory_id: Uuid::from_u128(9), broker_id: 3 },
        Identity::ObjectStore { cluster_id: "5bF3nJ2p".to_owned(), epoch_base: 0 },
        Identity::ObjectStore { cluster_id: "5bF3nJ2p".to_owned(), epoch_base: 2_000_000_000 },
    ];
    for identity in identities {
        let text = identity.encode();
        assert_eq!(Identity::decode(text.as_bytes()), Ok(identity.clone()));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert_ne!(Identity::decode(&bytes), Ok(identity.clone()), "byte {at}");
            assert!(Identity::decode(&text.as_bytes()[..at]).is_err(), "cut at {at}");
        }
    }
    let newer =
        Identity::ObjectStore { cluster_id: "c".to_owned(), epoch_base: 0 }.encode().replace("format: 1", "format: 9");
    let found = Identity::decode(newer.as_bytes());
    assert!(matches!(found, Err(FormatError::Newer { found: 9, supported: 2, .. })), "{found:?}");
}

#[test]
fn identities_of_every_version_are_read_for_ever() {
    let cluster_id = "5bF3nJ2pQxqk1o0yZ8dGwA".to_owned();
    let directory_id = "6f1c2a3e-0d4b-4c5a-9e8f-001122334455".parse().unwrap();
    for (name, identity) in [
        (
            "v1-data-directory.txt",
            Identity::DataDirectory { cluster_id: cluster_id.clone(), directory_id, broker_id: 1 },
        ),
        ("v1-object-store.txt", Identity::ObjectStore { cluster_id: cluster_id.clone(), epoch_base: 0 }),
        ("v2-object-store.txt", Identity::ObjectStore { cluster_id, epoch_base: 2_000_000_000 }),
    ] {
        let path = format!("{}/tests/golden/identity/{name}", env!("CARGO_MANIFEST_DIR"));
        let fixture = std::fs::read_to_string(&path).unwrap();
        assert_eq!(Identity::decode(fixture.as_bytes()), Ok(identity.clone()), "{name}");
        assert_eq!(identity.encode(), fixture, "{name}");
    }
}

#[tokio::test]
async fn a_store_belongs_to_the_cluster_that_came_first() {
    let temp = tempfile::tempdir().unwrap();
    let (clock, rng) = (Clock::system(), Rng::seeded(1));
    let keys = KeySpace::of_cluster("test");
    let metas: [Arc<dyn MetaStore>; 2] =
        [Arc::new(MemoryMeta::new(clock.clone())), Arc::new(MemoryMeta::new(clock.clone()))];
    let mut a_dir = DataDir::open(&temp.path().join("a"), Some(1)).unwrap();
    let b_dir = DataDir::open(&temp.path().join("b"), Some(1)).unwrap();
    let store = MemoryStore::new(clock.clone());
    let a = identity::settle(&metas[0], &keys, &store, "memory://", Some(&a_dir), &clock, &rng).await.unwrap();
    assert_eq!(a.len(), 22);
    a_dir.belong_to(&a, 1, Uuid::nil()).unwrap();
    let again = identity::settle(&metas[0], &keys, &store, "memory://", Some(&a_dir), &clock, &rng).await.unwrap();
    assert_eq!(again, a);
    let settled = identity::settle(&metas[1], &keys, &store, "memory://", Some(&b_dir), &clock, &rng).await;
    let refused = settled.unwrap_err().to_string();
    assert!(refused.contains(&format!("the object store memory:// belongs to cluster {a}")), "{refused}");
    let empty = MemoryStore::new(clock.clone());
    let settled = identity::settle(&metas[1], &keys, &empty, "memory://", Some(&a_dir), &clock, &rng).await;
    let refused = settled.unwrap_err().to_string();
    assert!(refused.contains("the data directory") && refused.contains(&a), "{refused}");
    // The cluster's data is in `store`; another one that is empty is not taken for it.
    let settled = identity::settle(&metas[0], &keys, &empty, "s3://typo", Some(&a_dir), &clock, &rng).await;
    let refused = settled.unwrap_err().to_string();
    assert!(refused.contains("s3://typo holds nothing of cluster") && refused.contains("--object-store"), "{refused}");
    let new_dir = DataDir::open(&temp.path().join("new"), Some(2)).unwrap();
    identity::settle(&metas[0], &keys, &store, "memory://", Some(&new_dir), &clock, &rng).await.unwrap();
    let sessions = Sessions { store: metas[0].clone(), keys: keys.clone(), clock: clock.clone() };
    let broker = cluster::Identity { broker_id: 1, directory_id: Uuid::nil(), host: "here".to_owned(), pid: 1 };
    let _registration = sessions.register(&broker, 60_000).await.unwrap();
    let settled = identity::settle(&metas[0], &keys, &empty, "s3://typo", Some(&new_dir), &clock, &rng).await;
    assert!(settled.unwrap_err().to_string().contains("holds nothing of cluster"));
    identity::settle(&metas[0], &keys, &empty, "memory://", None, &clock, &rng).await.unwrap();
    store.put("cluster", Payload::from(bytes::Bytes::from_static(b"something else"))).await.unwrap();
    assert!(identity::settle(&metas[0], &keys, &store, "memory://", Some(&a_dir), &clock, &rng).await.is_err());
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = reserve("kafka.listen", &address).unwrap_err();
    assert!(matches!(error, ListenError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("--kafka-listen") && error.to_string().contains(&address), "{error}");
    let error = reserve("http.listen", "no-such-host.invalid:1").unwrap_err();
    assert!(matches!(error, ListenError::Resolve { .. }), "{error}");
    let free = reserve("http.listen", "127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "a reserved port is not open yet");
    let _listener = free.open().unwrap();
    tokio::net::TcpStream::connect(address).await.unwrap();
}
