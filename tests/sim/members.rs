//! Members of consumer groups: they join, share out the partitions, read on from what was committed, commit, leave, vanish.
//! Those here are Kafka clients; those of the gRPC door ([`crate::grpc_members`]) are in the same groups.
//!
//! What is asked of a group: an offset that was committed by the newest generation is where the next owner goes on, whichever
//! broker coordinates; a generation that is over commits nothing more; no record is left out; after the trouble everything
//! is read and committed to the end.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use esker::base::TopicPartition;
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition as Dealt;
use kafka_protocol::messages::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use kafka_protocol::messages::leave_group_request::{LeaveGroupRequest, MemberIdentity};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::sync_group_request::{SyncGroupRequest, SyncGroupRequestAssignment};
use kafka_protocol::messages::{ConsumerProtocolAssignment, GroupId, HeartbeatRequest, JoinGroupResponse};
use kafka_protocol::protocol::{Decodable as _, Encodable as _, Request, StrBytes};

use crate::client::{Client, Failure, text, topic_name};
use crate::history::{Commit, Partition};
use crate::run::Mutant;
use crate::workload::{Office, Step, take_records};

const JOIN_VERSION: i16 = 5;
const SYNC_VERSION: i16 = 3;
const HEARTBEAT_VERSION: i16 = 3;
const LEAVE_VERSION: i16 = 3;
const COMMIT_VERSION: i16 = 7;
const OFFSETS_VERSION: i16 = 8;
/// Kafka's least session timeout, in milliseconds.
const SESSION_TIMEOUT_MS: i32 = 6_000;
/// How long a rebalance waits for a member, in milliseconds.
const REBALANCE_TIMEOUT_MS: i32 = 6_000;
/// Heartbeats come so often, in milliseconds.
const HEARTBEAT_MS: u64 = 1_000;

const NO_COORDINATOR: &[i16] = &[14, 15, 16];
const ILLEGAL_GENERATION: i16 = 22;
const UNKNOWN_MEMBER: i16 = 25;
const REBALANCING: i16 = 27;
const MEMBER_ID_REQUIRED: i16 = 79;

/// One consumer of a group; it subscribes to all partitions of its topics.
pub struct Member {
    pub group: String,
    pub number: u32,
    pub partitions: Vec<Partition>,
}

/// A member in a generation.
struct Life {
    office: Office,
    client: Client,
    who: String,
    coordinator: Option<i32>,
    id: StrBytes,
    generation: i32,
    positions: BTreeMap<Partition, i64>,
    /// What was last committed of them.
    committed: BTreeMap<Partition, i64>,
}

/// Why a generation is over for a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// A rebalance.
    Again,
    /// The coordinator does not know it any more, or it has left.
    Anew,
    /// Everything is read and committed.
    Done,
}

impl Member {
    pub async fn run(self, office: Office) {
        let _busy = office.begin();
        let client = office.client();
        let who = format!("{} member {}", self.group, self.number);
        let mut life = Life {
            office: office.clone(),
            client,
            who,
            coordinator: None,
            id: StrBytes::default(),
            generation: -1,
            positions: BTreeMap::new(),
            committed: BTreeMap::new(),
        };
        loop {
            match life.generation_of(&self).await {
                Ok(End::Done) => return,
                Ok(End::Again) => {}
                Ok(End::Anew) => {
                    life.id = StrBytes::default();
                    office.pause(50, 2_000).await;
                }
                Err(failure) => {
                    let code = if let Failure::Code(code) = failure { code } else { 0 };
                    if code == UNKNOWN_MEMBER {
                        life.id = StrBytes::default();
                    }
                    if code == 0 || NO_COORDINATOR.contains(&code) {
                        life.coordinator = None;
                    }
                    office.world.trace(&life.who, format_args!("{failure:?}"));
                    if ![ILLEGAL_GENERATION, UNKNOWN_MEMBER, REBALANCING].contains(&code)
                        && !office.may_repeat(&life.who, &failure)
                    {
                        return;
                    }
                    office.pause(50, 300).await;
                }
            }
        }
    }

    fn group_id(&self) -> GroupId {
        GroupId(text(&self.group))
    }

