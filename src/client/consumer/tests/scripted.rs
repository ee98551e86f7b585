//! A broker that says what the test has it say.

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::client::{Client, Error, GroupConsumer, Reason};
use crate::protocol::grpc::v1::consume_request::Kind as Asked;
use crate::protocol::grpc::v1::consume_response::Kind as Told;
use crate::protocol::grpc::v1::consumer_server::{Consumer, ConsumerServer};
use crate::protocol::grpc::v1::{
    self, ConsumeAssigned, ConsumeCommit, ConsumeCommitted, ConsumeRequest, ConsumeResponse, ConsumeRevoking,
    FetchData, FetchRequest, FetchResponse, PartitionOffset, Record,
};
use crate::protocol::grpc::with_detail;

/// One call of a member: what it asks, and what it is told.
struct Call {
    requests: Streaming<ConsumeRequest>,
    answers: mpsc::Sender<Result<ConsumeResponse, Status>>,
}

impl Call {
    async fn asked(&mut self) -> Asked {
        self.requests.message().await.unwrap().unwrap().kind.unwrap()
    }

    /// The next request that is not credit.
    async fn wanted(&mut self) -> Asked {
        loop {
            match self.asked().await {
                Asked::Credit(_) => {}
                other => return other,
            }
        }
    }

    async fn tell(&self, told: Told) {
        self.answers.send(Ok(ConsumeResponse { kind: Some(told) })).await.unwrap();
    }

    async fn assign(&self, partition: i32, offset: i64) {
        let partitions = vec![place(partition, offset)];
        self.tell(Told::Assigned(ConsumeAssigned { member_id: "m".to_owned(), generation: 1, partitions })).await;
    }

    async fn data(&self, partition: i32, offsets: std::ops::Range<i64>) {
        let record = |offset| Record { value: Some(Bytes::from_static(b"x")), offset, ..Record::default() };
        self.tell(Told::Data(FetchData {
            topic: "t".to_owned(),
            partition,
            next_offset: offsets.end,
            high_watermark: offsets.end,
            records: offsets.map(record).collect(),
            bytes: 100,
            ..FetchData::default()
        }))
        .await;
    }

    async fn committed(&mut self) -> Vec<PartitionOffset> {
        let Asked::Commit(ConsumeCommit { id, offsets }) = self.wanted().await else { panic!("no commit came") };
        self.tell(Told::Committed(ConsumeCommitted { id, failed: Vec::new() })).await;
        offsets
    }
}

fn place(partition: i32, offset: i64) -> PartitionOffset {
    PartitionOffset { topic: "t".to_owned(), partition, offset, leader_epoch: -1, error: None }
}

struct Door {
    calls: mpsc::Sender<Call>,
    refusal: Option<Status>,
}

#[tonic::async_trait]
impl Consumer for Door {
    type FetchStream = BoxStream<'static, Result<FetchResponse, Status>>;
    type ConsumeStream = BoxStream<'static, Result<ConsumeResponse, Status>>;

    async fn fetch(&self, _: Request<Streaming<FetchRequest>>) -> Result<Response<Self::FetchStream>, Status> {
        Err(Status::unimplemented("not in this script"))
    }

    async fn consume(
        &self,
        request: Request<Streaming<ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let (answers, receiver) = mpsc::channel(16);
        let _ = self.calls.send(Call { requests: request.into_inner(), answers }).await;
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }
}

/// A client of the scripted broker, and the calls that come.
async fn door(refusal: Option<Status>) -> (Client, mpsc::Receiver<Call>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, calls) = mpsc::channel(1);
    let service = ConsumerServer::new(Door { calls: sender, refusal });
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
    (Client::connect(&address).unwrap(), calls)
}

async fn member(auto_commit_ms: Option<u64>) -> (GroupConsumer, Call, mpsc::Receiver<Call>) {
    let (client, mut calls) = door(None).await;
    let group = client.consumer().credit_bytes(1_000).group("g").topics(["t"]);
    let member = group.auto_commit_ms(auto_commit_ms).instance_id("i").build();
    let mut call = calls.recv().await.unwrap();
    let Asked::Open(open) = call.asked().await else { panic!("the first message opens") };
    assert_eq!((open.group.as_str(), &open.topics[..], open.credit_bytes), ("g", &["t".to_owned()][..], 1_000));
    assert_eq!(open.instance_id.as_deref(), Some("i"));
    (member, call, calls)
}

async fn offset(member: &mut GroupConsumer) -> (i32, i64) {
    let record = member.recv().await.unwrap().unwrap();
    (record.partition, record.offset)
}

