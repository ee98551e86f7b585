//! The part of `esker.v1.Admin` that concerns consumer groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kafka_protocol::error::ResponseError as Kafka;
use kafka_protocol::messages::describe_groups_response::DescribedGroupMember;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DescribeGroupsRequest, GroupId, ListGroupsRequest, OffsetCommitRequest, OffsetDeleteRequest,
    OffsetFetchRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use tonic::Status;

use super::coordination::{Asker, Coordinators};
use super::errors::{explain_kafka, to_status};
use super::offsets::{Ask, At, Offsets, Patience};
use crate::coordinator::member::protocol::assigned;
use crate::partition::Isolation;
use crate::protocol::grpc::v1;
use crate::protocol::grpc::v1::{AssignedTopic, GroupOffset, GroupSummary, PartitionOffset};

/// How long a coordinator that moves is looked for, in milliseconds.
const PATIENCE_MS: u64 = 10_000;
/// Longest wait for one broker's list of groups, in milliseconds.
const LIST_TIMEOUT_MS: u64 = 5_000;
/// Longest wait for the ends of a group's partitions, in milliseconds.
const ENDS_PATIENCE_MS: u64 = 1_000;

/// See the module.
#[derive(Debug, Clone)]
pub struct Groups {
    coordinators: Coordinators,
    offsets: Offsets,
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn failed(code: i16, what: &str) -> Option<v1::Error> {
    (code != 0).then(|| explain_kafka(Kafka::try_from_code(code).unwrap_or(Kafka::UnknownServerError), what))
}

fn refused(code: i16, what: &str) -> Result<(), Status> {
    failed(code, what).map_or(Ok(()), |error| Err(to_status(&error)))
}

impl Groups {
    /// Asks coordinators, and leaders for offsets.
    pub fn new(coordinators: Coordinators, offsets: Offsets) -> Self {
        Self { coordinators, offsets }
    }

    /// All groups; and one sentence for each broker that did not answer.
    pub async fn list(&self) -> v1::ListGroupsResponse {
        let (asker, question) = (Asker::default(), ListGroupsRequest::default());
        let lists = self.coordinators.brokers().into_iter().map(|broker_id| {
            let list = self.coordinators.ask_broker(broker_id, &asker, &question);
            async move {
                let limited = tokio::time::timeout(Duration::from_millis(LIST_TIMEOUT_MS), list).await;
                let why = match limited {
                    Ok(Ok(answer)) => match failed(answer.error_code, "its groups") {
                        None => return Ok(answer.groups),
                        Some(error) => error.message,
                    },
                    Ok(Err(error)) => error.message,
                    Err(_) => format!("no answer within {LIST_TIMEOUT_MS} ms"),
                };
                Err(format!("groups of broker {broker_id} are missing: {why}"))
            }
        });
        let mut groups: BTreeMap<String, GroupSummary> = BTreeMap::new();
        let mut incomplete = Vec::new();
        for listed in join_all(lists).await {
            match listed {
                Ok(listed) => {
                    for group in listed {
                        let summary = GroupSummary {
                            group: group.group_id.to_string(),
                            state: group.group_state.to_string(),
                            protocol_type: group.protocol_type.to_string(),
                        };
                        groups.insert(summary.group.clone(), summary);
                    }
                }
                Err(why) => incomplete.push(why),
            }
        }
        v1::ListGroupsResponse { groups: groups.into_values().collect(), incomplete }
    }

    /// One group with its members and offsets.
    pub async fn describe(&self, group: &str) -> Result<v1::DescribeGroupResponse, Status> {
        let asker = Asker::default();
        let question = DescribeGroupsRequest::default().with_groups(vec![GroupId(text(group))]);
        let described = self.coordinators.ask(group, &asker, &question, PATIENCE_MS).await;
        let described = described.map_err(|error| to_status(&error))?.groups.pop().unwrap_or_default();
        refused(described.error_code, group)?;
        let offsets = self.committed(group).await?;
        if &*described.group_state == "Dead" && offsets.is_empty() {
            return refused(Kafka::GroupIdNotFound.code(), group).map(|()| v1::DescribeGroupResponse::default());
        }
        let coordinator = self.coordinators.find(group).await.ok();
        let protocol_type = described.protocol_type.to_string();
        let is_consumer = protocol_type == crate::coordinator::member::protocol::CONSUMER;
        Ok(v1::DescribeGroupResponse {
            summary: Some(GroupSummary {
                group: group.to_owned(),
                state: described.group_state.to_string(),
                protocol_type,
            }),
            assignor: described.protocol_data.to_string(),
            coordinator,
            members: described.members.into_iter().map(|member| member_of(member, is_consumer)).collect(),
            offsets,
        })
    }

