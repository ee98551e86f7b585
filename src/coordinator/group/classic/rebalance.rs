//! How a group gets from one generation to the next.

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{JoinGroupResponse, SyncGroupResponse};

use super::group::{Group, InitialDelay, State};
use super::subscription::subscribed_topics;
use crate::base::HashMap;
use crate::coordinator::group::api::{self, Reply, join_error, sync_error};
use crate::coordinator::group::context::{Context, Name, TimerKey};
use crate::coordinator::runtime::ReplyTo;

impl Group {
    /// Answers the member's parked `JoinGroup`, if there is one.
    pub(super) fn finish_join(&mut self, cx: &mut Context, member: &str, reply: JoinGroupResponse) {
        if let Some(to) = self.members.get_mut(member).and_then(|member| member.awaiting_join.take()) {
            cx.reply(to, Reply::Join(reply));
        }
    }

    /// Parks a `JoinGroup`. One that the same member parked before is answered: its client has given it up.
    pub(super) fn park_join(&mut self, cx: &mut Context, member: &str, to: ReplyTo) {
        let Some(parked) = self.members.get_mut(member) else { return };
        if let Some(old) = parked.awaiting_join.replace(to) {
            cx.reply(old, Reply::Join(join_error(member, ResponseError::RebalanceInProgress)));
        }
    }

    /// Parks a `SyncGroup`. One that the same member parked before is answered: its client has given it up.
    pub(super) fn park_sync(&mut self, cx: &mut Context, member: &str, to: ReplyTo) {
        let Some(parked) = self.members.get_mut(member) else { return };
        if let Some(old) = parked.awaiting_sync.replace(to) {
            cx.reply(old, Reply::Sync(sync_error(ResponseError::RebalanceInProgress)));
        }
    }

    /// The member's session starts anew.
    pub(in crate::coordinator::group) fn touch(&self, cx: &mut Context, member: &str) {
        if let Some(member) = self.members.get(member) {
            cx.after(TimerKey::Session(self.id.clone(), member.id.clone()), member.session_timeout_ms);
        }
    }

    /// Removes a member and answers what it has parked.
    pub(super) fn drop_member(&mut self, cx: &mut Context, id: &str) {
        cx.timers.cancel(&TimerKey::Session(self.id.clone(), id.into()));
        let Some(member) = self.remove(id) else { return };
        // The client may be alive: UNKNOWN_MEMBER_ID makes it join again as a new member.
        if let Some(to) = member.awaiting_join {
            cx.reply(to, Reply::Join(join_error("", ResponseError::UnknownMemberId)));
        }
        if let Some(to) = member.awaiting_sync {
            cx.reply(to, Reply::Sync(sync_error(ResponseError::UnknownMemberId)));
        }
    }

    /// Starts a rebalance if the group's state allows it; otherwise goes on with the one under way.
    pub(super) fn rebalance_or_complete(&mut self, cx: &mut Context) {
        if self.is(State::PreparingRebalance) {
            self.maybe_complete_join(cx);
        } else {
            self.prepare_rebalance(cx);
        }
    }

    /// Asks all members to join a new generation.
    pub(in crate::coordinator::group) fn prepare_rebalance(&mut self, cx: &mut Context) {
        if self.is(State::CompletingRebalance) {
            self.fail_assignment(cx, ResponseError::RebalanceInProgress);
        }
        self.pending_sync.clear();
        cx.timers.cancel(&TimerKey::Sync(self.id.clone()));
        let initial = self.is(State::Empty);
        self.enter(State::PreparingRebalance, cx.now.wall_ms);
        if initial {
            let delay_ms = cx.settings.initial_rebalance_delay_ms.max(0);
            let remaining_ms = (self.rebalance_timeout_ms() - delay_ms).max(0);
            self.initial_delay = Some(InitialDelay { delay_ms, remaining_ms });
            cx.after(TimerKey::Join(self.id.clone()), delay_ms);
        } else if self.all_joined() {
            self.complete_join(cx);
        } else {
            cx.after(TimerKey::Join(self.id.clone()), self.rebalance_timeout_ms());
        }
    }

