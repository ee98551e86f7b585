//! A batch of a producer, from its first record until its fate is known.

use bytes::Bytes;

use crate::protocol::batch::{BatchBuilder, Compression, HEADER_BYTES, NewRecord};

/// Whether a batch takes more records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealing {
    Open,
    Sealed,
}

#[derive(Debug)]
pub struct Batch<T> {
    /// Grows with every batch of the producer.
    pub id: u64,
    /// Place among the batches that its partition was sent; of one that is under way.
    pub number: u64,
    pub records: Vec<NewRecord>,
    pub tokens: Vec<T>,
    /// What the records take of the producer's buffer.
    pub bytes: usize,
    /// It is sent then at the latest if nothing is in the way.
    pub due_ms: u64,
    pub give_up_ms: u64,
    pub sealing: Sealing,
    /// Producer id and sequence of the first record.
    pub sequence: Option<(i64, i32)>,
    /// The request that carries it and was not answered.
    pub sent: Option<u64>,
    /// A try of it had no definite answer: it may have been written, or be written still.
    pub ambiguous: bool,
    encoded: Option<Bytes>,
}

impl<T> Batch<T> {
    pub fn new(id: u64, due_ms: u64, give_up_ms: u64) -> Self {
        Self {
            id,
            number: 0,
            records: Vec::new(),
            tokens: Vec::new(),
            bytes: 0,
            due_ms,
            give_up_ms,
            sealing: Sealing::Open,
            sequence: None,
            sent: None,
            ambiguous: false,
            encoded: None,
        }
    }

    /// Whether a record of this size may be added.
    pub fn takes(&self, bytes: usize, limit_bytes: usize) -> bool {
        self.sealing == Sealing::Open && HEADER_BYTES + self.bytes + bytes <= limit_bytes
    }

    pub fn is_full(&self, limit_bytes: usize) -> bool {
        HEADER_BYTES + self.bytes >= limit_bytes
    }

    pub fn push(&mut self, record: NewRecord, bytes: usize, token: T) {
        self.records.push(record);
        self.tokens.push(token);
        self.bytes += bytes;
    }

    pub fn seal(&mut self) {
        self.sealing = Sealing::Sealed;
    }

    pub fn is_due(&self, now_ms: u64) -> bool {
        self.sealing == Sealing::Sealed || self.due_ms <= now_ms
    }

    /// It has not been written and never will be as it was sent: it may be sent as another.
    pub fn forget_sequence(&mut self) {
        self.sequence = None;
        self.encoded = None;
        self.sent = None;
        self.ambiguous = false;
    }

    /// Two batches of one half of the records each, both with its id.
    pub fn halves(mut self) -> (Self, Self) {
        let middle = self.records.len() / 2;
        let mut second = Self::new(self.id, self.due_ms, self.give_up_ms);
        second.records = self.records.split_off(middle);
        second.tokens = self.tokens.split_off(middle);
        second.bytes = self.bytes / 2;
        (second.sealing, second.number) = (Sealing::Sealed, self.number);
        self.bytes -= second.bytes;
        self.forget_sequence();
        (self, second)
    }

    /// As the log stores it.
    pub fn encoded(&mut self, compression: Compression) -> Bytes {
        let (records, sequence) = (&self.records, self.sequence);
        let encode = || {
            let mut batch = BatchBuilder::new().compression(compression);
            if let Some((id, first)) = sequence {
                batch = batch.producer(id, 0, first);
            }
            records.iter().fold(batch, |batch, record| batch.record(record.clone())).build()
        };
        self.encoded.get_or_insert_with(encode).clone()
    }
}