    /// Whether the group was given the last records of all its partitions. Before, nobody stays away for good: who has a
    /// partition may be a member that died.
    pub fn group_is_done(&self, office: &Office) -> bool {
        office.history.with(|known| {
            self.partitions.iter().all(|partition| {
                let Some(id) = known.topics.get(&partition.0) else { return false };
                let end = office.ledger.end(TopicPartition::new(*id, partition.1));
                let given = known.delivered.get(&(self.group.clone(), partition.clone()));
                end == 0 || given.is_some_and(|given| given.contains(&(end - 1)))
            })
        })
    }

    /// `ConsumerProtocolSubscription` version 0.
    fn subscription(&self) -> Bytes {
        let topics: BTreeSet<&String> = self.partitions.iter().map(|(topic, _)| topic).collect();
        let mut bytes = BytesMut::new();
        bytes.put_i16(0);
        bytes.put_i32(topics.len() as i32);
        for topic in topics {
            bytes.put_i16(topic.len() as i16);
            bytes.put_slice(topic.as_bytes());
        }
        bytes.put_i32(-1);
        bytes.freeze()
    }

    /// What the leader decides: partitions in turn, whatever the name of the assignor says.
    fn assign(&self, joined: &JoinGroupResponse) -> Vec<SyncGroupRequestAssignment> {
        let members: Vec<&StrBytes> = joined.members.iter().map(|member| &member.member_id).collect();
        let share = |index: usize| {
            let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
            for (topic, partition) in self.partitions.iter().skip(index).step_by(members.len()) {
                topics.entry(topic).or_default().push(*partition);
            }
            write_assignment(topics)
        };
        let assignment = |(index, id): (usize, &&StrBytes)| {
            SyncGroupRequestAssignment::default().with_member_id((*id).clone()).with_assignment(share(index))
        };
        members.iter().enumerate().map(assignment).collect()
    }
}

fn check(code: i16) -> Result<(), Failure> {
    if code == 0 { Ok(()) } else { Err(Failure::Code(code)) }
}

/// `ConsumerProtocolAssignment` version 0, behind its version.
fn write_assignment(topics: BTreeMap<&str, Vec<i32>>) -> Bytes {
    let topics = topics
        .into_iter()
        .map(|(topic, partitions)| Dealt::default().with_topic(topic_name(topic)).with_partitions(partitions));
    let assignment = ConsumerProtocolAssignment::default().with_assigned_partitions(topics.collect());
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    assignment.encode(&mut bytes, 0).expect("an assignment encodes");
    bytes.freeze()
}

fn read_assignment(mut bytes: Bytes) -> Vec<Partition> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let version = bytes.get_i16();
    let assignment = ConsumerProtocolAssignment::decode(&mut bytes, version).expect("an assignment is well-formed");
    let one = |of: Dealt| {
        let topic = of.topic.to_string();
        of.partitions.into_iter().map(move |partition| (topic.clone(), partition))
    };
    assignment.assigned_partitions.into_iter().flat_map(one).collect()
}

impl Life {
    async fn ask<R: Request>(&mut self, member: &Member, version: i16, request: &R) -> Result<R::Response, Failure> {
        let broker = match self.coordinator {
            Some(broker) => broker,
            None => self.client.coordinator(&member.group).await?,
        };
        self.coordinator = Some(broker);
        self.client.call(broker, version, request).await
    }

    /// Joins, and works until the generation is over.
    async fn generation_of(&mut self, member: &Member) -> Result<End, Failure> {
        let protocol =
            JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(member.subscription());
        let request = JoinGroupRequest::default()
            .with_group_id(member.group_id())
            .with_session_timeout_ms(SESSION_TIMEOUT_MS)
            .with_rebalance_timeout_ms(REBALANCE_TIMEOUT_MS)
            .with_member_id(self.id.clone())
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        let joined = self.ask(member, JOIN_VERSION, &request).await?;
        if joined.error_code == MEMBER_ID_REQUIRED {
            self.id = joined.member_id;
            return Ok(End::Again);
        }
        check(joined.error_code)?;
        self.id = joined.member_id.clone();
        self.generation = joined.generation_id;
        let leads = joined.leader == self.id;
        let request = SyncGroupRequest::default()
            .with_group_id(member.group_id())
            .with_generation_id(self.generation)
            .with_member_id(self.id.clone())
            .with_assignments(if leads { member.assign(&joined) } else { Vec::new() });
        let synced = self.ask(member, SYNC_VERSION, &request).await?;
        check(synced.error_code)?;
        let mine = read_assignment(synced.assignment);
        self.office.world.trace(&self.who, format_args!("generation {}: {mine:?}", self.generation));
        self.take_up(member, &mine).await?;
        self.work(member).await
    }

