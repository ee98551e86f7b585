//! What must hold in every state, and which steps there are.

use std::collections::{BTreeMap, HashMap};

use esker::base::SessionId;
use esker::broker::{newest_state, state_or_empty};
use esker::cluster::take_over;
use esker::format::entry::Entry;
use esker::format::state::{ObjectRef, PartitionState};
use esker::partition::stream::StreamState;
use stateright::{Model, Property};

use crate::rules::{Flaw, Rules};
use crate::world::{Object, Phase, Plan, World, topic_partition};

/// One thing that happens. Sessions and partitions by index, where that is shorter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Produce { at: usize, partition: usize },
    Land { session: SessionId, seq: u64 },
    Learn { at: usize },
    Refresh { at: usize },
    Acquire { at: usize, partition: usize },
    ClearFrom { partition: usize },
    SetTarget { partition: usize, target: SessionId },
    ClearTarget { partition: usize },
    Release { at: usize, partition: usize },
    Flip { at: usize, partition: usize, target: SessionId, heard: bool },
    Resume { at: usize, partition: usize },
    Forget { at: usize, partition: usize },
    Drop { at: usize, partition: usize },
    MoveLogStart { at: usize, partition: usize },
    Checkpoint { at: usize },
    Suspect { victim: SessionId },
    PutSeal,
    TakeOver { partition: usize, to: SessionId },
    PlanTakeOver { partition: usize, to: SessionId },
    WritePlan,
    Elect { session: SessionId },
    Crash { at: usize, torn: bool },
    Recover { at: usize },
    Finish { at: usize },
    Rejoin { at: usize },
    BeginMark,
    ReadForMark { session: SessionId },
    EndMark,
    Delete,
}

impl Step {
    /// Steps that nobody has to take: faults, clients, the controller's wishes, upkeep.
    fn optional(&self, world: &World) -> bool {
        match self {
            Self::Produce { .. }
            | Self::SetTarget { .. }
            | Self::MoveLogStart { .. }
            | Self::Checkpoint { .. }
            | Self::PlanTakeOver { .. }
            | Self::Crash { .. }
            | Self::Recover { .. }
            | Self::Rejoin { .. }
            | Self::BeginMark
            | Self::ReadForMark { .. }
            | Self::EndMark
            | Self::Delete => true,
            Self::Suspect { victim } => world.is_up(*victim),
            Self::Elect { .. } => world.is_up(world.controller),
            // A late PUT of a session that is no more.
            Self::Land { session, .. } => !world.is_up(*session),
            _ => false,
        }
    }
}

