//! The log's decisions: a pure state machine over one session's stream.
//!
//! Time comes in as `Now`, object ids are made from a unique number it was given; effects go out as values. The shell (`service.rs`) moves
//! bytes to the write-ahead file and the store and reports back with [`Machine::wal_done`] and [`Machine::uploaded`].
//!
//! Invariants:
//! - Commits are applied strictly in seq order; a partition's committed state is the fold of committed segments and of
//!   nothing else.
//! - `high watermark <= log end`; readers are never given a byte at or past the high watermark.
//! - A verdict that rests on uncommitted state (a duplicate, an out-of-order sequence) names the commit it has to wait for.
//! - Segment `n + 1` is offered for upload only when the write-ahead file of `n` is whole: a crash never leaves a later
//!   segment in the store while an earlier one survives in part.

use std::collections::{HashMap, VecDeque};

use bytes::BytesMut;

use uuid::Uuid;

use crate::base::{SessionId, TopicPartition};
use crate::format::entry::{BatchFacts, Entry};
use crate::format::frame::FRAME_HEADER_BYTES;
use crate::format::prelude::PRELUDE_BYTES;
use crate::format::state::ProducerState;
use crate::protocol::batch::header::BatchHeader;

use super::api::{Acks, Appended, LogError};
use super::limits::LogLimits;
use super::live::Live;
use super::pace::{self, CutReason, OpenFacts, TokenBucket};
use super::producers::{self, Verdict};
use super::segment_buffer::{Block, CutSegment, OpenSegment};
use super::tail::TailBudget;

mod compaction;
mod leadership;
mod progress;
#[cfg(test)]
mod tests;

/// The time of an input.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Microseconds since boot.
    pub boot_us: u64,
    /// Milliseconds since the Unix epoch.
    pub wall_ms: i64,
}

/// What the write-ahead files are to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalMode {
    /// There are none: nothing outlives the process (`memory://`).
    None,
    /// A mirror of what is uploaded from memory.
    Mirror,
    /// The finished file becomes the object itself.
    BecomesObject,
}

/// A place in the stream: the end of a frame of segment `seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    /// The segment.
    pub seq: u64,
    /// Position in it (exclusive).
    pub end: u32,
}

/// What a reply has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Nothing.
    Nothing,
    /// The write-ahead file holds everything up to here, synced.
    Wal(Ticket),
    /// This segment is committed.
    Commit(u64),
}

/// A verdict and when it may be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The verdict.
    pub result: Result<Appended, LogError>,
    /// When it may be told.
    pub wait: Wait,
}

/// Bytes for a write-ahead file.
#[derive(Debug)]
pub struct WalWork {
    /// Which file.
    pub seq: u64,
    /// What to write, each at its own position; may be empty when only a sync is wanted.
    pub blocks: Vec<Block>,
    /// The file is whole after this.
    pub finish: bool,
    /// Replies depend on it: sync before reporting.
    pub sync: bool,
    /// Where the file ends after this.
    pub end: u32,
}

/// A segment to upload.
#[derive(Debug)]
pub struct UploadWork {
    /// Which.
    pub seq: u64,
    /// Its unique id.
    pub object_id: Uuid,
    /// Its bytes; empty when they must be read from the write-ahead file.
    pub blocks: Vec<Block>,
    /// Length of the object.
    pub object_bytes: u64,
}

/// What a commit did.
#[derive(Debug)]
pub struct Committed {
    /// The segment.
    pub seq: u64,
    /// When its first byte had come, microseconds since boot.
    pub first_us: u64,
    /// Length of the object.
    pub object_bytes: u64,
    /// Partitions that have something new.
    pub touched: Vec<TopicPartition>,
}

/// A producer's state with uncommitted batches folded in.
#[derive(Debug)]
struct Pending {
    state: ProducerState,
    last: Ticket,
}