    /// Goes on to the next generation if everybody is there; the initial rebalance waits for its delay regardless.
    pub(super) fn maybe_complete_join(&mut self, cx: &mut Context) {
        if self.is(State::PreparingRebalance) && self.initial_delay.is_none() && self.all_joined() {
            self.complete_join(cx);
        }
    }

    /// The deadline of the join phase has passed.
    pub(in crate::coordinator::group) fn join_deadline(&mut self, cx: &mut Context) {
        if !self.is(State::PreparingRebalance) {
            return;
        }
        match self.initial_delay {
            Some(delay) if self.new_member_added && delay.remaining_ms != 0 => {
                self.new_member_added = false;
                let delay_ms = cx.settings.initial_rebalance_delay_ms.max(0).min(delay.remaining_ms);
                let remaining_ms = (delay.remaining_ms - delay.delay_ms).max(0);
                self.initial_delay = Some(InitialDelay { delay_ms, remaining_ms });
                cx.after(TimerKey::Join(self.id.clone()), delay_ms);
            }
            _ => self.complete_join(cx),
        }
    }

    /// The leader of the next generation, if anybody has joined it.
    fn elect_leader(&mut self) -> bool {
        let Some(leader) = &self.leader else { return false };
        if self.members.get(leader).is_some_and(|member| member.awaiting_join.is_some()) {
            return true;
        }
        let joined = self.members.values().find(|member| member.awaiting_join.is_some());
        match joined.map(|member| member.id.clone()) {
            Some(member) => {
                tracing::info!(group = %self.id, leader = %member, "the leader did not join in time; another one leads");
                self.leader = Some(member);
                true
            }
            None => false,
        }
    }

    /// Starts the next generation with those who have joined; static members stay even if they have not.
    pub(super) fn complete_join(&mut self, cx: &mut Context) {
        cx.timers.cancel(&TimerKey::Join(self.id.clone()));
        let late = |member: &&super::member::Member| member.awaiting_join.is_none() && member.instance_id.is_none();
        let late: Vec<Name> = self.members.values().filter(late).map(|member| member.id.clone()).collect();
        for member in &late {
            self.drop_member(cx, member);
        }
        if !late.is_empty() {
            tracing::info!(group = %self.id, members = ?late, "removed members that did not join in time");
        }
        if !self.elect_leader() && !self.members.is_empty() {
            // Only static members, and none is here: their sessions decide.
            cx.after(TimerKey::Join(self.id.clone()), self.rebalance_timeout_ms());
            return;
        }
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.initial_delay = None;
        self.new_member_added = false;
        self.assigning = false;
        self.pending_sync.clear();
        self.protocol = self.select_protocol();
        self.subscribed = subscribed_topics(self);
        if self.members.is_empty() {
            self.enter(State::Empty, cx.now.wall_ms);
            tracing::info!(group = %self.id, generation = self.generation, "group is empty now");
            cx.append_group(&self.id, Some(self.stored(|_| Bytes::new()).encoded()));
            return;
        }
        self.enter(State::CompletingRebalance, cx.now.wall_ms);
        tracing::info!(
            group = %self.id, generation = self.generation, members = self.members.len(), protocol = ?self.protocol,
            "a new generation"
        );
        let members: Vec<Name> = self.members.keys().cloned().collect();
        for member in &members {
            let reply = self.joined(member, self.is_leader(member));
            self.finish_join(cx, member, reply);
            self.touch(cx, member);
            if let Some(member) = self.members.get_mut(member) {
                member.is_new = false;
            }
        }
        self.pending_sync = members.into_iter().collect();
        cx.after(TimerKey::Sync(self.id.clone()), self.rebalance_timeout_ms());
    }

