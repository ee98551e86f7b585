//! Fetch: sessions (KIP-227), topic ids (KIP-516), and the reader behind them.

use std::sync::Arc;

use kafka_protocol::error::ResponseError as Kafka;
use kafka_protocol::messages::FetchRequest as Request;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::call::{Call, CallError};
use super::endpoints::{Endpoint, Leaders};
use super::fetch_reply::{self, PartitionReply, TopicReply};
use super::fetch_session::{Context, Told, TopicKey, Wanted};
use super::frame::Reply;
use super::offsets::isolation;
use super::{Session, errors};
use crate::base::{HashMap, TopicPartition};
use crate::broker::{BrokerError, Topic, partition_of};
use crate::cluster::ClusterImage;
use crate::fetch::{FetchRequest, PartitionFetch, PartitionRequest};
use crate::partition::{Isolation, LogError};

pub(super) async fn fetch(session: &Session, mut call: Call) -> Result<Reply, CallError> {
    let request: Request = call.decode()?;
    let front = &session.front;
    let (context, wanted) = match front.sessions.begin(&request, call.version, front.clock.boot_ms()) {
        Ok(begun) => begun,
        Err(error) => {
            session.count_error("Fetch", error.code());
            return fetch_reply::encode(&call, error.code(), 0, Vec::new(), &[]);
        }
    };
    let isolation = isolation(request.isolation_level);
    let mut topics = Topics { image: session.broker().image(), known: HashMap::default() };
    let mut answers: Vec<Option<PartitionReply>> = Vec::with_capacity(wanted.len());
    let mut partitions = Vec::with_capacity(wanted.len());
    for asked in &wanted {
        match topics.find(session, asked) {
            Ok(partition) => {
                answers.push(None);
                partitions.push(PartitionRequest {
                    partition,
                    offset: asked.offset,
                    max_bytes: usize::try_from(asked.max_bytes).unwrap_or(0),
                    current_leader_epoch: asked.leader_epoch,
                });
            }
            Err(error) => answers.push(Some(failed(session, asked.partition, &error))),
        }
    }
    let some_failed = partitions.len() < wanted.len();
    let read = FetchRequest {
        partitions,
        min_bytes: usize::try_from(request.min_bytes).unwrap_or(0),
        max_bytes: usize::try_from(request.max_bytes).unwrap_or(0).min(front.settings.max_fetch_bytes),
        // Errors are told at once.
        max_wait_ms: if some_failed { 0 } else { u64::try_from(request.max_wait_ms).unwrap_or(0) },
        isolation,
    };
    drop(request);
    let mut found = session.broker().fetch(&read).await.into_iter();
    let mut replies: Vec<PartitionReply> = answers
        .into_iter()
        .zip(&wanted)
        .map(|(answer, asked)| match answer {
            Some(answer) => answer,
            None => match found.next() {
                Some(found) => partition_reply(session, asked.partition, found, isolation),
                None => PartitionReply::failed(asked.partition, Kafka::UnknownServerError.code()),
            },
        })
        .collect();
    let leaders = if call.version >= fetch_reply::FIRST_LEADERS {
        name_leaders(session, &wanted, &mut replies)
    } else {
        Vec::new()
    };
    let told: Vec<Told> = replies.iter().map(told).collect();
    let now_ms = front.clock.boot_ms();
    let (session_id, named) = front.sessions.finish(context, &wanted, &told, now_ms, &front.rng);
    let (kept, partitions_kept) = front.sessions.size();
    front.metrics.fetch_sessions.set(kept as i64);
    front.metrics.fetch_session_partitions.set(partitions_kept as i64);
    let session_id = if call.version < 7 { 0 } else { session_id };
    debug_assert!(context != Context::Full || session_id == 0, "a full fetch has no session");
    fetch_reply::encode(&call, 0, session_id, by_topic(&wanted, replies, &named), &leaders)
}