/// The protocol within its bounds.
#[derive(Debug, Clone)]
pub struct Protocol(pub Rules);

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.0)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if world.broken.is_some() {
            return;
        }
        for at in 0..world.processes.len() {
            self.steps_of(world, at, steps);
        }
        steps.extend(world.puts.keys().map(|(session, seq)| Step::Land { session: *session, seq: *seq }));
        self.steps_of_controller(world, steps);
        steps_of_collector(world, steps);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let (mut next, rules) = (world.clone(), &self.0);
        match step {
            Step::Produce { at, partition } => next.produce(rules, at, partition),
            Step::Land { session, seq } => next.land((session, seq), rules),
            Step::Learn { at } => next.learn(at),
            Step::Refresh { at } => next.processes[at].image.clone_from(&world.records),
            Step::Acquire { at, partition } => next.acquire(rules, at, partition),
            Step::ClearFrom { partition } => next.clear_from(partition),
            Step::SetTarget { partition, target } => {
                next.left.moves -= 1;
                next.records[partition].target = Some(target);
                next.records[partition].revision += 1;
            }
            Step::ClearTarget { partition } => {
                next.records[partition].target = None;
                next.records[partition].revision += 1;
            }
            Step::Release { at, partition } => next.release(rules, at, partition),
            Step::Flip { at, partition, target, heard } => next.flip(at, partition, target, heard),
            Step::Resume { at, partition } => next.resume(at, partition),
            Step::Forget { at, partition } => next.processes[at].holds[partition].phase = Phase::Idle,
            Step::Drop { at, partition } => next.drop_given(at, partition),
            Step::MoveLogStart { at, partition } => next.move_log_start(at, partition),
            Step::Checkpoint { at } => next.checkpoint(rules, at),
            Step::Suspect { victim } => {
                next.left.suspicions -= u8::from(world.is_up(victim));
                next.plan_seal(rules, victim);
            }
            Step::PutSeal => next.put_seal(rules),
            Step::TakeOver { partition, to } => next.assign(partition, world.plan_takeover(partition, to)?),
            Step::PlanTakeOver { partition, to } => {
                let (by, revision) = (world.controller, world.records[partition].revision);
                next.plan = Some(Plan { by, partition, revision, new: world.plan_takeover(partition, to)? });
            }
            Step::WritePlan => {
                let plan = next.plan.take()?;
                let current = plan.by == world.controller && plan.revision == world.records[plan.partition].revision;
                if current || rules.flaw == Flaw::TransactionsCompareNothing {
                    next.assign(plan.partition, plan.new);
                }
            }
            Step::Elect { session } => {
                next.left.elections -= u8::from(world.is_up(world.controller));
                next.controller = session;
            }
            Step::Crash { at, torn } => {
                next.left.crashes -= 1;
                next.processes[at].up = false;
                next.processes[at].torn = torn;
            }
            Step::Recover { at } => next.recover(at),
            Step::Finish { at } => next.finish(rules, at),
            Step::Rejoin { at } => next.rejoin(at),
            Step::BeginMark => next.begin_mark(rules, world.controller),
            Step::ReadForMark { session } => next.read_for_mark(session),
            Step::EndMark => next.end_mark(rules),
            Step::Delete => next.delete_doomed(),
        }
        if !rules.slow_images {
            next.processes.iter_mut().for_each(|process| process.image.clone_from(&next.records));
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("the invariants hold", |model, world| model.judge(world).is_ok()),
            Property::sometimes("what was acknowledged outlives its leader", |_, world: &World| {
                world.records[0].assigned.leader_epoch > 0 && served(world, 0) && !world.acked.is_empty()
            }),
        ]
    }
}

impl Protocol {
    fn steps_of(&self, world: &World, at: usize, steps: &mut Vec<Step>) {
        let (rules, process) = (&self.0, &world.processes[at]);
        if !process.up {
            if process.recovering && !process.gone {
                steps.push(Step::Finish { at });
            } else if !process.gone && world.left.restarts > 0 {
                let next = world.objects.get(&(process.id, process.stream.next_seq));
                let fenced = next.is_some_and(|object| **object == Object::Seal);
                steps.push(if fenced { Step::Rejoin { at } } else { Step::Recover { at } });
            }
            return;
        }
        if world.objects.contains_key(&(process.id, process.stream.next_seq)) {
            steps.push(Step::Learn { at });
        }
        if process.image != world.records {
            steps.push(Step::Refresh { at });
        }
        if world.left.crashes > 0 {
            steps.push(Step::Crash { at, torn: false });
            if rules.torn_files && !process.log.is_empty() {
                steps.push(Step::Crash { at, torn: true });
            }
        }
        if world.left.checkpoints > 0
            && let Some(last) = process.stream.next_seq.checked_sub(1)
            && !world.checkpoints.contains_key(&(process.id, last))
        {
            steps.push(Step::Checkpoint { at });
        }
        let room = process.log.len() < rules.uploads;
        for partition in 0..process.holds.len() {
            self.steps_of_partition(world, at, partition, room, steps);
        }
    }

