//! Idempotent producers: is this batch new, a retry, or out of order? Rules of Kafka's `ProducerStateManager` (KIP-98,
//! KIP-360).

use std::collections::{BTreeMap, VecDeque};

use crate::format::entry::BatchFacts;
use crate::format::state::{PRODUCER_BATCHES, ProducerBatch, ProducerState};
use crate::protocol::batch::header::{BatchHeader, sequence_add};

use super::api::LogError;

/// What to do with a batch of an idempotent producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Append it.
    Accept,
    /// It was appended before, at this base offset.
    Duplicate {
        /// Offset of the first record of the original.
        base_offset: i64,
    },
    /// Refuse it.
    Reject(LogError),
}

/// Judges a data batch against what is known of its producer.
///
/// A producer that is not known (its state expired, or its records are gone) may start with any sequence; a new epoch
/// starts at sequence 0.
///
/// A batch from before those that are remembered is out of order, as Kafka has it, and not "written before": whether it was
/// written is not known, for the producer may not have begun at sequence 0 here. Clients take that answer for success, so it
/// would lose records; out of order they are told of. Whoever has at most [`PRODUCER_BATCHES`] unanswered never meets it.
pub fn judge(known: Option<&ProducerState>, header: &BatchHeader) -> Verdict {
    if !header.has_producer_id() {
        return Verdict::Accept;
    }
    let Some(known) = known else { return Verdict::Accept };
    if header.producer_epoch < known.epoch {
        return Verdict::Reject(LogError::InvalidProducerEpoch {
            producer_id: header.producer_id,
            got: header.producer_epoch,
            current: known.epoch,
        });
    }
    let first = header.base_sequence;
    let out_of_order = |expected| {
        Verdict::Reject(LogError::OutOfOrderSequence { producer_id: header.producer_id, got: first, expected })
    };
    if header.producer_epoch > known.epoch {
        return if first == 0 { Verdict::Accept } else { out_of_order(0) };
    }
    let duplicate = known
        .batches
        .iter()
        .find(|batch| batch.first_sequence == first && batch.last_sequence == header.last_sequence());
    if let Some(original) = duplicate {
        return Verdict::Duplicate { base_offset: original.base_offset() };
    }
    match known.batches.back() {
        None => Verdict::Accept,
        Some(last) => {
            let expected = sequence_add(last.last_sequence, 1);
            if first == expected { Verdict::Accept } else { out_of_order(expected) }
        }
    }
}

/// Records an appended batch. Returns the first offset of the transaction that it aborted, if it is an abort marker.
pub fn append(producers: &mut BTreeMap<i64, ProducerState>, batch: &BatchFacts) -> Option<i64> {
    if batch.producer_id < 0 {
        return None;
    }
    let producer = producers.entry(batch.producer_id).or_insert_with(|| unknown(batch));
    update(producer, batch)
}

/// A producer of which nothing is known before `batch`.
pub fn unknown(batch: &BatchFacts) -> ProducerState {
    ProducerState {
        epoch: batch.producer_epoch,
        coordinator_epoch: -1,
        txn_first_offset: None,
        last_append_ms: batch.append_ms,
        batches: VecDeque::new(),
    }
}

/// Records a batch of this producer; as [`append`].
pub fn update(producer: &mut ProducerState, batch: &BatchFacts) -> Option<i64> {
    if batch.producer_epoch != producer.epoch {
        producer.epoch = batch.producer_epoch;
        producer.batches.clear();
    }
    producer.last_append_ms = batch.append_ms;
    if let Some(marker) = batch.marker {
        producer.coordinator_epoch = marker.coordinator_epoch;
        let first_offset = producer.txn_first_offset.take();
        return if marker.commit { None } else { first_offset };
    }
    if batch.base_sequence >= 0 {
        if producer.batches.len() == PRODUCER_BATCHES {
            producer.batches.pop_front();
        }
        let delta = i32::try_from(batch.last_offset - batch.base_offset).unwrap_or(i32::MAX);
        producer.batches.push_back(ProducerBatch {
            first_sequence: batch.base_sequence,
            last_sequence: sequence_add(batch.base_sequence, delta),
            last_offset: batch.last_offset,
            timestamp: batch.max_timestamp,
        });
    }
    if batch.is_transactional() && producer.txn_first_offset.is_none() {
        producer.txn_first_offset = Some(batch.base_offset);
    }
    None
}

/// Forgets producers that last wrote at or before `up_to_ms` and have no open transaction.
pub fn expire(producers: &mut BTreeMap<i64, ProducerState>, up_to_ms: i64) {
    producers.retain(|_, producer| producer.last_append_ms > up_to_ms || producer.txn_first_offset.is_some());
}
