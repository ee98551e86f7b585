//! One shard of the group coordinator: the groups whose ids hash to one partition of `__consumer_offsets`.
//!
//! Pure: `step(now, input) -> effects`. Two kinds of state live here. The durable part is [`Store`], a fold of records
//! that only [`Store::apply`] changes. The rest (who is joining, whose heartbeat is due) is rebuilt by the clients after
//! a restart, starting from the members of the stored generation.
//!
//! Invariants: a reply that promises something durable is released by [`Machine::committed`] of the ticket that carries
//! it; the store equals the fold of everything appended; each request is answered exactly once.
//!
//! A crash leaves the log; loading it gives the store of the last commit and the members of the last stored generation,
//! with fresh sessions. Cancelled requests change nothing: the reply goes nowhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{
    GroupId, HeartbeatResponse, JoinGroupRequest, OffsetCommitRequest, OffsetDeleteResponse,
};

use super::api::{Caller, Input, Reply, commit_error, join_error, leave_unknown, sync_error};
use super::classic::{Group, Join, State};
use super::context::{Context, Continuation, Name, TimerKey};
use super::limits::{MAX_NAME_BYTES, MAX_PROTOCOLS_PER_MEMBER};
use super::metrics::{GroupMetrics, SkipLabel, StateLabel};
use super::records::GroupValue;
use super::store::{Applied, Store};
use super::{admin, offsets};
use crate::base::HashMap;
use crate::config::GroupSettings;
use crate::coordinator::runtime::{Effects, Machine, Now, RawRecord, ReplyTo, Ticket};

/// From this version on a commit into an unknown group says so.
const COMMIT_NAMES_UNKNOWN_GROUP: i16 = 9;

/// See the module.
pub struct GroupMachine {
    cx: Context,
    groups: HashMap<Name, Group>,
    max_groups: usize,
    published: Published,
}

/// What this shard has added to the shared gauges.
#[derive(Default)]
struct Published {
    states: HashMap<State, i64>,
    members: i64,
    offsets: i64,
}

impl GroupMachine {
    /// An empty shard that holds at most `max_groups` groups.
    pub fn new(settings: Arc<GroupSettings>, max_groups: usize, metrics: GroupMetrics) -> Self {
        Self {
            cx: Context::new(settings, metrics),
            groups: HashMap::default(),
            max_groups,
            published: Published::default(),
        }
    }

    /// The durable state.
    pub fn store(&self) -> &Store {
        &self.cx.store
    }

    /// Runs `step` on a group that exists, or gives the step back.
    fn with<T>(&mut self, id: &str, step: impl FnOnce(&mut Group, &mut Context) -> T) -> Option<T> {
        let group = self.groups.get_mut(id)?;
        let result = step(group, &mut self.cx);
        self.forget_if_idle(id);
        Some(result)
    }

    /// Forgets a group that holds nothing: no member, no pending one, nothing stored.
    fn forget_if_idle(&mut self, id: &str) {
        let idle = |group: &Group| group.is(State::Empty) && group.pending_join.is_empty();
        if self.cx.store.group(id).is_none() && self.groups.get(id).is_some_and(idle) {
            self.groups.remove(id);
        }
    }

    /// Makes the group if it is not there; `false` if there is no room.
    fn create(&mut self, id: &str) -> bool {
        if self.groups.contains_key(id) {
            return true;
        }
        if self.groups.len() >= self.max_groups {
            self.cx.metrics.joins_refused.inc();
            tracing::warn!(group = id, limit = self.max_groups, "no room for another group in this shard");
            return false;
        }
        let id: Name = id.into();
        self.groups.insert(id.clone(), Group::new(id, self.cx.now.wall_ms));
        self.watch_expiry();
        true
    }

    /// Makes sure that expired offsets are looked for while there is a group.
    fn watch_expiry(&mut self) {
        if self.cx.timers.get(&TimerKey::Expiry).is_none() && !self.groups.is_empty() {
            let at_ms = self.cx.now.boot_ms + self.cx.settings.offsets_retention_check_ms.max(1);
            self.cx.timers.set(TimerKey::Expiry, at_ms);
        }
    }

