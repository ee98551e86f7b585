//! `LeaveGroup`.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

use super::group::Group;
use crate::coordinator::group::context::{Context, TimerKey};

impl Group {
    /// Handles a `LeaveGroup`: each of its members by itself, then one rebalance for all.
    pub(in crate::coordinator::group) fn leave(
        &mut self,
        cx: &mut Context,
        request: &LeaveGroupRequest,
    ) -> LeaveGroupResponse {
        let mut members = Vec::with_capacity(request.members.len());
        let mut any = false;
        for identity in &request.members {
            let result = self.leave_one(cx, identity);
            any |= result.is_ok();
            members.push(
                MemberResponse::default()
                    .with_member_id(identity.member_id.clone())
                    .with_group_instance_id(identity.group_instance_id.clone())
                    .with_error_code(result.err().map_or(0, |error| error.code())),
            );
        }
        if any {
            self.rebalance_after_departure(cx);
        }
        LeaveGroupResponse::default().with_members(members)
    }

    fn leave_one(&mut self, cx: &mut Context, identity: &MemberIdentity) -> Result<(), ResponseError> {
        let instance = identity.group_instance_id.as_deref();
        let member = if identity.member_id.is_empty() {
            // An administrator removes a static member by its instance id alone.
            let member = instance.and_then(|instance| self.statics.get(instance));
            member.cloned().ok_or(ResponseError::UnknownMemberId)?
        } else if self.pending_join.contains(&*identity.member_id) {
            cx.timers.cancel(&TimerKey::Session(self.id.clone(), (&*identity.member_id).into()));
            self.remove(&identity.member_id);
            return Ok(());
        } else {
            self.validate(&identity.member_id, instance)?;
            (&*identity.member_id).into()
        };
        tracing::info!(group = %self.id, %member, reason = identity.reason.as_deref(), "member left");
        self.drop_member(cx, &member);
        Ok(())
    }
}
