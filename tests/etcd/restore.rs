//! The metadata store is lost, and `esker cluster restore` rebuilds it from the bucket: etcd, and the embedded one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use esker::base::Clock;
use esker::format::catalogue::CatalogueBackup;
use esker::protocol::batch::BatchBuilder;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use kafka_protocol::messages::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use kafka_protocol::protocol::StrBytes;
use serde_json::Value;

use crate::process::{Broker, Setup};
use crate::server::{Member, binary};
use crate::wire::{Connection, topic_name};

const PARTITIONS: i32 = 4;
const TOPIC: &str = "orders";
const LATE: &str = "late";
const GROUP: &str = "readers";
const RETENTION_MS: &str = "123456789";
const TOPIC_RESOURCE: i8 = 2;

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn restore(arguments: &[&str]) -> Said {
    let binary = std::env::var_os("ESKER_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_esker").into());
    let output = Command::new(binary).args(["cluster", "restore"]).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let clock = Clock::system();
    let deadline_ms = clock.boot_ms() + 60_000;
    while !holds() {
        assert!(clock.boot_ms() < deadline_ms, "not within a minute: {what}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Clients of all brokers: each request goes to the one that takes it.
struct Clients(Vec<SocketAddr>);

impl Clients {
    fn ask<T>(&self, what: &str, mut ask: impl FnMut(&mut Connection) -> std::io::Result<Option<T>>) -> T {
        let mut answer = None;
        until(what, || {
            let mut brokers = self.0.iter().filter_map(|address| Connection::open(*address).ok());
            answer = brokers.find_map(|mut broker| ask(&mut broker).ok().flatten());
            answer.is_some()
        });
        answer.unwrap()
    }

    fn create(&self, name: &str) {
        let config = CreatableTopicConfig::default()
            .with_name(StrBytes::from_static_str("retention.ms"))
            .with_value(Some(StrBytes::from_static_str(RETENTION_MS)));
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(PARTITIONS)
            .with_replication_factor(1)
            .with_configs(vec![config]);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(20_000);
        self.ask("the topic is created", |broker| {
            let code = broker.call(5, &request)?.topics[0].error_code;
            Ok(matches!(code, 0 | 36).then_some(()))
        });
    }

    fn produce(&self, topic: &str, partition: i32, batch: &Bytes) -> i64 {
        self.ask("somebody leads the partition", |broker| {
            broker.send_produce(topic, partition, -1, batch.clone())?;
            let produced = broker.receive_produce()?;
            Ok((produced.error == 0).then_some(produced.base_offset))
        })
    }

    fn values(&self, topic: &str, partition: i32) -> Vec<String> {
        self.ask("the partition is read", |broker| {
            let fetched = broker.fetch(topic, partition, 0, 100)?;
            let value = |value: &Bytes| String::from_utf8(value.to_vec()).unwrap();
            let values = fetched.records.iter().filter_map(|record| record.value.as_ref()).map(value);
            Ok((fetched.error == 0).then(|| values.collect()))
        })
    }

    fn commit(&self, partition: i32, offset: i64) {
        self.ask("the offset is committed", |broker| {
            broker.find_coordinator(GROUP)?;
            Ok((broker.commit_offset(GROUP, TOPIC, partition, offset)? == 0).then_some(()))
        });
    }

    fn committed(&self, partition: i32) -> i64 {
        self.ask("the offset is told", |broker| {
            broker.find_coordinator(GROUP)?;
            Ok(broker.committed_offset(GROUP, TOPIC, partition)?.ok())
        })
    }

    fn retention(&self, topic: &'static str) -> String {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(TOPIC_RESOURCE)
            .with_resource_name(StrBytes::from_static_str(topic))
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        self.ask("configs are told", |broker| {
            let reply = broker.call(4, &request)?;
            let mut configs = reply.results[0].configs.iter();
            let found = configs.find(|config| &*config.name == "retention.ms");
            Ok(found.and_then(|config| config.value.as_ref()).map(ToString::to_string))
        })
    }

    fn producer(&self) -> (i64, i16) {
        self.ask("a producer id", |broker| broker.init_producer().map(Some))
    }
}

fn batch(producer: (i64, i16), sequence: i32, value: &str) -> Bytes {
    BatchBuilder::new()
        .producer(producer.0, producer.1, sequence)
        .key_value(Clock::system().wall_ms(), "key", value.as_bytes().to_vec())
        .build()
}

/// Backups of the catalogue, oldest first.
fn backups(objects: &Path) -> Vec<(PathBuf, CatalogueBackup)> {
    let Ok(listed) = std::fs::read_dir(objects.join("catalogue")) else { return Vec::new() };
    let paths: Vec<PathBuf> = listed.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let read = |path: PathBuf| Some((path.clone(), CatalogueBackup::decode(&std::fs::read(&path).ok()?).ok()?));
    let mut found: Vec<_> = paths.into_iter().filter_map(read).collect();
    found.sort_by_key(|(_, backup)| backup.revision);
    found
}

fn has_topic(backup: &CatalogueBackup, name: &str) -> bool {
    backup.topics.iter().any(|saved| saved.topic.name == name)
}

/// What was written before the loss.
struct Before {
    producer: (i64, i16),
    batches: BTreeMap<i32, Bytes>,
}

/// Topics with records, an idempotent producer, committed offsets, a backup, and a topic that no backup knows.
fn before_the_loss(clients: &Clients, objects: &Path) -> Before {
    clients.create(TOPIC);
    let producer = clients.producer();
    let mut batches = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let batch = batch(producer, 0, &format!("{partition}/0"));
        assert_eq!(clients.produce(TOPIC, partition, &batch), 0);
        batches.insert(partition, batch);
        clients.commit(partition, i64::from(partition) + 10);
    }
    until("the catalogue is saved", || {
        let newest = backups(objects).pop();
        newest.is_some_and(|(_, backup)| has_topic(&backup, TOPIC) && has_topic(&backup, "__consumer_offsets"))
    });
    clients.create(LATE);
    clients.produce(LATE, 1, &batch(producer, 0, "late"));
    Before { producer, batches }
}

/// Everything is as it was, and goes on.
fn after_the_restore(clients: &Clients, before: &Before, late_id: &str) {
    for partition in 0..PARTITIONS {
        // What the producer repeats is recognised.
        assert_eq!(clients.produce(TOPIC, partition, &before.batches[&partition]), 0);
        assert_eq!(clients.values(TOPIC, partition), [format!("{partition}/0")]);
        let next = batch(before.producer, 1, &format!("{partition}/1"));
        assert_eq!(clients.produce(TOPIC, partition, &next), 1);
        assert_eq!(clients.values(TOPIC, partition), [format!("{partition}/0"), format!("{partition}/1")]);
        assert_eq!(clients.committed(partition), i64::from(partition) + 10);
    }
    assert_eq!(clients.retention(TOPIC), RETENTION_MS);
    assert_eq!(clients.values(&format!("restored-{late_id}"), 1), ["late"]);
    let producer = clients.producer();
    assert!(producer.0 >= before.producer.0 + 1_000_000, "{producer:?}");
    clients.create("afterwards");
    assert_eq!(clients.produce("afterwards", 0, &batch(producer, 0, "new")), 0);
}

/// Takes every backup away that knows of the late topic, as if there had been no time to write it.
fn forget_late(objects: &Path) {
    for (path, _) in backups(objects).iter().filter(|(_, backup)| has_topic(backup, LATE)) {
        std::fs::remove_file(path).unwrap();
    }
    assert!(has_topic(&backups(objects).pop().unwrap().1, TOPIC));
}

fn late_id(report: &Value) -> String {
    let topics = report["topics"].as_array().unwrap();
    let late = topics.iter().find(|topic| topic["origin"] == "streams").unwrap();
    assert_eq!(late["partitions"][1]["end_offset"], 1, "{report:#}");
    late["id"].as_str().unwrap().to_owned()
}

fn start(folder: &Path, id: i32, endpoint: &str) -> (Broker, SocketAddr) {
    let own = folder.join(id.to_string());
    std::fs::create_dir_all(&own).unwrap();
    let (metadata, objects) = (format!("etcd://{endpoint}"), format!("file://{}", folder.join("objects").display()));
    let id = id.to_string();
    let (broker, doors) =
        Setup::new(&own, &["--metadata", &metadata, "--object-store", &objects, "--broker-id", &id]).start();
    (broker, doors.kafka)
}

fn etcd_is_lost() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let objects = folder.join("objects");
    let mut etcd = Member::alone(&folder.join("etcd"), &[]);
    let (mut one, first) = start(folder, 1, &etcd.endpoint());
    let (two, second) = start(folder, 2, &etcd.endpoint());
    let before = before_the_loss(&Clients(vec![first, second]), &objects);
    // Broker 1 lives on, without etcd.
    two.kill();
    etcd.kill();
    forget_late(&objects);

    let new = Member::alone(&folder.join("etcd-2"), &[]);
    let (metadata, store) = (format!("etcd://{}", new.endpoint()), format!("file://{}", objects.display()));
    let places = ["--metadata", &metadata, "--object-store", &store];
    let with = |more: &[&str]| restore(&[&places, more].concat());
    let objects_before = std::fs::read_dir(objects.join("log")).unwrap().count();
    let dry = with(&["--dry-run"]);
    assert_eq!(dry.code, Some(0), "{}", dry.err);
    assert!(dry.out.contains("nothing was changed") && dry.out.contains("restored-"), "{}", dry.out);
    println!("{}", dry.out);
    let unasked = with(&[]);
    assert!(unasked.code == Some(1) && unasked.err.contains("--yes"), "{}", unasked.err);
    assert_eq!(std::fs::read_dir(objects.join("log")).unwrap().count(), objects_before);
    let done = with(&["--yes", "--json"]);
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    let report: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(report["restored"], true, "{report:#}");
    let again = with(&["--yes"]);
    assert!(again.code == Some(1) && again.err.contains("already holds a cluster"), "{}", again.err);

    // The broker of the old life is fenced: nothing that it is given is acknowledged …
    let mut old = Connection::open(first).unwrap();
    for partition in 0..PARTITIONS {
        let batch = batch(before.producer, 1, "lost");
        let sent = old.send_produce_within(TOPIC, partition, -1, batch, 2_000).and_then(|()| old.receive_produce());
        assert!(!sent.is_ok_and(|produced| produced.error == 0), "partition {partition}");
    }
    // … and when its etcd comes back, it does not begin anew with what that remembers.
    etcd.restart();
    let status = one.ended_within(60_000).unwrap_or_else(|| panic!("it goes on:\n{}", one.log_tail()));
    assert_eq!(status.code(), Some(1));
    let refused = Setup::new(&folder.join("1"), &["--metadata", &format!("etcd://{}", etcd.endpoint())]);
    let refused =
        Setup { flags: [refused.flags, vec!["--object-store".to_owned(), store.clone()]].concat(), ..refused };
    let mut refused = refused.spawn();
    assert!(refused.ready().is_err(), "with the old etcd nobody starts");
    assert!(refused.log_tail().contains("goes with another metadata store"), "{}", refused.log_tail());

    let (one, first) = start(folder, 1, &new.endpoint());
    let (two, second) = start(folder, 2, &new.endpoint());
    after_the_restore(&Clients(vec![first, second]), &before, &late_id(&report));
    let sessions = std::fs::read_dir(objects.join("log")).unwrap();
    let epochs: Vec<u64> = sessions
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().split_once('-').unwrap().1.parse().unwrap())
        .collect();
    let base = report["epoch_base"].as_u64().unwrap();
    assert!(epochs.iter().filter(|epoch| **epoch > base).count() >= 2, "{epochs:?}");
    assert!(epochs.iter().all(|epoch| *epoch > base || *epoch < base / 2), "{epochs:?}");
    for broker in [one, two] {
        assert!(broker.stop().success());
    }
}