#[tokio::test]
async fn a_member_commits_what_was_taken_and_gives_credit_for_it() {
    let (mut member, mut call, _calls) = member(None).await;
    call.assign(0, 5).await;
    call.data(0, 5..8).await;
    assert_eq!(offset(&mut member).await, (0, 5));
    assert_eq!(offset(&mut member).await, (0, 6));
    assert_eq!(member.assigned(), [place(0, 5)]);
    let (committed, seen) = tokio::join!(member.commit(), call.committed());
    committed.unwrap();
    assert_eq!(seen, [place(0, 7)]);
    // The rest of the message is taken, and then it is paid for.
    call.data(0, 8..9).await;
    assert_eq!(offset(&mut member).await, (0, 7));
    assert_eq!(offset(&mut member).await, (0, 8));
    let Asked::Credit(credit) = call.asked().await else { panic!("no credit came") };
    assert_eq!(credit.bytes, 100);
}

#[tokio::test]
async fn a_commit_that_the_group_refuses_is_an_error() {
    let (mut member, mut call, _calls) = member(None).await;
    call.assign(0, 0).await;
    call.data(0, 0..1).await;
    offset(&mut member).await;
    let refuse = async {
        let Asked::Commit(commit) = call.wanted().await else { panic!("no commit came") };
        let error = Some(v1::Error { reason: Reason::Conflict.into(), ..v1::Error::default() });
        let failed = vec![PartitionOffset { error, ..place(0, 1) }];
        call.tell(Told::Committed(ConsumeCommitted { id: commit.id, failed })).await;
    };
    let (committed, ()) = tokio::join!(member.commit(), refuse);
    assert_eq!(committed.unwrap_err().reason(), Reason::Conflict);
}

#[tokio::test]
async fn partitions_are_given_up_when_their_records_were_taken_and_committed() {
    let (mut member, mut call, _calls) = member(Some(1_000_000)).await;
    call.assign(0, 0).await;
    call.data(0, 0..2).await;
    call.tell(Told::Revoking(ConsumeRevoking {})).await;
    assert_eq!(offset(&mut member).await, (0, 0));
    assert_eq!(offset(&mut member).await, (0, 1));
    let group = async {
        assert_eq!(call.committed().await, [place(0, 2)]);
        assert!(matches!(call.wanted().await, Asked::Released(_)));
        call.assign(1, 7).await;
        call.data(1, 7..8).await;
    };
    let (next, ()) = tokio::join!(offset(&mut member), group);
    assert_eq!(next, (1, 7));
    assert_eq!(member.assigned(), [place(1, 7)]);
    // What belongs to others now is not committed again.
    let (closed, seen) = tokio::join!(member.close(), call.committed());
    closed.unwrap();
    assert_eq!(seen, [place(1, 8)]);
    // It has left: its requests end.
    assert!(matches!(call.requests.message().await, Ok(None) | Err(_)));
}

#[tokio::test]
async fn a_member_whose_connection_breaks_joins_anew() {
    let (mut member, call, mut calls) = member(None).await;
    call.assign(0, 0).await;
    call.data(0, 0..1).await;
    assert_eq!(offset(&mut member).await, (0, 0));
    drop(call);
    let again = async {
        let call = calls.recv().await.unwrap();
        call.assign(0, 0).await;
        call.data(0, 0..1).await;
        call
    };
    let (next, _call) = tokio::join!(offset(&mut member), again);
    assert_eq!(next, (0, 0), "it was not committed");
}

#[tokio::test]
async fn at_the_end_there_is_time_to_commit() {
    let (client, mut calls) = door(None).await;
    let mut member = client.consumer().stop_at_end(true).group("g").topics(["t"]).build();
    let mut call = calls.recv().await.unwrap();
    call.asked().await;
    call.assign(0, 0).await;
    call.data(0, 0..1).await;
    let (topic, partition, next_offset) = ("t".to_owned(), 0, 1);
    call.tell(Told::End(v1::FetchEnd { topic, partition, next_offset })).await;
    assert_eq!(offset(&mut member).await, (0, 0));
    assert_eq!(member.recv().await.unwrap(), None);
    let (closed, seen) = tokio::join!(member.close(), call.committed());
    closed.unwrap();
    assert_eq!(seen, [place(0, 1)]);
}

#[tokio::test]
async fn a_group_that_cannot_be_joined_is_an_error_and_the_end() {
    let error = v1::Error { reason: Reason::Conflict.into(), message: "no".to_owned(), ..v1::Error::default() };
    let (client, _calls) = door(Some(with_detail(tonic::Code::Aborted, &error))).await;
    let mut member = client.consumer().group("g").topics(["t"]).build();
    let told: Error = member.recv().await.unwrap_err();
    assert_eq!((told.reason(), told.to_string().as_str()), (Reason::Conflict, "no"));
    assert_eq!(member.recv().await.unwrap(), None);
}
