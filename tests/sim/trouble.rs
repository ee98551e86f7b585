//! What goes wrong, and when: a plan drawn from the seed. Everything is well again at the end of it.

use std::time::Duration;

use crate::node::{Machine, Surroundings};
use crate::store::{FAIR, ROUGH, STALL, STORM};
use crate::world::{Place, SIDES, World};

/// One kind of trouble; most end by themselves.
#[derive(Debug, Clone, Copy)]
pub enum Trouble {
    /// The process is killed and started again so much later; with the power gone, unsynced bytes go too; with the disk
    /// gone, everything on it.
    Kill { broker: usize, power: bool, disk: bool, for_ms: u64 },
    /// The process is told to stop, drains, and is started again so much later.
    Stop { broker: usize, for_ms: u64 },
    /// The process does not run for so long and knows nothing of it.
    Pause { broker: usize, for_ms: u64 },
    /// Nothing gets through between two places.
    Cut { broker: usize, from: Place, for_ms: u64 },
    /// The metadata store cannot be reached by anybody.
    MetaAway { for_ms: u64 },
    /// The metadata store is down; leases wait for it.
    MetaStopped { for_ms: u64 },
    /// Some answers of the metadata store are lost.
    MetaForgets { for_ms: u64 },
    /// Watches begin anew.
    Compact { broker: usize },
    /// Many requests to the object store fail, are late, or their answers are lost.
    Rough { for_ms: u64 },
    /// Every request to the object store is told to slow down (503).
    Storm { for_ms: u64 },
    /// Most requests to the object store hang for longer than anybody waits.
    Stall { for_ms: u64 },
    /// The object store cannot be reached by anybody.
    StoreAway { for_ms: u64 },
    /// The disk takes nothing.
    DiskFull { broker: usize, for_ms: u64 },
    /// The disk takes its time.
    DiskSlow { broker: usize, for_ms: u64 },
    /// The wall clock jumps.
    ClockJump { broker: usize, by_ms: i64 },
    /// Connections of clients break.
    Break,
}

/// Trouble at times in microseconds, in order.
pub fn plan(world: &World, brokers: usize, from_us: u64, to_us: u64) -> Vec<(u64, Trouble)> {
    let mut plan = Vec::new();
    let mut at_us = from_us;
    loop {
        at_us += world.between(200_000, 4_000_000);
        if at_us >= to_us {
            return plan;
        }
        plan.push((at_us, one(world, brokers)));
    }
}

fn one(world: &World, brokers: usize) -> Trouble {
    let broker = world.rng().below(brokers as u64) as usize;
    let for_ms = world.between(100, 6_000);
    match world.rng().below(31) {
        0..=3 => Trouble::Kill {
            broker,
            power: world.happens(0.4),
            // What was acknowledged with acks=1 is promised to survive what one broker survives.
            disk: brokers > 1 && world.happens(0.3),
            for_ms: world.between(10, 6_000),
        },
        20..=22 => Trouble::Stop { broker, for_ms: world.between(10, 8_000) },
        23..=25 => {
            let other = world.rng().below(brokers as u64) as i32;
            Trouble::Cut { broker, from: Place::Broker(other), for_ms: for_ms * 2 }
        }
        4 | 5 => Trouble::Pause { broker, for_ms: world.between(100, 25_000) },
        6 | 7 => Trouble::Cut { broker, from: Place::Store, for_ms },
        8 | 9 => Trouble::Cut { broker, from: Place::Meta, for_ms: for_ms * 3 },
        10 => {
            let side = world.rng().below(u64::from(SIDES)) as u8;
            Trouble::Cut { broker, from: Place::Clients(side), for_ms }
        }
        11 => Trouble::MetaAway { for_ms: for_ms * 3 },
        26 => Trouble::MetaStopped { for_ms: for_ms * 3 },
        27 => Trouble::Storm { for_ms },
        28 => Trouble::Stall { for_ms },
        29 => Trouble::StoreAway { for_ms },
        12 => Trouble::MetaForgets { for_ms },
        13 => Trouble::Compact { broker },
        14..=16 => Trouble::Rough { for_ms },
        17 => Trouble::DiskFull { broker, for_ms },
        18 => match world.rng().below(2) {
            0 => Trouble::DiskSlow { broker, for_ms },
            _ => Trouble::ClockJump { broker, by_ms: world.between(0, 3_600_000) as i64 - 1_800_000 },
        },
        _ => Trouble::Break,
    }
}

/// What ends a trouble.
#[derive(Debug, Clone, Copy)]
pub enum Relief {
    Start(usize),
    GoOn(usize),
    Mend(usize, Place),
    MetaBack,
    MetaStarted,
    MetaRemembers,
    StoreBack,
    Fair,
    DiskFree(usize),
    DiskQuick(usize),
}