fn embedded_metadata_is_lost() {
    let temp = tempfile::tempdir().unwrap();
    let setup = Setup::new(temp.path(), &[]);
    let objects = setup.data_dir().join("objects");
    let (broker, doors) = setup.start();
    let before = before_the_loss(&Clients(vec![doors.kafka]), &objects);
    let data_dir = setup.data_dir().display().to_string();
    let running = restore(&["--data-dir", &data_dir, "--yes"]);
    assert!(running.code == Some(1) && running.err.contains("in use by another esker"), "{}", running.err);
    broker.kill();
    let held = restore(&["--data-dir", &data_dir, "--yes"]);
    assert!(held.code == Some(1) && held.err.contains("already holds a cluster"), "{}", held.err);
    std::fs::remove_dir_all(setup.data_dir().join("meta")).unwrap();
    forget_late(&objects);
    let mut refused = setup.spawn();
    assert!(refused.ready().is_err(), "a metadata store that is empty is not taken for the cluster's");
    assert!(refused.log_tail().contains("esker cluster restore"), "{}", refused.log_tail());
    let done = restore(&["--data-dir", &data_dir, "--yes", "--json"]);
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    let report: Value = serde_json::from_str(&done.out).unwrap();
    let (broker, doors) = setup.start();
    after_the_restore(&Clients(vec![doors.kafka]), &before, &late_id(&report));
    let base = report["epoch_base"].as_u64().unwrap();
    until("the new life saves its catalogue, too", || {
        backups(&objects).last().is_some_and(|(_, backup)| backup.revision > base && has_topic(backup, "afterwards"))
    });
    assert!(broker.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_etcd_is_lost_comes_back_from_its_bucket() {
    if binary().is_some() {
        tokio::task::spawn_blocking(etcd_is_lost).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_whose_embedded_metadata_is_lost_comes_back_from_its_objects() {
    tokio::task::spawn_blocking(embedded_metadata_is_lost).await.unwrap();
}
