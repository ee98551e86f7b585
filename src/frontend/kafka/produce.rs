//! Produce: appends in order, replies when durable.

use bytes::{Buf, BufMut};
use futures::future::{BoxFuture, join_all, ready};
use kafka_protocol::error::ResponseError as Kafka;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::call::{Call, CallError, finish};
use super::endpoints::Leaders;
use super::frame::Reply;
use super::metadata::by_name_or_id;
use super::{Front, Session, errors};
use crate::base::Clock;
use crate::broker::{BrokerError, PendingProduce, Topic};
use crate::partition::{Acks, Appended};
use crate::protocol::batch::{BatchError, BatchHeader, Compression};
use crate::protocol::shape;

/// First version decoded by the `kafka-protocol` crate; older ones are decoded here.
const FIRST_MODERN: i16 = 3;
/// First version that may carry zstd (KIP-110).
const FIRST_ZSTD: i16 = 7;
/// First version that names topics by id (KIP-516).
const FIRST_BY_ID: i16 = 13;
/// First version with error messages (KIP-467).
const FIRST_MESSAGES: i16 = 8;
/// First version that names the leader of a partition that is not led here (KIP-951).
const FIRST_LEADERS: i16 = 10;

type Judged = Result<PendingProduce, BrokerError>;

/// What is due to one topic of the request.
struct TopicDue {
    name: TopicName,
    id: uuid::Uuid,
    partitions: Vec<(i32, Judged)>,
}

/// The request's timeout: one for room in the log and for durability, of all its partitions together.
struct Deadline {
    clock: Clock,
    at_boot_ms: u64,
}

impl Deadline {
    fn after(clock: &Clock, timeout_ms: i32) -> Self {
        let timeout_ms = u64::try_from(timeout_ms).unwrap_or(0);
        Self { clock: clock.clone(), at_boot_ms: clock.boot_ms().saturating_add(timeout_ms) }
    }

    fn left_ms(&self) -> u64 {
        self.at_boot_ms.saturating_sub(self.clock.boot_ms())
    }
}

/// Appends everything in the request, in order; the returned future is the reply (`None` for `acks=0`).
pub(super) async fn begin(session: &Session, mut call: Call) -> Result<BoxFuture<'static, Option<Reply>>, CallError> {
    let request = if call.version < FIRST_MODERN { decode_legacy(&mut call)? } else { call.decode()? };
    let acks = match request.acks {
        0 => Acks::None,
        1 => Acks::Leader,
        -1 => Acks::All,
        _ => return refuse_all(session, &call, &request, Kafka::InvalidRequiredAcks),
    };
    if request.transactional_id.is_some() {
        return refuse_all(session, &call, &request, Kafka::TransactionalIdAuthorizationFailed);
    }
    let deadline = Deadline::after(&session.front.clock, request.timeout_ms);
    let image = session.broker().image();
    let mut due = Vec::with_capacity(request.topic_data.len());
    for TopicProduceData { name, topic_id, partition_data, .. } in request.topic_data {
        let topic = by_name_or_id(session, &image, call.version >= FIRST_BY_ID, &name, topic_id);
        let mut partitions = Vec::with_capacity(partition_data.len());
        for data in partition_data {
            let judged = match &topic {
                Ok(topic) => append(session, &call, topic, &data, acks, &deadline).await,
                Err(error) => Err(error.clone()),
            };
            if let Err(error) = &judged {
                session.count_error("Produce", errors::code(error));
            }
            partitions.push((data.index, judged));
        }
        // The name shares the request's bytes, which are not to be kept until the reply.
        let name = TopicName(StrBytes::from_string(name.to_string()));
        due.push(TopicDue { name, id: topic_id, partitions });
    }
    if acks == Acks::None {
        let mut partitions = due.into_iter().flat_map(|topic| topic.partitions);
        let failed = partitions.find_map(|(_, judged)| judged.map_or_else(Some, PendingProduce::refusal));
        return match failed {
            Some(error) => Err(CallError::SilentProduce(error.to_string())),
            None => Ok(Box::pin(ready(None))),
        };
    }
    let front = session.front.clone();
    let peer = session.peer;
    Ok(Box::pin(async move {
        let session = Session::new(front, peer);
        let topics = due.into_iter().map(|topic| wait(&session, call.version, topic, &deadline));
        let mut response = ProduceResponse::default().with_responses(join_all(topics).await);
        if call.version >= FIRST_LEADERS {
            name_leaders(&session.front, call.version, &mut response);
        }
        match encode(&call, &response) {
            Ok(reply) => Some(reply),
            Err(error) => {
                tracing::error!(%error, "a produce reply could not be encoded");
                None
            }
        }
    }))
}

