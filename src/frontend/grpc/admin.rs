//! `esker.v1.Admin`: what operators ask.

use tonic::{Request, Response, Status};

use super::errors::{invalid, leader, status};
use super::forward::Forward;
use super::groups::Groups;
use super::offsets::{Ask, At, Offsets, Patience};
use crate::base::{HashMap, SessionId};
use crate::broker::BrokerSlot;
use crate::cluster::{ClusterImage, ConfigChange, ConfigOp, NewPartitions, NewTopic, Topic, TopicRef, is_internal};
use crate::partition::Isolation;
use crate::protocol::grpc::v1;
use crate::protocol::grpc::v1::PartitionOffset;
use crate::protocol::grpc::v1::list_offsets_request::At as AskedAt;

/// How long questions to leaders are repeated while leaders move, in milliseconds.
const PATIENCE_MS: u64 = 10_000;
/// Most partitions of one question.
const MAX_PARTITIONS: usize = 10_000;

/// See the module.
#[derive(Debug)]
pub struct Admin {
    slot: BrokerSlot,
    offsets: Offsets,
    groups: Groups,
}

impl Admin {
    /// Answers by the broker in `slot`; `offsets` asks leaders, `groups` coordinators.
    pub fn new(slot: BrokerSlot, offsets: Offsets, groups: Groups) -> Self {
        Self { slot, offsets, groups }
    }
}

/// A call that came from another broker is answered from here.
fn patience<T>(request: &Request<T>) -> Patience {
    if Forward::was_forwarded(request.metadata()) { Patience::Forwarded } else { Patience::Ms(PATIENCE_MS) }
}

fn few_enough(partitions: usize) -> Result<(), Status> {
    match partitions {
        0..=MAX_PARTITIONS => Ok(()),
        _ => Err(invalid(format!("one call names at most {MAX_PARTITIONS} partitions"))),
    }
}

#[tonic::async_trait]
impl v1::admin_server::Admin for Admin {
    async fn describe_cluster(
        &self,
        _: Request<v1::DescribeClusterRequest>,
    ) -> Result<Response<v1::DescribeClusterResponse>, Status> {
        let broker = self.slot.current();
        Ok(Response::new(describe(&broker.image(), broker.node_id())))
    }

