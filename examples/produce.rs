//! Writes the lines of stdin, many at a time, keyed by their first word: cargo run --example produce -- TOPIC < FILE
use std::io::{Error, stdin};

use esker::client::{Client, Compression, Record};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let topic = std::env::args().nth(1).unwrap_or_else(|| "greetings".to_owned());
    let client = Client::from_env().map_err(Error::other)?;
    let producer = client.producer().compression(Compression::Zstd).linger_ms(20).build();
    let mut deliveries = Vec::new();
    for line in stdin().lines() {
        let line = line?;
        let key = line.split_whitespace().next().unwrap_or_default().to_owned();
        // Waits only while the producer's buffer is full.
        let record = Record::new(line).key(key).header("written-by", "examples/produce.rs");
        deliveries.push(producer.send(&topic, record).await.map_err(Error::other)?);
    }
    producer.flush().await;
    let mut written = 0;
    for delivery in deliveries {
        match delivery.await {
            Ok(_) => written += 1,
            Err(error) => {
                eprintln!("not written: {error} (it may be there all the same: {})", error.may_have_happened());
            }
        }
    }
    println!("{written} records are written to {topic}");
    Ok(())
}
