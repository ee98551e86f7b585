//! The door of a whole broker in memory, and clients that speak gRPC over sockets.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Streaming};

use crate::base::Clock;
use crate::cluster::Registration;
use crate::config::{GrpcSettings, KafkaSettings};
use crate::frontend::grpc::metrics::{LimitLabels, Metrics};
use crate::frontend::grpc::serve;
use crate::frontend::kafka::tests::house::{House, house};
use crate::protocol::grpc::detail;
use crate::protocol::grpc::v1::admin_client::AdminClient;
use crate::protocol::grpc::v1::consume_request::Kind as Asked;
use crate::protocol::grpc::v1::consume_response::Kind as Told;
use crate::protocol::grpc::v1::consumer_client::ConsumerClient;
use crate::protocol::grpc::v1::list_offsets_request::At;
use crate::protocol::grpc::v1::producer_client::ProducerClient;
use crate::protocol::grpc::v1::{
    ConsumeOpen, ConsumeRequest, ConsumeResponse, CreateTopicRequest, DescribeGroupRequest, FetchFrom, FetchOpen,
    FetchRequest, ListOffsetsRequest, ProduceRequest, Reason, Record, fetch_request,
};

const TOPIC: &str = "greetings";
/// A topic of one partition that is led here.
const ALONE: &str = "alone";
/// A partition that is led here, and one that nobody leads.
const HERE: i32 = 0;
const AWAY: i32 = 1;
/// What takes longer never comes.
const LONGEST: Duration = Duration::from_secs(20);
const MIB: usize = 1 << 20;

struct Door {
    _house: House,
    address: SocketAddr,
    metrics: Metrics,
    _neighbour: Registration,
    _stop: DropGuard,
}

async fn door() -> Door {
    let house = house(KafkaSettings::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (slot, stop, metrics) = (house.slot.clone(), CancellationToken::new(), Metrics::default());
    let (stopping, counted) = (stop.clone(), metrics.clone());
    tokio::spawn(async move {
        serve(listener, &GrpcSettings::default(), slot, Clock::system(), counted, stopping).await.unwrap();
    });
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    for (name, partitions) in [(TOPIC, 2), (ALONE, 1)] {
        let topic = CreateTopicRequest { name: name.to_owned(), partitions, ..CreateTopicRequest::default() };
        AdminClient::new(channel.clone()).create_topic(topic).await.unwrap();
    }
    let neighbour = house.neighbour(7, "other.example", None).await;
    house.give(TOPIC, AWAY, neighbour.session()).await;
    Door { _house: house, address, metrics, _neighbour: neighbour, _stop: stop.drop_guard() }
}

impl Door {
    fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap()
    }

    async fn channel(&self) -> Channel {
        self.endpoint().connect().await.unwrap()
    }

    /// A connection that takes next to nothing before it is read.
    async fn narrow(&self) -> Channel {
        self.endpoint().initial_stream_window_size(64).connect().await.unwrap()
    }

    async fn end(&self) -> i64 {
        let at = Some(At::Latest(true));
        let ask =
            ListOffsetsRequest { topic: TOPIC.to_owned(), partitions: vec![HERE], at, ..ListOffsetsRequest::default() };
        let told = AdminClient::new(self.channel().await).list_offsets(ask).await.unwrap();
        told.into_inner().offsets[0].offset
    }

    async fn members(&self, group: &str) -> usize {
        let ask = DescribeGroupRequest { group: group.to_owned() };
        let told = AdminClient::new(self.channel().await).describe_group(ask).await;
        told.map_or(0, |told| told.into_inner().members.len())
    }
}

/// Looks again and again until it is so.
async fn comes_true(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !look().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONGEST, looking).await.unwrap_or_else(|_| panic!("{what} does not come"));
}

fn write(id: u64, topic: &str) -> ProduceRequest {
    let record = Record { value: Some(Bytes::from(vec![b'v'; 100])), ..Record::default() };
    ProduceRequest {
        id,
        topic: topic.to_owned(),
        partition: Some(HERE),
        records: vec![record],
        ..ProduceRequest::default()
    }
}