    async fn drain_broker(
        &self,
        request: Request<v1::DrainBrokerRequest>,
    ) -> Result<Response<v1::DrainBrokerResponse>, Status> {
        let v1::DrainBrokerRequest { broker_id, undo } = request.into_inner();
        let broker = self.slot.current();
        broker.set_draining(broker_id, !undo).await.map_err(|error| status(&error, &broker.image()))?;
        let image = broker.image();
        let partitions = image.brokers.get(&broker_id).map_or(0, |broker| image.led_by(broker.session).count() as u64);
        Ok(Response::new(v1::DrainBrokerResponse { partitions }))
    }

    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        let v1::CreateTopicRequest { name, partitions, configs, validate_only } = request.into_inner();
        let broker = self.slot.current();
        let mut configs: Vec<_> = configs.into_iter().map(|(name, value)| (name, Some(value))).collect();
        configs.sort();
        let partitions = if partitions == 0 { -1 } else { partitions };
        let new = NewTopic { name, partitions, replication_factor: -1, configs, ..NewTopic::default() };
        let created = broker.create_topics(vec![new], validate_only).await.pop();
        let created = created.ok_or_else(|| Status::internal("a created topic has no answer"))?;
        let created = created.map_err(|error| status(&error, &broker.image()))?;
        let topic = v1::TopicSummary {
            id: created.id.to_string(),
            partitions: created.partitions,
            internal: is_internal(&created.name),
            name: created.name,
        };
        Ok(Response::new(v1::CreateTopicResponse { topic: Some(topic) }))
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        let internal = request.into_inner().internal;
        let image = self.slot.current().image();
        let topics = image.topics().filter(|topic| internal || !topic.internal).map(|topic| summary(topic)).collect();
        Ok(Response::new(v1::ListTopicsResponse { topics }))
    }

    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> Result<Response<v1::DescribeTopicResponse>, Status> {
        let name = request.into_inner().name;
        let broker = self.slot.current();
        let image = broker.image();
        let topic = broker.topic(&image, &name).map_err(|error| status(&error, &image))?;
        let configs = broker.describe_topic_configs(&name, None).map_err(|error| status(&error, &image))?;
        let partitions = (0..).zip(&topic.partitions).map(|(partition, assignment)| v1::PartitionInfo {
            partition,
            leader: leader(&image, topic.partition(partition)),
            leader_epoch: assignment.leader_epoch,
        });
        let configs = configs.into_iter().map(|config| v1::Config {
            overridden: topic.configs.contains_key(&config.name),
            name: config.name,
            value: config.value,
        });
        Ok(Response::new(v1::DescribeTopicResponse {
            topic: Some(summary(&topic)),
            partitions: partitions.collect(),
            configs: configs.collect(),
        }))
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        let broker = self.slot.current();
        let deleted = broker.delete_topics(vec![TopicRef::Name(request.into_inner().name)]).await;
        match deleted.into_iter().next() {
            Some(Err(error)) => Err(status(&error, &broker.image())),
            Some(Ok(_)) | None => Ok(Response::new(v1::DeleteTopicResponse {})),
        }
    }

    async fn alter_topic_configs(
        &self,
        request: Request<v1::AlterTopicConfigsRequest>,
    ) -> Result<Response<v1::AlterTopicConfigsResponse>, Status> {
        let v1::AlterTopicConfigsRequest { name, set, unset, validate_only } = request.into_inner();
        if let Some(both) = unset.iter().find(|name| set.contains_key(*name)) {
            return Err(invalid(format!("'{both}' is both in `set` and in `unset`")));
        }
        let mut changes: Vec<_> = set.into_iter().map(|(name, value)| (name, ConfigOp::Set(Some(value)))).collect();
        changes.extend(unset.into_iter().map(|name| (name, ConfigOp::Delete)));
        changes.sort_by(|(one, _), (other, _)| one.cmp(other));
        let broker = self.slot.current();
        let altered = broker.alter_topic_configs(&name, &ConfigChange::Incremental(changes), validate_only).await;
        altered.map_err(|error| status(&error, &broker.image()))?;
        Ok(Response::new(v1::AlterTopicConfigsResponse {}))
    }

    async fn create_partitions(
        &self,
        request: Request<v1::CreatePartitionsRequest>,
    ) -> Result<Response<v1::CreatePartitionsResponse>, Status> {
        let v1::CreatePartitionsRequest { name, partitions: total, validate_only } = request.into_inner();
        let broker = self.slot.current();
        let created = broker.create_partitions(&NewPartitions { name, total, assignments: None }, validate_only).await;
        created.map_err(|error| status(&error, &broker.image()))?;
        Ok(Response::new(v1::CreatePartitionsResponse {}))
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        let patience = patience(&request);
        let v1::ListOffsetsRequest { topic, mut partitions, at, read_committed } = request.into_inner();
        few_enough(partitions.len())?;
        let broker = self.slot.current();
        let image = broker.image();
        let known = broker.topic(&image, &topic).map_err(|error| status(&error, &image))?;
        if partitions.is_empty() {
            partitions = (0..).zip(&known.partitions).map(|(index, _)| index).collect();
        }
        let at = match at {
            Some(AskedAt::Latest(true)) => At::Latest,
            Some(AskedAt::TimestampMs(ms)) => At::Timestamp(ms),
            Some(AskedAt::Earliest(_) | AskedAt::Latest(false)) | None => At::Earliest,
        };
        let isolation = if read_committed { Isolation::ReadCommitted } else { Isolation::ReadUncommitted };
        let asks: Vec<Ask> =
            partitions.iter().map(|index| Ask { topic: topic.as_str().into(), partition: *index, at }).collect();
        let listed = self.offsets.list(&asks, isolation, patience).await;
        let offsets = partitions.into_iter().zip(listed).map(|(partition, listed)| {
            let place = PartitionOffset { topic: topic.clone(), partition, ..PartitionOffset::default() };
            match listed {
                Ok(found) => PartitionOffset { offset: found.offset, leader_epoch: found.leader_epoch, ..place },
                Err(error) => PartitionOffset { offset: -1, leader_epoch: -1, error: Some(error), ..place },
            }
        });
        Ok(Response::new(v1::ListOffsetsResponse { offsets: offsets.collect() }))
    }

    async fn delete_records(
        &self,
        request: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Response<v1::DeleteRecordsResponse>, Status> {
        let patience = patience(&request);
        let before = request.into_inner().before;
        few_enough(before.len())?;
        let moved = self.offsets.delete_records(&before, patience).await;
        let log_start = before.into_iter().zip(moved).map(|(asked, moved)| match moved {
            Ok(offset) => PartitionOffset { offset, leader_epoch: -1, error: None, ..asked },
            Err(error) => PartitionOffset { offset: -1, leader_epoch: -1, error: Some(error), ..asked },
        });
        Ok(Response::new(v1::DeleteRecordsResponse { log_start: log_start.collect() }))
    }

    async fn list_groups(&self, _: Request<v1::ListGroupsRequest>) -> Result<Response<v1::ListGroupsResponse>, Status> {
        Ok(Response::new(self.groups.list().await))
    }

    async fn describe_group(
        &self,
        request: Request<v1::DescribeGroupRequest>,
    ) -> Result<Response<v1::DescribeGroupResponse>, Status> {
        Ok(Response::new(self.groups.describe(&request.into_inner().group).await?))
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        self.groups.delete(&request.into_inner().group).await?;
        Ok(Response::new(v1::DeleteGroupResponse {}))
    }

    async fn set_group_offsets(
        &self,
        request: Request<v1::SetGroupOffsetsRequest>,
    ) -> Result<Response<v1::SetGroupOffsetsResponse>, Status> {
        let v1::SetGroupOffsetsRequest { group, offsets } = request.into_inner();
        few_enough(offsets.len())?;
        if let Some(wrong) = offsets.iter().find(|offset| offset.offset < 0) {
            return Err(invalid(format!("{} is no offset", wrong.offset)));
        }
        let failed = self.groups.set_offsets(&group, offsets).await?;
        Ok(Response::new(v1::SetGroupOffsetsResponse { failed }))
    }

    async fn delete_group_offsets(
        &self,
        request: Request<v1::DeleteGroupOffsetsRequest>,
    ) -> Result<Response<v1::DeleteGroupOffsetsResponse>, Status> {
        let v1::DeleteGroupOffsetsRequest { group, partitions } = request.into_inner();
        few_enough(partitions.iter().map(|topic| topic.partitions.len()).sum())?;
        let failed = self.groups.delete_offsets(&group, partitions).await?;
        Ok(Response::new(v1::DeleteGroupOffsetsResponse { failed }))
    }
}

