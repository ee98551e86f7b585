//! One run: a seed gives the brokers' settings, the clients, the trouble and every chance on the way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use esker::base::maps::fix_order;
use esker::base::{Clock, TopicPartition};
use esker::config::Settings;
use esker::format::state::PartitionState;
use esker::partition::Log;
use esker::partition::stream::load_stream;
use futures::FutureExt as _;

use crate::history::{History, Partition};
use crate::meta::Registry;
use crate::net::Net;
use crate::node::{Machine, NodeClock, Surroundings};
use crate::store::Bucket;
use crate::trouble::{self, Relief};
use crate::workload::{self, Office, Producer};
use crate::world::{Host, World};

/// Hosts take turns of this length, in microseconds.
const TURN_US: u64 = 5_000;
/// The brokers must serve their first request within this time.
const FOUNDING_US: u64 = 60_000_000;
/// How long trouble lasts.
const TROUBLE_US: u64 = 25_000_000;
/// After the trouble everything must come to its end within this time.
const HEALING_US: u64 = 120_000_000;

/// What is to be run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub brokers: usize,
    /// Bugs put in on purpose, to see that they are found.
    pub mutant: Mutant,
    /// No trouble at all.
    pub calm: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    None,
    /// The store says that it created an object, and now and then forgets to: an acknowledgement before the commit.
    EarlyYes,
    /// Now and then a batch is written once more, as by a broker that does not know the producer's sequence.
    Twice,
    /// Now and then a reader does not get a batch that is there.
    Skip,
}

impl Mutant {
    pub const ALL: [Self; 4] = [Self::None, Self::EarlyYes, Self::Twice, Self::Skip];
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        // Three, most of the time.
        let brokers = [3, 1, 3, 2, 3, 4, 3, 3][seed as usize % 8];
        Self { seed, brokers, mutant: Mutant::None, calm: false }
    }
}

/// How it went.
pub struct Outcome {
    /// Everything that happened, in order.
    pub history: String,
    /// What must not be.
    pub violations: Vec<String>,
    pub acknowledged: usize,
}

/// Settings that make in half a minute what usually takes days.
fn settings(world: &World) -> Settings {
    let mut settings = Settings::default();
    settings.log.flush_linger_ms = world.between(20, 250);
    settings.cluster.lease_ttl_ms = world.between(2_000, 12_000);
    settings.cluster.balance_interval_ms = world.between(500, 5_000);
    settings.cluster.drain_timeout_ms = world.between(1_000, 15_000);
    settings.broker.stop_timeout_ms = world.between(1_000, 10_000);
    settings.broker.zone = world.happens(0.5).then(|| format!("zone-{}", world.between(0, 2)));
    settings.log.put_rate_per_s = 4.0;
    settings.log.flush_bytes = world.between(4_000, 60_000) as usize;
    settings.log.upload_concurrency = world.between(1, 5) as usize;
    settings.log.hedge_after_ms = world.between(0, 2) * 500;
    settings.log.unflushed_bytes = world.between(40_000, 400_000) as usize;
    settings.log.wal_disk_bytes = world.between(100_000, 2_000_000);
    settings.log.memory_tail_bytes = world.between(1, 100_000) as usize;
    settings.log.checkpoint_segments = world.between(2, 30);
    settings.log.checkpoint_interval_ms = world.between(500, 20_000);
    settings.cache.page_bytes = 4_096;
    settings.cache.memory_bytes = world.between(1, 20) * 10_000;
    settings.retention.check_interval_ms = world.between(500, 5_000);
    settings.retention.delete_grace_ms = world.between(2_000, 30_000);
    settings.group.offsets_topic_partitions = 3;
    settings.group.initial_rebalance_delay_ms = 100;
    settings
}

struct Theatre {
    around: Surroundings,
    machines: Vec<Machine>,
    clients: Host,
    now_us: u64,
    due: BTreeMap<(u64, u64), Relief>,
    events: u64,
}

impl Theatre {
    /// Everybody's turns up to `end_us`, or until `done`. Whether it was done in time.
    fn run(&mut self, end_us: u64, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        while self.now_us < end_us {
            if done(self) {
                return true;
            }
            let next_us = self.now_us + TURN_US;
            for index in 0..self.machines.len() {
                if self.machines[index].turn(next_us).is_some() {
                    self.relieve(self.machines[index].away_ms, Relief::Start(index));
                }
            }
            self.clients.turn(next_us);
            self.now_us = next_us;
            self.around.world.move_to(next_us);
            if self.now_us.is_multiple_of(20_000) {
                self.around.registry.tick();
            }
            while let Some(((due_us, _), relief)) = self.due.first_key_value().map(|(key, relief)| (*key, *relief))
                && due_us <= self.now_us
            {
                self.due.pop_first();
                trouble::end(relief, &mut self.machines, &self.around);
            }
        }
        done(self)
    }

    fn relieve(&mut self, after_ms: u64, relief: Relief) {
        self.events += 1;
        self.due.insert((self.now_us + after_ms * 1000, self.events), relief);
    }
}