#[tokio::test]
async fn what_is_written_goes_on_while_answers_are_not_read() {
    let door = door().await;
    let (requests, sent) = mpsc::channel(1);
    let mut client = ProducerClient::new(door.narrow().await);
    let answers = client.produce_stream(ReceiverStream::new(sent)).await.unwrap();
    for id in 0..200 {
        tokio::time::timeout(LONGEST, requests.send(write(id, TOPIC))).await.unwrap().unwrap();
    }
    comes_true("the last record", async || door.end().await == 200).await;
    drop(requests);
    let mut answers = answers.into_inner();
    for id in 0..200 {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!((answer.id, answer.appended[0].base_offset), (id, id as i64));
    }
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_call_without_a_leader_holds_its_share_and_others_write() {
    let door = door().await;
    let (requests, sent) = mpsc::channel(8);
    for id in 0..4 {
        let request = ProduceRequest {
            id,
            topic: TOPIC.to_owned(),
            partition: Some(AWAY),
            batch: vec![0; 12 * MIB].into(),
            timeout_ms: if id < 2 { 60_000 } else { 300 },
            ..ProduceRequest::default()
        };
        requests.send(request).await.unwrap();
    }
    drop(requests);
    let mut client = ProducerClient::new(door.channel().await);
    let _answers = client.produce_stream(ReceiverStream::new(sent)).await.unwrap();
    // Two of them have the call's share, and wait for a leader. The others have no room in their time.
    let refused = door.metrics.refused.get_or_create(&LimitLabels { reason: "held_bytes" }).clone();
    comes_true("a refusal of two", async || refused.get() == 2).await;
    // A request of another call needs none of that.
    let other = ProducerClient::new(door.channel().await).produce(write(9, TOPIC)).await.unwrap();
    assert_eq!(other.into_inner().appended[0].base_offset, 0);
}

async fn consume(
    channel: Channel,
    group: &str,
    limit: Option<&str>,
) -> (mpsc::Sender<ConsumeRequest>, Streaming<ConsumeResponse>) {
    let (requests, sent) = mpsc::channel(4);
    let open = ConsumeOpen {
        group: group.to_owned(),
        topics: vec![ALONE.to_owned()],
        session_timeout_ms: 60_000,
        ..ConsumeOpen::default()
    };
    requests.send(ConsumeRequest { kind: Some(Asked::Open(open)) }).await.unwrap();
    let mut request = Request::new(ReceiverStream::new(sent));
    if let Some(limit) = limit {
        request.metadata_mut().insert("grpc-timeout", limit.parse().unwrap());
    }
    let answers = ConsumerClient::new(channel).consume(request).await.unwrap().into_inner();
    (requests, answers)
}

#[tokio::test]
async fn a_member_whose_client_asks_wrongly_and_does_not_read_leaves_its_group() {
    let door = door().await;
    let mut client = ProducerClient::new(door.channel().await);
    for id in 0..20 {
        client.produce(write(id, ALONE)).await.unwrap();
    }
    let (requests, mut answers) = consume(door.narrow().await, "readers", None).await;
    comes_true("the member", async || door.members("readers").await == 1).await;
    let first = answers.message().await.unwrap().unwrap().kind.unwrap();
    assert!(matches!(first, Told::Assigned(_)), "{first:?}");
    let again = ConsumeRequest { kind: Some(Asked::Open(ConsumeOpen::default())) };
    requests.send(again).await.unwrap();
    comes_true("the group without a member", async || door.members("readers").await == 0).await;
    let said = loop {
        match answers.message().await {
            Ok(told) => assert!(told.is_some(), "it ends with what was wrong"),
            Err(status) => break status,
        }
    };
    assert_eq!(said.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn calls_whose_time_is_up_say_so() {
    let door = door().await;
    let (_requests, mut answers) = consume(door.channel().await, "readers", Some("700m")).await;
    let said = loop {
        match answers.message().await {
            Ok(told) => assert!(told.is_some(), "a member's call does not end well at its deadline"),
            Err(status) => break status,
        }
    };
    assert_eq!(detail(&said).map(|error| error.reason()), Some(Reason::TimedOut), "{said:?}");

    let (requests, sent) = mpsc::channel(1);
    let partitions = vec![FetchFrom { topic: TOPIC.to_owned(), partition: HERE, start: None }];
    let open = FetchOpen { partitions, ..FetchOpen::default() };
    requests.send(FetchRequest { kind: Some(fetch_request::Kind::Open(open)) }).await.unwrap();
    let mut request = Request::new(ReceiverStream::new(sent));
    request.metadata_mut().insert("grpc-timeout", "700m".parse().unwrap());
    let mut answers = ConsumerClient::new(door.channel().await).fetch(request).await.unwrap().into_inner();
    let said = answers.message().await.expect_err("a fetch does not end well at its deadline");
    assert_eq!(detail(&said).map(|error| error.reason()), Some(Reason::TimedOut), "{said:?}");
}
