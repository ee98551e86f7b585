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

use crate::alone;
use crate::caller::Way;
use crate::grpc_members;
use crate::history::{History, Partition};
use crate::members::Member;
use crate::meta::Registry;
use crate::net::Net;
use crate::node::{Machine, NodeClock, Surroundings};
use crate::store::Bucket;
use crate::trouble::{self, Relief, Trouble};
use crate::watchdog;
use crate::workload::{self, Office, Producer};
use crate::world::{Host, Place, World};

/// Hosts take turns of this length, in microseconds.
const TURN_US: u64 = 5_000;
/// The brokers must serve their first request within this time.
const FOUNDING_US: u64 = 60_000_000;
/// Before a trouble that comes alone, and after it.
const CALM_US: u64 = 3_000_000;
const AFTERMATH_US: u64 = 15_000_000;
/// How long trouble lasts.
const TROUBLE_US: u64 = 25_000_000;
/// After the trouble everything must come to its end within this time.
const HEALING_US: u64 = 120_000_000;

/// The first producer of the gRPC door; those of the other have smaller numbers.
const GRPC_PRODUCERS: u32 = 100;

/// Most things that are told of the streams.
const MOST_TOLD: usize = 5;

/// What is to be run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub brokers: usize,
    /// Bugs put in on purpose, to see that they are found.
    pub mutant: Mutant,
    pub script: Script,
}

/// What happens to the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// Whatever the seed says.
    Chance,
    /// No trouble at all.
    Calm,
    /// The metadata store is down for ten minutes.
    MetaStopped,
    /// Nobody reaches the metadata store for ten minutes, and all leases end.
    MetaAway,
    /// Nobody reaches the object store for a minute.
    StoreAway,
    /// One broker sleeps for longer than its lease lasts.
    Asleep,
}

impl Script {
    pub const ALL: [Self; 6] =
        [Self::Chance, Self::Calm, Self::MetaStopped, Self::MetaAway, Self::StoreAway, Self::Asleep];

    /// Its trouble, and for how many milliseconds; none if the seed or nobody brings it.
    fn trouble(self) -> Option<(Trouble, u64)> {
        let (long, minute, nap) = (600_000, 60_000, 30_000);
        match self {
            Self::Chance | Self::Calm => None,
            Self::MetaStopped => Some((Trouble::MetaStopped { for_ms: long }, long)),
            Self::MetaAway => Some((Trouble::MetaAway { for_ms: long }, long)),
            Self::StoreAway => Some((Trouble::StoreAway { for_ms: minute }, minute)),
            Self::Asleep => Some((Trouble::Pause { broker: 0, for_ms: nap }, nap)),
        }
    }
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
    /// Now and then a member finds that its group has committed nothing.
    Forget,
    /// A task that never waits.
    Spin,
}

impl Mutant {
    pub const ALL: [Self; 6] = [Self::None, Self::EarlyYes, Self::Twice, Self::Skip, Self::Forget, Self::Spin];
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        // Three, most of the time.
        let brokers = [3, 1, 3, 2, 3, 4, 3, 3][seed as usize % 8];
        Self { seed, brokers, mutant: Mutant::None, script: Script::Chance }
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
    // Runs of a few batches; one partition in two waits for the last look.
    settings.compaction.interval_ms = world.between(300, 5_000);
    settings.compaction.run_bytes = world.between(2_000, 60_000);
    settings.compaction.segments = world.between(1, 12) as usize;
    settings.compaction.max_wait_ms = world.between(0, 10_000);
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