/// Runs it from beginning to end.
pub fn run(plan: Plan) -> Outcome {
    fix_order(plan.seed);
    let world = World::new(plan.seed);
    let clock: Clock = NodeClock::new(&world, 0).clock();
    let around = Surroundings {
        world: world.clone(),
        net: Net::default(),
        bucket: Bucket::new(&world, clock.clone(), plan.mutant),
        registry: Registry::new(&world, clock),
    };
    let machines = (0..plan.brokers).map(|id| Machine::new(id as i32, &around, settings(&world))).collect();
    let office = Office {
        world: world.clone(),
        net: around.net.clone(),
        brokers: (0..plan.brokers as i32).collect(),
        history: History::default(),
        enough: Arc::new(AtomicBool::new(false)),
        busy: Arc::new(AtomicUsize::new(0)),
        mutant: plan.mutant,
    };
    let clients = Host::new(&world);
    let mut theatre = Theatre { around, machines, clients, now_us: 0, due: BTreeMap::new(), events: 0 };
    play(&mut theatre, &office, plan);
    let violations = office.history.with(|known| known.violations());
    let acknowledged = office.history.with(|known| known.acknowledged.len());
    let history = world.take_trace();
    drop(theatre);
    world.end();
    Outcome { history, violations, acknowledged }
}

fn play(theatre: &mut Theatre, office: &Office, plan: Plan) {
    let history = office.history.clone();
    theatre.machines.iter_mut().for_each(Machine::start);
    let topics = vec![("ledger".to_owned(), 3), ("journal".to_owned(), 2)];
    let founded = Arc::new(AtomicBool::new(false));
    let (creator, all, ready) = (office.clone(), topics.clone(), founded.clone());
    theatre.clients.handle().spawn(async move {
        workload::create_topics(&creator, &all).await;
        ready.store(true, Ordering::SeqCst);
    });
    if !theatre.run(FOUNDING_US, |_| founded.load(Ordering::SeqCst)) {
        history.wrong("the brokers do not come up".to_owned());
        return;
    }
    let partitions: Vec<Partition> =
        topics.iter().flat_map(|(topic, count)| (0..*count).map(move |index| (topic.clone(), index))).collect();
    spawn_clients(theatre, office, &partitions);

    let began_us = theatre.now_us;
    let until_us = began_us + TROUBLE_US;
    if !plan.calm {
        let planned = trouble::plan(&office.world, plan.brokers, began_us, until_us);
        for (at_us, trouble) in planned {
            theatre.run(at_us, |_| false);
            if let Some((after_ms, relief)) = trouble::cause(trouble, &mut theatre.machines, &theatre.around) {
                theatre.relieve(after_ms, relief);
            }
        }
    }
    theatre.run(until_us, |_| false);
    theatre.due.clear();
    trouble::heal(&mut theatre.machines, &theatre.around);
    // A little more work, to see that it gets through.
    theatre.run(until_us + 5_000_000, |_| false);
    office.enough.store(true, Ordering::SeqCst);
    if !theatre.run(until_us + HEALING_US, |_| office.busy.load(Ordering::SeqCst) == 0) {
        let busy = office.busy.load(Ordering::SeqCst);
        history.wrong(format!("stuck: {busy} clients are not done {} s after the trouble", HEALING_US / 1_000_000));
    }
    let audit = Office { busy: Arc::default(), ..office.clone() };
    for partition in &partitions {
        theatre.clients.handle().spawn(workload::read(audit.clone(), "auditor", partition.clone(), true));
    }
    theatre.run(theatre.now_us + TURN_US, |_| false);
    if !theatre.run(theatre.now_us + HEALING_US, |_| audit.busy.load(Ordering::SeqCst) == 0) {
        history.wrong("stuck: the partitions cannot be read to their ends".to_owned());
    }
    check_streams(theatre, &history);
}

fn spawn_clients(theatre: &Theatre, office: &Office, partitions: &[Partition]) {
    let runtime = theatre.clients.handle();
    for (number, partition) in (0_u32..).zip(partitions.iter().chain(partitions)) {
        let producer = Producer {
            number,
            partition: partition.clone(),
            // With acks=1 a takeover may lose what was acknowledged, after which the producer cannot go on.
            idempotent: number % 3 != 2 && (number % 4 != 3 || office.brokers.len() == 1),
            acks: if number % 4 == 3 { 1 } else { -1 },
        };
        runtime.spawn(producer.run(office.clone()));
    }
    for partition in partitions {
        runtime.spawn(workload::read(office.clone(), "reader", partition.clone(), false));
    }
    for number in 0..2 {
        runtime.spawn(workload::commit(office.clone(), format!("group-{number}"), "ledger".to_owned()));
    }
    runtime.spawn(workload::waste(office.clone()));
}

/// Replaying each stream from the store gives the state that its broker has.
fn check_streams(theatre: &mut Theatre, history: &History) {
    let mut logs: Vec<Log> = Vec::new();
    let flushed = Arc::new(AtomicUsize::new(0));
    for machine in &theatre.machines {
        let (Some(log), Some(runtime)) = (machine.log(), machine.runtime()) else { continue };
        logs.push(log.clone());
        let flushed = flushed.clone();
        runtime.spawn(async move {
            let _ = log.flush().await;
            flushed.fetch_add(1, Ordering::SeqCst);
        });
    }
    let end_us = theatre.now_us + HEALING_US;
    theatre.run(end_us, |_| flushed.load(Ordering::SeqCst) == logs.len());
    let store = theatre.around.bucket.objects();
    for log in logs {
        let session = log.session();
        let mut live: BTreeMap<TopicPartition, PartitionState> = BTreeMap::new();
        log.each_state(|partition, state| {
            live.insert(partition, state.clone());
        });
        let Some(replayed) = load_stream(&store, session).now_or_never() else {
            history.wrong(format!("the stream of {session} cannot be read at once"));
            continue;
        };
        match replayed {
            Err(error) => history.wrong(format!("the stream of {session} cannot be replayed: {error}")),
            Ok(stream) => {
                for (partition, state) in &live {
                    if stream.partitions.get(partition) != Some(state) {
                        history.wrong(format!("replaying {session} gives {partition} another state than it has"));
                    }
                }
            }
        }
    }
}
