//! Clients are told the addresses of the listener that they came through.

use kafka_protocol::messages::{DescribeClusterRequest, FindCoordinatorRequest, MetadataRequest};
use kafka_protocol::protocol::StrBytes;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::house::{Client, house, versions};
use crate::config::KafkaSettings;
use crate::frontend::kafka::{bind, serve};

/// Every address that a client is told of the one broker, whatever it asks.
async fn told(client: &mut Client) -> Vec<(String, i32)> {
    let mut told = Vec::new();
    for version in versions::<MetadataRequest>() {
        let answer = client.call(&MetadataRequest::default(), version).await;
        told.extend(answer.brokers.iter().map(|broker| (broker.host.to_string(), broker.port)));
    }
    for version in versions::<DescribeClusterRequest>() {
        let answer = client.call(&DescribeClusterRequest::default(), version).await;
        told.extend(answer.brokers.iter().map(|broker| (broker.host.to_string(), broker.port)));
    }
    let group = StrBytes::from_static_str("group");
    let one = client.call(&FindCoordinatorRequest::default().with_key(group.clone()), 3).await;
    told.push((one.host.to_string(), one.port));
    let several = client.call(&FindCoordinatorRequest::default().with_coordinator_keys(vec![group]), 4).await;
    told.extend(several.coordinators.iter().map(|found| (found.host.to_string(), found.port)));
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn each_listener_tells_its_own_addresses() {
    let house = house(KafkaSettings::default()).await;
    let listener = bind("127.0.0.1:0").await.unwrap();
    let outside = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, house.front.external(), stop.clone()));

    let inside = told(&mut house.client().await).await;
    let own = ("127.0.0.1".to_owned(), i32::from(house.address.port()));
    assert!(inside.len() > 10 && inside.iter().all(|address| *address == own), "{inside:?}");

    let mut client = Client::over(TcpStream::connect(outside).await.unwrap());
    let from_outside = told(&mut client).await;
    let external = ("2001:db8::1".to_owned(), 19092);
    assert!(from_outside.iter().all(|address| *address == external), "{from_outside:?}");
    drop(client);
    stop.cancel();
    serving.await.unwrap();
}