/// Says where to go with what this broker does not lead (any more), as the cluster is now. Returns who was named.
fn name_leaders(session: &Session, wanted: &[Wanted], replies: &mut [PartitionReply]) -> Vec<Endpoint> {
    let lost = [Kafka::NotLeaderOrFollower.code(), Kafka::FencedLeaderEpoch.code()];
    if !replies.iter().any(|reply| lost.contains(&reply.error_code)) {
        return Vec::new();
    }
    let image = session.front.broker.current().image();
    let mut leaders = Leaders::new(&image, session.front.external);
    for (asked, reply) in wanted.iter().zip(replies).filter(|(_, reply)| lost.contains(&reply.error_code)) {
        let topic = match &asked.topic {
            TopicKey::Name(name) => image.topic(name),
            TopicKey::Id(id) => image.topic_by_id(*id),
        };
        let leader = topic.and_then(|topic| leaders.name(topic, asked.partition));
        reply.current_leader = leader.map(|(id, epoch)| (id.0, epoch));
    }
    leaders.named()
}

fn told(reply: &PartitionReply) -> Told {
    Told {
        records_bytes: reply.records_bytes(),
        error_code: reply.error_code,
        high_watermark: reply.high_watermark,
        log_start: reply.log_start,
    }
}

/// Topics of one request, each looked up once.
struct Topics {
    image: Arc<ClusterImage>,
    known: HashMap<TopicKey, Result<Arc<Topic>, BrokerError>>,
}

impl Topics {
    fn find(&mut self, session: &Session, asked: &Wanted) -> Result<TopicPartition, BrokerError> {
        let broker = session.broker();
        let topic = self.known.entry(asked.topic.clone()).or_insert_with(|| match &asked.topic {
            TopicKey::Name(name) => broker.topic(&self.image, name),
            TopicKey::Id(id) => broker.topic_by_id(&self.image, *id),
        });
        match topic {
            Ok(topic) => partition_of(topic, asked.partition),
            Err(error) => Err(error.clone()),
        }
    }
}

fn failed(session: &Session, index: i32, error: &BrokerError) -> PartitionReply {
    let code = errors::code(error);
    session.count_error("Fetch", code);
    PartitionReply::failed(index, code)
}

fn partition_reply(session: &Session, index: i32, found: PartitionFetch, isolation: Isolation) -> PartitionReply {
    match found.result {
        Ok(read) => PartitionReply {
            index,
            error_code: 0,
            high_watermark: read.view.high_watermark,
            last_stable: read.view.last_stable,
            log_start: read.view.log_start,
            aborted: (isolation == Isolation::ReadCommitted).then_some(read.aborted),
            batches: read.batches,
            current_leader: None,
        },
        Err(error) => {
            let out_of_range = match &error {
                crate::fetch::FetchError::Log(LogError::OffsetOutOfRange { log_start, high_watermark, .. }) => {
                    Some((*log_start, *high_watermark))
                }
                _ => None,
            };
            let mut reply = failed(session, index, &error.into());
            if let Some((log_start, high_watermark)) = out_of_range {
                reply.log_start = log_start;
                reply.high_watermark = high_watermark;
            }
            reply
        }
    }
}

/// The replies that are to be told, gathered by topic where neighbours belong to one.
fn by_topic(wanted: &[Wanted], replies: Vec<PartitionReply>, named: &[bool]) -> Vec<TopicReply> {
    let mut topics: Vec<TopicReply> = Vec::new();
    let mut last: Option<&TopicKey> = None;
    for ((asked, reply), _) in wanted.iter().zip(replies).zip(named).filter(|(_, named)| **named) {
        if last != Some(&asked.topic) {
            let (name, id) = match &asked.topic {
                TopicKey::Name(name) => (StrBytes::from_string(name.to_string()), Uuid::nil()),
                TopicKey::Id(id) => (StrBytes::new(), *id),
            };
            topics.push(TopicReply { name, id, partitions: Vec::new() });
            last = Some(&asked.topic);
        }
        if let Some(topic) = topics.last_mut() {
            topic.partitions.push(reply);
        }
    }
    topics
}
