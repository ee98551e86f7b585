//! One member: joins, deals out partitions if it leads the group, reads, is asked to let go, joins again.
//!
//! The client is told which partitions it has ([`Told::Assigned`]) and that they go ([`Told::Revoking`]), always in turn. Between
//! the two it may commit; after `Revoking` until it has answered, or a time has passed.
//!
//! Invariant: what is read belongs to the generation that the client was told last. Reading stops before `Revoking` is told, and
//! the group is joined again only after that.
//!
//! Invariant: one commit is on its way at a time, so commits take effect in the client's order; each is answered once.
//!
//! Invariant: an answer counts only if it answers the newest question of its kind: each question has a number.
//!
//! A member whose coordinator does not hear from it for the session timeout is dead to the group; so is a group that does not
//! answer for that long to the member, which stops reading then.

use std::collections::{BTreeMap, VecDeque};

use kafka_protocol::error::ResponseError as Kafka;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest,
    OffsetCommitResponse, SyncGroupRequest, SyncGroupResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::api::{Ask, Effect, Input, Membership, Position, Told, Trouble};
use super::protocol::{Assignment, CONSUMER, RANGE, assigned, assignment, subscription, topics_of};
use super::range::{Subscriber, range};

/// Commits of one member that wait for those before them.
pub const MAX_COMMITS: usize = 64;
/// Pause before something that failed is tried again, in milliseconds.
pub const RETRY_PAUSE_MS: u64 = 200;
/// Heartbeats in one session timeout.
const BEATS_PER_SESSION: u64 = 3;
/// The coordinator waits for a member to join again for this long beyond the time that its client has to let go, in milliseconds.
const REJOIN_SLACK_MS: u64 = 10_000;
/// Longest wait for commits before a member leaves, in milliseconds.
const LEAVE_PATIENCE_MS: u64 = 5_000;

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Asks to join at this time, or (none) has asked.
    Joining { at_ms: Option<u64> },
    /// Has asked for its assignment.
    Syncing,
    /// Finds out where to read; asks again at this time.
    Positioning { partitions: Assignment, at_ms: Option<u64> },
    /// Reads.
    Stable,
    /// The client is to let go, until this time. `lost`: the group has given the partitions to others already.
    Releasing { until_ms: u64, lost: bool },
    /// Waits for commits, until this time, and leaves then.
    Closing { until_ms: u64 },
    /// Has asked to leave.
    Leaving,
    /// Over.
    Ended,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Commit {
    id: u64,
    offsets: Vec<Position>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Member {
    of: Membership,
    state: State,
    /// As the coordinator calls it; empty for none yet.
    id: String,
    generation: i32,
    /// How many partitions the topics of the group had when this member, as its leader, dealt them out.
    dealt: Option<BTreeMap<String, Option<i32>>>,
    /// Answers that the client owes to `Revoking`.
    owed: u32,
    asked: Ask,
    /// The newest question of the rebalance: join, sync or position.
    current: Ask,
    beat: Option<Ask>,
    next_beat_ms: u64,
    heard_ms: u64,
    commits: VecDeque<Commit>,
    /// The commit on its way is the first of `commits`.
    committing: Option<Ask>,
    /// Everything was read: it waits for last commits until this time.
    finished_ms: Option<u64>,
}

type Effects = Vec<Effect>;

impl Member {
    /// A member that has not joined yet: the first step makes it.
    pub fn new(of: Membership) -> Self {
        Self {
            of,
            state: State::Joining { at_ms: Some(0) },
            id: String::new(),
            generation: -1,
            dealt: None,
            owed: 0,
            asked: 0,
            current: 0,
            beat: None,
            next_beat_ms: 0,
            heard_ms: 0,
            commits: VecDeque::new(),
            committing: None,
            finished_ms: None,
        }
    }

    /// When the next [`Input::Tick`] is due at the latest, in the time of `step`.
    pub fn due_ms(&self) -> Option<u64> {
        let own = match &self.state {
            State::Joining { at_ms } | State::Positioning { at_ms, .. } => *at_ms,
            State::Releasing { until_ms, .. } | State::Closing { until_ms } => Some(*until_ms),
            State::Syncing | State::Stable | State::Leaving | State::Ended => None,
        };
        let beat = self.beats().then(|| match self.beat {
            None => self.next_beat_ms.min(self.lost_ms()),
            Some(_) => self.lost_ms(),
        });
        [own, beat, self.finished_ms.filter(|_| self.state == State::Stable)].into_iter().flatten().min()
    }

    /// What follows from `input` at `now_ms`, which never goes back. `partitions` says how many a topic has.
    pub fn step(&mut self, now_ms: u64, input: Input, partitions: &dyn Fn(&str) -> Option<i32>) -> Effects {
        let mut effects = Effects::new();
        match input {
            Input::Tick => self.tick(now_ms, partitions, &mut effects),
            Input::Joined(ask, answer) if ask == self.current && matches!(self.state, State::Joining { .. }) => {
                self.joined(now_ms, answer, partitions, &mut effects);
            }
            Input::Synced(ask, answer) if ask == self.current && self.state == State::Syncing => {
                self.synced(now_ms, answer, &mut effects);
            }
            Input::Positioned(ask, answer) if ask == self.current => self.positioned(now_ms, answer, &mut effects),
            Input::Beaten(ask, answer) if Some(ask) == self.beat => {
                self.beat = None;
                self.beaten(now_ms, answer, &mut effects);
            }
            Input::Committed(ask, answer) if Some(ask) == self.committing => {
                self.committing = None;
                self.committed(now_ms, answer.as_ref().ok(), &mut effects);
            }
            Input::Joined(..)
            | Input::Synced(..)
            | Input::Positioned(..)
            | Input::Beaten(..)
            | Input::Committed(..) => {}
            Input::Left => self.end(Ok(()), &mut effects),
            Input::Commit { id, offsets } => self.commit(Commit { id, offsets }, &mut effects),
            Input::Released => {
                self.owed = self.owed.saturating_sub(1);
                self.released(&mut effects);
            }
            Input::AllRead => {
                if self.state == State::Stable {
                    self.finished_ms = Some(now_ms + self.of.release_timeout_ms);
                }
            }
            Input::Closed => self.close(now_ms, &mut effects),
        }
        effects
    }

    fn ask(&mut self) -> Ask {
        self.asked += 1;
        self.asked
    }

    fn tick(&mut self, now_ms: u64, partitions: &dyn Fn(&str) -> Option<i32>, effects: &mut Effects) {
        match &self.state {
            State::Joining { at_ms: Some(at_ms) } if *at_ms <= now_ms => self.join(effects),
            State::Positioning { partitions, at_ms: Some(at_ms) } if *at_ms <= now_ms => {
                let partitions = partitions.clone();
                self.position(partitions, effects);
            }
            State::Releasing { until_ms, .. } if *until_ms <= now_ms => self.rejoin(effects),
            State::Closing { until_ms } if *until_ms <= now_ms => self.leave(effects),
            State::Stable if self.finished_ms.is_some_and(|at| at <= now_ms) => self.close(now_ms, effects),
            State::Stable if self.was_dealt_otherwise(partitions) => self.release(now_ms, false, effects),
            _ => {}
        }
        if !self.beats() {
            return;
        }
        if now_ms >= self.lost_ms() {
            self.lose(now_ms, effects);
        } else if self.beat.is_none() && self.next_beat_ms <= now_ms {
            let ask = self.ask();
            self.beat = Some(ask);
            self.next_beat_ms = now_ms + self.of.session_timeout_ms / BEATS_PER_SESSION;
            let request = HeartbeatRequest::default()
                .with_group_id(self.group())
                .with_generation_id(self.generation)
                .with_member_id(text(&self.id))
                .with_group_instance_id(self.instance());
            effects.push(Effect::Beat(ask, request));
        }
    }

    /// Whether the coordinator waits for heartbeats.
    fn beats(&self) -> bool {
        match self.state {
            State::Positioning { .. } | State::Stable | State::Closing { .. } => true,
            State::Releasing { lost, .. } => !lost,
            State::Joining { .. } | State::Syncing | State::Leaving | State::Ended => false,
        }
    }

    /// When the group must be thought lost.
    fn lost_ms(&self) -> u64 {
        self.heard_ms + self.of.session_timeout_ms
    }

    /// Whether partitions that this member dealt out as the leader are more, or fewer, now.
    fn was_dealt_otherwise(&self, partitions: &dyn Fn(&str) -> Option<i32>) -> bool {
        self.dealt.as_ref().is_some_and(|dealt| dealt.iter().any(|(topic, count)| partitions(topic) != *count))
    }

    fn join(&mut self, effects: &mut Effects) {
        let topics = self.of.topics.iter().map(String::as_str);
        let protocol = JoinGroupRequestProtocol::default().with_name(text(RANGE)).with_metadata(subscription(topics));
        let rebalance_ms = self.of.release_timeout_ms.max(self.of.session_timeout_ms) + REJOIN_SLACK_MS;
        let request = JoinGroupRequest::default()
            .with_group_id(self.group())
            .with_session_timeout_ms(i32::try_from(self.of.session_timeout_ms).unwrap_or(i32::MAX))
            .with_rebalance_timeout_ms(i32::try_from(rebalance_ms).unwrap_or(i32::MAX))
            .with_member_id(text(&self.id))
            .with_group_instance_id(self.instance())
            .with_protocol_type(text(CONSUMER))
            .with_protocols(vec![protocol]);
        self.state = State::Joining { at_ms: None };
        self.beat = None;
        self.dealt = None;
        self.current = self.ask();
        effects.push(Effect::Join(self.current, request));
    }

    /// Joins again after a while.
    fn retry(&mut self, now_ms: u64) {
        self.beat = None;
        self.state = State::Joining { at_ms: Some(now_ms + RETRY_PAUSE_MS) };
    }

    fn joined(
        &mut self,
        now_ms: u64,
        answer: Result<JoinGroupResponse, Trouble>,
        partitions: &dyn Fn(&str) -> Option<i32>,
        effects: &mut Effects,
    ) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(Trouble::Passing) => return self.retry(now_ms),
            Err(Trouble::Lasting) => return self.end(Err(Kafka::InvalidRequest), effects),
        };
        match kafka(answer.error_code) {
            None => {}
            Some(Kafka::MemberIdRequired) => {
                self.id = answer.member_id.to_string();
                return self.join(effects);
            }
            Some(Kafka::UnknownMemberId) => {
                self.id.clear();
                return self.retry(now_ms);
            }
            Some(Kafka::RebalanceInProgress | Kafka::IllegalGeneration) => return self.retry(now_ms),
            Some(error) if error.is_retriable() => return self.retry(now_ms),
            Some(error) => return self.end(Err(error), effects),
        }
        self.id = answer.member_id.to_string();
        self.generation = answer.generation_id;
        let leads = answer.leader == answer.member_id;
        let members: Vec<Subscriber> = answer
            .members
            .iter()
            .map(|member| Subscriber {
                member_id: member.member_id.to_string(),
                instance_id: member.group_instance_id.as_ref().map(ToString::to_string),
                // One that cannot be understood gets nothing.
                topics: topics_of(&member.metadata).unwrap_or_default(),
            })
            .collect();
        self.dealt = leads.then(|| {
            let topics = members.iter().flat_map(|member| &member.topics);
            topics.map(|topic| (topic.clone(), partitions(topic))).collect()
        });
        let dealt = if leads && !answer.skip_assignment { range(&members, partitions) } else { BTreeMap::new() };
        let assignments = dealt.into_iter().map(|(member, of)| {
            SyncGroupRequestAssignment::default().with_member_id(text(&member)).with_assignment(assignment(&of))
        });
        let request = SyncGroupRequest::default()
            .with_group_id(self.group())
            .with_generation_id(self.generation)
            .with_member_id(text(&self.id))
            .with_group_instance_id(self.instance())
            .with_protocol_type(Some(text(CONSUMER)))
            .with_protocol_name(Some(text(RANGE)))
            .with_assignments(assignments.collect());
        self.state = State::Syncing;
        self.current = self.ask();
        effects.push(Effect::Sync(self.current, request));
    }

    fn synced(&mut self, now_ms: u64, answer: Result<SyncGroupResponse, Trouble>, effects: &mut Effects) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(Trouble::Passing) => return self.retry(now_ms),
            Err(Trouble::Lasting) => return self.end(Err(Kafka::InvalidRequest), effects),
        };
        match kafka(answer.error_code) {
            None => {}
            Some(Kafka::UnknownMemberId) => {
                self.id.clear();
                return self.retry(now_ms);
            }
            Some(Kafka::RebalanceInProgress | Kafka::IllegalGeneration) => return self.join(effects),
            Some(error) if error.is_retriable() => return self.retry(now_ms),
            Some(error) => return self.end(Err(error), effects),
        }
        let Some(partitions) = assigned(&answer.assignment) else {
            return self.end(Err(Kafka::InconsistentGroupProtocol), effects);
        };
        self.heard_ms = now_ms;
        self.next_beat_ms = now_ms + self.of.session_timeout_ms / BEATS_PER_SESSION;
        self.position(partitions, effects);
    }

    fn position(&mut self, partitions: Assignment, effects: &mut Effects) {
        self.current = self.ask();
        effects.push(Effect::Position(self.current, partitions.clone()));
        self.state = State::Positioning { partitions, at_ms: None };
    }

    fn positioned(&mut self, now_ms: u64, answer: Result<Vec<Position>, Trouble>, effects: &mut Effects) {
        let State::Positioning { at_ms, .. } = &mut self.state else { return };
        match answer {
            Ok(positions) => {
                self.state = State::Stable;
                let (member_id, generation) = (self.id.clone(), self.generation);
                let partitions = positions.clone();
                effects.push(Effect::Tell(Told::Assigned { member_id, generation, partitions }));
                effects.push(Effect::Read(positions));
            }
            Err(Trouble::Passing) => *at_ms = Some(now_ms + RETRY_PAUSE_MS),
            Err(Trouble::Lasting) => self.end(Err(Kafka::InvalidRequest), effects),
        }
    }

    fn beaten(&mut self, now_ms: u64, answer: Result<i16, Trouble>, effects: &mut Effects) {
        // Without an answer the session runs out.
        let Ok(code) = answer else { return };
        match kafka(code) {
            None => self.heard_ms = now_ms,
            Some(Kafka::RebalanceInProgress) => {
                self.heard_ms = now_ms;
                self.rebalance(now_ms, effects);
            }
            Some(Kafka::UnknownMemberId) => {
                self.id.clear();
                self.lose(now_ms, effects);
            }
            Some(Kafka::IllegalGeneration) => self.lose(now_ms, effects),
            Some(error) if error.is_retriable() => {}
            Some(error) => self.end(Err(error), effects),
        }
    }

    /// The group deals its partitions out anew.
    fn rebalance(&mut self, now_ms: u64, effects: &mut Effects) {
        match self.state {
            State::Stable if self.finished_ms.is_some() => self.close(now_ms, effects),
            State::Stable => self.release(now_ms, false, effects),
            // The client has let go already.
            State::Positioning { .. } => self.join(effects),
            _ => {}
        }
    }

    /// The group goes on without this member.
    fn lose(&mut self, now_ms: u64, effects: &mut Effects) {
        match &mut self.state {
            State::Stable if self.finished_ms.is_some() => self.leave(effects),
            State::Stable => self.release(now_ms, true, effects),
            State::Positioning { .. } => self.retry(now_ms),
            State::Releasing { lost, .. } => *lost = true,
            State::Closing { .. } => self.leave(effects),
            _ => {}
        }
        if !self.beats() {
            self.beat = None;
        }
    }

    fn release(&mut self, now_ms: u64, lost: bool, effects: &mut Effects) {
        self.owed += 1;
        self.state = State::Releasing { until_ms: now_ms + self.of.release_timeout_ms, lost };
        effects.push(Effect::Stop);
        effects.push(Effect::Tell(Told::Revoking));
    }

    /// Joins again if the client has let go and its commits are done.
    fn released(&mut self, effects: &mut Effects) {
        if matches!(self.state, State::Releasing { .. }) && self.owed == 0 && self.commits.is_empty() {
            self.rejoin(effects);
        }
    }

    fn rejoin(&mut self, effects: &mut Effects) {
        self.refuse_commits(Kafka::RebalanceInProgress, effects);
        self.join(effects);
    }

    fn commit(&mut self, commit: Commit, effects: &mut Effects) {
        let refused = match self.state {
            // The client has not heard that its partitions were dealt out anew, and speaks of those that it had.
            State::Stable if self.owed > 0 => Some(Kafka::RebalanceInProgress),
            State::Releasing { .. } if self.owed > 1 => Some(Kafka::RebalanceInProgress),
            State::Stable | State::Releasing { lost: false, .. } if self.commits.len() < MAX_COMMITS => None,
            State::Stable | State::Releasing { lost: false, .. } => Some(Kafka::ThrottlingQuotaExceeded),
            // The partitions may be another's.
            _ => Some(Kafka::RebalanceInProgress),
        };
        if let Some(error) = refused {
            effects.push(refusal(commit, error));
        } else {
            self.commits.push_back(commit);
            self.send_commit(effects);
        }
    }

    fn send_commit(&mut self, effects: &mut Effects) {
        let Some(commit) = self.commits.front().filter(|_| self.committing.is_none()) else { return };
        let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for Position { topic, partition, offset, metadata } in &commit.offsets {
            let partition = OffsetCommitRequestPartition::default()
                .with_partition_index(*partition)
                .with_committed_offset(*offset)
                .with_committed_leader_epoch(-1)
                .with_committed_metadata(Some(text(metadata)));
            topics.entry(topic).or_default().push(partition);
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            OffsetCommitRequestTopic::default().with_name(TopicName(text(topic))).with_partitions(partitions)
        });
        let request = OffsetCommitRequest::default()
            .with_group_id(self.group())
            .with_generation_id_or_member_epoch(self.generation)
            .with_member_id(text(&self.id))
            .with_group_instance_id(self.instance())
            .with_topics(topics.collect());
        let ask = self.ask();
        self.committing = Some(ask);
        effects.push(Effect::Commit(ask, request));
    }

    fn committed(&mut self, now_ms: u64, answer: Option<&OffsetCommitResponse>, effects: &mut Effects) {
        let Some(commit) = self.commits.pop_front() else { return };
        let code = |topic: &str, partition: i32| {
            let Some(answer) = answer else { return Some(Kafka::RequestTimedOut) };
            let of_topic = answer.topics.iter().filter(|told| *told.name == *topic);
            let found = of_topic.flat_map(|told| &told.partitions).find(|told| told.partition_index == partition);
            found.map_or(Some(Kafka::UnknownServerError), |told| kafka(told.error_code))
        };
        let failed = commit.offsets.into_iter().filter_map(|Position { topic, partition, .. }| {
            let error = code(&topic, partition)?;
            Some((topic, partition, error))
        });
        let failed: Vec<(String, i32, Kafka)> = failed.collect();
        let first = failed.iter().map(|(_, _, error)| *error).find(|error| ends_a_generation(*error));
        effects.push(Effect::Tell(Told::Committed { id: commit.id, failed }));
        match first {
            Some(Kafka::RebalanceInProgress) => self.rebalance(now_ms, effects),
            Some(Kafka::FencedInstanceId) => return self.end(Err(Kafka::FencedInstanceId), effects),
            Some(error) => {
                if error == Kafka::UnknownMemberId {
                    self.id.clear();
                }
                self.refuse_commits(error, effects);
                self.lose(now_ms, effects);
            }
            None => {}
        }
        match self.state {
            State::Closing { .. } if self.commits.is_empty() => self.leave(effects),
            State::Stable | State::Releasing { .. } | State::Closing { .. } => self.send_commit(effects),
            _ => {}
        }
        self.released(effects);
    }

    /// Those that wait, and the one on its way, are not done as far as is known.
    fn refuse_commits(&mut self, error: Kafka, effects: &mut Effects) {
        self.committing = None;
        for commit in std::mem::take(&mut self.commits) {
            effects.push(refusal(commit, error));
        }
    }

    fn close(&mut self, now_ms: u64, effects: &mut Effects) {
        match self.state {
            State::Closing { .. } | State::Leaving | State::Ended => return,
            State::Stable => effects.push(Effect::Stop),
            _ => {}
        }
        if self.commits.is_empty() {
            self.leave(effects);
        } else {
            self.state = State::Closing { until_ms: now_ms + LEAVE_PATIENCE_MS };
        }
    }

    /// Members with an instance id do not leave: they come back, or their session ends.
    fn leave(&mut self, effects: &mut Effects) {
        self.beat = None;
        self.refuse_commits(Kafka::RequestTimedOut, effects);
        if self.id.is_empty() || self.of.instance_id.is_some() {
            return self.end(Ok(()), effects);
        }
        self.state = State::Leaving;
        let member = MemberIdentity::default().with_member_id(text(&self.id));
        let request = LeaveGroupRequest::default().with_group_id(self.group()).with_members(vec![member]);
        effects.push(Effect::Leave(request));
    }

    fn end(&mut self, how: Result<(), Kafka>, effects: &mut Effects) {
        if self.state == State::Ended {
            return;
        }
        if self.state == State::Stable {
            effects.push(Effect::Stop);
        }
        self.refuse_commits(how.err().unwrap_or(Kafka::RequestTimedOut), effects);
        self.beat = None;
        self.state = State::Ended;
        effects.push(Effect::End(how));
    }

    fn group(&self) -> GroupId {
        GroupId(text(&self.of.group))
    }

    fn instance(&self) -> Option<StrBytes> {
        self.of.instance_id.as_deref().map(text)
    }
}

/// Whether after this answer to a commit the member has to join again.
fn ends_a_generation(error: Kafka) -> bool {
    matches!(
        error,
        Kafka::RebalanceInProgress | Kafka::UnknownMemberId | Kafka::IllegalGeneration | Kafka::FencedInstanceId
    )
}

fn refusal(commit: Commit, error: Kafka) -> Effect {
    let failed = commit.offsets.into_iter().map(|Position { topic, partition, .. }| (topic, partition, error));
    Effect::Tell(Told::Committed { id: commit.id, failed: failed.collect() })
}

fn kafka(code: i16) -> Option<Kafka> {
    if code == 0 { None } else { Some(Kafka::try_from_code(code).unwrap_or(Kafka::UnknownServerError)) }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
