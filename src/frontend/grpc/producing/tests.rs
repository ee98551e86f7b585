//! A lane against a leader that moves, refuses and loses answers as a seed says.

mod link;
mod moving;
mod room;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::{End, Failure, Job, Outcome, Refused, Way, lane};
use crate::base::{Clock, ManualClock};
use crate::format::state::PRODUCER_BATCHES;
use crate::partition::Acks;
use crate::protocol::grpc::v1::{Error, Reason};

fn error(reason: Reason) -> Error {
    let retriable = matches!(reason, Reason::NotLeader | Reason::Unavailable);
    Error { reason: reason.into(), message: String::new(), retriable, leader: None }
}

/// A log that takes batches (each one number) in order from an idempotent producer, and remembers the last ones, as brokers do.
#[derive(Default)]
struct Log {
    written: Vec<u8>,
    tries: Vec<u8>,
}

struct Leader {
    log: Mutex<Log>,
    rng: Mutex<fastrand::Rng>,
    idempotent: bool,
    clock: ManualClock,
}

#[async_trait]
impl Way for Arc<Leader> {
    type Road = ();

    fn road(&self) {}

    async fn begin(&self, (): &(), batch: Bytes, _: Acks, _: u64, _: u64) -> Outcome {
        let number = batch[0];
        let mut rng = self.rng.lock();
        let mut log = self.log.lock();
        log.tries.push(number);
        self.clock.advance_ms(1);
        let refused = |reason: Reason, unwritten| Err(Failure { error: error(reason), unwritten });
        let write = |log: &mut Log| {
            let remembered = log.written.iter().rev().take(PRODUCER_BATCHES).position(|written| *written == number);
            match remembered {
                Some(back) if self.idempotent => Ok((log.written.len() - 1 - back) as i64),
                _ if self.idempotent && usize::from(number) != log.written.len() => {
                    refused(Reason::OutOfOrderSequence, false)
                }
                _ => {
                    log.written.push(number);
                    Ok(log.written.len() as i64 - 1)
                }
            }
        };
        let outcome = match rng.u8(..10) {
            0 | 1 => refused(Reason::NotLeader, true),
            // Written, and the answer lost.
            2 => write(&mut log).and(refused(Reason::Unavailable, false)),
            3 => refused(Reason::Unavailable, false),
            _ => write(&mut log),
        };
        let delay = Duration::from_millis(rng.u64(..5));
        async move {
            tokio::time::sleep(delay).await;
            outcome
        }
        .boxed()
    }
}

async fn run(seed: u64, idempotent: bool, end: End) -> (Vec<Result<i64, Reason>>, Log) {
    let clock = ManualClock::starting_at(0);
    let rng = Mutex::new(fastrand::Rng::with_seed(seed));
    let leader = Arc::new(Leader { log: Mutex::default(), rng, idempotent, clock: clock.clone() });
    let (sender, jobs) = mpsc::channel(64);
    let mut answers = Vec::new();
    for number in 0..40 {
        let (answer, told) = oneshot::channel();
        let batch = Bytes::copy_from_slice(&[number]);
        let producer = idempotent.then_some(7);
        let job =
            Job { batch, acks: Acks::All, producer, attempt: 0, number: 0, deadline_ms: 1_000_000, answer, room: None };
        sender.try_send(job).unwrap();
        answers.push(told);
    }
    drop(sender);
    lane(leader.clone(), clock.clock(), end, jobs).await;
    let mut told = Vec::new();
    for answer in answers {
        told.push(answer.await.unwrap().map_err(|error| error.reason()));
    }
    let log = std::mem::take(&mut *leader.log.lock());
    (told, log)
}

#[tokio::test(start_paused = true)]
async fn an_idempotent_producer_s_batches_are_written_once_and_in_order() {
    for seed in 0..200 {
        let (told, log) = run(seed, true, End::Near).await;
        assert_eq!(log.written, (0..40).collect::<Vec<u8>>(), "seed {seed}: {:?}", log.tries);
        assert_eq!(told, (0..40).map(Ok).collect::<Vec<_>>(), "seed {seed}: each is told its own offset");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_producer_id_nothing_is_written_twice() {
    for seed in 0..200 {
        let (told, log) = run(seed, false, End::Near).await;
        let mut written = log.written.clone();
        written.sort_unstable();
        written.dedup();
        assert_eq!(written.len(), log.written.len(), "seed {seed}");
        for (number, told) in told.into_iter().enumerate() {
            match told {
                Ok(offset) => assert_eq!(log.written[offset as usize] as usize, number, "seed {seed}"),
                // Whether it was written is not known; NotLeader is never the last word.
                Err(reason) => assert_eq!(reason, Reason::Unavailable, "seed {seed}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_came_from_another_broker_is_tried_once() {
    let (told, log) = run(7, false, End::Far(Arc::new(Refused::default()))).await;
    assert_eq!(log.tries, (0..40).collect::<Vec<u8>>());
    assert!(told.contains(&Err(Reason::NotLeader)));
}

/// Never leads.
struct Nobody(ManualClock);

#[async_trait]
impl Way for Nobody {
    type Road = ();

    fn road(&self) {}

    async fn begin(&self, (): &(), _: Bytes, _: Acks, _: u64, _: u64) -> Outcome {
        self.0.advance_ms(100);
        std::future::ready(Err(Failure { error: error(Reason::NotLeader), unwritten: true })).boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_tried_until_its_time_is_up() {
    let clock = ManualClock::starting_at(0);
    let (sender, jobs) = mpsc::channel(1);
    let (answer, told) = oneshot::channel();
    let (batch, producer) = (Bytes::new(), Some(7));
    let job = Job { batch, acks: Acks::All, producer, attempt: 0, number: 0, deadline_ms: 1_000, answer, room: None };
    sender.try_send(job).unwrap();
    drop(sender);
    let read: Clock = clock.clock();
    lane(Nobody(clock.clone()), read.clone(), End::Near, jobs).await;
    assert_eq!(told.await.unwrap().unwrap_err().reason(), Reason::NotLeader);
    assert!((900..=1_000).contains(&read.boot_ms()), "{}", read.boot_ms());
}
