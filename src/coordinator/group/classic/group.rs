//! A classic group: who is in it, in which generation, in which state.

use bytes::Bytes;
use indexmap::IndexMap;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::JoinGroupResponse;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;

use super::member::Member;
use super::subscription::subscribed_topics;
use crate::base::{HashMap, HashSet};
use crate::coordinator::group::api;
use crate::coordinator::group::context::Name;
use crate::coordinator::group::records::GroupValue;

/// The protocol type of consumers.
const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// Kafka's states of a classic group. `Dead` is not one here: a dead group is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::coordinator::group) enum State {
    /// No members; it may hold offsets.
    Empty,
    /// Members are asked to join the next generation.
    PreparingRebalance,
    /// The leader is asked for the assignment.
    CompletingRebalance,
    /// Every member can have its assignment.
    Stable,
}

impl State {
    pub const ALL: [Self; 4] = [Self::Empty, Self::PreparingRebalance, Self::CompletingRebalance, Self::Stable];

    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// How far the initial rebalance's delay has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::coordinator::group) struct InitialDelay {
    pub delay_ms: i32,
    pub remaining_ms: i32,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::coordinator::group) struct Group {
    pub id: Name,
    pub state: State,
    pub previous: State,
    /// In milliseconds since the Unix epoch; `None` if the stored group has none.
    pub state_timestamp_ms: Option<i64>,
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    pub generation: i32,
    pub leader: Option<Name>,
    /// In the order of joining.
    pub members: IndexMap<Name, Member>,
    /// Instance id to member id.
    pub statics: HashMap<Name, Name>,
    /// Ids that were given out and have not come back.
    pub pending_join: HashSet<Name>,
    /// Members of this generation that have not asked for their assignment.
    pub pending_sync: HashSet<Name>,
    /// Topics of all members; `None` if it is not known.
    pub subscribed: Option<HashSet<String>>,
    pub new_member_added: bool,
    /// This generation's assignment is being stored.
    pub assigning: bool,
    /// Set while the initial rebalance waits.
    pub initial_delay: Option<InitialDelay>,
}

impl Group {
    /// A group that nobody has heard of.
    pub fn new(id: Name, wall_ms: i64) -> Self {
        Self {
            id,
            state: State::Empty,
            previous: State::Empty,
            state_timestamp_ms: Some(wall_ms),
            protocol_type: None,
            protocol: None,
            generation: 0,
            leader: None,
            members: IndexMap::new(),
            statics: HashMap::default(),
            pending_join: HashSet::default(),
            pending_sync: HashSet::default(),
            subscribed: None,
            new_member_added: false,
            assigning: false,
            initial_delay: None,
        }
    }

    /// The group of a stored generation.
    pub fn loaded(id: Name, value: GroupValue) -> Self {
        let state = if value.members.is_empty() { State::Empty } else { State::Stable };
        let mut group = Self::new(id, 0);
        group.state = state;
        group.previous = state;
        group.state_timestamp_ms = (value.state_timestamp_ms != -1).then_some(value.state_timestamp_ms);
        group.protocol_type = Some(value.protocol_type).filter(|kind| !kind.is_empty());
        group.protocol = value.protocol;
        group.generation = value.generation;
        group.leader = value.leader.map(Into::into);
        for member in value.members {
            let member = Member::loaded(member, group.protocol.as_deref());
            if let Some(instance) = &member.instance_id {
                group.statics.insert(instance.clone(), member.id.clone());
            }
            group.members.insert(member.id.clone(), member);
        }
        group.subscribed = subscribed_topics(&group);
        group
    }

