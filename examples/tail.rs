//! Writes a record and tails the topic: cargo run --example tail
#[tokio::main]
async fn main() -> Result<(), esker::client::Error> {
    let client = esker::client::Client::from_env()?;
    client.producer().build().send("greetings", "hello").await?.await?;
    let mut records = client.consumer().topic("greetings").build();
    while let Some(record) = records.recv().await? {
        println!("{} {}", record.offset, record.text());
    }
    Ok(())
}
