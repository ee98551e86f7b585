//! Reading one partition from an offset: memory of the log first, stored objects through the page cache.
//!
//! A read takes its view, limit and aborted transactions from its first plan. When a source is used up it plans again from
//! where it stands, and still returns nothing past the first plan's limit: what lay below that limit then is stable, so
//! the answer is one snapshot however many sources it came from.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;

use super::error::FetchError;
use super::index::{IndexError, Indexes};
use super::log_view::LogView;
use super::metrics::Metrics;
use super::spans::{self, BatchSpan, Budget};
use crate::base::{ErrorKind, TopicPartition};
use crate::cache::{ObjectBytes, ObjectReader};
use crate::format::frame::{FRAME_HEADER_BYTES, FrameKind, read_frame};
use crate::partition::{AbortedTxn, Isolation, ObjectRef, PartitionView, ReadPlan, ReadSource, Run};
use crate::protocol::batch::BatchHeader;

/// Sizes of the read path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of decoded object footers kept.
    pub index_bytes: u64,
    /// Frames of one partition are read together when at most this many bytes of others lie between.
    pub gap_bytes: u64,
    /// Most bytes of one read of an object (a larger batch is read alone).
    pub read_bytes: u64,
    /// Objects and ranges read at once for one partition of one fetch.
    pub reads_at_once: usize,
    /// Objects whose bytes are loaded ahead of a reader that has used up its budget; 0 for none.
    pub objects_ahead: usize,
    /// Most bytes of a partition's frames loaded ahead that way.
    pub bytes_ahead: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            index_bytes: 32 << 20,
            gap_bytes: 64 << 10,
            read_bytes: 4 << 20,
            reads_at_once: 8,
            objects_ahead: 8,
            bytes_ahead: 8 << 20,
        }
    }
}

/// Footers being loaded ahead, for all readers together.
const INDEXES_AHEAD: usize = 64;
/// Runs whose footers one step looks at.
const RUNS_PER_STEP: usize = 32;

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadResult {
    /// Offsets of the partition at the moment of the read.
    pub view: PartitionView,
    /// Nothing at or past this offset was to be had then.
    pub limit: i64,
    /// Whole batches in offset order without gaps; the first holds the asked-for offset.
    pub batches: Vec<Bytes>,
    /// Aborted transactions that overlap the batches; empty for `ReadUncommitted`.
    pub aborted: Vec<AbortedTxn>,
    /// Where to read on: the offset after the last batch, or the asked-for offset.
    pub next_offset: i64,
}

impl ReadResult {
    /// Bytes of all batches.
    pub fn bytes(&self) -> usize {
        self.batches.iter().map(Bytes::len).sum()
    }
}

/// Reads partitions. Clones share everything.
#[derive(Debug, Clone)]
pub struct Reader {
    log: Arc<dyn LogView>,
    objects: ObjectReader,
    indexes: Indexes,
    settings: Settings,
    metrics: Metrics,
}

/// A read under way: what was found so far, and where the next bytes are.
#[derive(Debug)]
pub(super) struct Reading {
    partition: TopicPartition,
    isolation: Isolation,
    offset: i64,
    source: ReadSource,
    found: ReadResult,
}

impl Reading {
    /// Whether nothing more is to be had now.
    pub(super) fn at_end(&self) -> bool {
        matches!(self.source, ReadSource::End) || self.found.next_offset >= self.found.limit
    }

    /// Whether the next bytes come from stored objects, which takes time.
    pub(super) fn is_stored(&self) -> bool {
        matches!(self.source, ReadSource::Runs(_)) && !self.at_end()
    }

    /// Offsets of the partition when the read began.
    pub(super) fn view(&self) -> &PartitionView {
        &self.found.view
    }

    /// Bytes found so far.
    pub(super) fn found_bytes(&self) -> usize {
        self.found.bytes()
    }

    /// Bytes of batches in the first run to be read; no batch in it is larger.
    pub(super) fn first_run_bytes(&self) -> usize {
        match &self.source {
            ReadSource::Runs(runs) => runs.first().map_or(0, |run| run.batch_bytes as usize),
            ReadSource::End | ReadSource::Memory(_) => 0,
        }
    }

    /// What was found, the aborted transactions cut to it.
    pub(super) fn done(mut self) -> ReadResult {
        let (from, to) = (self.offset, self.found.next_offset);
        let any = !self.found.batches.is_empty();
        self.found.aborted.retain(|txn| any && txn.first_offset < to && txn.last_offset >= from);
        self.found
    }
}