    /// What a group has committed, and how far its partitions go.
    async fn committed(&self, group: &str) -> Result<Vec<GroupOffset>, Status> {
        let all = OffsetFetchRequestGroup::default().with_group_id(GroupId(text(group))).with_topics(None);
        let question = OffsetFetchRequest::default().with_groups(vec![all]);
        let fetched = self.coordinators.ask(group, &Asker::default(), &question, PATIENCE_MS).await;
        let fetched = fetched.map_err(|error| to_status(&error))?.groups.pop().unwrap_or_default();
        refused(fetched.error_code, group)?;
        let mut offsets: Vec<GroupOffset> = Vec::new();
        for topic in fetched.topics {
            for partition in topic.partitions.into_iter().filter(|partition| partition.committed_offset >= 0) {
                offsets.push(GroupOffset {
                    topic: topic.name.to_string(),
                    partition: partition.partition_index,
                    committed_offset: partition.committed_offset,
                    end_offset: -1,
                    metadata: partition.metadata.map(|metadata| metadata.to_string()).unwrap_or_default(),
                });
            }
        }
        offsets.sort_by(|one, other| (&one.topic, one.partition).cmp(&(&other.topic, other.partition)));
        let ask = |of: &GroupOffset| Ask { topic: Arc::from(&*of.topic), partition: of.partition, at: At::Latest };
        let asks: Vec<Ask> = offsets.iter().map(ask).collect();
        let patience = Patience::Ms(ENDS_PATIENCE_MS);
        let ends = self.offsets.list(&asks, Isolation::ReadUncommitted, patience).await;
        for (offset, end) in offsets.iter_mut().zip(ends) {
            offset.end_offset = end.map_or(-1, |end| end.offset);
        }
        Ok(offsets)
    }

    /// Forgets a group.
    pub async fn delete(&self, group: &str) -> Result<(), Status> {
        let question = DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text(group))]);
        let answer = self.coordinators.ask(group, &Asker::default(), &question, PATIENCE_MS).await;
        let result = answer.map_err(|error| to_status(&error))?.results.pop().unwrap_or_default();
        refused(result.error_code, group)
    }

    /// Sets offsets of a group without members; those that could not be set.
    pub async fn set_offsets(
        &self,
        group: &str,
        offsets: Vec<PartitionOffset>,
    ) -> Result<Vec<PartitionOffset>, Status> {
        let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for offset in &offsets {
            let partition = OffsetCommitRequestPartition::default()
                .with_partition_index(offset.partition)
                .with_committed_offset(offset.offset)
                .with_committed_leader_epoch(-1)
                .with_committed_metadata(Some(text("")));
            topics.entry(&offset.topic).or_default().push(partition);
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            OffsetCommitRequestTopic::default().with_name(TopicName(text(topic))).with_partitions(partitions)
        });
        let question = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(topics.collect());
        let answer = self.coordinators.ask(group, &Asker::default(), &question, PATIENCE_MS).await;
        let answer = answer.map_err(|error| to_status(&error))?;
        let told = answer.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|partition| (&*topic.name.0, partition.partition_index, partition.error_code))
        });
        let told: Vec<_> = told.collect();
        // Who has members is refused for all partitions alike.
        if told.iter().any(|(_, _, code)| *code == Kafka::UnknownMemberId.code()) {
            refused(Kafka::NonEmptyGroup.code(), group)?;
        }
        let whole = [Kafka::InvalidGroupId.code(), Kafka::GroupMaxSizeReached.code()];
        if let Some((_, _, code)) = told.iter().find(|(_, _, code)| whole.contains(code)) {
            refused(*code, group)?;
        }
        let failed = told.into_iter().filter_map(|(topic, partition, code)| not_done(topic, partition, code));
        Ok(failed.collect())
    }

    /// Forgets offsets; those that could not be forgotten.
    pub async fn delete_offsets(
        &self,
        group: &str,
        partitions: Vec<AssignedTopic>,
    ) -> Result<Vec<PartitionOffset>, Status> {
        let topics = partitions.iter().map(|topic| {
            let partitions = topic
                .partitions
                .iter()
                .map(|index| OffsetDeleteRequestPartition::default().with_partition_index(*index));
            OffsetDeleteRequestTopic::default()
                .with_name(TopicName(text(&topic.topic)))
                .with_partitions(partitions.collect())
        });
        let question = OffsetDeleteRequest::default().with_group_id(GroupId(text(group))).with_topics(topics.collect());
        let answer = self.coordinators.ask(group, &Asker::default(), &question, PATIENCE_MS).await;
        let answer = answer.map_err(|error| to_status(&error))?;
        refused(answer.error_code, group)?;
        let told = answer.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|partition| (&*topic.name.0, partition.partition_index, partition.error_code))
        });
        Ok(told.filter_map(|(topic, partition, code)| not_done(topic, partition, code)).collect())
    }
}

fn not_done(topic: &str, partition: i32, code: i16) -> Option<PartitionOffset> {
    let error = failed(code, &format!("{topic}-{partition}"))?;
    Some(PartitionOffset { topic: topic.to_owned(), partition, offset: -1, leader_epoch: -1, error: Some(error) })
}

/// A member as clients see it. What it was assigned can be read if it speaks the consumers' protocol.
fn member_of(member: DescribedGroupMember, is_consumer: bool) -> v1::GroupMember {
    let assignment =
        if is_consumer { assigned(&member.member_assignment).unwrap_or_default() } else { BTreeMap::new() };
    let sorted = |partitions: Vec<i32>| partitions.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    v1::GroupMember {
        member_id: member.member_id.to_string(),
        instance_id: member.group_instance_id.map(|id| id.to_string()),
        client_id: member.client_id.to_string(),
        host: member.client_host.trim_start_matches('/').to_owned(),
        assignment: assignment
            .into_iter()
            .map(|(topic, partitions)| AssignedTopic { topic, partitions: sorted(partitions) })
            .collect(),
    }
}
