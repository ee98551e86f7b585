//! The Rust client against the real broker: what it writes is read, whatever is killed meanwhile; the examples run.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

#[path = "../support/process.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod process;

mod examples;
mod groups;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use esker::client::admin::NewTopic;
use esker::client::{Client, Compression, Reason, Record, Start};
use process::{Broker, Setup};

/// Longest wait for anything here.
const PATIENCE: Duration = Duration::from_mins(2);

/// A broker that keeps its gRPC port over restarts, and a client of it.
fn start(folder: &Path) -> (Setup, Broker, Client) {
    let (broker, doors) = Setup::new(folder, &[]).start();
    let address = doors.grpc.to_string();
    let setup = Setup::new(folder, &["--grpc-listen", &address]);
    (setup, broker, Client::connect(&address).unwrap())
}

async fn create(client: &Client, name: &str, partitions: i32) {
    let topic = NewTopic { name: name.to_owned(), partitions, ..NewTopic::default() };
    client.admin().create_topic(topic).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_come_back_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let (_, _broker, client) = start(folder.path());
    create(&client, "t", 3).await;
    let codecs = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    let mut sent = BTreeSet::new();
    for codec in codecs {
        let producer = client.producer().compression(codec).linger_ms(50).build();
        let mut deliveries = Vec::new();
        for number in 0..100 {
            let value = format!("{codec:?} {number} {}", "x".repeat(number));
            let record = Record::new(value.clone()).key(format!("key {number}")).timestamp_ms(1_000 + number as i64);
            deliveries.push((value, producer.send("t", record.header("codec", codec.name())).await.unwrap()));
        }
        producer.flush().await;
        for (value, delivery) in deliveries {
            let at = delivery.await.unwrap();
            sent.insert((at.partition, at.offset.unwrap(), value));
        }
    }
    let mut records = client.consumer().topic("t").stop_at_end(true).build();
    let mut partitions_of_keys: BTreeMap<Vec<u8>, BTreeSet<i32>> = BTreeMap::new();
    while let Some(record) = records.recv().await.unwrap() {
        let text = record.text().into_owned();
        let words: Vec<&str> = text.split(' ').collect();
        assert_eq!(record.headers[0].0, "codec");
        let name = record.headers[0].1.clone().unwrap();
        assert_eq!(words[0].to_lowercase().as_bytes(), name.as_ref());
        assert_eq!(record.timestamp_ms, 1_000 + words[1].parse::<i64>().unwrap());
        partitions_of_keys.entry(record.key.unwrap().to_vec()).or_default().insert(record.partition);
        assert!(sent.remove(&(record.partition, record.offset, text)), "it was not sent, or came twice");
    }
    assert!(sent.is_empty());
    assert!(partitions_of_keys.values().all(|partitions| partitions.len() == 1));
    // From the middle, by offset, where batches are cut.
    let mut tail = client.consumer().partition_from("t", 0, Start::Offset(33)).stop_at_end(true).build();
    assert_eq!(tail.recv().await.unwrap().unwrap().offset, 33);
    // Only what is new.
    let mut new = client.consumer().topic("t").start(Start::Latest).build();
    assert!(tokio::time::timeout(Duration::from_millis(300), new.recv()).await.is_err());
    let producer = client.producer().build();
    let at = producer.send("t", "new").await.unwrap().await.unwrap();
    let found = tokio::time::timeout(PATIENCE, new.recv()).await.unwrap().unwrap().unwrap();
    assert_eq!((found.partition, Some(found.offset)), (at.partition, at.offset));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (_, _broker, client) = start(folder.path());
    let missing = client.consumer().topic("missing").build().recv().await.unwrap_err();
    assert_eq!((missing.reason(), missing.is_retriable()), (Reason::UnknownTopic, false), "{missing}");
    create(&client, "t", 1).await;
    let again = NewTopic { name: "t".to_owned(), ..NewTopic::default() };
    assert!(client.admin().create_topic(again).await.unwrap_err().is_already_exists());
    assert!(client.admin().describe_topic("missing").await.unwrap_err().is_not_found());
    let past = client.consumer().partition_from("t", 0, Start::Offset(5)).build().recv().await.unwrap_err();
    assert_eq!(past.reason(), Reason::OffsetOutOfRange);
    let producer = client.producer().build();
    let nowhere = producer.send("t", Record::new("x").partition(7)).await.unwrap().await.unwrap_err();
    assert_eq!((nowhere.reason(), nowhere.may_have_happened()), (Reason::UnknownPartition, false));
    let large = producer.send("t", Record::new(vec![0_u8; 3 << 20])).await.unwrap().await.unwrap_err();
    assert_eq!((large.reason(), large.may_have_happened()), (Reason::TooLarge, false));
    // What follows goes on.
    assert_eq!(producer.send("t", "fine").await.unwrap().await.unwrap().offset, Some(0));
    let nobody = Client::connect("127.0.0.1:1").unwrap().admin().describe_cluster().await.unwrap_err();
    assert!(nobody.to_string().contains("127.0.0.1:1: ") && nobody.to_string().contains("refused"), "{nobody}");
    assert!(Client::connect("nonsense").is_err() && Client::connect(" ,").is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrap_address_that_is_dead_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let (_, _broker, client) = start(folder.path());
    let address = client.admin().describe_cluster().await.unwrap().brokers[0].endpoints["grpc"].clone();
    let client = Client::connect(&format!("127.0.0.1:1,{address}")).unwrap();
    client.producer().build().send("t", "x").await.unwrap().await.unwrap();
    let mut records = client.consumer().topic("t").stop_at_end(true).build();
    assert_eq!(records.recv().await.unwrap().unwrap().text(), "x");
}

/// A broker is killed again and again while records are written and read: each is there once, in order, where its producer was
/// told; the reader sees each once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_the_broker_is_killed() {
    const PARTITIONS: usize = 3;
    const KILLS: usize = 4;
    let folder = tempfile::tempdir().unwrap();
    let (setup, mut broker, client) = start(folder.path());
    create(&client, "t", PARTITIONS as i32).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let writing = tokio::spawn({
        let (client, stop) = (client.clone(), stop.clone());
        async move {
            let producer = client.producer().linger_ms(1).batch_bytes(4_096).build();
            let mut deliveries = Vec::new();
            while !stop.is_cancelled() {
                let number = deliveries.len();
                let record = Record::new(number.to_string()).partition((number % PARTITIONS) as i32);
                deliveries.push(producer.send("t", record).await.unwrap());
                if number % 50 == 0 {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
            producer.flush().await;
            let mut told = Vec::new();
            for delivery in deliveries {
                told.push(delivery.await.unwrap());
            }
            told
        }
    });
    let reading = tokio::spawn({
        let client = client.clone();
        async move {
            let mut records = client.consumer().topic("t").credit_bytes(100_000).build();
            let mut seen: Vec<Vec<(i64, usize)>> = vec![Vec::new(); PARTITIONS];
            loop {
                let record = records.recv().await.unwrap().unwrap();
                if record.text() == "end" {
                    return seen;
                }
                seen[record.partition as usize].push((record.offset, record.text().parse().unwrap()));
            }
        }
    });
    for _ in 0..KILLS {
        // Some work between two lives.
        tokio::time::sleep(Duration::from_millis(700)).await;
        broker.kill();
        let again = setup.clone();
        broker = tokio::task::spawn_blocking(move || again.start().0).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.cancel();
    let told = tokio::time::timeout(PATIENCE, writing).await.unwrap().unwrap();
    let mut expected: Vec<Vec<usize>> = vec![Vec::new(); PARTITIONS];
    for (number, at) in told.iter().enumerate() {
        expected[at.partition as usize].push(number);
    }
    let mut records = client.consumer().topic("t").stop_at_end(true).build();
    let mut found: Vec<Vec<(i64, usize)>> = vec![Vec::new(); PARTITIONS];
    while let Some(record) = records.recv().await.unwrap() {
        let number: usize = record.text().parse().unwrap();
        assert!(told[number].offset.is_none_or(|offset| offset == record.offset), "{number}");
        found[record.partition as usize].push((record.offset, number));
    }
    for (partition, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let numbers: Vec<usize> = found.iter().map(|(_, number)| *number).collect();
        assert!(numbers == *expected, "partition {partition}: lost, doubled or out of order");
    }
    // The reader is ended by a last record in each partition: it stops at the first that it sees, after all of that one.
    let producer = client.producer().build();
    for partition in 0..PARTITIONS as i32 {
        producer.send("t", Record::new("end").partition(partition)).await.unwrap().await.unwrap();
    }
    let seen = tokio::time::timeout(PATIENCE, reading).await.unwrap().unwrap();
    for (partition, (found, seen)) in found.iter().zip(&seen).enumerate() {
        assert!(found.starts_with(seen), "partition {partition}: the reader saw something else");
    }
    assert!(found.iter().zip(&seen).any(|(found, seen)| found == seen), "the reader saw all of one");
    println!("{} records, {KILLS} kills", told.len());
}
