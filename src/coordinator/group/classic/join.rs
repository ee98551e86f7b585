//! `JoinGroup`.

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::JoinGroupRequest;
use uuid::Uuid;

use super::group::{Group, State};
use super::member::Member;
use crate::coordinator::group::api::{Caller, Reply, join_error, own, text};
use crate::coordinator::group::context::{Context, Continuation, Name, TimerKey};
use crate::coordinator::group::limits::{MAX_PENDING_MEMBERS, NEW_MEMBER_JOIN_TIMEOUT_MS};
use crate::coordinator::runtime::ReplyTo;

/// From this version on a dynamic member must come back with the id that it was given (KIP-394).
const REQUIRES_MEMBER_ID: i16 = 4;
/// From this version on a leader can be told to keep the assignment (KIP-814).
const SKIPS_ASSIGNMENT: i16 = 9;

/// A `JoinGroup` on its way through the group.
pub(in crate::coordinator::group) struct Join<'a> {
    pub caller: &'a Caller,
    pub request: &'a JoinGroupRequest,
    pub fresh: Uuid,
    pub to: ReplyTo,
}

impl Join<'_> {
    fn protocols(&self) -> Vec<(String, Bytes)> {
        let mut protocols: Vec<(String, Bytes)> = Vec::with_capacity(self.request.protocols.len());
        for protocol in &self.request.protocols {
            // A name that is offered twice counts once, as in Kafka's collection.
            if !protocols.iter().any(|(name, _)| *name == *protocol.name) {
                protocols.push((protocol.name.to_string(), own(&protocol.metadata)));
            }
        }
        protocols
    }

    fn instance(&self) -> Option<&str> {
        self.request.group_instance_id.as_deref()
    }

    fn refuse(&self, cx: &mut Context, member_id: &str, error: ResponseError) {
        cx.reply(self.to, Reply::Join(join_error(member_id, error)));
    }

    fn matches(&self, member: &Member) -> bool {
        let offered = &self.request.protocols;
        offered.len() == member.protocols.len()
            && offered
                .iter()
                .zip(&member.protocols)
                .all(|(a, (name, metadata))| *a.name == **name && a.metadata == metadata)
    }
}

impl Group {
    /// Handles a `JoinGroup` whose own fields are in order.
    pub(in crate::coordinator::group) fn join(&mut self, cx: &mut Context, join: &Join<'_>) {
        let member_id: &str = &join.request.member_id;
        if !self.accepts(cx, member_id) {
            cx.timers.cancel(&TimerKey::Session(self.id.clone(), member_id.into()));
            self.remove(member_id);
            cx.metrics.joins_refused.inc();
            return join.refuse(cx, "", ResponseError::GroupMaxSizeReached);
        }
        let names = join.request.protocols.iter().map(|protocol| &*protocol.name);
        if !self.supports(&join.request.protocol_type, names) {
            return join.refuse(cx, member_id, ResponseError::InconsistentGroupProtocol);
        }
        if member_id.is_empty() {
            self.join_new(cx, join);
        } else {
            self.join_existing(cx, join, member_id);
        }
    }

    /// Whether there is room for `member_id`.
    fn accepts(&self, cx: &Context, member_id: &str) -> bool {
        let max = cx.settings.max_size;
        match self.state {
            State::Empty => true,
            // Those who have joined count, not those who are listed: so a group above a lowered limit shrinks.
            State::PreparingRebalance => {
                self.members.get(member_id).is_some_and(|member| member.awaiting_join.is_some())
                    || self.awaiting_join() < max
            }
            State::CompletingRebalance | State::Stable => {
                self.members.contains_key(member_id) || self.members.len() < max
            }
        }
    }

    fn join_new(&mut self, cx: &mut Context, join: &Join<'_>) {
        let prefix = join.instance().unwrap_or(&join.caller.client_id);
        let id: Name = format!("{prefix}-{}", join.fresh).into();
        if let Some(instance) = join.instance() {
            if let Some(old) = self.statics.get(instance).cloned() {
                self.replace_static(cx, join, instance, &old, id);
            } else {
                self.add_member(cx, join, id);
            }
        } else if join.caller.api_version >= REQUIRES_MEMBER_ID {
            if self.pending_join.len() >= MAX_PENDING_MEMBERS {
                cx.metrics.joins_refused.inc();
                return join.refuse(cx, "", ResponseError::GroupMaxSizeReached);
            }
            cx.after(TimerKey::Session(self.id.clone(), id.clone()), join.request.session_timeout_ms);
            join.refuse(cx, &id, ResponseError::MemberIdRequired);
            self.pending_join.insert(id);
        } else {
            self.add_member(cx, join, id);
        }
    }