    /// Goes on where the group has committed.
    async fn take_up(&mut self, member: &Member, mine: &[Partition]) -> Result<(), Failure> {
        self.positions.clear();
        self.committed.clear();
        if mine.is_empty() {
            return Ok(());
        }
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in mine {
            topics.entry(topic).or_default().push(*partition);
        }
        let topics = topics.into_iter().map(|(topic, indexes)| {
            OffsetFetchRequestTopics::default().with_name(topic_name(topic)).with_partition_indexes(indexes)
        });
        let group =
            OffsetFetchRequestGroup::default().with_group_id(member.group_id()).with_topics(Some(topics.collect()));
        let request = OffsetFetchRequest::default().with_groups(vec![group]);
        let least = self.office.history.with(|known| known.commits.clone());
        let reply = self.ask(member, OFFSETS_VERSION, &request).await?;
        let found = &reply.groups[0];
        check(found.error_code)?;
        for topic in &found.topics {
            for partition in &topic.partitions {
                check(partition.error_code)?;
                let name = (topic.name.to_string(), partition.partition_index);
                let forgets = self.office.mutant == Mutant::Forget && self.office.world.happens(0.1);
                let offset = if forgets { -1 } else { partition.committed_offset };
                let key = (member.group.clone(), name.clone());
                let tried = self.office.history.with(|known| known.commits.get(&key).cloned().unwrap_or_default());
                let before = least.get(&key).map_or(&[][..], Vec::as_slice);
                if !may_be_found(before, &tried, offset) {
                    let told: Vec<String> = tried.iter().rev().take(8).map(|commit| format!("{commit:?}")).collect();
                    let who = &self.who;
                    self.office.history.wrong(format!("{who}: offset {offset} of {name:?} after {}", told.join(", ")));
                }
                self.positions.insert(name.clone(), offset.max(0));
                self.committed.insert(name, offset);
            }
        }
        Ok(())
    }

    async fn work(&mut self, member: &Member) -> Result<End, Failure> {
        let mut beat_ms = self.office.world.now_ms();
        loop {
            if self.office.world.now_ms() >= beat_ms + HEARTBEAT_MS {
                beat_ms = self.office.world.now_ms();
                match self.heartbeat(member).await {
                    Err(Failure::Code(REBALANCING)) => {
                        // As a consumer does when its partitions are revoked; what happens to it is no matter.
                        let _ = self.commit(member).await;
                        return Ok(End::Again);
                    }
                    other => other?,
                }
            }
            let mut at_the_end = true;
            for partition in self.positions.keys().cloned().collect::<Vec<_>>() {
                at_the_end &= self.poll(member, &partition).await;
            }
            if self.office.world.happens(0.3) {
                self.commit(member).await?;
            }
            if self.office.enough() {
                if at_the_end && member.group_is_done(&self.office) {
                    self.commit(member).await?;
                    self.leave(member).await;
                    return Ok(End::Done);
                }
            } else if self.office.world.happens(0.01) {
                if self.office.world.happens(0.5) {
                    self.leave(member).await;
                } else {
                    self.office.world.trace(&self.who, format_args!("vanishes"));
                }
                return Ok(End::Anew);
            }
            self.office.pause(20, 200).await;
        }
    }

    async fn heartbeat(&mut self, member: &Member) -> Result<(), Failure> {
        let request = HeartbeatRequest::default()
            .with_group_id(member.group_id())
            .with_generation_id(self.generation)
            .with_member_id(self.id.clone());
        check(self.ask(member, HEARTBEAT_VERSION, &request).await?.error_code)
    }