const QUICK: Duration = Duration::from_micros(200);

/// Brings it about; gives what ends it, and after how many milliseconds.
pub fn cause(trouble: Trouble, machines: &mut [Machine], around: &Surroundings) -> Option<(u64, Relief)> {
    let world = &around.world;
    world.trace("trouble", format_args!("{trouble:?}"));
    match trouble {
        Trouble::Kill { broker, power, disk, for_ms } => {
            machines[broker].kill(power);
            if disk {
                machines[broker].replace_disk();
            }
            Some((for_ms, Relief::Start(broker)))
        }
        Trouble::Stop { broker, for_ms } => {
            machines[broker].stop(for_ms);
            None
        }
        Trouble::Pause { broker, for_ms } => {
            machines[broker].set_paused(true);
            Some((for_ms, Relief::GoOn(broker)))
        }
        Trouble::Cut { broker, from, for_ms } => {
            world.set_cut(machines[broker].place(), from, true);
            Some((for_ms, Relief::Mend(broker, from)))
        }
        Trouble::MetaAway { for_ms } => {
            for machine in machines.iter() {
                world.set_cut(machine.place(), Place::Meta, true);
            }
            Some((for_ms, Relief::MetaBack))
        }
        Trouble::MetaStopped { for_ms } => {
            around.registry.set_stopped(true);
            Some((for_ms, Relief::MetaStarted))
        }
        Trouble::MetaForgets { for_ms } => {
            around.registry.set_lost_reply(0.3);
            Some((for_ms, Relief::MetaRemembers))
        }
        Trouble::Compact { broker } => {
            around.registry.compact(machines[broker].place());
            None
        }
        Trouble::Rough { for_ms } => {
            around.bucket.set_weather(ROUGH);
            Some((for_ms, Relief::Fair))
        }
        Trouble::Storm { for_ms } => {
            around.bucket.set_weather(STORM);
            Some((for_ms, Relief::Fair))
        }
        Trouble::Stall { for_ms } => {
            around.bucket.set_weather(STALL);
            Some((for_ms, Relief::Fair))
        }
        Trouble::StoreAway { for_ms } => {
            for machine in machines.iter() {
                world.set_cut(machine.place(), Place::Store, true);
            }
            Some((for_ms, Relief::StoreBack))
        }
        Trouble::DiskFull { broker, for_ms } => {
            machines[broker].disk.set_full(true);
            Some((for_ms, Relief::DiskFree(broker)))
        }
        Trouble::DiskSlow { broker, for_ms } => {
            machines[broker].disk.set_latency(Duration::from_millis(50));
            Some((for_ms, Relief::DiskQuick(broker)))
        }
        Trouble::ClockJump { broker, by_ms } => {
            machines[broker].clock.set_skew_ms(by_ms);
            None
        }
        Trouble::Break => {
            around.net.break_some(world, 2);
            None
        }
    }
}

/// Ends it.
pub fn end(relief: Relief, machines: &mut [Machine], around: &Surroundings) {
    let world = &around.world;
    world.trace("relief", format_args!("{relief:?}"));
    match relief {
        Relief::Start(broker) => machines[broker].start(),
        Relief::GoOn(broker) => machines[broker].set_paused(false),
        Relief::Mend(broker, from) => world.set_cut(machines[broker].place(), from, false),
        Relief::MetaBack => {
            for machine in machines.iter() {
                world.set_cut(machine.place(), Place::Meta, false);
            }
        }
        Relief::StoreBack => {
            for machine in machines.iter() {
                world.set_cut(machine.place(), Place::Store, false);
            }
        }
        Relief::MetaStarted => around.registry.set_stopped(false),
        Relief::MetaRemembers => around.registry.set_lost_reply(0.0),
        Relief::Fair => around.bucket.set_weather(FAIR),
        Relief::DiskFree(broker) => machines[broker].disk.set_full(false),
        Relief::DiskQuick(broker) => machines[broker].disk.set_latency(QUICK),
    }
}

/// Ends everything.
pub fn heal(machines: &mut [Machine], around: &Surroundings) {
    end(Relief::MetaBack, machines, around);
    end(Relief::MetaStarted, machines, around);
    end(Relief::MetaRemembers, machines, around);
    end(Relief::Fair, machines, around);
    for broker in 0..machines.len() {
        for relief in [Relief::DiskFree(broker), Relief::DiskQuick(broker), Relief::GoOn(broker)] {
            end(relief, machines, around);
        }
        let others = (0..machines.len()).map(|other| Place::Broker(other as i32));
        for place in others.chain((0..SIDES).map(Place::Clients)).chain([Place::Store, Place::Meta]) {
            end(Relief::Mend(broker, place), machines, around);
        }
        machines[broker].start();
    }
}
