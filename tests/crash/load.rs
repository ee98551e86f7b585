//! Producers that know what they sent and what was acknowledged, a reader at the end of the log, a group that commits.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use esker::base::Clock;
use esker::protocol::batch::BatchBuilder;

use crate::wire::Connection;

pub const TOPIC: &str = "ledger";
pub const GROUP: &str = "auditors";
/// Requests of one producer without an answer; Kafka remembers five batches of an idempotent one.
const IN_FLIGHT: usize = 5;
const MAX_BATCH_RECORDS: u64 = 12;
/// One value in this many is large, so that segments are cut by size as well.
const LARGE_EVERY: u64 = 150;
const LARGE_BYTES: u64 = 40_000;
const SMALL_BYTES: u64 = 300;
const WASTE_BYTES: usize = 30_000;
/// Kafka: the coordinator is loading, not available, or elsewhere.
const COORDINATOR_BUSY: [i16; 3] = [14, 15, 16];

/// One record: which producer's, and its how manieth.
pub type RecordId = (u32, u64);

/// A batch as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    pub producer: u32,
    pub first: u64,
    pub records: u64,
    /// Sequence of the first record; counts for idempotent producers.
    pub sequence: i32,
}

/// A batch that was acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Acknowledged {
    pub partition: i32,
    pub offset: i64,
    pub acks: i16,
    pub batch: Batch,
}

/// One producer, which lives through the broker's deaths.
#[derive(Debug)]
pub struct Producer {
    pub number: u32,
    pub partition: i32,
    /// The requests take turns: all of these are used, one after the other.
    pub acks: &'static [i16],
    pub identity: Option<(i64, i16)>,
    pub in_flight: VecDeque<(Batch, i16)>,
    next_record: u64,
    next_sequence: i32,
    turn: usize,
}

/// The bytes of a record; the same whenever asked.
pub fn value_of((producer, record): RecordId) -> Bytes {
    let mut state = (u64::from(producer) << 40 | record).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let length = if next() % LARGE_EVERY == 0 { LARGE_BYTES } else { next() % SMALL_BYTES };
    let mut value = format!("{producer}:{record}:").into_bytes();
    value.extend((0..length).map(|_| (next() >> 32) as u8));
    Bytes::from(value)
}

/// Whose record these bytes are, if every one of them is as it was sent.
pub fn identify(value: &[u8]) -> Option<RecordId> {
    let mut parts = value.splitn(3, |byte| *byte == b':');
    let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u64>().ok();
    let id = (number()? as u32, number()?);
    (value_of(id) == value).then_some(id)
}

impl Producer {
    pub fn new(number: u32, partition: i32, acks: &'static [i16]) -> Self {
        Self {
            number,
            partition,
            acks,
            identity: None,
            in_flight: VecDeque::new(),
            next_record: 0,
            next_sequence: 0,
            turn: 0,
        }
    }

    /// Sends again what an idempotent producer has no answer for, then new batches until `enough`; collects answers.
    pub fn run(
        &mut self,
        address: SocketAddr,
        enough: &AtomicBool,
        acknowledged: &mut Vec<Acknowledged>,
    ) -> Result<(), String> {
        match self.try_run(address, enough, acknowledged) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(format!("{self:?}: no answer")),
            Err(error) if error.kind() == io::ErrorKind::Other => Err(format!("{self:?}: {error}")),
            // The broker was killed.
            _ => Ok(()),
        }
    }

    fn try_run(
        &mut self,
        address: SocketAddr,
        enough: &AtomicBool,
        acknowledged: &mut Vec<Acknowledged>,
    ) -> io::Result<()> {
        let mut connection = Connection::open(address)?;
        for (batch, acks) in &self.in_flight {
            connection.send_produce(TOPIC, self.partition, *acks, self.encode(batch))?;
        }
        loop {
            while self.in_flight.len() < IN_FLIGHT && !enough.load(Ordering::SeqCst) {
                let (batch, acks) = self.next_batch();
                self.in_flight.push_back((batch, acks));
                connection.send_produce(TOPIC, self.partition, acks, self.encode(&batch))?;
            }
            let Some((batch, acks)) = self.in_flight.front().copied() else { return Ok(()) };
            let produced = connection.receive_produce()?;
            if produced.error != 0 {
                return Err(io::Error::other(format!("{batch:?} was answered with error {}", produced.error)));
            }
            self.in_flight.pop_front();
            acknowledged.push(Acknowledged { partition: self.partition, offset: produced.base_offset, acks, batch });
        }
    }

    fn next_batch(&mut self) -> (Batch, i16) {
        self.turn += 1;
        let records = 1 + (u64::from(self.number) + self.turn as u64 * 7) % MAX_BATCH_RECORDS;
        let batch = Batch { producer: self.number, first: self.next_record, records, sequence: self.next_sequence };
        self.next_record += records;
        self.next_sequence += records as i32;
        (batch, self.acks[self.turn % self.acks.len()])
    }

    fn encode(&self, batch: &Batch) -> Bytes {
        let now_ms = Clock::system().wall_ms();
        let mut builder = BatchBuilder::new();
        if let Some((id, epoch)) = self.identity {
            builder = builder.producer(id, epoch, batch.sequence);
        }
        for record in batch.first..batch.first + batch.records {
            builder = builder.key_value(now_ms, format!("{}", batch.producer), value_of((batch.producer, record)));
        }
        builder.build()
    }
}

