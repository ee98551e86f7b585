//! `ListGroups` and `DescribeGroups`.

use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{GroupId, ListGroupsRequest};
use kafka_protocol::protocol::StrBytes;

use super::api::{group_id, text};
use super::classic::{Group, State};

/// Kafka's name of the only type of group here (KIP-848 has another).
const CLASSIC: &str = "classic";

/// The groups that pass the request's filters; names compare without case.
pub(super) fn list<'a>(groups: impl Iterator<Item = &'a Group>, request: &ListGroupsRequest) -> Vec<ListedGroup> {
    let wanted = |filter: &[StrBytes], name: &str| {
        filter.is_empty() || filter.iter().any(|wanted| wanted.trim().eq_ignore_ascii_case(name))
    };
    let mut listed: Vec<ListedGroup> = groups
        .filter(|group| wanted(&request.states_filter, group.state.name()) && wanted(&request.types_filter, CLASSIC))
        .map(|group| {
            ListedGroup::default()
                .with_group_id(group_id(&group.id))
                .with_protocol_type(text(group.protocol_type.as_deref().unwrap_or_default()))
                .with_group_state(text(group.state.name()))
                .with_group_type(text(CLASSIC))
        })
        .collect();
    listed.sort_by_cached_key(|group| group.group_id.to_string());
    listed
}

/// One group; Kafka shows one that does not exist as dead.
pub(super) fn describe(id: &GroupId, group: Option<&Group>) -> DescribedGroup {
    let described = DescribedGroup::default().with_group_id(id.clone());
    let Some(group) = group else { return described.with_group_state(text("Dead")) };
    // Only a stable group has agreed on a protocol.
    let protocol = group.protocol.as_deref().filter(|_| group.is(State::Stable));
    let members = group.members.values().map(|member| {
        DescribedGroupMember::default()
            .with_member_id(text(&member.id))
            .with_group_instance_id(member.instance_id.as_deref().map(text))
            .with_client_id(text(&member.client_id))
            .with_client_host(text(&member.client_host))
            .with_member_metadata(protocol.map(|_| member.metadata(protocol)).unwrap_or_default())
            .with_member_assignment(member.assignment.clone())
    });
    described
        .with_group_state(text(group.state.name()))
        .with_protocol_type(text(group.protocol_type.as_deref().unwrap_or_default()))
        .with_protocol_data(text(protocol.unwrap_or_default()))
        .with_members(members.collect())
}
