//! Who is to lead what. Pure: an image of the cluster comes in, changes of assignments go out.
//!
//! Invariants: an epoch grows by one with every change of leader; a stream is named in `from` until the new leader's own
//! stream holds the state, so a leader that dies before leaves the older streams in the list; a stream that is sealed at 0
//! holds nothing and is never named; partitions are moved only to live brokers that are not draining.
//!
//! Placement is stable: nothing moves while the brokers' numbers of partitions differ by at most one and their traffic by
//! little.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::error::TopicError;
use super::image::ClusterImage;
use super::limits::{MAX_FROM_STREAMS, MAX_MOVES_IN_FLIGHT};
use crate::base::{SessionId, TopicPartition};
use crate::format::metadata::{AssignmentRecord, FromStream};

/// Partitions per topic and session.
type TopicCounts = HashMap<uuid::Uuid, BTreeMap<SessionId, u32>>;

/// Gives partitions to the brokers that have the fewest.
#[derive(Debug)]
pub struct Spread {
    /// Partitions that each candidate leads or is to lead.
    counts: BTreeMap<SessionId, u32>,
    zones: BTreeMap<SessionId, Option<String>>,
    topics: TopicCounts,
}

impl Spread {
    /// Counts what the candidates of `image` have; `local` is one of them even if it is not shown yet.
    pub fn of(image: &ClusterImage, local: Option<SessionId>) -> Self {
        let mut zones: BTreeMap<SessionId, Option<String>> =
            image.candidates().map(|broker| (broker.session, broker.rack.clone())).collect();
        if let Some(local) = local.filter(|local| !image.brokers.contains_key(&local.broker_id)) {
            zones.insert(local, None);
        }
        let mut spread =
            Self { counts: zones.keys().map(|session| (*session, 0)).collect(), zones, topics: HashMap::new() };
        for topic in image.topics() {
            for assignment in &topic.partitions {
                spread.add(topic.id, assignment.target.unwrap_or(assignment.session));
            }
        }
        spread
    }

    fn add(&mut self, topic: uuid::Uuid, session: SessionId) {
        if let Some(count) = self.counts.get_mut(&session) {
            *count += 1;
            *self.topics.entry(topic).or_default().entry(session).or_default() += 1;
        }
    }

    fn remove(&mut self, topic: uuid::Uuid, session: SessionId) {
        if let Some(count) = self.counts.get_mut(&session) {
            *count -= 1;
            if let Some(of_topic) = self.topics.entry(topic).or_default().get_mut(&session) {
                *of_topic = of_topic.saturating_sub(1);
            }
        }
    }

    fn of_topic(&self, topic: uuid::Uuid, session: SessionId) -> u32 {
        self.topics.get(&topic).and_then(|counts| counts.get(&session)).copied().unwrap_or(0)
    }

    /// Partitions of the topic in the session's zone.
    fn of_zone(&self, topic: uuid::Uuid, session: SessionId) -> u32 {
        let Some(zone) = self.zones.get(&session).filter(|zone| zone.is_some()) else { return 0 };
        let Some(counts) = self.topics.get(&topic) else { return 0 };
        counts.iter().filter(|(other, _)| self.zones.get(other) == Some(zone)).map(|(_, count)| count).sum()
    }

    /// The broker for one more partition of `topic`: the one with the fewest partitions, then the fewest of the topic, then
    /// in the zone with the fewest of it. `None` if there is no broker.
    pub fn place(&mut self, topic: uuid::Uuid) -> Option<SessionId> {
        let key = |session: SessionId, count: u32| {
            (count, self.of_topic(topic, session), self.of_zone(topic, session), session)
        };
        let session = self.counts.iter().map(|(session, count)| key(*session, *count)).min()?.3;
        self.add(topic, session);
        Some(session)
    }

    fn extremes(&self) -> Option<(SessionId, SessionId, u32)> {
        let most = self.counts.iter().max_by_key(|(session, count)| (**count, std::cmp::Reverse(**session)))?;
        let least = self.counts.iter().min_by_key(|(session, count)| (**count, **session))?;
        Some((*most.0, *least.0, most.1 - least.1))
    }
}

