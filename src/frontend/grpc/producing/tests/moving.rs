//! A lane, and the lanes at the other end of its links, against three brokers among which the leadership of a partition moves as
//! a seed says: handed over, or lost with what was not committed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::super::{End, Failure, Job, Outcome, Refused, Way, lane};
use super::error;
use crate::base::{Clock, ManualClock};
use crate::format::state::PRODUCER_BATCHES;
use crate::partition::Acks;
use crate::protocol::grpc::v1::Reason;

const BATCHES: u8 = 80;
const BROKERS: usize = 3;
/// The broker whose client it is.
const NEAR: usize = 0;

struct World {
    rng: fastrand::Rng,
    idempotent: bool,
    leader: Option<usize>,
    /// Whom the near broker takes for the leader.
    seen: usize,
    /// Counts leaders that were lost with what they had not committed.
    losses: u64,
    log: Vec<u8>,
    committed: usize,
    links: Vec<Link>,
}

impl World {
    /// The partition's log, as its leader judges a batch.
    fn append(&mut self, number: u8) -> Result<usize, Reason> {
        let remembered = self.log.iter().rev().take(PRODUCER_BATCHES).position(|written| *written == number);
        if self.idempotent
            && let Some(back) = remembered
        {
            return Ok(self.log.len() - 1 - back);
        }
        // Any sequence of a producer that is not known.
        if self.idempotent && self.log.last().is_some_and(|last| number != last + 1) {
            return Err(Reason::OutOfOrderSequence);
        }
        self.log.push(number);
        Ok(self.log.len() - 1)
    }

    /// The leader's session is over: something of what it had not committed is.
    fn lose(&mut self) {
        let kept = self.rng.usize(self.committed..=self.log.len());
        self.log.truncate(kept);
        self.committed = kept;
        self.losses += 1;
    }

    fn pause(&mut self, below_ms: u64) -> Duration {
        Duration::from_millis(self.rng.u64(..below_ms))
    }
}

type Shared = Arc<Mutex<World>>;

fn failed(reason: Reason, unwritten: bool) -> Outcome {
    std::future::ready(Err(Failure { error: error(reason), unwritten })).boxed()
}

/// The log of one broker.
struct Log {
    world: Shared,
    broker: usize,
}

#[async_trait]
impl Way for Log {
    type Road = ();

    fn road(&self) {}

    async fn begin(&self, (): &(), batch: Bytes, _: Acks, _: u64, _: u64) -> Outcome {
        let leads = || self.world.lock().leader == Some(self.broker);
        if !leads() {
            let hold = self.world.lock().pause(20);
            tokio::time::sleep(hold).await;
        }
        let mut world = self.world.lock();
        if world.leader != Some(self.broker) {
            return failed(Reason::NotLeader, true);
        }
        let (offset, losses) = match world.append(batch[0]) {
            Ok(offset) => (offset, world.losses),
            Err(reason) => {
                return async move {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    Err(Failure { error: error(reason), unwritten: false })
                }
                .boxed();
            }
        };
        drop(world);
        let world = self.world.clone();
        async move {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let world = world.lock();
                if world.losses != losses {
                    return Err(Failure { error: error(Reason::Unavailable), unwritten: false });
                }
                if world.committed > offset {
                    return Ok(offset as i64);
                }
            }
        }
        .boxed()
    }
}

type Told = Result<i64, Failure>;

/// A stream of requests to another broker.
struct Link {
    to: usize,
    broken: watch::Sender<bool>,
    requests: mpsc::UnboundedSender<(Bytes, u64, oneshot::Sender<Told>)>,
}

/// The other end of a link: a lane there, and what becomes of its answers here.
async fn drive(
    world: Shared,
    to: usize,
    clock: Clock,
    mut broken: watch::Receiver<bool>,
    mut requests: mpsc::UnboundedReceiver<(Bytes, u64, oneshot::Sender<Told>)>,
) {
    let (jobs, sent) = mpsc::channel(256);
    let mut running = JoinSet::new();
    running.spawn(lane(Log { world: world.clone(), broker: to }, clock, End::Far(Arc::new(Refused::default())), sent));
    let mut breaks = broken.clone();
    while !*broken.borrow() {
        let (batch, attempt, tell) = tokio::select! {
            Some(request) = requests.recv() => request,
            _ = breaks.changed() => break,
        };
        let hop = world.lock().pause(2);
        tokio::time::sleep(hop).await;
        let (answer, told) = oneshot::channel();
        let producer = world.lock().idempotent.then_some(7);
        let job =
            Job { batch, acks: Acks::All, producer, attempt, number: 0, deadline_ms: u64::MAX, answer, room: None };
        jobs.try_send(job).unwrap();
        let mut broken = broken.clone();
        running.spawn(async move {
            let told = tokio::select! {
                biased;
                _ = broken.wait_for(|broken| *broken) => Err(Failure { error: error(Reason::Unavailable), unwritten: false }),
                told = told => told.unwrap().map_err(Failure::at_the_leader),
            };
            let _ = tell.send(told);
        });
    }
    broken.borrow_and_update();
    requests.close();
    while let Some((_, _, tell)) = requests.recv().await {
        let _ = tell.send(Err(Failure { error: error(Reason::Unavailable), unwritten: true }));
    }
    // What has arrived there may still be written, or not.
    let rest = world.lock().pause(10);
    tokio::time::sleep(rest).await;
}

#[derive(PartialEq)]
enum Road {
    Here,
    Link(usize),
}

/// The near broker's way.
struct Near {
    world: Shared,
    clock: Clock,
    running: Arc<Mutex<JoinSet<()>>>,
}

#[async_trait]
impl Way for Near {
    type Road = Road;

