//! Drives one machine by hand: a clock, a log, and the replies as they come.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest,
    OffsetCommitResponse, SyncGroupRequest, SyncGroupResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::config::GroupSettings;
use crate::coordinator::group::{Caller, GroupMachine, GroupMetrics, Input, Reply};
use crate::coordinator::runtime::{Effects, Machine, Now, RawRecord, ReplyTo, Ticket};

pub(super) const START_WALL_MS: i64 = 1_700_000_000_000;

pub(super) fn s(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub(super) fn gid(text: &str) -> GroupId {
    GroupId(s(text))
}

pub(super) fn tname(text: &str) -> TopicName {
    TopicName(s(text))
}

/// Metadata of a consumer that subscribes to `topics`.
pub(super) fn subscription(topics: &[&str]) -> Bytes {
    let mut bytes = vec![0, 1];
    bytes.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        bytes.extend((topic.len() as i16).to_be_bytes());
        bytes.extend(topic.as_bytes());
    }
    bytes.extend((-1_i32).to_be_bytes());
    bytes.into()
}

pub(super) fn join_request(group: &str, member: &str) -> JoinGroupRequest {
    JoinGroupRequest::default()
        .with_group_id(gid(group))
        .with_member_id(s(member))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(60_000)
        .with_protocol_type(s("consumer"))
        .with_protocols(vec![
            JoinGroupRequestProtocol::default().with_name(s("range")).with_metadata(subscription(&["orders"])),
        ])
}

pub(super) fn static_join(group: &str, member: &str, instance: &str) -> JoinGroupRequest {
    join_request(group, member).with_group_instance_id(Some(s(instance)))
}

