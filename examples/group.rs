//! Reads a topic as a member of a consumer group, and commits every hundred records: cargo run --example group -- TOPIC GROUP
use esker::client::{Client, Error};
use futures::TryStreamExt as _;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |otherwise: &str| arguments.next().unwrap_or_else(|| otherwise.to_owned());
    let (topic, group) = (argument("greetings"), argument("readers"));
    let consumer = Client::from_env()?.consumer().stop_at_end(true).group(group);
    let mut records = consumer.topics([topic]).auto_commit_ms(None).build();
    let mut taken = 0;
    while let Some(record) = records.try_next().await? {
        println!("{}-{}@{} {}", record.topic, record.partition, record.offset, record.text());
        taken += 1;
        if taken % 100 == 0 {
            records.commit().await?;
        }
    }
    if taken > 0 {
        records.commit().await?;
    }
    records.close().await
}