    /// The record's form, with the members' assignments taken from `assignment`.
    pub fn stored(&self, assignment: impl Fn(&Member) -> Bytes) -> GroupValue {
        let protocol = self.protocol.as_deref();
        GroupValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.as_deref().map(str::to_owned),
            state_timestamp_ms: self.state_timestamp_ms.unwrap_or(-1),
            members: self.members.values().map(|member| member.stored(protocol, assignment(member))).collect(),
        }
    }

    pub fn is(&self, state: State) -> bool {
        self.state == state
    }

    pub fn enter(&mut self, state: State, wall_ms: i64) {
        self.previous = self.state;
        self.state = state;
        self.state_timestamp_ms = Some(wall_ms);
    }

    pub fn is_leader(&self, member: &str) -> bool {
        self.leader.as_deref() == Some(member)
    }

    pub fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER_PROTOCOL_TYPE)
    }

    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        self.subscribed.as_ref().map_or_else(|| self.uses_consumer_protocol(), |topics| topics.contains(topic))
    }

    pub fn awaiting_join(&self) -> usize {
        self.members.values().filter(|member| member.awaiting_join.is_some()).count()
    }

    pub fn all_joined(&self) -> bool {
        self.pending_join.is_empty() && self.members.values().all(|member| member.awaiting_join.is_some())
    }

    /// The longest rebalance timeout of the members, in milliseconds.
    pub fn rebalance_timeout_ms(&self) -> i32 {
        self.members.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0).max(0)
    }

    fn offered_by_all(&self, protocol: &str) -> bool {
        self.members.values().all(|member| member.offers(protocol))
    }

    /// Whether somebody offering `protocols` fits in.
    pub fn supports<'a>(&self, protocol_type: &str, mut protocols: impl Iterator<Item = &'a str>) -> bool {
        if self.is(State::Empty) {
            return !protocol_type.is_empty() && protocols.next().is_some();
        }
        self.protocol_type.as_deref() == Some(protocol_type) && protocols.any(|name| self.offered_by_all(name))
    }

    /// The protocol with the most votes among those that every member offers; the first among equals, so that the choice
    /// is the same on every run. `None` for a group without members or without a common protocol.
    pub fn select_protocol(&self) -> Option<String> {
        let first = self.members.values().next()?;
        let offered = first.protocols.iter().map(|(name, _)| name.as_str());
        let candidates: Vec<&str> = offered.filter(|name| self.offered_by_all(name)).collect();
        let mut votes: IndexMap<&str, usize> = IndexMap::new();
        for member in self.members.values() {
            *votes.entry(member.vote(&candidates)?).or_default() += 1;
        }
        let most = votes.values().copied().max()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| name.to_owned())
    }

    pub fn add(&mut self, member: Member) {
        if let Some(instance) = &member.instance_id {
            self.statics.insert(instance.clone(), member.id.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(member.id.clone());
        }
        self.pending_join.remove(&member.id);
        self.members.insert(member.id.clone(), member);
    }

    /// Removes a member or a pending one; the first remaining member leads if it was the leader.
    pub fn remove(&mut self, id: &str) -> Option<Member> {
        let removed = self.members.shift_remove(id);
        if let Some(instance) = removed.as_ref().and_then(|member| member.instance_id.as_ref()) {
            self.statics.remove(instance);
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
        self.pending_join.remove(id);
        self.pending_sync.remove(id);
        removed
    }

    /// Whether `member_id` (and the instance it claims to be) is in the group.
    pub fn validate(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), ResponseError> {
        if let Some(instance) = instance_id {
            match self.statics.get(instance) {
                None => return Err(ResponseError::UnknownMemberId),
                Some(current) if &**current != member_id => return Err(ResponseError::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(ResponseError::UnknownMemberId) }
    }

    /// The answer to a member's `JoinGroup` in this generation.
    pub fn joined(&self, member: &str, with_members: bool) -> JoinGroupResponse {
        let members = if with_members { self.members_for_leader() } else { Vec::new() };
        JoinGroupResponse::default()
            .with_generation_id(self.generation)
            .with_protocol_type(self.protocol_type.as_deref().map(api::text))
            .with_protocol_name(self.protocol.as_deref().map(api::text))
            .with_leader(api::text(self.leader.as_deref().unwrap_or_default()))
            .with_member_id(api::text(member))
            .with_members(members)
    }

    fn members_for_leader(&self) -> Vec<JoinGroupResponseMember> {
        let protocol = self.protocol.as_deref();
        let describe = |member: &Member| {
            JoinGroupResponseMember::default()
                .with_member_id(api::text(&member.id))
                .with_group_instance_id(member.instance_id.as_deref().map(api::text))
                .with_metadata(member.metadata(protocol))
        };
        self.members.values().map(describe).collect()
    }
}
