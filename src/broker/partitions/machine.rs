//! What to do so that the log follows the catalogue. Pure: an image and what became of earlier work come in, work goes out.
//!
//! Invariants: a partition is led only under the epoch that the catalogue gave to this session, and only in a state that
//! was loaded from the streams that its assignment names (or empty, if none ever held one); it is handed over only after its
//! `Released` entry is committed; the state that was given away leaves the stream only when no assignment names it.

use std::collections::BTreeMap;

use crate::base::{SessionId, TopicPartition};
use crate::cluster::assignments::names;
use crate::cluster::{ClusterImage, Handover};
use crate::format::metadata::{AssignmentRecord, FromStream};

/// How far a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its state is being read.
    Loading,
    /// It is led; `committed` once the stream says so.
    Led { committed: bool, clearing: bool },
    /// Its `Released` entry is on its way.
    Releasing,
    /// Its `Released` entry is committed, in this segment.
    Released { seq: u64, handing_over: bool },
}

#[derive(Debug, Clone, Copy)]
struct Held {
    epoch: i32,
    phase: Phase,
    /// The own stream holds its state, committed.
    in_stream: bool,
}

/// A partition whose state is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch under which it is to be led.
    pub epoch: i32,
    /// Where its state may be, newest first.
    pub from: Vec<FromStream>,
    /// It must be in one of them.
    pub acquired: bool,
}

/// What is to be done, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Released partitions that somebody else leads now.
    pub forget: Vec<TopicPartition>,
    /// Partitions of deleted topics.
    pub drop: Vec<TopicPartition>,
    /// Given-away states that nobody needs.
    pub drop_given: Vec<TopicPartition>,
    /// New, empty partitions.
    pub create: Vec<(TopicPartition, i32)>,
    /// Partitions to load.
    pub load: Vec<Load>,
    /// Partitions to give away.
    pub give_away: Vec<(TopicPartition, i32)>,
    /// Assignments to change: others lead next.
    pub hand_over: BTreeMap<TopicPartition, Handover>,
    /// Assignments to change: the own stream holds the state, earlier ones are not needed any more.
    pub clear: BTreeMap<TopicPartition, i32>,
    /// Partitions were taken from this session: its stream must have been sealed.
    pub taken: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Machine {
    own: SessionId,
    held: BTreeMap<TopicPartition, Held>,
}

impl Machine {
    /// Nothing is held.
    pub fn new(own: SessionId) -> Self {
        Self { own, held: BTreeMap::new() }
    }

    /// Partitions that are to be led and are not yet.
    pub fn opening(&self) -> usize {
        self.held.values().filter(|held| held.phase == Phase::Loading).count()
    }

    /// Partitions that are on their way to this session or from it: a moment later it can be said who takes writes.
    pub fn moving(&self) -> impl Iterator<Item = TopicPartition> {
        let is_moving = |phase: Phase| matches!(phase, Phase::Loading | Phase::Releasing | Phase::Released { .. });
        self.held.iter().filter(move |(_, held)| is_moving(held.phase)).map(|(partition, _)| *partition)
    }

    /// Partitions that are led.
    pub fn led(&self) -> usize {
        self.held.values().filter(|held| matches!(held.phase, Phase::Led { .. })).count()
    }

    /// Compares what is held with `image`. `given_away` are the states that the log still has of partitions it gave away.
    pub fn plan(&mut self, image: &ClusterImage, given_away: &[(TopicPartition, i32)]) -> Work {
        let mut work = Work::default();
        self.let_go(image, &mut work);
        for (partition, assignment) in image.led_by(self.own) {
            self.look_at(image, partition, assignment, &mut work);
        }
        for (partition, epoch) in given_away {
            let needed = image.leader(*partition).is_some_and(|assignment| {
                let unseen = assignment.session == self.own && assignment.leader_epoch == *epoch;
                unseen || names(&assignment.from, self.own, *epoch)
            });
            if !needed {
                work.drop_given.push(*partition);
            }
        }
        work
    }

    /// What is held and is not ours (any more).
    fn let_go(&mut self, image: &ClusterImage, work: &mut Work) {
        let own = self.own;
        self.held.retain(|partition, held| match image.leader(*partition) {
            None => {
                if held.phase != Phase::Loading {
                    work.drop.push(*partition);
                }
                false
            }
            Some(assignment) if assignment.session == own && assignment.leader_epoch == held.epoch => true,
            // Gone, or gone and come back under a higher epoch.
            Some(_) => match held.phase {
                Phase::Released { .. } => {
                    work.forget.push(*partition);
                    false
                }
                Phase::Loading => false,
                Phase::Led { .. } | Phase::Releasing => {
                    work.taken = true;
                    true
                }
            },
        });
    }