/// See the module.
#[derive(Debug)]
pub struct Machine {
    session: SessionId,
    limits: LogLimits,
    wal_mode: WalMode,
    object_ids: Uuid,
    partitions: HashMap<TopicPartition, Live>,
    /// Partitions that were released: what a new leader may still come to read.
    released: HashMap<TopicPartition, leadership::Given>,
    pending: HashMap<(TopicPartition, i64), Pending>,
    open: Option<OpenSegment>,
    cut: VecDeque<CutSegment>,
    spare_chunk: BytesMut,
    next_seq: u64,
    committed: u64,
    bucket: TokenBucket,
    tail: TailBudget,
    wal_seq: u64,
    wal_position: u32,
    wal_sync_wanted: bool,
    memory_bytes: u64,
    uncommitted_bytes: u64,
    reserved_bytes: u64,
    fenced: bool,
    checkpointed: u64,
    checkpoint_us: u64,
    runs_allotted: u64,
}

impl Machine {
    /// An empty stream of a new session. `object_ids` is a random number that no other process was given; segment `seq` is
    /// named by its exclusive or with `seq`.
    pub fn new(session: SessionId, limits: LogLimits, wal_mode: WalMode, object_ids: Uuid, now_us: u64) -> Self {
        let bucket = TokenBucket::new(limits.idle_cuts_per_s, limits.idle_cuts_burst, now_us);
        let tail = TailBudget::new(limits.memory_tail_bytes);
        Self {
            session,
            limits,
            wal_mode,
            object_ids,
            partitions: HashMap::new(),
            released: HashMap::new(),
            pending: HashMap::new(),
            open: None,
            cut: VecDeque::new(),
            spare_chunk: BytesMut::new(),
            next_seq: 0,
            committed: 0,
            bucket,
            tail,
            wal_seq: 0,
            wal_position: 0,
            wal_sync_wanted: false,
            memory_bytes: 0,
            uncommitted_bytes: 0,
            reserved_bytes: 0,
            fenced: false,
            checkpointed: 0,
            checkpoint_us: now_us,
            runs_allotted: 0,
        }
    }

    /// The session whose stream this is.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Segments committed so far, which is the seq of the next one to commit.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// The partition, if this session leads it.
    pub fn partition(&self, partition: TopicPartition) -> Result<&Live, LogError> {
        match self.partitions.get(&partition) {
            Some(live) if !live.dropping && !self.fenced => Ok(live),
            _ if self.fenced => Err(LogError::Fenced),
            _ => Err(LogError::NotLeader(partition)),
        }
    }

    /// The partition, if this session leads it and is not giving it away.
    fn writable(&self, partition: TopicPartition) -> Result<&Live, LogError> {
        self.partition(partition)?.writable().ok_or(LogError::NotLeader(partition))
    }

    /// Every partition this session leads.
    pub fn partitions(&self) -> impl Iterator<Item = (&TopicPartition, &Live)> {
        self.partitions.iter().filter(|(_, live)| !live.dropping)
    }

    /// Bytes in memory that are not committed.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Bytes of the stream that are not committed, in memory or not.
    pub fn uncommitted_bytes(&self) -> u64 {
        self.uncommitted_bytes
    }

    /// Bytes kept for readers at the end of the log.
    pub fn tail_bytes(&self) -> u64 {
        self.tail.bytes()
    }

    /// Segments cut and not yet committed.
    pub fn uncommitted_segments(&self) -> usize {
        self.cut.len()
    }