    fn check_join(&self, caller: &Caller, request: &JoinGroupRequest) -> Result<(), ResponseError> {
        let settings = &self.cx.settings;
        if request.group_id.is_empty() {
            return Err(ResponseError::InvalidGroupId);
        }
        if !(settings.min_session_timeout_ms..=settings.max_session_timeout_ms).contains(&request.session_timeout_ms) {
            return Err(ResponseError::InvalidSessionTimeout);
        }
        let names = request.protocols.iter().map(|protocol| protocol.name.len());
        let longest = names.chain([request.group_id.len(), request.protocol_type.len()]).max().unwrap_or(0);
        // 64 bytes of room for the dash and the UUID of a member id.
        let prefix = request.group_instance_id.as_ref().map_or(caller.client_id.len(), |instance| instance.len()) + 64;
        if longest.max(prefix) > MAX_NAME_BYTES || request.protocols.len() > MAX_PROTOCOLS_PER_MEMBER {
            return Err(ResponseError::InvalidRequest);
        }
        Ok(())
    }

    fn join(&mut self, join: &Join<'_>) {
        let id: &str = &join.request.group_id;
        let member: &str = &join.request.member_id;
        let refusal = match self.check_join(join.caller, join.request) {
            Err(error) => Some(error),
            Ok(()) if self.groups.contains_key(id) => None,
            Ok(()) if !member.is_empty() => Some(ResponseError::UnknownMemberId),
            Ok(()) => (!self.create(id)).then_some(ResponseError::CoordinatorNotAvailable),
        };
        match refusal {
            Some(error) => self.cx.reply(join.to, Reply::Join(join_error(member, error))),
            None => {
                self.with(id, |group, cx| group.join(cx, join));
            }
        }
    }

    fn commit(&mut self, to: ReplyTo, api_version: i16, request: &OffsetCommitRequest) {
        let id: &str = &request.group_id;
        let known = self.groups.contains_key(id);
        let error = match self.groups.get(id) {
            // It would not fit into a record's key.
            _ if id.len() > MAX_NAME_BYTES => Some(ResponseError::InvalidGroupId),
            Some(group) => offsets::validate_commit(group, request).err(),
            // A simple group comes to be by its first commit.
            None if request.generation_id_or_member_epoch < 0 => {
                (!self.create(id)).then_some(ResponseError::CoordinatorNotAvailable)
            }
            None if api_version >= COMMIT_NAMES_UNKNOWN_GROUP => Some(ResponseError::GroupIdNotFound),
            None => Some(ResponseError::IllegalGeneration),
        };
        if let Some(error) = error {
            return self.cx.reply(to, Reply::Commit(commit_error(request, error)));
        }
        if let Some(group) = self.groups.get(id).filter(|_| known)
            && (group.is(State::Stable) || group.is(State::PreparingRebalance))
        {
            group.touch(&mut self.cx, &request.member_id);
        }
        let response = offsets::commit(&mut self.cx, request);
        self.cx.reply_when_committed(to, Reply::Commit(response));
        self.forget_if_idle(id);
    }

    fn delete_offsets(
        &mut self,
        request: &kafka_protocol::messages::OffsetDeleteRequest,
    ) -> Result<OffsetDeleteResponse, ResponseError> {
        if request.group_id.is_empty() {
            return Err(ResponseError::InvalidGroupId);
        }
        let deleted = self.with(&request.group_id, |group, cx| offsets::delete(cx, group, request));
        deleted.unwrap_or(Err(ResponseError::GroupIdNotFound))
    }

    fn delete_group(&mut self, id: &GroupId) -> Result<(), ResponseError> {
        let group = self.groups.get(id.as_str()).ok_or(ResponseError::GroupIdNotFound)?;
        if !group.is(State::Empty) {
            return Err(ResponseError::NonEmptyGroup);
        }
        self.remove_group(id);
        Ok(())
    }

    /// Removes an empty group with all that is stored of it.
    fn remove_group(&mut self, id: &str) {
        let (deleted, _) = offsets::remove_where(&mut self.cx, id, |_, _| true);
        self.cx.metrics.offsets_deleted.inc_by(deleted as u64);
        if self.cx.store.group(id).is_some() {
            self.cx.append_group(id, None);
        }
        if let Some(group) = self.groups.remove(id) {
            for member in group.pending_join {
                self.cx.timers.cancel(&TimerKey::Session(group.id.clone(), member));
            }
        }
    }

    /// Removes offsets that are too old, and empty groups that are left without any.
    fn expire(&mut self) {
        let ids: BTreeSet<Name> = self.groups.keys().cloned().collect();
        for id in ids {
            let Some(group) = self.groups.get(&id) else { continue };
            let none_left = offsets::expire(&mut self.cx, group);
            if none_left && group.is(State::Empty) && group.pending_join.is_empty() {
                self.remove_group(&id);
            }
        }
        self.watch_expiry();
    }