    fn join_existing(&mut self, cx: &mut Context, join: &Join<'_>, member_id: &str) {
        if self.pending_join.contains(member_id) {
            // Only dynamic members are ever pending.
            return match join.instance() {
                Some(_) => join.refuse(cx, member_id, ResponseError::UnknownServerError),
                None => self.add_member(cx, join, member_id.into()),
            };
        }
        if let Err(error) = self.validate(member_id, join.instance()) {
            return join.refuse(cx, member_id, error);
        }
        let unchanged = self.members.get(member_id).is_some_and(|member| join.matches(member));
        let leads = self.is_leader(member_id);
        match self.state {
            // The member may not have got the answer: it gets it again.
            State::CompletingRebalance if unchanged => {
                cx.reply(join.to, Reply::Join(self.joined(member_id, leads)));
            }
            // A leader that joins again wants a new assignment (a topic changed); a follower wants its place back.
            State::Stable if unchanged && !leads => {
                cx.reply(join.to, Reply::Join(self.joined(member_id, false)));
            }
            State::PreparingRebalance | State::CompletingRebalance | State::Stable => {
                self.update_member(join, member_id);
                self.park_join(cx, member_id, join.to);
                self.rebalance_or_complete(cx);
            }
            State::Empty => join.refuse(cx, member_id, ResponseError::UnknownMemberId),
        }
    }

    fn update_member(&mut self, join: &Join<'_>, member_id: &str) {
        if let Some(member) = self.members.get_mut(member_id) {
            member.protocols = join.protocols();
            member.rebalance_timeout_ms = join.request.rebalance_timeout_ms;
            member.session_timeout_ms = join.request.session_timeout_ms;
        }
    }

    fn add_member(&mut self, cx: &mut Context, join: &Join<'_>, id: Name) {
        if self.members.is_empty() {
            self.protocol_type = Some(join.request.protocol_type.to_string());
        }
        // While the initial rebalance waits, a newcomer makes it wait longer.
        self.new_member_added |= self.initial_delay.is_some();
        self.add(Member {
            id: id.clone(),
            instance_id: join.instance().map(Into::into),
            client_id: join.caller.client_id.clone(),
            client_host: join.caller.client_host.clone(),
            rebalance_timeout_ms: join.request.rebalance_timeout_ms,
            session_timeout_ms: join.request.session_timeout_ms,
            protocols: join.protocols(),
            assignment: Bytes::new(),
            awaiting_join: Some(join.to),
            awaiting_sync: None,
            is_new: true,
        });
        // It does not know its id yet, so it cannot send heartbeats; and nobody notices when its connection breaks.
        cx.after(TimerKey::Session(self.id.clone(), id), NEW_MEMBER_JOIN_TIMEOUT_MS);
        self.rebalance_or_complete(cx);
    }

    /// A static member came back without its member id: it gets a new one and the old one is fenced (KIP-345).
    fn replace_static(&mut self, cx: &mut Context, join: &Join<'_>, instance: &str, old: &Name, id: Name) {
        let old_leader = self.leader.clone();
        let Some(mut member) = self.members.get(old).cloned() else { return };
        let position = self.members.get_index_of(old).unwrap_or(0);
        if let Some(to) = member.awaiting_join.take() {
            cx.reply(to, Reply::Join(join_error(old, ResponseError::FencedInstanceId)));
        }
        if let Some(to) = member.awaiting_sync.take() {
            let fenced = crate::coordinator::group::api::sync_error(ResponseError::FencedInstanceId);
            cx.reply(to, Reply::Sync(fenced));
        }
        cx.timers.cancel(&TimerKey::Session(self.id.clone(), old.clone()));
        self.members.shift_remove(old);
        member.id = id.clone();
        self.members.shift_insert(position, id.clone(), member);
        self.statics.insert(instance.into(), id.clone());
        if self.is_leader(old) {
            self.leader = Some(id.clone());
        }
        if self.pending_sync.remove(old) {
            self.pending_sync.insert(id.clone());
        }
        self.update_member(join, &id);
        self.park_join(cx, &id, join.to);
        self.touch(cx, &id);

        match self.state {
            State::Stable if self.select_protocol() == self.protocol => {
                // Nothing that matters changed: the group stays as it is, with the new id in the log.
                let value = self.stored(|member| member.assignment.clone());
                cx.append_group(&self.id, Some(value.encoded()));
                let group = self.id.clone();
                let api_version = join.caller.api_version;
                cx.when_committed(Continuation::Replaced { group, member: id, api_version, old_leader });
            }
            // In CompletingRebalance the leader may already be assigning to the old id.
            State::Stable | State::CompletingRebalance => self.prepare_rebalance(cx),
            State::PreparingRebalance | State::Empty => self.maybe_complete_join(cx),
        }
    }

    /// The new id of a static member is committed, or was not in time.
    pub(in crate::coordinator::group) fn replaced(
        &mut self,
        cx: &mut Context,
        member: &str,
        api_version: i16,
        old_leader: Option<&str>,
        error: Option<ResponseError>,
    ) {
        if let Some(error) = error {
            return self.finish_join(cx, member, join_error("", error));
        }
        if !self.is(State::Stable) && !self.is(State::CompletingRebalance) {
            // A rebalance began meanwhile; the parked request takes part in it.
            return;
        }
        let leads = self.is_leader(member);
        let reply = if api_version >= SKIPS_ASSIGNMENT {
            self.joined(member, leads).with_skip_assignment(leads)
        } else {
            // An old client that is told it leads would assign anew; it is told that the old id leads.
            self.joined(member, false).with_leader(text(old_leader.unwrap_or_default()))
        };
        self.finish_join(cx, member, reply);
    }
}