    /// Reads on; whether nothing more is there.
    async fn poll(&mut self, member: &Member, partition: &Partition) -> bool {
        let (topic, index) = partition;
        let position = self.positions[partition];
        let fetched = match self.client.fetch(topic, *index, position, 20).await {
            Ok(fetched) => fetched,
            Err(failure) => {
                let what = format!("{}, reading {topic}-{index} from {position},", self.who);
                self.office.may_repeat(&what, &failure);
                self.office.pause(20, 100).await;
                return false;
            }
        };
        let Step::To(next, _) = take_records(&self.office, &self.who, partition, position, &fetched) else {
            return false;
        };
        let key = (member.group.clone(), partition.clone());
        self.office.history.with(|known| known.delivered.entry(key).or_default().extend(position..next));
        self.positions.insert(partition.clone(), next);
        next >= fetched.high_watermark
    }

    async fn commit(&mut self, member: &Member) -> Result<(), Failure> {
        let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        let new: Vec<(Partition, i64)> = self
            .positions
            .iter()
            .filter(|(p, at)| self.committed.get(p) != Some(at))
            .map(|(p, at)| (p.clone(), *at))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        for ((topic, partition), offset) in &new {
            topics.entry(topic).or_default().push(
                OffsetCommitRequestPartition::default()
                    .with_partition_index(*partition)
                    .with_committed_offset(*offset)
                    .with_committed_leader_epoch(-1),
            );
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(partitions)
        });
        let request = OffsetCommitRequest::default()
            .with_group_id(member.group_id())
            .with_generation_id_or_member_epoch(self.generation)
            .with_member_id(self.id.clone())
            .with_topics(topics.collect());
        let generation = self.generation;
        let key = |partition: &Partition| (member.group.clone(), partition.clone());
        self.office.history.with(|known| {
            for (partition, offset) in &new {
                let commit = Commit { generation, offset: *offset, told: None };
                known.commits.entry(key(partition)).or_default().push(commit);
            }
        });
        let reply = self.ask(member, COMMIT_VERSION, &request).await;
        self.office.world.trace(&self.who, format_args!("commits {new:?}: {:?}", reply.as_ref().map(|_| ())));
        let reply = reply?;
        let mut done = Ok(());
        for topic in &reply.topics {
            for partition in &topic.partitions {
                let name = (topic.name.to_string(), partition.partition_index);
                let code = partition.error_code;
                self.office.history.with(|known| {
                    let tried = known.commits.entry(key(&name)).or_default();
                    if let Some(commit) = tried.iter_mut().rev().find(|commit| commit.generation == generation) {
                        commit.told = Some(code == 0);
                    }
                });
                if code == 0 {
                    self.committed.insert(name.clone(), self.positions[&name]);
                } else {
                    done = Err(Failure::Code(code));
                }
            }
        }
        done
    }

    async fn leave(&mut self, member: &Member) {
        let leaving = MemberIdentity::default().with_member_id(self.id.clone());
        let request = LeaveGroupRequest::default().with_group_id(member.group_id()).with_members(vec![leaving]);
        let left = self.ask(member, LEAVE_VERSION, &request).await.map(|reply| reply.error_code);
        self.office.world.trace(&self.who, format_args!("leaves: {left:?}"));
    }
}

/// Whether `offset` can be what a group has committed, if `before` is what was known when it was asked for and `tried` is
/// what had been tried when the answer came.
///
/// A generation's commits come from one owner of the partition, in order. The newest generation with an acknowledged commit
/// decides: its own growing offsets, those of later ones, or one without an answer, which may have been late.
pub fn may_be_found(before: &[Commit], tried: &[Commit], offset: i64) -> bool {
    let newest = before.iter().filter(|commit| commit.told == Some(true)).map(|commit| commit.generation).max();
    let Some(newest) = newest else {
        return offset == -1 || tried.iter().any(|commit| commit.offset == offset);
    };
    let acknowledged = before.iter().filter(|commit| commit.generation == newest && commit.told == Some(true));
    let least = acknowledged.map(|commit| commit.offset).max().unwrap_or(-1);
    tried.iter().any(|commit| {
        let unknown = commit.told != Some(true);
        commit.offset == offset
            && (commit.generation > newest || (commit.generation == newest && (offset >= least || unknown)))
    })
}
