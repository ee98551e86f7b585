//! What was read and is not taken yet: bounded in bytes, decoded when it is taken, and credit for the broker when it was.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use crate::client::{ConsumerRecord, Error, Reason};
use crate::protocol::batch::{BatchHeader, HEADER_BYTES, records};
use crate::protocol::grpc::v1::{FetchData, PartitionOffset};

/// Messages that wait to be taken, whatever their bytes.
pub const MESSAGES: usize = 1_024;

/// Credit that a stream's broker has not been given back yet.
#[derive(Debug, Default)]
pub struct Credit {
    bytes: AtomicU64,
    pub more: Notify,
}

impl Credit {
    fn give(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.more.notify_one();
    }

    pub fn is_due(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > 0
    }

    pub fn take(&self) -> u64 {
        self.bytes.swap(0, Ordering::Relaxed)
    }
}

/// A message of a broker, from where it is to be read.
#[derive(Debug)]
pub struct Chunk {
    topic: Arc<str>,
    from: i64,
    data: FetchData,
    credit: Arc<Credit>,
    _room: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Queued {
    Chunk(Chunk),
    Failed(Error),
    Assigned(Vec<PartitionOffset>),
    Revoking,
    End,
}

/// What a reader meets.
#[derive(Debug)]
pub enum Item {
    Record(ConsumerRecord),
    Failed(Error),
    /// Of a group's member: partitions and where they are read from.
    Assigned(Vec<PartitionOffset>),
    /// Of a group's member: everything before it has been taken.
    Revoking,
}

/// Where the driver puts what it reads.
#[derive(Debug, Clone)]
pub struct Writer {
    queue: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    limit_bytes: usize,
}

/// The end that the program reads from.
#[derive(Debug)]
pub struct Reader {
    queue: mpsc::Receiver<Queued>,
    /// What is left of the message that is being read.
    records: VecDeque<ConsumerRecord>,
    error: Option<Error>,
    chunk: Option<Chunk>,
    /// Partitions that could not be read on, until the next assignment: what follows would leave records out unseen.
    damaged: BTreeSet<(Arc<str>, i32)>,
}

/// A buffer of so many bytes in so many messages.
pub fn buffer(limit_bytes: usize, messages: usize) -> (Writer, Reader) {
    let (sender, receiver) = mpsc::channel(messages);
    let writer = Writer { queue: sender, room: Arc::new(Semaphore::new(limit_bytes)), limit_bytes };
    (writer, Reader { queue: receiver, records: VecDeque::new(), error: None, chunk: None, damaged: BTreeSet::new() })
}

/// Nobody reads any more.
#[derive(Debug)]
pub struct Gone;

impl Writer {
    /// Puts a message down when there is room for it.
    pub async fn data(&self, topic: Arc<str>, from: i64, data: FetchData, credit: Arc<Credit>) -> Result<(), Gone> {
        let bytes = usize::try_from(data.bytes).unwrap_or(usize::MAX).clamp(1, self.limit_bytes);
        let room = self.room.clone().acquire_many_owned(bytes as u32).await.map_err(|_| Gone)?;
        self.put(Queued::Chunk(Chunk { topic, from, data, credit, _room: room })).await
    }

    /// Bytes of messages that were put down and are not taken yet.
    pub fn queued_bytes(&self) -> usize {
        self.limit_bytes - self.room.available_permits().min(self.limit_bytes)
    }

    pub async fn failed(&self, error: Error) -> Result<(), Gone> {
        self.put(Queued::Failed(error)).await
    }

    pub async fn assigned(&self, partitions: Vec<PartitionOffset>) -> Result<(), Gone> {
        self.put(Queued::Assigned(partitions)).await
    }

    /// Nothing comes any more, though the driver may go on.
    pub async fn end(&self) -> Result<(), Gone> {
        self.put(Queued::End).await
    }

    pub async fn revoking(&self) -> Result<(), Gone> {
        self.put(Queued::Revoking).await
    }

    async fn put(&self, queued: Queued) -> Result<(), Gone> {
        self.queue.send(queued).await.map_err(|_| Gone)
    }
}

impl Reader {
    /// The next thing; `None` at the end.
    pub fn poll_item(&mut self, context: &mut Context<'_>) -> Poll<Option<Item>> {
        loop {
            if let Some(record) = self.records.pop_front() {
                return Poll::Ready(Some(Item::Record(record)));
            }
            if let Some(done) = self.chunk.take() {
                done.credit.give(done.data.bytes);
            }
            if let Some(error) = self.error.take() {
                return Poll::Ready(Some(Item::Failed(error)));
            }
            match std::task::ready!(self.queue.poll_recv(context)) {
                None => return Poll::Ready(None),
                Some(Queued::End) => self.queue.close(),
                Some(Queued::Failed(error)) => return Poll::Ready(Some(Item::Failed(error))),
                Some(Queued::Assigned(partitions)) => {
                    self.damaged.clear();
                    return Poll::Ready(Some(Item::Assigned(partitions)));
                }
                Some(Queued::Revoking) => return Poll::Ready(Some(Item::Revoking)),
                Some(Queued::Chunk(chunk)) => {
                    let of = (chunk.topic.clone(), chunk.data.partition);
                    if !self.damaged.contains(&of) {
                        self.error = decode(&chunk, &mut self.records).err();
                        self.damaged.extend(self.error.is_some().then_some(of));
                    }
                    self.chunk = Some(chunk);
                }
            }
        }
    }
}

/// The records of a message, without those before its start.
fn decode(chunk: &Chunk, into: &mut VecDeque<ConsumerRecord>) -> Result<(), Error> {
    let Chunk { topic, from, data, .. } = chunk;
    let damaged = |why: String| {
        let place = format!("{topic}-{}", data.partition);
        Error::new(Reason::Corrupt, format!("records of {place} from offset {from} on cannot be read: {why}"))
    };
    for record in &data.records {
        into.push_back(ConsumerRecord {
            topic: topic.clone(),
            partition: data.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms.unwrap_or(-1),
            key: record.key.clone(),
            value: record.value.clone(),
            headers: record.headers.iter().map(|header| (header.key.clone(), header.value.clone())).collect(),
        });
    }
    let mut rest = data.batches.clone();
    while !rest.is_empty() {
        let length = BatchHeader::decode(&rest).map(|header| header.total_bytes());
        let length = length.filter(|length| (HEADER_BYTES..=rest.len()).contains(length));
        let batch: Bytes = rest.split_to(length.ok_or_else(|| damaged("a batch is cut off".to_owned()))?);
        let batch = records(&batch).map_err(|error| damaged(error.to_string()))?;
        if batch.header().is_control() {
            continue;
        }
        for record in batch {
            let record = record.map_err(|error| damaged(error.to_string()))?;
            if record.offset < *from {
                continue;
            }
            let text = |name: Bytes| String::from_utf8_lossy(&name).into_owned();
            into.push_back(ConsumerRecord {
                topic: topic.clone(),
                partition: data.partition,
                offset: record.offset,
                timestamp_ms: record.timestamp,
                key: record.key,
                value: record.value,
                headers: record.headers.into_iter().map(|(name, value)| (text(name), value)).collect(),
            });
        }
    }
    Ok(())
}