impl Reader {
    /// Reads what `log` plans; stored bytes through `objects`.
    pub fn new(log: Arc<dyn LogView>, objects: ObjectReader, settings: Settings, metrics: Metrics) -> Self {
        let indexes = Indexes::new(objects.clone(), settings.index_bytes, metrics.clone());
        Self { log, objects, indexes, settings, metrics }
    }

    /// The log that this reads.
    pub fn log(&self) -> &Arc<dyn LogView> {
        &self.log
    }

    /// The decoded footers.
    pub fn indexes(&self) -> &Indexes {
        &self.indexes
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Batches from the one that holds `offset` on, at most `max_bytes` together; with `at_least_one` the first is given
    /// whatever its size. No batches means that there is nothing (or, without `at_least_one`, that the first is too
    /// large).
    ///
    /// An error means that not even the first batch could be read; trouble behind it only ends the answer early, and is
    /// met again by the read that starts there.
    pub async fn read(
        &self,
        partition: TopicPartition,
        offset: i64,
        max_bytes: usize,
        isolation: Isolation,
        at_least_one: bool,
    ) -> Result<ReadResult, FetchError> {
        let mut budget = Budget::new(max_bytes, at_least_one);
        let mut reading = self.begin(partition, offset, budget, isolation)?;
        self.advance(&mut reading, &mut budget).await?;
        Ok(reading.done())
    }

    /// Plans a read; quick.
    pub(super) fn begin(
        &self,
        partition: TopicPartition,
        offset: i64,
        budget: Budget,
        isolation: Isolation,
    ) -> Result<Reading, FetchError> {
        let ReadPlan { view, limit, aborted, source } =
            self.log.plan_read(partition, offset, budget.left_bytes(), isolation)?;
        let found = ReadResult { view, limit, batches: Vec::new(), aborted, next_offset: offset };
        Ok(Reading { partition, isolation, offset, source, found })
    }

    /// Takes what is in memory, as far as the budget goes; stops where stored objects begin. Quick.
    pub(super) fn take_memory(&self, reading: &mut Reading, budget: &mut Budget) -> Result<(), FetchError> {
        while let ReadSource::Memory(batches) = &mut reading.source {
            let batches = std::mem::take(batches);
            let before = reading.found.next_offset;
            reading.source = ReadSource::End;
            for batch in batches {
                // What the log holds in memory was checked when it came in.
                let Some(header) = BatchHeader::decode(&batch) else { break };
                if header.last_offset() < reading.found.next_offset {
                    continue;
                }
                if header.last_offset() >= reading.found.limit {
                    break;
                }
                if let Err(error) = self.check_seam(reading, header.base_offset) {
                    return if reading.found.batches.is_empty() { Err(error) } else { Ok(()) };
                }
                if !budget.take(batch.len()) {
                    return Ok(());
                }
                self.metrics.memory_bytes.inc_by(batch.len() as u64);
                reading.found.next_offset = header.last_offset() + 1;
                reading.found.batches.push(batch);
            }
            self.plan_on(reading, before, budget)?;
        }
        Ok(())
    }

    /// Reads until the budget, the limit or the data ends.
    pub(super) async fn advance(&self, reading: &mut Reading, budget: &mut Budget) -> Result<(), FetchError> {
        // An object that went away since it was planned (retention, compaction) is planned again, once.
        let mut vanished_at = None;
        loop {
            self.take_memory(reading, budget)?;
            if reading.at_end() || budget.is_spent() {
                return Ok(());
            }
            let ReadSource::Runs(runs) = &mut reading.source else { return Ok(()) };
            let runs = std::mem::take(runs);
            let before = reading.found.next_offset;
            match self.read_runs(reading, &runs, budget).await {
                Ok(()) => {}
                Err(FetchError::Missing { .. }) if vanished_at != Some(before) => {
                    vanished_at = Some(before);
                    if reading.found.batches.is_empty() {
                        let left = *budget;
                        *reading = self.begin(reading.partition, reading.offset, left, reading.isolation)?;
                        continue;
                    }
                }
                Err(_) if !reading.found.batches.is_empty() => {
                    reading.source = ReadSource::End;
                    return Ok(());
                }
                Err(error) => {
                    self.count(&error);
                    return Err(error);
                }
            }
            if budget.is_spent() {
                return Ok(());
            }
            self.plan_on(reading, before, budget)?;
        }
    }

    /// Plans from where the reading stands; the view, limit and aborted transactions stay those of the first plan.
    fn plan_on(&self, reading: &mut Reading, before: i64, budget: &Budget) -> Result<(), FetchError> {
        let next = reading.found.next_offset;
        reading.source = ReadSource::End;
        if next == before || next >= reading.found.limit || budget.is_spent() {
            return Ok(());
        }
        match self.log.plan_read(reading.partition, next, budget.left_bytes(), reading.isolation) {
            Ok(plan) => reading.source = plan.source,
            Err(error) if reading.found.batches.is_empty() => return Err(error.into()),
            Err(_) => {}
        }
        Ok(())
    }

    fn check_seam(&self, reading: &Reading, base_offset: i64) -> Result<(), FetchError> {
        let expected = reading.found.next_offset;
        let joins = if reading.found.batches.is_empty() { base_offset <= expected } else { base_offset == expected };
        if joins {
            return Ok(());
        }
        self.metrics.seams.inc();
        let error = FetchError::Seam { partition: reading.partition, expected, found: base_offset };
        tracing::error!(%error, "the sources of a partition do not join");
        Err(error)
    }

    /// Appends batches of `runs`. An error leaves the batches before the damage appended.
    async fn read_runs(&self, reading: &mut Reading, runs: &[Run], budget: &mut Budget) -> Result<(), FetchError> {
        let (partition, limit) = (reading.partition, reading.found.limit);
        let mut rest = runs;
        while !rest.is_empty() && !budget.is_spent() && reading.found.next_offset < limit {
            let (window, after) = rest.split_at(window_of(rest, budget.left_bytes()));
            rest = after;
            // Their footers, several at a time, in order; those behind a failed one are not used.
            let mut footers = stream::iter(window.to_vec())
                .map(|run| self.batches_of(partition, run))
                .buffered(self.settings.reads_at_once.max(1));
            let mut jobs: Vec<(ObjectRef, u64, Vec<BatchSpan>)> = Vec::new();
            let mut failed = None;
            let (mut next, mut planned) = (reading.found.next_offset, *budget);
            while let Some(spans) = footers.next().await {
                match spans {
                    Ok((run, spans)) => {
                        let chosen = spans::choose(&spans, next, limit, &mut planned);
                        let run_end = u64::from(run.position) + u64::from(run.length);
                        for group in spans::group(chosen, self.settings.gap_bytes, self.settings.read_bytes) {
                            jobs.push((run.object, run_end, chosen[group].to_vec()));
                        }
                        next = chosen.last().map_or(next, |span| span.last_offset + 1);
                    }
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
                if planned.is_spent() {
                    break;
                }
            }
            drop(footers);
            if planned.is_spent() {
                self.load_ahead(partition, next, reading.isolation);
            }
            let mut reads = stream::iter(jobs)
                .map(|(object, run_end, spans)| async move {
                    let batches = self.read_group(partition, object, run_end, &spans).await?;
                    Ok::<_, FetchError>((batches, spans))
                })
                .buffered(self.settings.reads_at_once.max(1));
            while let Some(read) = reads.next().await {
                let (batches, spans) = read?;
                for (batch, span) in batches.into_iter().zip(spans) {
                    self.check_seam(reading, span.base_offset)?;
                    self.metrics.stored_bytes.inc_by(batch.len() as u64);
                    budget.take(batch.len());
                    reading.found.next_offset = span.last_offset + 1;
                    reading.found.batches.push(batch);
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
            // Refused batches are not in `budget` yet.
            if planned.is_spent() {
                *budget = planned;
            }
        }
        Ok(())
    }

    /// The batches of a run, from its object's footer.
    pub(super) async fn batches_of(
        &self,
        partition: TopicPartition,
        run: Run,
    ) -> Result<(Run, Vec<BatchSpan>), FetchError> {
        let frames_to = u64::from(run.position) + u64::from(run.length);
        let index = match self.indexes.get(run.object, frames_to).await {
            Ok(index) => index,
            Err(error) => return Err(index_error(partition, &run, error)),
        };
        match spans::of_run(index.batches(partition), &run) {
            Ok(spans) => Ok((run, spans.to_vec())),
            Err(reason) => Err(corrupt(&run.object.key(), partition, run.first_offset, reason)),
        }
    }

    /// One ranged read, every checksum verified; once more past the cache if one does not hold.
    async fn read_group(
        &self,
        partition: TopicPartition,
        object: ObjectRef,
        run_end: u64,
        spans: &[BatchSpan],
    ) -> Result<Vec<Bytes>, FetchError> {
        let (Some(first), Some(last)) = (spans.first(), spans.last()) else { return Ok(Vec::new()) };
        let range = first.frame_range().start..last.frame_range().end;
        let key = object.key();
        let mut again = false;
        loop {
            let bytes = match self.objects.read(&key, range.clone(), run_end).await {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(FetchError::Missing { object: key.into(), partition, offset: first.base_offset });
                }
                Err(error) => {
                    let reason = error.to_string().into();
                    return Err(FetchError::Store { kind: error.kind(), partition, offset: first.base_offset, reason });
                }
            };
            match verify(&bytes, partition, spans) {
                Ok(batches) => return Ok(batches),
                Err((_, reason)) if !again => {
                    again = true;
                    self.metrics.rereads.inc();
                    tracing::warn!(object = key, %partition, reason, "stored bytes failed a check; reading them again");
                    self.objects.invalidate(&key, range.clone());
                }
                Err((offset, reason)) => return Err(corrupt(&key, partition, offset, &reason)),
            }
        }
    }

    /// Loads what a reader that goes on forward will ask for next; the page cache itself loads ahead within the object
    /// that is being read.
    fn load_ahead(&self, partition: TopicPartition, next: i64, isolation: Isolation) {
        if self.settings.objects_ahead == 0 {
            return;
        }
        let most = usize::try_from(self.settings.bytes_ahead).unwrap_or(usize::MAX);
        let Ok(ReadPlan { source: ReadSource::Runs(runs), .. }) = self.log.plan_read(partition, next, most, isolation)
        else {
            return;
        };
        let mut left = self.settings.bytes_ahead;
        for run in runs.iter().filter(|run| run.first_offset >= next).take(self.settings.objects_ahead) {
            if u64::from(run.length) > left {
                break;
            }
            left -= u64::from(run.length);
            let (start, end) = (u64::from(run.position), u64::from(run.position) + u64::from(run.length));
            self.objects.prefetch(&run.object.key(), start..end);
            self.indexes.prefetch(run.object, end, INDEXES_AHEAD);
        }
    }

    pub(super) fn count(&self, error: &FetchError) {
        match error {
            FetchError::Corrupt { .. } => self.metrics.corrupt.inc(),
            FetchError::Missing { .. } => self.metrics.missing.inc(),
            _ => return,
        };
        tracing::error!(%error, "a reader met damage");
    }
}

fn index_error(partition: TopicPartition, run: &Run, error: IndexError) -> FetchError {
    let key = run.object.key();
    match error.kind {
        ErrorKind::NotFound => FetchError::Missing { object: key.into(), partition, offset: run.first_offset },
        ErrorKind::Corrupt => corrupt(&key, partition, run.first_offset, &error.reason),
        kind => FetchError::Store { kind, partition, offset: run.first_offset, reason: error.reason },
    }
}

pub(super) fn corrupt(object: &str, partition: TopicPartition, offset: i64, reason: &str) -> FetchError {
    FetchError::Corrupt { object: object.into(), partition, offset, reason: reason.into() }
}

/// How many of the first runs hold about `left_bytes` (the first may be entered in its middle, so it does not count).
fn window_of(runs: &[Run], left_bytes: usize) -> usize {
    let mut bytes = 0;
    for (at, run) in runs.iter().enumerate().take(RUNS_PER_STEP) {
        if at > 0 {
            bytes += run.batch_bytes as usize;
        }
        if bytes >= left_bytes {
            return at + 1;
        }
    }
    runs.len().min(RUNS_PER_STEP)
}

/// The batches at `spans`, if every checksum holds and they are what the footer said; else the first bad one's offset.
fn verify(bytes: &ObjectBytes, partition: TopicPartition, spans: &[BatchSpan]) -> Result<Vec<Bytes>, (i64, String)> {
    let one = |span: &BatchSpan| {
        let frame = bytes.slice(span.frame_range()).ok_or("the object is cut short")?;
        let (header, payload) = read_frame(&frame).map_err(|error| error.to_string())?;
        if header.kind != FrameKind::Batch
            || header.partition != partition
            || payload.len() != span.batch_bytes as usize
        {
            return Err("another frame stands where the footer says".to_owned());
        }
        let batch = BatchHeader::decode(payload).ok_or("truncated record batch")?;
        if batch.base_offset != span.base_offset || batch.last_offset() != span.last_offset {
            return Err("the batch has other offsets than the footer says".to_owned());
        }
        Ok(frame.slice(FRAME_HEADER_BYTES..))
    };
    spans.iter().map(|span| one(span).map_err(|reason: String| (span.base_offset, reason))).collect()
}