    fn steps_of_partition(&self, world: &World, at: usize, partition: usize, room: bool, steps: &mut Vec<Step>) {
        let (flaw, process) = (self.0.flaw, &world.processes[at]);
        let (hold, seen, record) = (&process.holds[partition], &process.image[partition], &world.records[partition]);
        let shown_as_leader = seen.assigned.session == process.id;
        let still_shown = shown_as_leader && seen.assigned.leader_epoch == hold.epoch;
        let leads = matches!(hold.phase, Phase::Acquiring { .. } | Phase::Leading);
        if hold.phase == Phase::Idle && room && shown_as_leader {
            let newer = seen.assigned.leader_epoch > hold.epoch;
            let again = flaw == Flaw::AcquiredOnOldImage && seen.assigned.leader_epoch == hold.epoch;
            if newer || again {
                steps.push(Step::Acquire { at, partition });
            }
        }
        if leads && room && world.left.batches > 0 {
            steps.push(Step::Produce { at, partition });
        }
        let owns = hold.phase == Phase::Leading || (leads && flaw == Flaw::FromEmptiedEarly);
        let is_leader = record.assigned.session == process.id && record.assigned.leader_epoch == hold.epoch;
        if owns && is_leader && !record.assigned.from.is_empty() {
            steps.push(Step::ClearFrom { partition });
        }
        if hold.phase == Phase::Leading && room && world.left.retentions > 0 {
            steps.push(Step::MoveLogStart { at, partition });
        }
        if leads && room && still_shown && seen.target.is_some() {
            steps.push(Step::Release { at, partition });
        }
        let early = flaw == Flaw::FlippedEarly && matches!(hold.phase, Phase::Releasing { .. });
        let released = matches!(hold.phase, Phase::Released { .. });
        if (released || early)
            && still_shown
            && seen.revision == record.revision
            && let Some(target) = seen.target
            && world.sessions[&target].is_none()
        {
            steps.push(Step::Flip { at, partition, target, heard: true });
            if self.0.slow_images {
                steps.push(Step::Flip { at, partition, target, heard: false });
            }
        }
        if released && room && still_shown && seen.target.is_none() {
            steps.push(Step::Resume { at, partition });
        }
        if released && seen.assigned.leader_epoch > hold.epoch {
            steps.push(Step::Forget { at, partition });
        }
        let named = seen.assigned.from.iter().any(|from| from.session == process.id);
        let newer = seen.assigned.leader_epoch > hold.epoch || flaw == Flaw::DroppedOnOldImage;
        if hold.phase == Phase::Idle && room && !hold.dropping && process.holds_given(partition) && newer && !named {
            steps.push(Step::Drop { at, partition });
        }
    }

    fn steps_of_controller(&self, world: &World, steps: &mut Vec<Step>) {
        let rules = &self.0;
        let up = world.processes.iter().filter(|process| process.up && process.id != world.controller);
        if world.left.elections > 0 || !world.is_up(world.controller) {
            steps.extend(up.map(|process| Step::Elect { session: process.id }));
        }
        if world.sealer.is_some() {
            steps.push(Step::PutSeal);
        }
        if world.plan.is_some() {
            steps.push(Step::WritePlan);
        }
        if !world.is_up(world.controller) {
            return;
        }
        for (victim, sealed) in &world.sessions {
            let may = !world.is_up(*victim) || world.left.suspicions > 0;
            if sealed.is_none() && *victim != world.controller && world.sealer.is_none() && may {
                steps.push(Step::Suspect { victim: *victim });
            }
        }
        for (partition, record) in world.records.iter().enumerate() {
            let leader_sealed = world.sessions[&record.assigned.session].is_some();
            let candidates = || world.candidates().into_iter().filter(|to| *to != record.assigned.session);
            if leader_sealed {
                for to in candidates() {
                    steps.push(Step::TakeOver { partition, to });
                    if rules.slow_controller && world.plan.is_none() {
                        steps.push(Step::PlanTakeOver { partition, to });
                    }
                }
            } else if record.target.is_none() && world.left.moves > 0 {
                steps.extend(candidates().map(|target| Step::SetTarget { partition, target }));
            }
            if record.target.is_some_and(|target| world.sessions[&target].is_some()) {
                steps.push(Step::ClearTarget { partition });
            }
        }
    }