    fn look_at(
        &mut self,
        image: &ClusterImage,
        partition: TopicPartition,
        assignment: &AssignmentRecord,
        work: &mut Work,
    ) {
        let epoch = assignment.leader_epoch;
        let target = assignment.target.filter(|target| image.is_alive(*target) && !image.is_sealed(*target));
        let Some(held) = self.held.get_mut(&partition) else {
            let phase = if assignment.from.is_empty() && !assignment.acquired {
                work.create.push((partition, epoch));
                // Nothing has to be kept for it: the entry that makes it ours commits with its first batch at the latest.
                Phase::Led { committed: true, clearing: false }
            } else {
                let (from, acquired) = (assignment.from.clone(), assignment.acquired);
                work.load.push(Load { partition, epoch, from, acquired });
                Phase::Loading
            };
            self.held.insert(partition, Held { epoch, phase, in_stream: false });
            return;
        };
        if held.epoch != epoch {
            return;
        }
        match &mut held.phase {
            Phase::Led { committed: true, .. } if target.is_some() => {
                held.phase = Phase::Releasing;
                work.give_away.push((partition, epoch));
            }
            Phase::Led { clearing, .. }
                if held.in_stream && !*clearing && !(assignment.from.is_empty() && assignment.acquired) =>
            {
                *clearing = true;
                work.clear.insert(partition, epoch);
            }
            Phase::Released { seq, handing_over } if !*handing_over => {
                *handing_over = true;
                // Without a living target it comes back here, but under a new epoch and through the same transaction: an
                // earlier try of it whose answer was lost may still happen, and would make a second leader.
                let target = target.unwrap_or(self.own);
                let handover = Handover { leader_epoch: epoch, target, released_seq: *seq };
                work.hand_over.insert(partition, handover);
            }
            Phase::Loading | Phase::Led { .. } | Phase::Releasing | Phase::Released { .. } => {}
        }
    }

    fn change(&mut self, partition: TopicPartition, epoch: i32, change: impl FnOnce(&mut Phase)) -> bool {
        let held = self.held.get_mut(&partition).filter(|held| held.epoch == epoch);
        held.map(|held| change(&mut held.phase)).is_some()
    }

    /// The state of a partition is read: whether it is still wanted under that epoch. It is led from now on if so.
    pub fn loaded(&mut self, partition: TopicPartition, epoch: i32) -> bool {
        let mut wanted = false;
        self.change(partition, epoch, |phase| {
            if *phase == Phase::Loading {
                *phase = Phase::Led { committed: false, clearing: false };
                wanted = true;
            }
        });
        wanted
    }

    /// The state of a partition could not be read: it is planned again.
    pub fn load_failed(&mut self, partition: TopicPartition, epoch: i32) {
        if self.held.get(&partition).is_some_and(|held| held.epoch == epoch && held.phase == Phase::Loading) {
            self.held.remove(&partition);
        }
    }

    /// The stream says that the partition is ours.
    pub fn acquired(&mut self, partition: TopicPartition, epoch: i32) {
        if let Some(held) = self.held.get_mut(&partition).filter(|held| held.epoch == epoch) {
            held.in_stream = true;
        }
        self.change(partition, epoch, |phase| {
            if let Phase::Led { committed, .. } = phase {
                *committed = true;
            }
        });
    }

    /// The stream says that the partition is given away, in segment `seq`.
    pub fn released(&mut self, partition: TopicPartition, epoch: i32, seq: u64) {
        self.change(partition, epoch, |phase| *phase = Phase::Released { seq, handing_over: false });
    }

    /// The try to change a partition's assignment has ended, well or not; the next image shows which.
    pub fn hand_over_ended(&mut self, partition: TopicPartition) {
        if let Some(held) = self.held.get_mut(&partition)
            && let Phase::Released { handing_over, .. } = &mut held.phase
        {
            *handing_over = false;
        }
    }

    /// The try to empty a partition's `from` has ended, well or not.
    pub fn clear_ended(&mut self, partition: TopicPartition, epoch: i32) {
        self.change(partition, epoch, |phase| {
            if let Phase::Led { clearing, .. } = phase {
                *clearing = false;
            }
        });
    }
}
