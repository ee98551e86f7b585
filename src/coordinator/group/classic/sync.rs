//! `SyncGroup` and `Heartbeat`.

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse, SyncGroupRequest};
use kafka_protocol::protocol::StrBytes;

use super::group::{Group, State};
use crate::base::HashMap;
use crate::coordinator::group::api::{Reply, own, sync_error};
use crate::coordinator::group::context::{Context, Continuation, Name, TimerKey};
use crate::coordinator::group::limits::MAX_GROUP_RECORD_BYTES;
use crate::coordinator::runtime::ReplyTo;

/// Two names disagree; one that is not given agrees with all (KIP-559).
fn inconsistent(given: Option<&StrBytes>, ours: Option<&str>) -> bool {
    matches!((given, ours), (Some(given), Some(ours)) if **given != *ours)
}

impl Group {
    /// Handles a `SyncGroup`.
    pub(in crate::coordinator::group) fn sync(&mut self, cx: &mut Context, to: ReplyTo, request: &SyncGroupRequest) {
        let member = &*request.member_id;
        if let Err(error) = self.validate_sync(request) {
            return cx.reply(to, Reply::Sync(sync_error(error)));
        }
        match self.state {
            State::Empty => cx.reply(to, Reply::Sync(sync_error(ResponseError::UnknownMemberId))),
            State::PreparingRebalance => cx.reply(to, Reply::Sync(sync_error(ResponseError::RebalanceInProgress))),
            State::CompletingRebalance => {
                self.park_sync(cx, member, to);
                self.asked(cx, member);
                // A leader that asks again while its assignment is being stored gets the one that is stored.
                if self.is_leader(member) && !self.assigning {
                    self.store_assignment(cx, request);
                }
            }
            State::Stable => {
                self.asked(cx, member);
                cx.reply(to, Reply::Sync(self.synced(member)));
            }
        }
    }

    fn validate_sync(&self, request: &SyncGroupRequest) -> Result<(), ResponseError> {
        self.validate(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        if inconsistent(request.protocol_type.as_ref(), self.protocol_type.as_deref())
            || inconsistent(request.protocol_name.as_ref(), self.protocol.as_deref())
        {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        Ok(())
    }

    fn asked(&mut self, cx: &mut Context, member: &str) {
        self.pending_sync.remove(member);
        if self.pending_sync.is_empty() {
            cx.timers.cancel(&TimerKey::Sync(self.id.clone()));
        }
    }

    fn store_assignment(&mut self, cx: &mut Context, request: &SyncGroupRequest) {
        let mut assignment: HashMap<Name, Bytes> = HashMap::default();
        for given in &request.assignments {
            if let Some((id, _)) = self.members.get_key_value(&*given.member_id) {
                assignment.insert(id.clone(), own(&given.assignment));
            }
        }
        let value = self.stored(|member| assignment.get(&member.id).cloned().unwrap_or_default()).encoded();
        if value.len() > MAX_GROUP_RECORD_BYTES {
            tracing::warn!(
                group = %self.id, bytes = value.len(), limit = MAX_GROUP_RECORD_BYTES,
                "the group's members and assignments do not fit in a record"
            );
            return self.not_assigned(cx, self.generation, ResponseError::UnknownServerError);
        }
        self.assigning = true;
        cx.append_group(&self.id, Some(value));
        cx.when_committed(Continuation::Assign { group: self.id.clone(), generation: self.generation, assignment });
    }

    /// Handles a `Heartbeat`.
    pub(in crate::coordinator::group) fn heartbeat(
        &mut self,
        cx: &mut Context,
        request: &HeartbeatRequest,
    ) -> HeartbeatResponse {
        let known = self.validate(&request.member_id, request.group_instance_id.as_deref());
        let error = if known.is_err() {
            known.err()
        } else if request.generation_id != self.generation {
            Some(ResponseError::IllegalGeneration)
        } else {
            self.touch(cx, &request.member_id);
            self.is(State::PreparingRebalance).then_some(ResponseError::RebalanceInProgress)
        };
        HeartbeatResponse::default().with_error_code(error.map_or(0, |error| error.code()))
    }
}