pub(super) fn sync_request(
    group: &str,
    generation: i32,
    member: &str,
    to: &[(&str, &'static str)],
) -> SyncGroupRequest {
    let assignments = to.iter().map(|(member, assignment)| {
        SyncGroupRequestAssignment::default()
            .with_member_id(s(member))
            .with_assignment(Bytes::from_static(assignment.as_bytes()))
    });
    SyncGroupRequest::default()
        .with_group_id(gid(group))
        .with_generation_id(generation)
        .with_member_id(s(member))
        .with_assignments(assignments.collect())
}

pub(super) fn heartbeat_request(group: &str, generation: i32, member: &str) -> HeartbeatRequest {
    HeartbeatRequest::default().with_group_id(gid(group)).with_generation_id(generation).with_member_id(s(member))
}

pub(super) fn leave_request(group: &str, members: &[(&str, Option<&str>)]) -> LeaveGroupRequest {
    let members = members.iter().map(|(member, instance)| {
        MemberIdentity::default().with_member_id(s(member)).with_group_instance_id(instance.map(s))
    });
    LeaveGroupRequest::default().with_group_id(gid(group)).with_members(members.collect())
}

pub(super) fn commit_request(group: &str, generation: i32, member: &str, offset: i64) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default().with_partition_index(0).with_committed_offset(offset);
    OffsetCommitRequest::default()
        .with_group_id(gid(group))
        .with_generation_id_or_member_epoch(generation)
        .with_member_id(s(member))
        .with_topics(vec![
            OffsetCommitRequestTopic::default().with_name(tname("orders")).with_partitions(vec![partition]),
        ])
}

/// See the module.
pub(super) struct Bench {
    pub(super) machine: GroupMachine,
    pub(super) settings: GroupSettings,
    pub(super) now: Now,
    /// Everything appended, in order.
    pub(super) log: Vec<RawRecord>,
    /// How much of the log is committed.
    pub(super) committed: usize,
    /// Appends that are not committed: ticket and end in the log.
    pub(super) in_flight: Vec<(Ticket, usize)>,
    /// Replies that have come and nobody has looked at.
    pub(super) replies: BTreeMap<ReplyTo, Reply>,
    next_reply: u64,
    next_uuid: u128,
    /// Commit appends at once.
    pub(super) auto_commit: bool,
    pub(super) api_version: i16,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(GroupSettings { initial_rebalance_delay_ms: 3000, ..GroupSettings::default() })
    }

    pub(super) fn with(settings: GroupSettings) -> Self {
        let mut bench = Self {
            machine: GroupMachine::new(Arc::new(settings.clone()), 1000, GroupMetrics::default()),
            settings,
            now: Now { boot_ms: 5_000, wall_ms: START_WALL_MS },
            log: Vec::new(),
            committed: 0,
            in_flight: Vec::new(),
            replies: BTreeMap::new(),
            next_reply: 0,
            next_uuid: 0,
            auto_commit: true,
            api_version: 9,
        };
        let effects = bench.machine.loaded(bench.now);
        bench.take(effects);
        bench
    }

    /// A crash: what is not committed is gone, so is everything that is not in the log.
    pub(super) fn restart(&mut self) {
        self.log.truncate(self.committed);
        self.in_flight.clear();
        self.replies.clear();
        self.machine = self.replayed();
        let effects = self.machine.loaded(self.now);
        self.take(effects);
    }

    /// A machine that has read what is committed.
    pub(super) fn replayed(&self) -> GroupMachine {
        let mut machine = GroupMachine::new(Arc::new(self.settings.clone()), 1000, GroupMetrics::default());
        for record in &self.log[..self.committed] {
            machine.replay(&record.key, record.value.as_deref());
        }
        machine
    }

    /// The shard is given up.
    pub(super) fn unload(&mut self) -> Vec<(ReplyTo, Reply)> {
        self.machine.unload()
    }

    fn take(&mut self, effects: Effects<Reply>) {
        for (to, reply) in effects.replies {
            assert!(self.replies.insert(to, reply).is_none(), "{to:?} answered twice");
        }
        if let Some((ticket, records)) = effects.append {
            assert!(!records.is_empty());
            self.log.extend(records);
            self.in_flight.push((ticket, self.log.len()));
            if self.auto_commit {
                self.commit_all();
            }
        }
    }

    pub(super) fn commit_one(&mut self) -> bool {
        if self.in_flight.is_empty() {
            return false;
        }
        let (ticket, end) = self.in_flight.remove(0);
        self.committed = end;
        let effects = self.machine.committed(self.now, ticket);
        self.take(effects);
        true
    }

    pub(super) fn commit_all(&mut self) {
        while self.commit_one() {}
    }

    /// Moves the clock, firing every deadline at its own time.
    pub(super) fn advance(&mut self, by_ms: u64) {
        let end = self.now.boot_ms + by_ms;
        while let Some(at) = self.machine.next_deadline().filter(|at| *at <= end) {
            self.set_clock(at.max(self.now.boot_ms));
            let effects = self.machine.poll(self.now);
            self.take(effects);
        }
        self.set_clock(end);
    }

    fn set_clock(&mut self, boot_ms: u64) {
        self.now.wall_ms += (boot_ms - self.now.boot_ms) as i64;
        self.now.boot_ms = boot_ms;
    }

    pub(super) fn send(&mut self, input: Input) -> ReplyTo {
        let to = ReplyTo(self.next_reply);
        self.next_reply += 1;
        let effects = self.machine.step(self.now, to, input);
        self.take(effects);
        to
    }

    pub(super) fn call(&mut self, input: Input) -> Reply {
        let to = self.send(input);
        self.reply(to)
    }

    pub(super) fn reply(&mut self, to: ReplyTo) -> Reply {
        self.replies.remove(&to).unwrap_or_else(|| panic!("{to:?} is not answered"))
    }

    pub(super) fn is_parked(&self, to: ReplyTo) -> bool {
        !self.replies.contains_key(&to)
    }

    pub(super) fn join_input(&mut self, request: JoinGroupRequest) -> Input {
        self.next_uuid += 1;
        let caller = Caller { client_id: "c".into(), client_host: "/127.0.0.1".into(), api_version: self.api_version };
        Input::Join { caller, request, fresh: Uuid::from_u128(self.next_uuid) }
    }

    pub(super) fn send_join(&mut self, request: JoinGroupRequest) -> ReplyTo {
        let input = self.join_input(request);
        self.send(input)
    }

    pub(super) fn joined(&mut self, to: ReplyTo) -> JoinGroupResponse {
        match self.reply(to) {
            Reply::Join(response) => response,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn join(&mut self, request: JoinGroupRequest) -> JoinGroupResponse {
        let to = self.send_join(request);
        self.joined(to)
    }

    pub(super) fn synced(&mut self, to: ReplyTo) -> SyncGroupResponse {
        match self.reply(to) {
            Reply::Sync(response) => response,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn sync(&mut self, request: SyncGroupRequest) -> SyncGroupResponse {
        let to = self.send(Input::Sync(request));
        self.synced(to)
    }

    pub(super) fn heartbeat(&mut self, group: &str, generation: i32, member: &str) -> i16 {
        match self.call(Input::Heartbeat(heartbeat_request(group, generation, member))) {
            Reply::Heartbeat(response) => response.error_code,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn commit(&mut self, request: OffsetCommitRequest) -> i16 {
        let api_version = self.api_version;
        match self.call(Input::Commit { api_version, request }) {
            Reply::Commit(OffsetCommitResponse { topics, .. }) => topics[0].partitions[0].error_code,
            other => panic!("{other:?}"),
        }
    }

    /// The committed offset of partition 0 of `orders`.
    pub(super) fn fetch(&mut self, group: &str) -> i64 {
        let topic = OffsetFetchRequestTopics::default().with_name(tname("orders")).with_partition_indexes(vec![0]);
        let group = OffsetFetchRequestGroup::default().with_group_id(gid(group)).with_topics(Some(vec![topic]));
        match self.call(Input::Fetch { group, require_stable: false }) {
            Reply::Fetch(response) => response.topics[0].partitions[0].committed_offset,
            other => panic!("{other:?}"),
        }
    }

    /// Kafka's name of the group's state.
    pub(super) fn state(&mut self, group: &str) -> String {
        match self.call(Input::Describe(vec![gid(group)])) {
            Reply::Describe(groups) => groups[0].group_state.to_string(),
            other => panic!("{other:?}"),
        }
    }

    /// Gets an id and joins with it; the answer is parked.
    pub(super) fn enter(&mut self, group: &str) -> (String, ReplyTo) {
        let first = self.join(join_request(group, ""));
        assert_eq!(first.error_code, kafka_protocol::error::ResponseError::MemberIdRequired.code());
        let id = first.member_id.to_string();
        let to = self.send_join(join_request(group, &id));
        (id, to)
    }

    /// A stable group of `members` dynamic members in generation 1; the first leads.
    pub(super) fn stable(&mut self, group: &str, members: usize) -> Vec<String> {
        let entered: Vec<(String, ReplyTo)> = (0..members).map(|_| self.enter(group)).collect();
        self.advance(2 * u64::try_from(self.settings.initial_rebalance_delay_ms).unwrap());
        for (_, to) in &entered {
            assert_eq!(self.joined(*to).error_code, 0);
        }
        let ids: Vec<String> = entered.into_iter().map(|(id, _)| id).collect();
        let all: Vec<(&str, &'static str)> = ids.iter().map(|id| (id.as_str(), "a")).collect();
        for id in &ids {
            assert_eq!(self.sync(sync_request(group, 1, id, &all)).error_code, 0);
        }
        assert_eq!(self.state(group), "Stable");
        ids
    }
}
