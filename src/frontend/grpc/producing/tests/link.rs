use std::sync::Arc;

use crate::cluster::picture::Picture;
use crate::frontend::grpc::forward::Forward;
use crate::frontend::grpc::producing::link::Links;
use crate::protocol::grpc::v1::{ProduceRequest, Reason};

#[tokio::test]
async fn a_request_that_is_too_large_does_not_reach_the_link() {
    let links = Links::new(Arc::new(Forward::new(Forward::over_tcp())), 1_000);
    let image = Arc::new(Picture::of(1).image);
    let link = links.open("127.0.0.1:1", &image);
    assert_eq!(links.open("127.0.0.1:1", &image), link, "there is one for all partitions");
    let request = |bytes| ProduceRequest { batch: vec![0; bytes].into(), ..ProduceRequest::default() };
    let failure = links.send(link, request(1_000)).await.unwrap_err();
    assert_eq!((failure.error.reason(), failure.error.retriable), (Reason::TooLarge, false));
    assert!(failure.unwritten);
    let gone = links.send(link + 1, request(1)).await.unwrap_err();
    assert_eq!((gone.error.reason(), gone.unwritten), (Reason::Unavailable, true));
}
