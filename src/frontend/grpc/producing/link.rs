//! One stream of requests to another broker, for the partitions that it leads.
//!
//! Requests go in the order in which they were given, and are answered in it. When the stream breaks, those that wait hear so:
//! whether they were written is not known. The next request begins a new stream.
//!
//! The stream is a task that ends when the [`Links`] are dropped.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::{Failure, PIPELINE};
use crate::cluster::ClusterImage;
use crate::frontend::grpc::forward::Forward;
use crate::frontend::grpc::offsets::lost;
use crate::protocol::grpc::v1::{Error, ProduceRequest, ProduceResponse, Reason};

/// Longest wait for the other broker to take the call, in milliseconds.
const OPEN_TIMEOUT_MS: u64 = 2_000;

/// The offset of a batch, or why it has none.
pub(super) type Told = Result<i64, Failure>;

type Sent = (ProduceRequest, oneshot::Sender<Told>);

/// The streams of one call, by endpoint.
#[derive(Debug)]
pub(super) struct Links {
    forward: Arc<Forward>,
    max_message_bytes: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    links: BTreeMap<String, Link>,
    /// The number of the last one that was begun.
    last: u64,
}

#[derive(Debug)]
struct Link {
    number: u64,
    requests: mpsc::Sender<Sent>,
    _task: AbortOnDropHandle<()>,
}

impl Links {
    pub(super) fn new(forward: Arc<Forward>, max_message_bytes: usize) -> Self {
        Self { forward, max_message_bytes, open: Mutex::default() }
    }

    /// The number of the link to `endpoint`, which is begun if there is none that works.
    pub(super) fn open(&self, endpoint: &str, image: &Arc<ClusterImage>) -> u64 {
        let mut open = self.open.lock();
        if let Some(link) = open.links.get(endpoint)
            && !link.requests.is_closed()
        {
            return link.number;
        }
        open.links.retain(|_, link| !link.requests.is_closed());
        let (requests, sent) = mpsc::channel(1);
        let drive = drive(self.forward.clone(), endpoint.to_owned(), image.clone(), self.max_message_bytes, sent);
        let task = AbortOnDropHandle::new(tokio::spawn(drive));
        open.last += 1;
        let number = open.last;
        open.links.insert(endpoint.to_owned(), Link { number, requests, _task: task });
        number
    }

    /// Sends a request on the link with this number; on return it has its place in the stream, and what comes back is its answer.
    ///
    /// Errors: the link is gone; or the request is too large for it, which would break it for all that use it.
    pub(super) async fn send(&self, link: u64, request: ProduceRequest) -> Result<oneshot::Receiver<Told>, Failure> {
        if request.encoded_len() > self.max_message_bytes {
            return Err(Failure { error: too_large(self.max_message_bytes), unwritten: true });
        }
        let (tell, told) = oneshot::channel();
        let gone = || Failure { error: broken(), unwritten: true };
        let found = self.open.lock().links.values().find(|one| one.number == link).map(|link| link.requests.clone());
        found.ok_or_else(gone)?.send((request, tell)).await.map_err(|_| gone())?;
        Ok(told)
    }
}

/// What those are told whose stream broke.
fn broken() -> Error {
    let message = "the stream to the partition's leader broke".to_owned();
    Error { reason: Reason::Unavailable.into(), message, retriable: true, leader: None }
}

fn too_large(max_message_bytes: usize) -> Error {
    let message = format!("the batch is larger than brokers take from each other: {max_message_bytes} bytes");
    Error { reason: Reason::TooLarge.into(), message, retriable: false, leader: None }
}

async fn drive(
    forward: Arc<Forward>,
    endpoint: String,
    image: Arc<ClusterImage>,
    max_message_bytes: usize,
    mut sent: mpsc::Receiver<Sent>,
) {
    let (sender, requests) = mpsc::channel(1);
    let opening = forward.produce_stream(&endpoint, ReceiverStream::new(requests), &image, max_message_bytes);
    let opened = tokio::time::timeout(Duration::from_millis(OPEN_TIMEOUT_MS), opening).await;
    let mut answers = match opened.unwrap_or_else(|_| Err(Status::unavailable("it does not take the call"))) {
        Ok(answers) => answers,
        Err(status) => {
            sent.close();
            while let Some((_, tell)) = sent.recv().await {
                // Nothing was sent. Whoever waits may be gone.
                let _ = tell.send(Err(Failure { error: lost(&status), unwritten: true }));
            }
            return;
        }
    };
    let mut waiting: VecDeque<oneshot::Sender<Told>> = VecDeque::new();
    let mut next: Option<ProduceRequest> = None;
    let error = loop {
        tokio::select! {
            biased;
            answer = answers.message() => match answer {
                Ok(Some(answer)) => {
                    let Some(tell) = waiting.pop_front() else { break broken() };
                    let _ = tell.send(told(answer));
                }
                Ok(None) => break broken(),
                Err(status) => break lost(&status),
            },
            room = sender.reserve(), if next.is_some() => match (room, next.take()) {
                (Ok(room), Some(request)) => room.send(request),
                _ => break broken(),
            },
            more = sent.recv(), if next.is_none() && waiting.len() < PIPELINE => match more {
                Some((request, tell)) => {
                    waiting.push_back(tell);
                    next = Some(request);
                }
                None => return,
            },
        }
    };
    sent.close();
    for tell in waiting {
        let _ = tell.send(Err(Failure { error: error.clone(), unwritten: false }));
    }
    while let Some((_, tell)) = sent.recv().await {
        let _ = tell.send(Err(Failure { error: error.clone(), unwritten: true }));
    }
}

fn told(answer: ProduceResponse) -> Told {
    match answer.appended.into_iter().next() {
        None => Err(Failure { error: broken(), unwritten: false }),
        Some(appended) => match appended.error {
            None => Ok(appended.base_offset),
            Some(error) => Err(Failure::at_the_leader(error)),
        },
    }
}