async fn append(
    session: &Session,
    call: &Call,
    topic: &Topic,
    data: &PartitionProduceData,
    acks: Acks,
    deadline: &Deadline,
) -> Judged {
    let records = data.records.clone().unwrap_or_default();
    let zstd = BatchHeader::decode(&records).is_some_and(|batch| batch.compression() == Compression::Zstd.id());
    if zstd && call.version < FIRST_ZSTD {
        return Err(BatchError::UnknownCompression(Compression::Zstd.id()).into());
    }
    session.broker().produce(topic, data.index, &records, acks, deadline.left_ms()).await
}

async fn wait(session: &Session, version: i16, topic: TopicDue, deadline: &Deadline) -> TopicProduceResponse {
    let partitions = topic.partitions.into_iter().map(|(index, judged)| async move {
        let done = match judged {
            Ok(pending) => {
                let done = pending.wait(deadline.left_ms()).await;
                if let Err(error) = &done {
                    session.count_error("Produce", errors::code(error));
                }
                done
            }
            Err(error) => Err(error),
        };
        partition_response(index, done, version)
    });
    TopicProduceResponse::default()
        .with_name(topic.name)
        .with_topic_id(topic.id)
        .with_partition_responses(join_all(partitions).await)
}

fn partition_response(index: i32, done: Result<Appended, BrokerError>, version: i16) -> PartitionProduceResponse {
    let response = PartitionProduceResponse::default().with_index(index);
    match done {
        Ok(appended) => response
            .with_base_offset(appended.base_offset)
            .with_log_append_time_ms(appended.log_append_time_ms)
            .with_log_start_offset(appended.log_start),
        Err(error) => {
            let response = response
                .with_error_code(errors::code(&error))
                .with_base_offset(-1)
                .with_log_append_time_ms(-1)
                .with_log_start_offset(-1);
            if version < FIRST_MESSAGES {
                return response;
            }
            let records = match &error {
                BrokerError::Batch(BatchError::KeyMissing { index }) => vec![
                    BatchIndexAndErrorMessage::default()
                        .with_batch_index(*index)
                        .with_batch_index_error_message(errors::message(&error)),
                ],
                _ => Vec::new(),
            };
            response.with_record_errors(records).with_error_message(errors::message(&error))
        }
    }
}

/// Says where to go with what this broker does not lead (any more). The cluster is looked at now: what led to the error
/// may have happened after the request came.
fn name_leaders(front: &Front, version: i16, response: &mut ProduceResponse) {
    let refused = |partition: &PartitionProduceResponse| partition.error_code == Kafka::NotLeaderOrFollower.code();
    if !response.responses.iter().any(|topic| topic.partition_responses.iter().any(refused)) {
        return;
    }
    let image = front.broker.current().image();
    let mut leaders = Leaders::new(&image, front.external);
    for answer in &mut response.responses {
        let topic = if version >= FIRST_BY_ID { image.topic_by_id(answer.topic_id) } else { image.topic(&answer.name) };
        let Some(topic) = topic else { continue };
        for partition in answer.partition_responses.iter_mut().filter(|partition| refused(partition)) {
            if let Some((id, epoch)) = leaders.name(topic, partition.index) {
                partition.current_leader = LeaderIdAndEpoch::default().with_leader_id(id).with_leader_epoch(epoch);
            }
        }
    }
    response.node_endpoints = leaders
        .named()
        .into_iter()
        .map(|broker| {
            NodeEndpoint::default()
                .with_node_id(broker.node_id)
                .with_host(broker.host)
                .with_port(broker.port)
                .with_rack(broker.rack)
        })
        .collect();
}