    /// Brings trouble about, and what ends it in time.
    fn befall(&mut self, trouble: Trouble) {
        if let Some((after_ms, relief)) = trouble::cause(trouble, &mut self.machines, &self.around) {
            self.relieve(after_ms, relief);
        }
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
    watchdog::watch(world.clone(), |what, history| {
        alone::tell(&Outcome { history, violations: vec![what], acknowledged: 0 });
        std::process::exit(0);
    });
    let clock: Clock = NodeClock::new(&world, 0).clock();
    let around = Surroundings {
        world: world.clone(),
        net: Net::default(),
        bucket: Bucket::new(&world, clock, plan.mutant),
        registry: Registry::new(&world),
    };
    let ledger = around.bucket.ledger.clone();
    let machines = (0..plan.brokers).map(|id| Machine::new(id as i32, &around, settings(&world))).collect();
    let office = Office {
        world: world.clone(),
        net: around.net.clone(),
        brokers: (0..plan.brokers as i32).collect(),
        history: History::default(),
        enough: Arc::new(AtomicBool::new(false)),
        busy: Arc::new(AtomicUsize::new(0)),
        mutant: plan.mutant,
        ledger: ledger.clone(),
        healed_ms: Arc::default(),
        // Ten minutes with the usual load would take too long.
        pace: if plan.script.trouble().is_some_and(|(_, for_ms)| for_ms > 100_000) { 10 } else { 1 },
    };
    let clients = Host::new(&world, Place::Clients(0));
    let mut theatre = Theatre { around, machines, clients, now_us: 0, due: BTreeMap::new(), events: 0 };
    play(&mut theatre, &office, plan);
    let mut violations = ledger.wrong();
    violations.truncate(MOST_TOLD);
    for told in &mut violations {
        told.insert_str(0, "streams: ");
    }
    violations.extend(office.history.with(|known| known.violations()));
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

    let members = Office { busy: Arc::default(), enough: Arc::default(), ..office.clone() };
    spawn_members(theatre, &members, &partitions);
    if plan.mutant == Mutant::Spin {
        theatre.clients.handle().spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
    }
    let until_us = make_trouble(theatre, office, plan);
    theatre.due.clear();
    trouble::heal(&mut theatre.machines, &theatre.around);
    office.healed_ms.store(office.world.now_ms(), Ordering::SeqCst);
    // A little more work, to see that it gets through.
    theatre.run(until_us + 5_000_000, |_| false);
    for (who, office) in [("clients", office), ("members of groups", &members)] {
        office.enough.store(true, Ordering::SeqCst);
        if !theatre.run(theatre.now_us + HEALING_US, |_| office.busy.load(Ordering::SeqCst) == 0) {
            let busy = office.busy.load(Ordering::SeqCst);
            history.wrong(format!("stuck: {busy} {who} are not done {} s after the trouble", HEALING_US / 1_000_000));
        }
    }
    let audit = Office { busy: Arc::default(), ..office.clone() };
    for partition in &partitions {
        for way in [None, Some(Way::ToTheEnd)] {
            theatre.clients.handle().spawn(workload::read(audit.clone(), "auditor", partition.clone(), true, way));
        }
    }
    theatre.run(theatre.now_us + TURN_US, |_| false);
    if !theatre.run(theatre.now_us + HEALING_US, |_| audit.busy.load(Ordering::SeqCst) == 0) {
        history.wrong("stuck: the partitions cannot be read to their ends".to_owned());
    }
    check_streams(theatre, &history);
}

/// Brings about what the plan says; until when, in microseconds.
fn make_trouble(theatre: &mut Theatre, office: &Office, plan: Plan) -> u64 {
    let began_us = theatre.now_us;
    let Some((trouble, for_ms)) = plan.script.trouble() else {
        let until_us = began_us + TROUBLE_US;
        if plan.script == Script::Chance {
            let planned = trouble::plan(&office.world, plan.brokers, began_us, until_us);
            for (at_us, trouble) in planned {
                theatre.run(at_us, |_| false);
                theatre.befall(trouble);
            }
        }
        theatre.run(until_us, |_| false);
        return until_us;
    };
    theatre.run(began_us + CALM_US, |_| false);
    let ledger = &office.ledger;
    let (before, from_ms) = (ledger.partitions(), theatre.now_us / 1000);
    theatre.befall(trouble);
    theatre.run(theatre.now_us + for_ms * 1000 - 1, |_| false);
    if matches!(plan.script, Script::MetaStopped | Script::MetaAway) {
        let after = ledger.partitions();
        let led = before.iter().filter(|(_, known)| !known.leaders.is_empty());
        if led.into_iter().any(|(partition, known)| after[partition].leaders != known.leaders) {
            office.history.wrong("a partition has moved without the metadata store".to_owned());
        }
        let refused = office.history.with(|known| known.refused.clone());
        for (at_ms, who, why) in refused {
            if at_ms >= from_ms && who != "waste" {
                office.history.wrong(format!("{who} was refused at {at_ms} ms without the metadata store: {why}"));
            }
        }
    }
    theatre.run(theatre.now_us + AFTERMATH_US, |_| false);
    theatre.now_us
}

fn spawn_members(theatre: &Theatre, office: &Office, partitions: &[Partition]) {
    let (ledger, journal): (Vec<_>, Vec<_>) = partitions.iter().cloned().partition(|(topic, _)| topic == "ledger");
    for (group, partitions, members) in [("watchers", &ledger, 4), ("auditors", &journal, 2)] {
        for number in 0..members {
            let member = Member { group: group.to_owned(), number, partitions: partitions.clone() };
            // Whoever leads a group deals out to members of both doors.
            if office.world.happens(0.5) {
                theatre.clients.handle().spawn(grpc_members::run(member, office.clone()));
            } else {
                theatre.clients.handle().spawn(member.run(office.clone()));
            }
        }
    }
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
            way: None,
        };
        runtime.spawn(producer.run(office.clone()));
    }
    // Beside them, through the other door: streams and calls, one of each kind without a producer id.
    for (number, partition) in (0..).zip(partitions) {
        let producer = Producer {
            number: GRPC_PRODUCERS + number,
            partition: partition.clone(),
            idempotent: number < 3,
            acks: -1,
            way: Some(if number % 2 == 0 { Way::Stream } else { Way::Calls }),
        };
        runtime.spawn(producer.run(office.clone()));
    }
    for (number, partition) in partitions.iter().enumerate() {
        runtime.spawn(workload::read(office.clone(), "reader", partition.clone(), false, None));
        let way = Some(if number % 2 == 0 { Way::Calls } else { Way::Stream });
        runtime.spawn(workload::read(office.clone(), "gRPC reader", partition.clone(), false, way));
    }
    for number in 0..1 {
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
                    let end = theatre.around.bucket.ledger.end(*partition);
                    if state.next_offset != end {
                        let next = state.next_offset;
                        history.wrong(format!("{session} has {partition} up to {next}, {end} is committed"));
                    }
                    if stream.partitions.get(partition) != Some(state) {
                        history.wrong(format!("replaying {session} gives {partition} another state than it has"));
                    }
                }
            }
        }
    }
}