    fn topics_deleted(&mut self, topics: &[String]) {
        let ids: BTreeSet<Name> = self.groups.keys().cloned().collect();
        for id in ids {
            offsets::remove_where(&mut self.cx, &id, |topic, _| topics.iter().any(|deleted| deleted == topic));
            self.forget_if_idle(&id);
        }
    }

    fn fire(&mut self, key: TimerKey) {
        match key {
            TimerKey::Session(id, member) => {
                self.with(&id, |group, cx| group.session_deadline(cx, &member));
            }
            TimerKey::Join(id) => {
                self.with(&id, Group::join_deadline);
            }
            TimerKey::Sync(id) => {
                self.with(&id, Group::sync_deadline);
            }
            TimerKey::Commit(ticket) => {
                let continuations = self.cx.give_up(ticket);
                self.resume(continuations, Some(ResponseError::CoordinatorNotAvailable));
            }
            TimerKey::Expiry => self.expire(),
        }
    }

    fn resume(&mut self, continuations: Vec<Continuation>, error: Option<ResponseError>) {
        for continuation in continuations {
            match continuation {
                Continuation::Assign { group, generation, assignment } => self.with(&group, |group, cx| match error {
                    None => group.assigned(cx, generation, assignment),
                    Some(error) => group.not_assigned(cx, generation, error),
                }),
                Continuation::Replaced { group, member, api_version, old_leader } => self.with(&group, |group, cx| {
                    group.replaced(cx, &member, api_version, old_leader.as_deref(), error);
                }),
            };
        }
    }

    fn dispatch(&mut self, to: ReplyTo, input: Input) {
        match input {
            Input::Join { caller, request, fresh } => {
                self.join(&Join { caller: &caller, request: &request, fresh, to });
            }
            Input::Sync(request) => {
                let error = if request.group_id.is_empty() {
                    Some(ResponseError::InvalidGroupId)
                } else {
                    let known = self.with(&request.group_id, |group, cx| group.sync(cx, to, &request)).is_some();
                    (!known).then_some(ResponseError::UnknownMemberId)
                };
                if let Some(error) = error {
                    self.cx.reply(to, Reply::Sync(sync_error(error)));
                }
            }
            Input::Heartbeat(request) => {
                let unknown = if request.group_id.is_empty() {
                    ResponseError::InvalidGroupId
                } else {
                    ResponseError::UnknownMemberId
                };
                let response = self.with(&request.group_id, |group, cx| group.heartbeat(cx, &request));
                let response = response.unwrap_or_else(|| HeartbeatResponse::default().with_error_code(unknown.code()));
                self.cx.reply(to, Reply::Heartbeat(response));
            }
            Input::Leave(request) => {
                if request.group_id.is_empty() {
                    let refused = Input::Leave(request).refuse(ResponseError::InvalidGroupId);
                    return self.cx.reply(to, refused);
                }
                let response = self.with(&request.group_id, |group, cx| group.leave(cx, &request));
                let response = response.unwrap_or_else(|| leave_unknown(&request));
                self.cx.reply_when_committed(to, Reply::Leave(response));
            }
            Input::Commit { api_version, request } => self.commit(to, api_version, &request),
            Input::Fetch { group, require_stable: _ } => {
                // Every offset here is stable: transactions do not reach this topic yet.
                let response = offsets::fetch(&self.cx.store, &group);
                self.cx.reply_when_settled(to, &group.group_id, Reply::Fetch(response));
            }
            Input::DeleteOffsets(request) => {
                let response = self.delete_offsets(&request);
                let response =
                    response.unwrap_or_else(|error| OffsetDeleteResponse::default().with_error_code(error.code()));
                self.cx.reply_when_committed(to, Reply::DeleteOffsets(response));
            }
            Input::List(request) => {
                let listed = admin::list(self.groups.values(), &request);
                self.cx.reply(to, Reply::List(Ok(listed)));
            }
            Input::Describe(ids) => {
                let described = ids.iter().map(|id| admin::describe(id, self.groups.get(id.as_str()))).collect();
                self.cx.reply(to, Reply::Describe(described));
            }
            Input::DeleteGroups(ids) => {
                let results = ids.iter().map(|id| {
                    let error = self.delete_group(id).err();
                    super::api::deleted(id, error.map_or(0, |error| error.code()))
                });
                let results = results.collect();
                self.cx.reply_when_committed(to, Reply::DeleteGroups(results));
            }
            Input::TopicsDeleted(topics) => {
                self.topics_deleted(&topics);
                self.cx.reply_when_committed(to, Reply::TopicsDeleted(Ok(())));
            }
        }
    }