/// One error for every partition.
fn refuse_all(
    session: &Session,
    call: &Call,
    request: &ProduceRequest,
    error: Kafka,
) -> Result<BoxFuture<'static, Option<Reply>>, CallError> {
    session.count_error("Produce", error.code());
    if request.acks == 0 {
        return Err(CallError::SilentProduce(error.to_string()));
    }
    let topics = request.topic_data.iter().map(|topic| {
        let partitions = topic.partition_data.iter().map(|data| {
            PartitionProduceResponse::default()
                .with_index(data.index)
                .with_error_code(error.code())
                .with_base_offset(-1)
                .with_log_start_offset(-1)
        });
        TopicProduceResponse::default()
            .with_name(topic.name.clone())
            .with_topic_id(topic.topic_id)
            .with_partition_responses(partitions.collect())
    });
    let reply = encode(call, &ProduceResponse::default().with_responses(topics.collect()))?;
    Ok(Box::pin(ready(Some(reply))))
}

fn encode(call: &Call, response: &ProduceResponse) -> Result<Reply, CallError> {
    if call.version < FIRST_MODERN { encode_legacy(call, response) } else { call.encode(response) }
}

/// Versions 0 to 2: acks, timeout, topics with partitions and their message sets.
fn decode_legacy(call: &mut Call) -> Result<ProduceRequest, CallError> {
    let (api, version) = (call.api, call.version);
    shape::check(api, version, &call.body).map_err(|reason| CallError::Shape { api, version, reason })?;
    let mut body = std::mem::take(&mut call.body);
    // The lengths were walked a moment ago; what `get` asks for is there.
    let mut read = || -> Option<ProduceRequest> {
        let request = ProduceRequest::default();
        let acks = body.try_get_i16().ok()?;
        let timeout_ms = body.try_get_i32().ok()?;
        let mut topics = Vec::new();
        for _ in 0..body.try_get_i32().ok()? {
            let length = usize::try_from(body.try_get_i16().ok()?).ok()?;
            let name = StrBytes::from_utf8(body.split_to(length)).ok()?;
            let mut partitions = Vec::new();
            for _ in 0..body.try_get_i32().ok()? {
                let index = body.try_get_i32().ok()?;
                let length = usize::try_from(body.try_get_i32().ok()?).ok();
                let records = length.map(|length| body.split_to(length));
                partitions.push(PartitionProduceData::default().with_index(index).with_records(records));
            }
            topics.push(TopicProduceData::default().with_name(TopicName(name)).with_partition_data(partitions));
        }
        Some(request.with_acks(acks).with_timeout_ms(timeout_ms).with_topic_data(topics))
    };
    read().ok_or_else(|| CallError::Body { api, version, reason: "a name is null or not UTF-8".to_owned() })
}

fn encode_legacy(call: &Call, response: &ProduceResponse) -> Result<Reply, CallError> {
    let mut frame = call.reply_head(256);
    frame.put_i32(response.responses.len() as i32);
    for topic in &response.responses {
        frame.put_i16(topic.name.len() as i16);
        frame.put_slice(topic.name.as_bytes());
        frame.put_i32(topic.partition_responses.len() as i32);
        for partition in &topic.partition_responses {
            frame.put_i32(partition.index);
            frame.put_i16(partition.error_code);
            frame.put_i64(partition.base_offset);
            if call.version >= 2 {
                frame.put_i64(partition.log_append_time_ms);
            }
        }
    }
    if call.version >= 1 {
        frame.put_i32(response.throttle_time_ms);
    }
    finish(&mut frame, 0).map_err(|reason| CallError::Encode { api: call.api, version: call.version, reason })?;
    Ok(Reply::new([frame.freeze()]))
}
