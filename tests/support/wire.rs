//! A Kafka client of a few requests, for tests that must know exactly what was sent, answered and acknowledged.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use esker::protocol::batch::{BatchHeader, Record, records};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use kafka_protocol::messages::{
    ApiKey, BrokerId, DeleteTopicsRequest, FindCoordinatorRequest, GroupId, InitProducerIdRequest, RequestHeader,
    ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};

/// A request that is not answered for this long has failed.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
const PRODUCE_VERSION: i16 = 9;
const PRODUCE_TIMEOUT_MS: i32 = 20_000;

pub fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn group_id(group: &str) -> GroupId {
    GroupId(StrBytes::from_string(group.to_owned()))
}

/// One connection. An error means that the broker is gone, but for `TimedOut`: then it does not answer.
pub struct Connection {
    stream: TcpStream,
    correlation: i32,
}

/// What one produce request brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    pub error: i16,
    pub base_offset: i64,
}

/// What one fetch of one partition brought.
#[derive(Debug)]
pub struct Fetched {
    pub error: i16,
    pub high_watermark: i64,
    pub log_start: i64,
    /// From the offset asked for on.
    pub records: Vec<Record>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Self { stream, correlation: 0 })
    }

    pub fn send<R: Request>(&mut self, version: i16, request: &R) -> io::Result<()> {
        self.correlation += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str("test")));
        let api = ApiKey::try_from(R::KEY).expect("a request has an API");
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        header.encode(&mut frame, api.request_header_version(version)).expect("a header encodes");
        request.encode(&mut frame, version).expect("a request encodes");
        let length = frame.len() as i32 - 4;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame)
    }

    pub fn receive<R: Request>(&mut self, version: i16) -> io::Result<R::Response> {
        let mut length = [0; 4];
        self.read(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.read(&mut frame)?;
        let mut frame = Bytes::from(frame);
        let api = ApiKey::try_from(R::KEY).expect("a request has an API");
        ResponseHeader::decode(&mut frame, api.response_header_version(version)).expect("the reply's header decodes");
        Ok(R::Response::decode(&mut frame, version).expect("the reply decodes"))
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<()> {
        self.stream.read_exact(into).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "no reply"),
            _ => error,
        })
    }

    pub fn call<R: Request>(&mut self, version: i16, request: &R) -> io::Result<R::Response> {
        self.send(version, request)?;
        self.receive::<R>(version)
    }

    pub fn create_topic(&mut self, name: &str, partitions: i32) -> io::Result<i16> {
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(1);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(20_000);
        Ok(self.call(5, &request)?.topics[0].error_code)
    }

    pub fn delete_topic(&mut self, name: &str) -> io::Result<i16> {
        let request = DeleteTopicsRequest::default().with_topic_names(vec![topic_name(name)]).with_timeout_ms(20_000);
        Ok(self.call(5, &request)?.responses[0].error_code)
    }

    /// A new producer's id and epoch.
    pub fn init_producer(&mut self) -> io::Result<(i64, i16)> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let reply = self.call(4, &request)?;
        assert_eq!(reply.error_code, 0, "InitProducerId");
        Ok((reply.producer_id.0, reply.producer_epoch))
    }

    pub fn send_produce(&mut self, topic: &str, partition: i32, acks: i16, batch: Bytes) -> io::Result<()> {
        self.send_produce_within(topic, partition, acks, batch, PRODUCE_TIMEOUT_MS)
    }

    pub fn send_produce_within(
        &mut self,
        topic: &str,
        partition: i32,
        acks: i16,
        batch: Bytes,
        timeout_ms: i32,
    ) -> io::Result<()> {
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch));
        let topic = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data]);
        let request =
            ProduceRequest::default().with_acks(acks).with_timeout_ms(timeout_ms).with_topic_data(vec![topic]);
        self.send(PRODUCE_VERSION, &request)
    }

    pub fn receive_produce(&mut self) -> io::Result<Produced> {
        let reply = self.receive::<ProduceRequest>(PRODUCE_VERSION)?;
        let partition = &reply.responses[0].partition_responses[0];
        Ok(Produced { error: partition.error_code, base_offset: partition.base_offset })
    }

    /// Records from `offset` on; an empty answer comes after at most `wait_ms`.
    pub fn fetch(&mut self, topic: &str, partition: i32, offset: i64, wait_ms: i32) -> io::Result<Fetched> {
        let wanted = FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(offset)
            .with_current_leader_epoch(-1)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(8 << 20);
        let topic = FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![wanted]);
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(wait_ms)
            .with_min_bytes(1)
            .with_max_bytes(8 << 20)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let reply = self.call(12, &request)?;
        assert_eq!(reply.error_code, 0, "fetch");
        let partition = &reply.responses[0].partitions[0];
        let mut found = Vec::new();
        let mut rest = partition.records.clone().unwrap_or_default();
        // The last batch may be cut off by the size limit.
        while let Some(length) = BatchHeader::decode(&rest).map(|header| header.total_bytes())
            && length <= rest.len()
        {
            for record in records(&rest.split_to(length)).expect("a batch that was served is well-formed") {
                let record = record.expect("a record that was served is well-formed");
                if record.offset >= offset {
                    found.push(record);
                }
            }
        }
        Ok(Fetched {
            error: partition.error_code,
            high_watermark: partition.high_watermark,
            log_start: partition.log_start_offset,
            records: found,
        })
    }

    pub fn find_coordinator(&mut self, group: &str) -> io::Result<i16> {
        let request = FindCoordinatorRequest::default().with_key(StrBytes::from_string(group.to_owned()));
        Ok(self.call(2, &request)?.error_code)
    }

    /// Commits an offset outside any generation.
    pub fn commit_offset(&mut self, group: &str, topic: &str, partition: i32, offset: i64) -> io::Result<i16> {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(partition)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(-1);
        let topic = OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        Ok(self.call(7, &request)?.topics[0].partitions[0].error_code)
    }

    /// The committed offset (-1 for none), or an error code.
    pub fn committed_offset(&mut self, group: &str, topic: &str, partition: i32) -> io::Result<Result<i64, i16>> {
        let topic =
            OffsetFetchRequestTopics::default().with_name(topic_name(topic)).with_partition_indexes(vec![partition]);
        let group = OffsetFetchRequestGroup::default().with_group_id(group_id(group)).with_topics(Some(vec![topic]));
        let reply = self.call(8, &OffsetFetchRequest::default().with_groups(vec![group]))?;
        let group = &reply.groups[0];
        if group.error_code != 0 {
            return Ok(Err(group.error_code));
        }
        let partition = &group.topics[0].partitions[0];
        Ok(if partition.error_code == 0 { Ok(partition.committed_offset) } else { Err(partition.error_code) })
    }
}