    fn skip(&self, reason: &'static str) {
        self.cx.metrics.records_skipped.get_or_create(&SkipLabel { reason }).inc();
    }

    /// Adds the difference between `now` and what was published before to the shared gauges.
    fn publish(&mut self, now: Published) {
        for state in State::ALL {
            let delta = now.states.get(&state).unwrap_or(&0) - self.published.states.get(&state).unwrap_or(&0);
            self.cx.metrics.groups.get_or_create(&StateLabel { state: state.name() }).inc_by(delta);
        }
        self.cx.metrics.members.inc_by(now.members - self.published.members);
        self.cx.metrics.offsets.inc_by(now.offsets - self.published.offsets);
        self.published = now;
    }
}

impl Machine for GroupMachine {
    type Input = Input;
    type Reply = Reply;

    fn replay(&mut self, key: &[u8], value: Option<&[u8]>) {
        match self.cx.store.apply(key, value) {
            Ok(Applied::Stored) => {}
            Ok(Applied::Skipped(version)) => {
                tracing::warn!(version, "skipped a record of an unknown type in __consumer_offsets");
                self.skip("unknown_type");
            }
            Err(error) => {
                tracing::error!(%error, "skipped an unreadable record in __consumer_offsets");
                self.skip("unreadable");
            }
        }
    }

    fn loaded(&mut self, now: Now) -> Effects<Reply> {
        self.cx.now = now;
        for (id, stored) in self.cx.store.groups() {
            let id: Name = id.into();
            // `apply` has read the value already; one that is gone means a simple group.
            let value = stored.value.as_ref().and_then(|value| GroupValue::decode(value).ok());
            let group =
                value.map_or_else(|| Group::new(id.clone(), now.wall_ms), |value| Group::loaded(id.clone(), value));
            self.groups.insert(id, group);
        }
        for group in self.groups.values_mut() {
            let members: Vec<Name> = group.members.keys().cloned().collect();
            for member in &members {
                group.touch(&mut self.cx, member);
            }
            if members.len() > self.cx.settings.max_size {
                tracing::info!(group = %group.id, members = members.len(), "loaded group is over its limit; rebalancing");
                group.prepare_rebalance(&mut self.cx);
            }
        }
        self.watch_expiry();
        self.cx.finish()
    }

    fn step(&mut self, now: Now, to: ReplyTo, input: Input) -> Effects<Reply> {
        self.cx.now = now;
        self.dispatch(to, input);
        self.cx.finish()
    }

    fn poll(&mut self, now: Now) -> Effects<Reply> {
        self.cx.now = now;
        while let Some(key) = self.cx.timers.pop_due(now.boot_ms) {
            self.fire(key);
        }
        self.cx.finish()
    }

    fn next_deadline(&self) -> Option<u64> {
        self.cx.timers.next_ms()
    }

    fn committed(&mut self, now: Now, ticket: Ticket) -> Effects<Reply> {
        self.cx.now = now;
        let continuations = self.cx.settle(ticket);
        self.resume(continuations, None);
        self.cx.finish()
    }

    fn unload(&mut self) -> Vec<(ReplyTo, Reply)> {
        let error = ResponseError::NotCoordinator;
        let mut replies: Vec<(ReplyTo, Reply)> =
            self.cx.take_parked().into_iter().map(|(to, reply)| (to, reply.failed(error))).collect();
        for group in self.groups.values_mut() {
            for member in group.members.values_mut() {
                let id = member.id.clone();
                replies.extend(member.awaiting_join.take().map(|to| (to, Reply::Join(join_error(&id, error)))));
                replies.extend(member.awaiting_sync.take().map(|to| (to, Reply::Sync(sync_error(error)))));
            }
        }
        self.publish(Published::default());
        replies
    }

    fn may_append(input: &Input) -> bool {
        !matches!(input, Input::Heartbeat(_) | Input::Fetch { .. } | Input::List(_) | Input::Describe(_))
    }

    fn refuse(input: &Input, error: ResponseError) -> Reply {
        input.refuse(error)
    }

    fn live_bytes(&self) -> u64 {
        self.cx.store.live_bytes()
    }

    fn snapshot(&self, after: Option<&str>, enough_bytes: usize) -> (Vec<RawRecord>, Option<String>) {
        self.cx.store.snapshot(after, enough_bytes)
    }

    fn publish_gauges(&mut self) {
        let mut now = Published { offsets: self.cx.store.offsets() as i64, ..Published::default() };
        for group in self.groups.values() {
            *now.states.entry(group.state).or_default() += 1;
            now.members += group.members.len() as i64;
        }
        self.publish(now);
    }
}