    /// The invariants of DESIGN section 3, by number.
    pub fn judge(&self, world: &World) -> Result<(), String> {
        if let Some(broken) = world.broken {
            return Err(broken.to_owned());
        }
        let streams: BTreeMap<SessionId, StreamState> =
            world.sessions.keys().map(|session| (*session, world.load(*session))).collect();
        for partition in 0..world.records.len() {
            let state = truth(world, &streams, partition)?;
            keeps_acknowledged(world, partition, &state)?;
            high_watermarks(world, partition, &state)?;
        }
        one_record_per_offset(world)?;
        one_session_per_epoch(world)?;
        replay_is_live(world)?;
        self.ends_served(world)
    }

    /// When nothing is left to do and nothing more goes wrong, every partition has a leader whose stream holds its state.
    fn ends_served(&self, world: &World) -> Result<(), String> {
        let mut steps = Vec::new();
        self.actions(world, &mut steps);
        let at_rest = steps.iter().all(|step| step.optional(world) || self.next_state(world, step.clone()).is_none());
        if !at_rest || !world.processes.iter().any(|process| process.up) {
            return Ok(());
        }
        match (0..world.records.len()).find(|partition| !served(world, *partition)) {
            Some(partition) => Err(format!("liveness: partition {partition} stays without a leader")),
            None => Ok(()),
        }
    }
}

fn steps_of_collector(world: &World, steps: &mut Vec<Step>) {
    match &world.collecting.mark {
        None if world.left.marks > 0 && world.is_up(world.controller) => steps.push(Step::BeginMark),
        None => {}
        Some(mark) if mark.unread.is_empty() => steps.push(Step::EndMark),
        Some(mark) => steps.extend(mark.unread.iter().map(|session| Step::ReadForMark { session: *session })),
    }
    if !world.collecting.doomed.is_empty() {
        steps.push(Step::Delete);
    }
}

fn served(world: &World, partition: usize) -> bool {
    let record = &world.records[partition];
    world.process(record.assigned.session).is_some_and(|process| {
        let hold = &process.holds[partition];
        let leads = process.up && hold.phase == Phase::Leading && hold.epoch == record.assigned.leader_epoch;
        leads && record.target.is_none() && record.assigned.from.is_empty()
    })
}

/// The state that the next leader would load if everybody died now.
fn truth(
    world: &World,
    streams: &BTreeMap<SessionId, StreamState>,
    partition: usize,
) -> Result<PartitionState, String> {
    let assigned = &world.records[partition].assigned;
    let next = SessionId { broker_id: i32::MAX, epoch: u64::MAX };
    let ends = streams.iter().map(|(session, stream)| (*session, stream.next_seq)).collect();
    let Ok(Some(taken)) = take_over(assigned, next, &ends) else {
        return Err("3: the assignment cannot be taken over".to_owned());
    };
    for from in &taken.from {
        if streams[&from.session].next_seq < from.sealed_seq {
            return Err(format!("8: the stream of {} cannot be read to {}", from.session, from.sealed_seq));
        }
    }
    let mut loaded: HashMap<SessionId, StreamState> =
        taken.from.iter().map(|from| (from.session, streams[&from.session].clone())).collect();
    let found = newest_state(topic_partition(partition), &taken.from, &mut loaded);
    state_or_empty(topic_partition(partition), taken.acquired, found).map_err(|error| format!("1: {error}"))
}

