//! One member of a classic group.

use bytes::Bytes;

use crate::coordinator::group::context::Name;
use crate::coordinator::group::records::MemberValue;
use crate::coordinator::runtime::ReplyTo;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::coordinator::group) struct Member {
    pub id: Name,
    pub instance_id: Option<Name>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    /// In the order of the member's preference.
    pub protocols: Vec<(String, Bytes)>,
    pub assignment: Bytes,
    /// Its `JoinGroup`, while it is parked.
    pub awaiting_join: Option<ReplyTo>,
    /// Its `SyncGroup`, while it is parked.
    pub awaiting_sync: Option<ReplyTo>,
    /// It has not been part of a generation yet.
    pub is_new: bool,
}

impl Member {
    /// The member of a stored generation.
    pub fn loaded(value: MemberValue, protocol: Option<&str>) -> Self {
        let timeout_ms =
            if value.rebalance_timeout_ms == -1 { value.session_timeout_ms } else { value.rebalance_timeout_ms };
        Self {
            id: value.member_id.into(),
            instance_id: value.instance_id.map(Into::into),
            client_id: value.client_id,
            client_host: value.client_host,
            rebalance_timeout_ms: timeout_ms,
            session_timeout_ms: value.session_timeout_ms,
            protocols: vec![(protocol.unwrap_or_default().to_owned(), value.subscription)],
            assignment: value.assignment,
            awaiting_join: None,
            awaiting_sync: None,
            is_new: false,
        }
    }

    /// The record's form, with `assignment`.
    pub fn stored(&self, protocol: Option<&str>, assignment: Bytes) -> MemberValue {
        MemberValue {
            member_id: self.id.to_string(),
            instance_id: self.instance_id.as_deref().map(str::to_owned),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            session_timeout_ms: self.session_timeout_ms,
            subscription: self.metadata(protocol),
            assignment,
        }
    }

    /// Whether it offers `protocol`.
    pub fn offers(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| name == protocol)
    }

    /// Its metadata under `protocol`; empty if it does not offer it.
    pub fn metadata(&self, protocol: Option<&str>) -> Bytes {
        let offered = self.protocols.iter().find(|(name, _)| Some(name.as_str()) == protocol);
        offered.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    /// Its first choice among `candidates`.
    pub fn vote<'a>(&'a self, candidates: &[&str]) -> Option<&'a str> {
        self.protocols.iter().map(|(name, _)| name.as_str()).find(|name| candidates.contains(name))
    }

    /// Whether a missed heartbeat does not count: it waits for the group, not the group for it. A new member counts even
    /// then, since its client may be gone.
    pub fn excused(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }
}
