//! The partitions that one other broker leads: a Fetch call there, with a credit of its own.
//!
//! What comes is taken at once and held until the client takes it; the other broker's credit is given back only then. So a client
//! that does not read holds up nobody else on the connection.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{Gone, Place, Reading, Told, untroubled};
use crate::base::HashMap;
use crate::cluster::ClusterImage;
use crate::frontend::grpc::errors::{leader, passing};
use crate::frontend::grpc::offsets::lost;
use crate::partition::Isolation;
use crate::protocol::grpc::v1::fetch_from::Start;
use crate::protocol::grpc::v1::fetch_request::Kind as Asked;
use crate::protocol::grpc::v1::{Error, FetchCredit, FetchData, FetchEnd, FetchFrom, FetchOpen, FetchRequest, Reason};

/// Bytes that the other broker sends ahead of the client.
pub const WINDOW_BYTES: u64 = 2 << 20;
/// Credit is given back in pieces of at least this many bytes.
const PIECE_BYTES: u64 = WINDOW_BYTES / 4;
/// Pieces of credit on their way: all there can be, and some.
const PIECES: usize = 16;
/// How often it is asked whether the other broker still leads the partitions, in milliseconds: one that hangs says nothing.
const LOOK_MS: u64 = 500;
/// Longest wait for the other broker to take the call, in milliseconds.
const OPEN_TIMEOUT_MS: u64 = 2_000;

/// The partitions of a leg by name.
struct Places {
    open: Vec<Place>,
    at: HashMap<(Arc<str>, i32), usize>,
}

impl Places {
    fn new(open: Vec<Place>) -> Self {
        let at = open.iter().enumerate().map(|(at, place)| ((place.topic.clone(), place.index), at)).collect();
        Self { open, at }
    }

    fn get(&mut self, topic: &str, partition: i32) -> Option<(usize, &mut Place)> {
        let at = *self.at.get(&(Arc::from(topic), partition))?;
        Some((at, self.open.get_mut(at)?))
    }

    fn remove(&mut self, at: usize) -> Place {
        let place = self.open.remove(at);
        *self = Self::new(std::mem::take(&mut self.open));
        place
    }
}

impl<T: Send + 'static> Reading<'_, T> {
    /// Reads until all have ended, there is trouble, another broker leads one, or `stop`; those that have not ended come back.
    pub(super) async fn read_of(
        &self,
        broker: i32,
        endpoint: &str,
        places: Vec<Place>,
        stop: &CancellationToken,
    ) -> Result<Vec<(Place, Option<Error>)>, Gone> {
        let image = self.library.slot.current().image();
        let (credit, requests) = mpsc::channel(PIECES);
        // There is room for the first.
        let _ = credit.try_send(FetchRequest { kind: Some(Asked::Open(self.opening(&places))) });
        let call = self.library.forward.fetch(endpoint, ReceiverStream::new(requests), &image);
        let mut answers = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(untroubled(places)),
            answers = tokio::time::timeout(Duration::from_millis(OPEN_TIMEOUT_MS), call) => match answers {
                Ok(Ok(answers)) => answers,
                Ok(Err(status)) => return Ok(all_troubled(places, &lost(&status))),
                Err(_) => return Ok(all_troubled(places, &gone(broker))),
            },
        };
        let mut places = Places::new(places);
        let mut held: VecDeque<Told> = VecDeque::new();
        let mut owed_bytes = 0;
        let mut look = tokio::time::interval(Duration::from_millis(LOOK_MS));
        while !places.open.is_empty() {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                permit = self.outlet.reserve(), if matches!(held.front(), Some(Told::Data(_))) => {
                    let permit = permit?;
                    let Some(Told::Data(data)) = held.pop_front() else { continue };
                    owed_bytes += data.bytes;
                    let Some((at, place)) = places.get(&data.topic, data.partition) else { continue };
                    if let Some(end) = pass_on(place, data, permit) {
                        places.remove(at);
                        self.outlet.tell(Told::End(end)).await?;
                    }
                }
                told = answers.message() => match told {
                    Ok(Some(told)) => held.extend(told.kind),
                    // What is held is read again from where the client is.
                    Ok(None) => return Ok(all_troubled(places.open, &gone(broker))),
                    Err(status) => return Ok(all_troubled(places.open, &lost(&status))),
                },
                _ = look.tick() => if !self.still_leads(broker, &places.open) { break },
            }
            while held.front().is_some_and(|told| !matches!(told, Told::Data(_))) {
                let Some(Told::Failure(failure)) = held.pop_front() else { continue };
                let Some((at, _)) = places.get(&failure.topic, failure.partition) else { continue };
                let place = places.remove(at);
                let mut back = vec![(place, Some(passing(failure.error.unwrap_or_default())))];
                back.extend(untroubled(places.open));
                return Ok(back);
            }
            if owed_bytes >= PIECE_BYTES {
                let request = FetchRequest { kind: Some(Asked::Credit(FetchCredit { bytes: owed_bytes })) };
                if credit.try_send(request).is_ok() {
                    owed_bytes = 0;
                }
            }
        }
        Ok(untroubled(places.open))
    }

    fn opening(&self, places: &[Place]) -> FetchOpen {
        let from = |place: &Place| FetchFrom {
            topic: place.topic.to_string(),
            partition: place.index,
            start: Some(Start::Offset(place.offset)),
        };
        FetchOpen {
            partitions: places.iter().map(from).collect(),
            stop_at_end: false,
            read_committed: self.options.isolation == Isolation::ReadCommitted,
            raw_batches: self.options.raw_batches,
            credit_bytes: WINDOW_BYTES,
        }
    }

    fn still_leads(&self, broker: i32, places: &[Place]) -> bool {
        let image = self.library.slot.current().image();
        let mut known: BTreeMap<i32, bool> = BTreeMap::new();
        places.iter().all(|place| leads(&image, broker, place, &mut known))
    }
}

/// Whether `broker` leads a partition; nobody does while leadership moves, and then it is asked on.
fn leads(image: &ClusterImage, broker: i32, place: &Place, known: &mut BTreeMap<i32, bool>) -> bool {
    let Some(assignment) = image.leader(place.partition) else { return false };
    let of = assignment.session.broker_id;
    of == broker || !*known.entry(of).or_insert_with(|| leader(image, place.partition).is_some())
}

/// Sends another broker's data on; the end, if that was all there is to be read.
fn pass_on<T>(place: &mut Place, data: FetchData, permit: super::outlet::Permit<'_, T>) -> Option<FetchEnd> {
    place.trouble_since_ms = None;
    place.offset = data.next_offset;
    let bytes = data.bytes;
    let end = FetchEnd { topic: data.topic.clone(), partition: data.partition, next_offset: data.next_offset };
    permit.send(Told::Data(data), bytes);
    place.is_read().then_some(end)
}

fn gone(broker: i32) -> Error {
    let message = format!("broker {broker} does not read, or not any more");
    Error { reason: Reason::Unavailable.into(), message, retriable: true, leader: None }
}

fn all_troubled(places: Vec<Place>, error: &Error) -> Vec<(Place, Option<Error>)> {
    places.into_iter().map(|place| (place, Some(error.clone()))).collect()
}