fn summary(topic: &Topic) -> v1::TopicSummary {
    v1::TopicSummary {
        name: topic.name.clone(),
        id: topic.id.to_string(),
        partitions: topic.partitions.len() as i32,
        internal: topic.internal,
    }
}

#[derive(Default, Clone, Copy)]
struct Load {
    partitions: u64,
    leaving: u64,
}

/// The answer to `DescribeCluster`.
pub(super) fn describe(image: &ClusterImage, answering_broker_id: i32) -> v1::DescribeClusterResponse {
    let mut loads: HashMap<SessionId, Load> = HashMap::default();
    for assignment in image.topics().flat_map(|topic| &topic.partitions) {
        let load = loads.entry(assignment.session).or_default();
        load.partitions += 1;
        load.leaving += u64::from(assignment.target.is_some());
    }
    let brokers = image.brokers.values().map(|broker| {
        let load = loads.remove(&broker.session).unwrap_or_default();
        v1::Broker {
            id: broker.session.broker_id,
            session_epoch: broker.session.epoch,
            host: broker.host.clone(),
            port: u32::from(broker.port),
            zone: broker.rack.clone(),
            endpoints: broker.endpoints.iter().map(|(name, at)| (name.clone(), at.clone())).collect(),
            draining: broker.draining,
            partitions: load.partitions,
            leaving_partitions: load.leaving,
        }
    });
    let brokers = brokers.collect();
    v1::DescribeClusterResponse {
        cluster_id: image.cluster_id.clone(),
        metadata_revision: image.version,
        controller_id: image.controller_id(),
        brokers,
        topics: image.topic_count() as u64,
        partitions: image.partition_count as u64,
        offline_partitions: loads.values().map(|load| load.partitions).sum(),
        answering_broker_id,
    }
}