    fn road(&self) -> Road {
        let mut world = self.world.lock();
        let to = world.seen;
        if to == NEAR {
            return Road::Here;
        }
        if let Some(open) = world.links.iter().position(|link| link.to == to && !*link.broken.borrow()) {
            return Road::Link(open);
        }
        let (broken, breaks) = watch::channel(false);
        let (requests, sent) = mpsc::unbounded_channel();
        self.running.lock().spawn(drive(self.world.clone(), to, self.clock.clone(), breaks, sent));
        world.links.push(Link { to, broken, requests });
        Road::Link(world.links.len() - 1)
    }

    async fn begin(&self, road: &Road, batch: Bytes, acks: Acks, left_ms: u64, attempt: u64) -> Outcome {
        let Road::Link(link) = road else {
            return Log { world: self.world.clone(), broker: NEAR }.begin(&(), batch, acks, left_ms, attempt).await;
        };
        let (tell, told) = oneshot::channel();
        if self.world.lock().links[*link].requests.send((batch, attempt, tell)).is_err() {
            return failed(Reason::Unavailable, true);
        }
        let lost = || Err(Failure { error: error(Reason::Unavailable), unwritten: false });
        async move { told.await.unwrap_or_else(|_| lost()) }.boxed()
    }
}

/// Leaders come and go, links break; in the end there is a leader, and the near broker knows it.
async fn moves(world: Shared, breaks: bool) {
    let changes = world.lock().rng.usize(3..12);
    for _ in 0..changes {
        let pause = world.lock().pause(80);
        tokio::time::sleep(pause).await;
        let (to, early, gap, lag) = {
            let mut world = world.lock();
            if world.rng.bool() {
                world.lose();
            } else {
                world.committed = world.log.len();
            }
            world.leader = None;
            if breaks && world.rng.bool() && !world.links.is_empty() {
                let links = world.links.len();
                let link = world.rng.usize(..links);
                world.links[link].broken.send_replace(true);
            }
            (world.rng.usize(..BROKERS), world.rng.bool(), world.pause(60), world.pause(30))
        };
        if early {
            world.lock().seen = to;
        }
        tokio::time::sleep(gap).await;
        world.lock().leader = Some(to);
        tokio::time::sleep(lag).await;
        world.lock().seen = to;
    }
}

async fn commits(world: Shared) {
    loop {
        let pause = world.lock().pause(4);
        tokio::time::sleep(pause + Duration::from_millis(1)).await;
        let mut world = world.lock();
        world.committed = world.log.len();
    }
}

/// What each batch came to, and the log.
async fn run(seed: u64, idempotent: bool, breaks: bool) -> (Vec<Result<i64, Reason>>, Vec<u8>) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let leader = rng.usize(..BROKERS);
    let world = Arc::new(Mutex::new(World {
        rng,
        idempotent,
        leader: Some(leader),
        seen: leader,
        losses: 0,
        log: Vec::new(),
        committed: 0,
        links: Vec::new(),
    }));
    let clock = ManualClock::starting_at(0).clock();
    let near = Near { world: world.clone(), clock: clock.clone(), running: Arc::default() };
    let (sender, jobs) = mpsc::channel(usize::from(BATCHES));
    let feed = async {
        let mut answers = Vec::new();
        for number in 0..BATCHES {
            let (answer, told) = oneshot::channel();
            let batch = Bytes::copy_from_slice(&[number]);
            let producer = idempotent.then_some(7);
            let job = Job {
                batch,
                acks: Acks::All,
                producer,
                attempt: 0,
                number: 0,
                deadline_ms: u64::MAX,
                answer,
                room: None,
            };
            sender.send(job).await.unwrap();
            answers.push(told);
            let pause = world.lock().pause(8);
            tokio::time::sleep(pause).await;
        }
        drop(sender);
        let mut told = Vec::new();
        for answer in answers {
            told.push(answer.await.unwrap().map_err(|error| error.reason()));
        }
        told
    };
    let mut committing = JoinSet::new();
    committing.spawn(commits(world.clone()));
    let done = futures::future::join3(lane(near, clock, End::Near, jobs), feed, moves(world.clone(), breaks));
    let ((), told, ()) = tokio::time::timeout(Duration::from_mins(10), done).await.expect("it comes to an end");
    let log = std::mem::take(&mut world.lock().log);
    (told, log)
}

#[tokio::test(start_paused = true)]
async fn batches_stay_in_order_while_leaders_move() {
    for seed in 0..300 {
        let breaks = seed % 2 == 0;
        let (told, log) = run(seed, false, breaks).await;
        let mut written = log.clone();
        written.sort_unstable();
        if !breaks {
            assert_eq!(log, written, "seed {seed}: {told:?}");
        }
        written.dedup();
        assert_eq!(written.len(), log.len(), "seed {seed}: nothing is written twice");
        let mut last = -1;
        for (number, told) in told.iter().enumerate() {
            match told {
                Ok(offset) => {
                    assert_eq!(usize::from(log[*offset as usize]), number, "seed {seed}: {log:?}");
                    assert!(*offset > last, "seed {seed}: {number} is behind its follower: {log:?}");
                    last = *offset;
                }
                Err(reason) => assert_eq!(*reason, Reason::Unavailable, "seed {seed}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_of_an_idempotent_producer_is_lost_or_doubled_while_leaders_move() {
    for seed in 0..300 {
        let (told, log) = run(seed, true, seed % 2 == 0).await;
        assert_eq!(log, (0..BATCHES).collect::<Vec<_>>(), "seed {seed}: {told:?}");
        assert_eq!(
            told,
            (0..i64::from(BATCHES)).map(Ok).collect::<Vec<_>>(),
            "seed {seed}: each is told its own offset"
        );
    }
}