/// What the controller is to do next.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Streams to seal: their sessions have ended, or are suspected to have.
    pub seal: Vec<SessionId>,
    /// New leaders of partitions whose leader's stream is sealed.
    pub take_over: BTreeMap<TopicPartition, SessionId>,
    /// Changed targets of partitions that are led.
    pub targets: BTreeMap<TopicPartition, Option<SessionId>>,
}

/// Decides. `suspects` are sessions that look dead although their lease has not ended; `rates` is the measured traffic of
/// partitions in bytes per second (those that are missing have none).
pub fn decide(image: &ClusterImage, suspects: &BTreeSet<SessionId>, rates: &BTreeMap<TopicPartition, u64>) -> Decision {
    let unsealed = image.sessions.iter().filter(|(_, sealed)| sealed.is_none()).map(|(session, _)| *session);
    let mut decision = Decision {
        seal: unsealed.filter(|session| !image.is_alive(*session) || suspects.contains(session)).collect(),
        ..Decision::default()
    };
    let mut spread = Spread::of(image, None);
    if spread.counts.is_empty() {
        last_resort(image, &mut decision);
        return decision;
    }
    let mut in_flight = 0;
    let mut movable: BTreeMap<SessionId, Vec<TopicPartition>> = BTreeMap::new();
    for topic in image.topics() {
        for (index, assignment) in (0..).zip(&topic.partitions) {
            let partition = topic.partition(index);
            if image.is_sealed(assignment.session) {
                spread.remove(topic.id, assignment.target.unwrap_or(assignment.session));
                if let Some(session) = spread.place(topic.id) {
                    decision.take_over.insert(partition, session);
                }
                continue;
            }
            let stays = spread.counts.contains_key(&assignment.session);
            match assignment.target {
                Some(target) if spread.counts.contains_key(&target) => in_flight += 1,
                Some(_) if stays => {
                    spread.add(topic.id, assignment.session);
                    decision.targets.insert(partition, None);
                }
                None if stays => movable.entry(assignment.session).or_default().push(partition),
                _ if image.is_alive(assignment.session) => {
                    // Its leader drains.
                    if in_flight < MAX_MOVES_IN_FLIGHT
                        && let Some(target) = spread.place(topic.id)
                    {
                        decision.targets.insert(partition, Some(target));
                        in_flight += 1;
                    }
                }
                // Its leader is dead and will be sealed.
                _ => {}
            }
        }
    }
    let quiet = decision.seal.is_empty() && decision.take_over.is_empty();
    if quiet {
        even_out(&mut decision, &mut spread, &mut movable, in_flight);
        if decision.targets.is_empty() && in_flight == 0 {
            cool_down(&mut decision, &spread, &movable, rates);
        }
    }
    decision
}

/// Only draining brokers are left: what the dead led goes to them. To be served counts for more than to be moved.
fn last_resort(image: &ClusterImage, decision: &mut Decision) {
    let live = |session: SessionId| image.is_alive(session) && !image.is_sealed(session);
    let drained: Vec<SessionId> = image.brokers.values().map(|broker| broker.session).filter(|s| live(*s)).collect();
    let mut next = drained.iter().cycle();
    for topic in image.topics() {
        for (index, assignment) in (0..).zip(&topic.partitions) {
            if image.is_sealed(assignment.session)
                && let Some(session) = next.next()
            {
                decision.take_over.insert(topic.partition(index), *session);
            }
        }
    }
}

