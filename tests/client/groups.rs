//! Consumer groups: members share partitions, commit, and read on where the group stands.

use std::collections::BTreeSet;
use std::time::Duration;

use esker::client::admin::PartitionOffset;
use esker::client::{Client, GroupConsumer, Record};

use super::{PATIENCE, create, start};

async fn write(client: &Client, numbers: std::ops::Range<usize>, partitions: usize) {
    let producer = client.producer().build();
    for number in numbers {
        let record = Record::new(number.to_string()).partition((number % partitions) as i32);
        drop(producer.send("t", record).await.unwrap());
    }
    producer.close().await;
}

async fn number(member: &mut GroupConsumer) -> Option<usize> {
    let record = tokio::time::timeout(PATIENCE, member.recv()).await.expect("a record comes in time").unwrap()?;
    Some(record.text().parse().unwrap())
}

/// Committed offsets and how far they are behind.
async fn offsets(client: &Client) -> Vec<(i32, i64, i64)> {
    let described = client.admin().describe_group("g").await.unwrap();
    let of = |one: &esker::client::admin::GroupOffset| (one.partition, one.committed_offset, one.end_offset);
    described.offsets.iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_reads_on_where_it_stood() {
    let folder = tempfile::tempdir().unwrap();
    let (_, _broker, client) = start(folder.path());
    create(&client, "t", 2).await;
    write(&client, 0..10, 2).await;
    let group = || client.consumer().stop_at_end(true).group("g").topics(["t"]);
    let mut first = group().auto_commit_ms(None).build();
    for _ in 0..6 {
        number(&mut first).await.unwrap();
    }
    first.commit().await.unwrap();
    let taken: i64 = offsets(&client).await.iter().map(|(_, committed, _)| committed).sum();
    assert_eq!(taken, 6);
    // What was taken and not committed comes again.
    number(&mut first).await.unwrap();
    first.close().await.unwrap();
    let mut second = group().build();
    let mut seen = 0;
    while number(&mut second).await.is_some() {
        seen += 1;
    }
    assert_eq!(seen, 4);
    second.close().await.unwrap();
    assert_eq!(offsets(&client).await, [(0, 5, 5), (1, 5, 5)]);
    // It is moved back, and reads again.
    let back = PartitionOffset { topic: "t".to_owned(), partition: 1, offset: 3, ..PartitionOffset::default() };
    assert!(client.admin().set_group_offsets("g", vec![back]).await.unwrap().is_empty());
    let mut third = group().build();
    let mut seen = Vec::new();
    while let Some(number) = number(&mut third).await {
        seen.push(number);
    }
    assert_eq!(seen, [7, 9]);
    third.close().await.unwrap();
    client.admin().delete_group("g").await.unwrap();
    assert!(client.admin().describe_group("g").await.unwrap_err().is_not_found());
}

/// Members come and go while records are written, and the broker is killed in between: every record is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_share_and_take_over_and_nothing_is_left_out() {
    const PARTITIONS: usize = 4;
    const RECORDS: usize = 2_000;
    let folder = tempfile::tempdir().unwrap();
    let (setup, broker, client) = start(folder.path());
    create(&client, "t", PARTITIONS as i32).await;
    let (seen, mut numbers) = tokio::sync::mpsc::unbounded_channel();
    let member = |limit: usize| {
        let (client, seen) = (client.clone(), seen.clone());
        tokio::spawn(async move {
            let group = client.consumer().group("g").topics(["t"]).session_timeout_ms(6_000);
            let mut member = group.auto_commit_ms(Some(100)).build();
            for _ in 0..limit {
                let record = member.recv().await.unwrap().unwrap();
                let number: usize = record.text().parse().unwrap();
                let _ = seen.send(number);
            }
            member.close().await
        })
    };
    // One leaves early; the other takes its partitions over.
    let (early, other) = (member(300), member(usize::MAX));
    write(&client, 0..RECORDS / 2, PARTITIONS).await;
    let _ = tokio::time::timeout(PATIENCE, early).await.unwrap().unwrap();
    broker.kill();
    let (_broker, _) = tokio::task::spawn_blocking(move || setup.start()).await.unwrap();
    write(&client, RECORDS / 2..RECORDS, PARTITIONS).await;
    let mut taken = BTreeSet::new();
    let all = async {
        while taken.len() < RECORDS {
            taken.insert(numbers.recv().await.unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("every record is taken");
    other.abort();
    assert!(other.await.unwrap_err().is_cancelled());
    tokio::time::timeout(Duration::from_mins(1), async {
        // It left: nobody is in the group any more.
        while !client.admin().describe_group("g").await.unwrap().members.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the member leaves");
}
