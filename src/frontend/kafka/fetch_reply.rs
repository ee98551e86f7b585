//! The bytes of a Fetch reply, written by hand so that record batches are never copied: they go to the socket as the
//! slices that the reader found. Layout: Kafka's `FetchResponse.json`, versions 4 to 17.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::call::{Call, CallError, finish};
use super::endpoints::Endpoint;
use super::frame::Reply;
use crate::partition::AbortedTxn;

/// Batches of a partition that are fewer bytes than this are copied: a slice of its own costs more.
const COPY_BELOW_BYTES: usize = 2 * 1024;
const FIRST_LOG_START: i16 = 5;
const FIRST_SESSIONS: i16 = 7;
const FIRST_REPLICA: i16 = 11;
const FIRST_FLEXIBLE: i16 = 12;
const FIRST_TOPIC_IDS: i16 = 13;
/// First version that names the leader of a partition that is not led here (KIP-951).
pub(super) const FIRST_LEADERS: i16 = 16;
/// Tags of fields that are only there when they say something.
const CURRENT_LEADER: u8 = 1;
const NODE_ENDPOINTS: u8 = 0;

/// The answer for one partition.
#[derive(Debug, Clone, Default)]
pub(super) struct PartitionReply {
    pub index: i32,
    pub error_code: i16,
    pub high_watermark: i64,
    pub last_stable: i64,
    pub log_start: i64,
    /// `None` unless the isolation level is `read_committed`.
    pub aborted: Option<Vec<AbortedTxn>>,
    pub batches: Vec<Bytes>,
    /// Node id and leader epoch of the broker that leads the partition, if it is not this one.
    pub current_leader: Option<(i32, i32)>,
}

impl PartitionReply {
    /// An answer that only says why not.
    pub fn failed(index: i32, error_code: i16) -> Self {
        Self { index, error_code, high_watermark: -1, last_stable: -1, log_start: -1, ..Self::default() }
    }

    pub fn records_bytes(&self) -> usize {
        self.batches.iter().map(Bytes::len).sum()
    }
}

/// The answers for one topic.
#[derive(Debug, Clone)]
pub(super) struct TopicReply {
    pub name: StrBytes,
    pub id: Uuid,
    pub partitions: Vec<PartitionReply>,
}

/// Encodes the whole reply.
pub(super) fn encode(
    call: &Call,
    error_code: i16,
    session_id: i32,
    topics: Vec<TopicReply>,
    leaders: &[Endpoint],
) -> Result<Reply, CallError> {
    let mut writer = Writer { version: call.version, done: Vec::new(), done_bytes: 0, now: call.reply_head(512) };
    writer.response(error_code, session_id, topics);
    writer.endpoints(leaders);
    let Writer { mut done, done_bytes, mut now, .. } = writer;
    let failed = |reason| CallError::Encode { api: call.api, version: call.version, reason };
    if done.is_empty() {
        finish(&mut now, 0).map_err(failed)?;
        return Ok(Reply::new([now.freeze()]));
    }
    // The first piece begins with the length of all.
    let total = done_bytes + now.len() - 4;
    let length = i32::try_from(total).map_err(|_| failed(format!("{total} bytes do not fit a frame")))?;
    let mut first = BytesMut::from(&done[0][..]);
    first[..4].copy_from_slice(&length.to_be_bytes());
    done[0] = first.freeze();
    done.push(now.freeze());
    Ok(Reply::new(done))
}

struct Writer {
    version: i16,
    done: Vec<Bytes>,
    done_bytes: usize,
    now: BytesMut,
}

impl Writer {
    fn response(&mut self, error_code: i16, session_id: i32, topics: Vec<TopicReply>) {
        self.now.put_i32(0);
        if self.version >= FIRST_SESSIONS {
            self.now.put_i16(error_code);
            self.now.put_i32(session_id);
        }
        self.array(topics.len());
        for topic in topics {
            if self.version >= FIRST_TOPIC_IDS {
                self.now.put_slice(topic.id.as_bytes());
            } else {
                self.string(&topic.name);
            }
            self.array(topic.partitions.len());
            for partition in topic.partitions {
                self.partition(partition);
            }
            self.tags();
        }
    }

