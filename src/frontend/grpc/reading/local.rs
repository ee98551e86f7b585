//! The partitions that this broker leads: passes over its log, each waiting for credit first.

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{Gone, Place, Reading, Told, untroubled};
use crate::broker::BrokerError;
use crate::fetch::session::NO_LEADER_EPOCH;
use crate::fetch::{FetchRequest, PartitionRequest, ReadResult};
use crate::frontend::grpc::errors::explain;
use crate::frontend::grpc::records::{MESSAGE_BYTES, from_batches, in_one_piece, joined, readable};
use crate::protocol::grpc::v1::{Error, FetchData, Reason};

/// Most bytes of batches in one answer, unless one batch alone has more.
const ANSWER_BYTES: usize = 1 << 20;
/// A wait for more records is begun anew after this long, in milliseconds.
const WAIT_MS: u64 = 10_000;

impl<T: Send + 'static> Reading<'_, T> {
    /// Reads until all have ended, one has trouble, or `stop`; those that have not ended come back.
    pub(super) async fn read_own(
        &self,
        mut places: Vec<Place>,
        stop: &CancellationToken,
    ) -> Result<Vec<(Place, Option<Error>)>, Gone> {
        loop {
            if places.is_empty() {
                return Ok(Vec::new());
            }
            let left = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(untroubled(places)),
                left = self.outlet.room() => left?,
            };
            let Some(mut troubled) = self.pass(&mut places, left, stop).await? else { return Ok(untroubled(places)) };
            self.end_those_that_are_read(&mut places).await?;
            if !troubled.is_empty() {
                troubled.extend(untroubled(places));
                return Ok(troubled);
            }
            // The next pass begins with another partition.
            if places.len() > 1 {
                places.rotate_left(1);
            }
        }
    }

    /// One fetch of all partitions; what came of it goes to the client. Those with trouble are taken out; none when stopped.
    async fn pass(
        &self,
        places: &mut Vec<Place>,
        left: usize,
        stop: &CancellationToken,
    ) -> Result<Option<Vec<(Place, Option<Error>)>>, Gone> {
        let broker = self.library.slot.current();
        let max_bytes = left.clamp(1, ANSWER_BYTES);
        let partitions = places.iter().map(|place| PartitionRequest {
            partition: place.partition,
            offset: place.offset,
            max_bytes,
            current_leader_epoch: NO_LEADER_EPOCH,
        });
        let (partitions, isolation) = (partitions.collect(), self.options.isolation);
        let read = FetchRequest { partitions, min_bytes: 1, max_bytes, max_wait_ms: WAIT_MS, isolation };
        let fetched = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(None),
            fetched = broker.fetch(&read) => fetched,
        };
        // All of them now: what was read is held until the client takes it.
        let fetched: Vec<_> = fetched.into_iter().map(|one| one.result.map(of_its_own)).collect();
        let mut troubles = Vec::new();
        for (at, fetched) in fetched.into_iter().enumerate() {
            let trouble = match fetched {
                Ok(read) => self.give(&mut places[at], &read).await?,
                Err(error) => Some(explain(&BrokerError::Read(error), &broker.image())),
            };
            if let Some(error) = trouble {
                troubles.push((at, error));
            }
        }
        let taken = troubles.into_iter().rev().map(|(at, error)| (places.remove(at), Some(error)));
        Ok(Some(taken.collect()))
    }

    /// Gives the client what was read; an error if it makes no sense.
    async fn give(&self, place: &mut Place, read: &ReadResult) -> Result<Option<Error>, Gone> {
        place.trouble_since_ms = None;
        if read.batches.is_empty() {
            place.offset = place.offset.max(read.next_offset);
            return Ok(None);
        }
        let bytes = read.bytes() as u64 + MESSAGE_BYTES;
        let batches = readable(&read.batches, &read.aborted);
        let (records, batches) = if self.options.raw_batches {
            (Vec::new(), joined(&batches))
        } else {
            match from_batches(&batches, place.offset) {
                Ok(records) => (records, Bytes::new()),
                Err(error) => {
                    let message = format!("records of {}-{} cannot be read: {error}", place.topic, place.index);
                    return Ok(Some(Error { reason: Reason::Corrupt.into(), message, ..Error::default() }));
                }
            }
        };
        // Whoever is given records holds them unpacked.
        let unpacked: usize = records.iter().map(prost::Message::encoded_len).sum();
        let bytes = bytes.max(unpacked as u64 + MESSAGE_BYTES);
        let data = FetchData {
            topic: place.topic.to_string(),
            partition: place.index,
            records,
            batches,
            bytes,
            next_offset: read.next_offset,
            high_watermark: read.limit,
        };
        self.outlet.reserve().await?.send(Told::Data(data), bytes);
        place.offset = read.next_offset;
        Ok(None)
    }
}

/// What was read, in memory of its own: a client that does not read on holds no more than that of the pages and segments.
fn of_its_own(mut read: ReadResult) -> ReadResult {
    read.batches = in_one_piece(&read.batches);
    read
}