/// What a consumer at the end of the log was given: it must stay there.
pub type Witnessed = Vec<(i32, i64, RecordId)>;

/// Reads all partitions in turn, each from where it is, until the broker is gone or `enough`.
pub fn witness(
    address: SocketAddr,
    enough: &AtomicBool,
    positions: &mut [i64],
    witnessed: &mut Witnessed,
) -> Result<(), String> {
    let mut read = || -> io::Result<()> {
        let mut connection = Connection::open(address)?;
        while !enough.load(Ordering::SeqCst) {
            for (partition, position) in positions.iter_mut().enumerate() {
                let fetched = connection.fetch(TOPIC, partition as i32, *position, 1)?;
                if fetched.error != 0 {
                    return Err(io::Error::other(format!("fetch at {position}: error {}", fetched.error)));
                }
                for record in fetched.records {
                    if record.offset != *position || record.offset >= fetched.high_watermark {
                        let found = format!("offset {} at {position} of {}", record.offset, fetched.high_watermark);
                        return Err(io::Error::other(found));
                    }
                    let id = record.value.as_deref().and_then(identify);
                    let Some(id) = id else {
                        return Err(io::Error::other(format!("damaged record at {position} of {partition}")));
                    };
                    witnessed.push((partition as i32, record.offset, id));
                    *position += 1;
                }
            }
        }
        Ok(())
    };
    match read() {
        Err(error) if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::Other) => {
            Err(format!("reader: {error}"))
        }
        _ => Ok(()),
    }
}

/// Creates topics, fills and deletes them, so that objects become garbage, until the broker is gone or `enough`. `next` is
/// the number of the next topic.
pub fn waste(address: SocketAddr, enough: &AtomicBool, next: &mut u64) -> Result<(), String> {
    let mut waste = || -> io::Result<()> {
        let mut connection = Connection::open(address)?;
        while !enough.load(Ordering::SeqCst) {
            let name = format!("waste-{next}");
            *next += 1;
            let mut answers = vec![connection.create_topic(&name, 2)?];
            for acks in [1, 1, -1] {
                let batch = BatchBuilder::new().key_value(Clock::system().wall_ms(), "key", vec![b'w'; WASTE_BYTES]);
                connection.send_produce(&name, 1, acks, batch.build())?;
                answers.push(connection.receive_produce()?.error);
            }
            answers.push(connection.delete_topic(&name)?);
            if answers.iter().any(|error| *error != 0) {
                return Err(io::Error::other(format!("{name}: create, produce, delete: errors {answers:?}")));
            }
        }
        Ok(())
    };
    match waste() {
        Err(error) if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::Other) => {
            Err(format!("waste: {error}"))
        }
        _ => Ok(()),
    }
}

/// Offsets that the group tried to commit and did commit.
#[derive(Debug, Clone, Copy)]
pub struct GroupOffset {
    pub attempted: i64,
    pub committed: i64,
}

/// Commits growing offsets until the broker is gone or `enough`.
pub fn commit_offsets(address: SocketAddr, enough: &AtomicBool, offset: &mut GroupOffset) -> Result<(), String> {
    let mut commit = || -> io::Result<()> {
        let mut connection = Connection::open(address)?;
        while !enough.load(Ordering::SeqCst) {
            offset.attempted += 1;
            match connection.commit_offset(GROUP, TOPIC, 0, offset.attempted)? {
                0 => offset.committed = offset.attempted,
                error if COORDINATOR_BUSY.contains(&error) => {}
                error => return Err(io::Error::other(format!("OffsetCommit: error {error}"))),
            }
        }
        Ok(())
    };
    match commit() {
        Err(error) if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::Other) => {
            Err(format!("group: {error}"))
        }
        _ => Ok(()),
    }
}

/// The group's committed offset, once its coordinator is there.
pub fn committed(connection: &mut Connection) -> i64 {
    loop {
        match connection.committed_offset(GROUP, TOPIC, 0).expect("the broker answers") {
            Ok(offset) => return offset,
            Err(error) if COORDINATOR_BUSY.contains(&error) => {}
            Err(error) => panic!("OffsetFetch: error {error}"),
        }
    }
}