    fn partition(&mut self, partition: PartitionReply) {
        self.now.put_i32(partition.index);
        self.now.put_i16(partition.error_code);
        self.now.put_i64(partition.high_watermark);
        self.now.put_i64(partition.last_stable);
        if self.version >= FIRST_LOG_START {
            self.now.put_i64(partition.log_start);
        }
        match &partition.aborted {
            None if self.flexible() => self.now.put_u8(0),
            None => self.now.put_i32(-1),
            Some(aborted) => {
                self.array(aborted.len());
                for txn in aborted {
                    self.now.put_i64(txn.producer_id);
                    self.now.put_i64(txn.first_offset);
                    self.tags();
                }
            }
        }
        if self.version >= FIRST_REPLICA {
            self.now.put_i32(-1);
        }
        let leader = partition.current_leader.filter(|_| self.version >= FIRST_LEADERS);
        self.records(partition);
        match leader {
            Some((id, epoch)) => {
                let mut body = self.aside();
                body.now.put_i32(id);
                body.now.put_i32(epoch);
                body.tags();
                self.tag(CURRENT_LEADER, &body.now);
            }
            None => self.tags(),
        }
    }

    /// The end of the response: where the leaders that partitions name are.
    fn endpoints(&mut self, leaders: &[Endpoint]) {
        if leaders.is_empty() || self.version < FIRST_LEADERS {
            return self.tags();
        }
        let mut body = self.aside();
        body.array(leaders.len());
        for leader in leaders {
            body.now.put_i32(leader.node_id.0);
            body.string(&leader.host);
            body.now.put_i32(leader.port);
            match &leader.rack {
                Some(rack) => body.string(rack),
                None => body.now.put_u8(0),
            }
            body.tags();
        }
        self.tag(NODE_ENDPOINTS, &body.now);
    }

    /// A writer of a piece whose length has to be known before it is written.
    fn aside(&self) -> Self {
        Self { version: self.version, done: Vec::new(), done_bytes: 0, now: BytesMut::new() }
    }

    /// A list of one tagged field.
    fn tag(&mut self, tag: u8, body: &[u8]) {
        self.now.put_u8(1);
        self.now.put_u8(tag);
        self.unsigned(body.len() as u64);
        self.now.put_slice(body);
    }

    fn records(&mut self, partition: PartitionReply) {
        let bytes = partition.records_bytes();
        if self.flexible() {
            self.unsigned(bytes as u64 + 1);
        } else {
            self.now.put_i32(bytes as i32);
        }
        if bytes < COPY_BELOW_BYTES {
            partition.batches.iter().for_each(|batch| self.now.put_slice(batch));
            return;
        }
        self.push_now();
        self.done_bytes += bytes;
        self.done.extend(partition.batches);
    }

    fn push_now(&mut self) {
        self.done_bytes += self.now.len();
        self.done.push(self.now.split().freeze());
    }

    fn flexible(&self) -> bool {
        self.version >= FIRST_FLEXIBLE
    }

    fn array(&mut self, count: usize) {
        if self.flexible() {
            self.unsigned(count as u64 + 1);
        } else {
            self.now.put_i32(count as i32);
        }
    }

    fn string(&mut self, text: &str) {
        if self.flexible() {
            self.unsigned(text.len() as u64 + 1);
        } else {
            self.now.put_i16(text.len() as i16);
        }
        self.now.put_slice(text.as_bytes());
    }

    fn tags(&mut self) {
        if self.flexible() {
            self.now.put_u8(0);
        }
    }

    fn unsigned(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.now.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.now.put_u8(value as u8);
    }
}