    /// The deadline for members to ask for their assignment has passed: those who have not are out.
    pub(in crate::coordinator::group) fn sync_deadline(&mut self, cx: &mut Context) {
        let due = self.is(State::CompletingRebalance) || self.is(State::Stable);
        if !due || self.pending_sync.is_empty() {
            return;
        }
        let late: Vec<Name> = self.members.keys().filter(|id| self.pending_sync.contains(*id)).cloned().collect();
        for member in &late {
            self.drop_member(cx, member);
        }
        tracing::info!(group = %self.id, members = ?late, "removed members that did not ask for their assignment in time");
        self.prepare_rebalance(cx);
    }

    /// A member's session, or a pending member's id, has ended.
    pub(in crate::coordinator::group) fn session_deadline(&mut self, cx: &mut Context, member: &str) {
        if self.pending_join.contains(member) {
            self.remove(member);
            self.maybe_complete_join(cx);
            return;
        }
        if self.members.get(member).is_none_or(super::member::Member::excused) {
            return;
        }
        tracing::info!(group = %self.id, member, "session ended");
        cx.metrics.sessions_expired.inc();
        self.drop_member(cx, member);
        self.rebalance_after_departure(cx);
    }

    /// Somebody is gone.
    pub(super) fn rebalance_after_departure(&mut self, cx: &mut Context) {
        match self.state {
            State::Stable | State::CompletingRebalance => self.prepare_rebalance(cx),
            State::PreparingRebalance => self.maybe_complete_join(cx),
            State::Empty => {}
        }
    }

    /// Nobody gets an assignment in this generation.
    pub(super) fn fail_assignment(&mut self, cx: &mut Context, error: ResponseError) {
        self.assigning = false;
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
        }
        self.hand_out(cx, Some(error));
    }

    /// The assignment is committed: everybody who asked gets theirs.
    pub(in crate::coordinator::group) fn assigned(
        &mut self,
        cx: &mut Context,
        generation: i32,
        mut assignment: HashMap<Name, Bytes>,
    ) {
        // Somebody may have joined or left meanwhile; then the next generation is under way.
        if !self.is(State::CompletingRebalance) || self.generation != generation {
            return;
        }
        self.assigning = false;
        for member in self.members.values_mut() {
            member.assignment = assignment.remove(&member.id).unwrap_or_default();
        }
        self.hand_out(cx, None);
        self.enter(State::Stable, cx.now.wall_ms);
        cx.metrics.rebalances.inc();
    }

    /// The assignment was not committed in time.
    pub(in crate::coordinator::group) fn not_assigned(
        &mut self,
        cx: &mut Context,
        generation: i32,
        error: ResponseError,
    ) {
        if self.is(State::CompletingRebalance) && self.generation == generation {
            self.fail_assignment(cx, error);
            self.rebalance_or_complete(cx);
        }
    }

    fn hand_out(&mut self, cx: &mut Context, error: Option<ResponseError>) {
        let ids: Vec<Name> = self.members.keys().cloned().collect();
        for id in ids {
            let Some(member) = self.members.get_mut(&id) else { continue };
            let Some(to) = member.awaiting_sync.take() else { continue };
            let reply = match error {
                Some(error) => sync_error(error),
                None => self.synced(&id),
            };
            cx.reply(to, Reply::Sync(reply));
            // A session that ended while the member was waiting did not count, and nobody set it again.
            self.touch(cx, &id);
        }
    }

    /// The answer to a member's `SyncGroup` in this generation.
    pub(super) fn synced(&self, member: &str) -> SyncGroupResponse {
        let assignment = self.members.get(member).map(|member| member.assignment.clone()).unwrap_or_default();
        SyncGroupResponse::default()
            .with_protocol_type(self.protocol_type.as_deref().map(api::text))
            .with_protocol_name(self.protocol.as_deref().map(api::text))
            .with_assignment(assignment)
    }
}