/// 1 and 8: what was acknowledged is read at its offset, from objects that exist.
fn keeps_acknowledged(world: &World, partition: usize, state: &PartitionState) -> Result<(), String> {
    for ((owner, offset), id) in &world.acked {
        if *owner != partition || *offset < state.log_start {
            continue;
        }
        let run = state.runs.iter().find(|run| run.first_offset <= *offset && *offset < run.next_offset);
        let Some(run) = run else {
            return Err(format!("1: the record acknowledged at offset {offset} is lost"));
        };
        let ObjectRef::Segment { session, seq } = run.object else { continue };
        let Some(Object::Segment(entries)) = world.objects.get(&(session, seq)).map(|object| &**object) else {
            return Err(format!("8: the object that holds offset {offset} was deleted"));
        };
        let found = entries.iter().find_map(|(owner, entry)| match entry {
            Entry::Batch(facts) if owner.partition as usize == partition && facts.base_offset == *offset => {
                Some(facts.max_timestamp)
            }
            _ => None,
        });
        if found != Some(*id) {
            return Err(format!("1: offset {offset} holds another record than the one acknowledged"));
        }
    }
    Ok(())
}

/// 4: nobody's high watermark is past what is committed.
fn high_watermarks(world: &World, partition: usize, state: &PartitionState) -> Result<(), String> {
    for process in &world.processes {
        let known = process.stream.partitions.get(&topic_partition(partition));
        if process.up && known.is_some_and(|known| known.next_offset > state.next_offset) {
            return Err(format!("4: the high watermark of {} is past the committed end", process.id));
        }
    }
    Ok(())
}

/// The segments of a stream that are committed: all before them exist, or existed.
fn committed(world: &World) -> impl Iterator<Item = (SessionId, &Vec<(esker::base::TopicPartition, Entry)>)> {
    world.sessions.keys().flat_map(|session| {
        let first = world.objects.range((*session, 0)..=(*session, u64::MAX)).next().map_or(0, |((_, seq), _)| *seq);
        (first..).map_while(|seq| match &**world.objects.get(&(*session, seq))? {
            Object::Segment(entries) => Some((*session, entries)),
            Object::Seal => None,
        })
    })
}

/// 2: no committed offset is given to two records.
fn one_record_per_offset(world: &World) -> Result<(), String> {
    let mut records = BTreeMap::new();
    for (_, entries) in committed(world) {
        for (partition, entry) in entries {
            let Entry::Batch(facts) = entry else { continue };
            let other = records.insert((*partition, facts.base_offset), facts.max_timestamp);
            if other.is_some_and(|other| other != facts.max_timestamp) {
                return Err(format!("2: offset {} was given to two committed records", facts.base_offset));
            }
        }
    }
    Ok(())
}

/// 3: at most one session commits under one leader epoch.
fn one_session_per_epoch(world: &World) -> Result<(), String> {
    let mut leaders = BTreeMap::new();
    for (session, entries) in committed(world) {
        for (partition, entry) in entries {
            let epoch = match entry {
                Entry::Batch(facts) => facts.leader_epoch,
                Entry::Acquired(state) | Entry::Released(state) => state.leader_epoch,
                _ => continue,
            };
            let other = leaders.insert((*partition, epoch), session);
            if other.is_some_and(|other| other != session) {
                return Err(format!("3: two sessions committed under leader epoch {epoch}"));
            }
        }
    }
    Ok(())
}

/// 7: replaying a stream gives the state that its live session has (until it is sealed: then others may collect it).
fn replay_is_live(world: &World) -> Result<(), String> {
    let stands = |session: &SessionId| world.sessions.get(session) == Some(&None);
    for process in world.processes.iter().filter(|process| process.up && stands(&process.id)) {
        let mut replayed = world.load(process.id);
        if replayed.next_seq < process.stream.next_seq {
            return Err(format!("8: the stream of {} cannot be read to what it knows committed", process.id));
        }
        let mut live = process.stream.clone();
        for seq in live.next_seq..replayed.next_seq {
            if let Some(Object::Segment(entries)) = world.objects.get(&(process.id, seq)).map(|object| &**object) {
                let _ = live.apply(seq, entries.iter().map(|(p, entry)| (*p, entry)));
            }
        }
        replayed.sealed = false;
        if replayed != live {
            return Err(format!("7: replaying the stream of {} does not give its live state", process.id));
        }
    }
    Ok(())
}