/// Moves partitions from brokers with many to brokers with few, until the numbers differ by at most one.
fn even_out(
    decision: &mut Decision,
    spread: &mut Spread,
    movable: &mut BTreeMap<SessionId, Vec<TopicPartition>>,
    mut in_flight: usize,
) {
    while in_flight < MAX_MOVES_IN_FLIGHT {
        let Some((most, least, difference)) = spread.extremes() else { return };
        if difference <= 1 {
            return;
        }
        let Some(partitions) = movable.get_mut(&most) else { return };
        // Of the topic that is spread most unevenly over the two.
        let uneven = |partition: &TopicPartition| {
            let topic = partition.topic_id;
            i64::from(spread.of_topic(topic, most)) - i64::from(spread.of_topic(topic, least))
        };
        let Some(at) = (0..partitions.len()).max_by_key(|at| uneven(&partitions[*at])) else { return };
        let partition = partitions.swap_remove(at);
        spread.remove(partition.topic_id, most);
        spread.add(partition.topic_id, least);
        decision.targets.insert(partition, Some(least));
        in_flight += 1;
    }
}

/// Traffic below this many bytes per second between two brokers is not worth a move.
const MIN_RATE_DIFFERENCE: u64 = 1 << 20;

/// Moves one partition from the broker with the most traffic to the one with the least, and a quiet one back, if their
/// traffic differs by more than a quarter.
fn cool_down(
    decision: &mut Decision,
    spread: &Spread,
    movable: &BTreeMap<SessionId, Vec<TopicPartition>>,
    rates: &BTreeMap<TopicPartition, u64>,
) {
    let rate = |partition: &TopicPartition| rates.get(partition).copied().unwrap_or(0);
    let of = |session: &SessionId| movable.get(session).map_or(&[][..], Vec::as_slice);
    let total = |session: &SessionId| of(session).iter().map(rate).sum::<u64>();
    let totals: Vec<(u64, SessionId)> = spread.counts.keys().map(|session| (total(session), *session)).collect();
    let (Some((most, hot)), Some((least, cold))) = (totals.iter().max(), totals.iter().min()) else { return };
    let difference = most - least;
    if difference < MIN_RATE_DIFFERENCE || difference < most / 4 {
        return;
    }
    // At most half of the difference: less than that always improves, more may swing back.
    let Some(moved) = of(hot).iter().filter(|p| rate(p) > 0 && rate(p) <= difference / 2).max_by_key(|p| rate(p))
    else {
        return;
    };
    let back = of(cold).iter().min_by_key(|p| rate(p)).filter(|back| rate(back) * 2 < rate(moved));
    if back.is_none() && spread.counts[cold] > spread.counts[hot] {
        return;
    }
    decision.targets.insert(*moved, Some(*cold));
    if let Some(back) = back {
        decision.targets.insert(*back, Some(*hot));
    }
}

/// The assignment after its leader's stream was sealed, or `None` if its leader is not among the `sealed`.
#[expect(clippy::implicit_hasher, reason = "one kind of map in this house")]
pub fn take_over(
    assignment: &AssignmentRecord,
    session: SessionId,
    sealed: &HashMap<SessionId, u64>,
) -> Result<Option<AssignmentRecord>, TopicError> {
    if assignment.session == session {
        return Ok(None);
    }
    let Some(sealed_seq) = sealed.get(&assignment.session).copied() else { return Ok(None) };
    let leader_epoch = next_epoch(assignment)?;
    let mut from = assignment.from.clone();
    if sealed_seq > 0 {
        from.insert(0, FromStream { session: assignment.session, leader_epoch: assignment.leader_epoch, sealed_seq });
    }
    if from.len() > MAX_FROM_STREAMS {
        return Err(TopicError::LimitReached(format!(
            "{MAX_FROM_STREAMS} leaders in a row ended before they had written down a partition's state; the broker cannot \
             take it over without losing track of an older stream"
        )));
    }
    Ok(Some(AssignmentRecord { session, leader_epoch, from, target: None, acquired: assignment.acquired }))
}

/// The epoch of the next leader.
pub(super) fn next_epoch(assignment: &AssignmentRecord) -> Result<i32, TopicError> {
    let next = assignment.leader_epoch.checked_add(1);
    next.ok_or_else(|| TopicError::Broken("a partition has used up its leader epochs".to_owned()))
}