    /// Reserves room for an append of `bytes`, or names the limit that is in the way.
    pub fn reserve(&mut self, bytes: u64) -> Result<(), &'static str> {
        let bytes = bytes + FRAME_HEADER_BYTES as u64 + super::limits::BATCH_OVERHEAD_BYTES;
        let idle = self.memory_bytes + self.reserved_bytes == 0;
        if !idle && self.memory_bytes + self.reserved_bytes + bytes > self.limits.unflushed_bytes {
            self.spill();
            if self.memory_bytes + self.reserved_bytes + bytes > self.limits.unflushed_bytes {
                return Err("unflushed_bytes");
            }
        }
        if self.wal_mode != WalMode::None
            && !idle
            && self.uncommitted_bytes + self.reserved_bytes + bytes > self.limits.wal_disk_bytes
        {
            return Err("wal_disk_bytes");
        }
        self.reserved_bytes += bytes;
        Ok(())
    }

    /// Gives a reservation back (used or not).
    pub fn release(&mut self, bytes: u64) {
        let bytes = bytes + FRAME_HEADER_BYTES as u64 + super::limits::BATCH_OVERHEAD_BYTES;
        self.reserved_bytes = self.reserved_bytes.saturating_sub(bytes);
    }

    /// Drops the memory of whole write-ahead files that wait for their turn to be uploaded.
    fn spill(&mut self) {
        for segment in self.cut.iter_mut().rev() {
            if segment.wal_complete && !segment.uploading && !segment.blocks.is_empty() {
                segment.blocks = Vec::new();
                let bytes = segment.object_bytes.min(segment.memory_bytes);
                segment.memory_bytes -= bytes;
                self.memory_bytes -= bytes;
            }
        }
    }

    /// Moves log start up to `offset`, at most to the high watermark. `None` when it is there already.
    pub fn move_log_start(
        &mut self,
        now: Now,
        partition: TopicPartition,
        offset: i64,
    ) -> Result<Option<Ticket>, LogError> {
        let state = &self.writable(partition)?.state;
        if offset > state.next_offset || offset < 0 {
            return Err(LogError::OffsetOutOfRange {
                partition,
                offset,
                log_start: state.log_start,
                high_watermark: state.next_offset,
            });
        }
        if offset <= state.log_start {
            return Ok(None);
        }
        Ok(Some(self.append_control(now, partition, Entry::LogStartMoved { log_start: offset })))
    }

    /// Forgets idle producers that last wrote at or before `up_to_ms`, if there are any.
    pub fn expire_producers(&mut self, now: Now, partition: TopicPartition, up_to_ms: i64) -> Option<Ticket> {
        let live = self.writable(partition).ok()?;
        let idle = |p: &ProducerState| p.last_append_ms <= up_to_ms && p.txn_first_offset.is_none();
        if !live.state.producers.values().any(idle) {
            return None;
        }
        Some(self.append_control(now, partition, Entry::ProducersExpired { up_to_ms }))
    }

    fn append_control(&mut self, now: Now, partition: TopicPartition, entry: Entry) -> Ticket {
        let ticket = self.append_background(now, partition, entry);
        self.open_segment(now.boot_us).replies_wait = true;
        ticket
    }

    /// An entry for which nobody waits: it goes with whatever segment is cut next.
    fn append_background(&mut self, now: Now, partition: TopicPartition, entry: Entry) -> Ticket {
        let segment = self.open_segment(now.boot_us);
        let (seq, before) = (segment.seq, (segment.len(), segment.memory_bytes));
        let end = segment.append_control(partition, entry, now.wall_ms, now.boot_us);
        let grown = (segment.len() - before.0, segment.memory_bytes - before.1);
        self.account(grown);
        Ticket { seq, end }
    }

    fn account(&mut self, (stream_bytes, memory_bytes): (u32, u64)) {
        self.uncommitted_bytes += u64::from(stream_bytes);
        self.memory_bytes += memory_bytes;
    }

    fn open_segment(&mut self, now_us: u64) -> &mut OpenSegment {
        let (session, seq, chunk_bytes) = (self.session, self.next_seq, self.limits.chunk_bytes);
        let object_id = Uuid::from_u128(self.object_ids.as_u128() ^ u128::from(seq));
        let spare = &mut self.spare_chunk;
        self.open.get_or_insert_with(|| {
            OpenSegment::new(session, seq, object_id, now_us, std::mem::take(spare), chunk_bytes)
        })
    }

    /// Judges a checked batch and, if it is new, appends it.
    pub fn append(
        &mut self,
        now: Now,
        partition: TopicPartition,
        header: &BatchHeader,
        batch: &[u8],
        acks: Acks,
    ) -> Outcome {
        let live = match self.writable(partition) {
            Ok(live) => live,
            Err(error) => return Outcome { result: Err(error), wait: Wait::Nothing },
        };
        let (base_offset, leader_epoch, log_start) = (live.log_end, live.state.leader_epoch, live.state.log_start);
        let appended = |base_offset| Appended {
            base_offset,
            log_append_time_ms: if header.is_log_append_time() { header.max_timestamp } else { -1 },
            log_start,
        };
        let pending = self.pending.get(&(partition, header.producer_id));
        let known = pending.map(|p| &p.state).or_else(|| live.state.producers.get(&header.producer_id));
        let rests_on = pending.map(|p| p.last);
        if header.is_transactional() {
            let reason = "transactions are not supported by this broker yet";
            let error = LogError::InvalidTxnState { producer_id: header.producer_id, reason };
            return Outcome { result: Err(error), wait: Wait::Nothing };
        }
        match producers::judge(known, header) {
            Verdict::Accept => {}
            Verdict::Duplicate { base_offset } => {
                let wait = rests_on.map_or(Wait::Nothing, |ticket| self.wait_for(ticket, acks));
                return Outcome { result: Ok(appended(base_offset)), wait };
            }
            Verdict::Reject(error) => {
                let wait = rests_on.map_or(Wait::Nothing, |ticket| Wait::Commit(ticket.seq));
                return Outcome { result: Err(error), wait };
            }
        }
        let assigned = BatchHeader { base_offset, partition_leader_epoch: leader_epoch, ..*header };
        let mut facts = BatchFacts::of(&assigned, batch, 0, now.wall_ms);
        let next_pending = header.has_producer_id().then(|| {
            let mut state = known.cloned().unwrap_or_else(|| producers::unknown(&facts));
            producers::update(&mut state, &facts);
            state
        });

        let segment = self.open_segment(now.boot_us);
        let (seq, before) = (segment.seq, (segment.len(), segment.memory_bytes));
        let end = segment.append_batch(partition, batch, &mut facts, now.boot_us);
        let grown = (segment.len() - before.0, segment.memory_bytes - before.1);
        let ticket = Ticket { seq, end };
        match acks {
            Acks::None => {}
            Acks::Leader => {
                segment.wal_replies_wait = true;
                self.wal_sync_wanted = true;
            }
            Acks::All => segment.replies_wait = true,
        }
        self.account(grown);
        if let Some(live) = self.partitions.get_mut(&partition) {
            live.log_end = facts.last_offset + 1;
        }
        if let Some(state) = next_pending {
            self.pending.insert((partition, header.producer_id), Pending { state, last: ticket });
        }
        Outcome { result: Ok(appended(base_offset)), wait: self.wait_for(ticket, acks) }
    }

    fn wait_for(&self, ticket: Ticket, acks: Acks) -> Wait {
        match acks {
            Acks::None => Wait::Nothing,
            Acks::Leader if self.wal_mode == WalMode::None => Wait::Nothing,
            Acks::Leader => Wait::Wal(ticket),
            Acks::All => Wait::Commit(ticket.seq),
        }
    }

    /// Length of the open segment in bytes.
    pub fn open_bytes(&self) -> u32 {
        self.open.as_ref().map_or(0, OpenSegment::len)
    }

    /// Whether there is an open segment, and whether replies wait for it: when this changes, so does the time it is due.
    pub fn open_facts(&self) -> Option<bool> {
        self.open.as_ref().filter(|open| !open.is_empty()).map(|open| open.replies_wait)
    }

    /// When [`Machine::cut_if_due`] should be called next.
    pub fn cut_due_us(&mut self, now_us: u64) -> Option<u64> {
        self.due(now_us).map(|(at, _)| at)
    }

    fn due(&mut self, now_us: u64) -> Option<(u64, CutReason)> {
        let open = self.open.as_ref().filter(|open| !open.is_empty())?;
        let facts = OpenFacts {
            bytes: open.len(),
            first_us: open.first_us,
            last_us: open.last_us,
            replies_wait: open.replies_wait,
            uncommitted_segments: self.cut.len(),
        };
        pace::due(facts, &self.limits, &mut self.bucket, now_us)
    }

    /// Cuts the open segment if it is due.
    pub fn cut_if_due(&mut self, now_us: u64) -> Option<CutReason> {
        let (at, reason) = self.due(now_us)?;
        if at > now_us {
            return None;
        }
        if reason == CutReason::Idle {
            self.bucket.take(now_us);
        }
        self.cut_now().then_some(reason)
    }

    /// Cuts the open segment whatever its age. `false` if there was nothing in it.
    pub fn cut_now(&mut self) -> bool {
        let Some(open) = self.open.take_if(|open| !open.is_empty()) else { return false };
        let (cut, spare) = open.cut();
        self.spare_chunk = spare;
        self.uncommitted_bytes += (PRELUDE_BYTES + cut.footer.bytes.len()) as u64;
        self.next_seq += 1;
        self.cut.push_back(cut);
        true
    }

    /// The stream was sealed by another: nothing is led any more.
    pub fn fence(&mut self) {
        self.fenced = true;
    }
}
