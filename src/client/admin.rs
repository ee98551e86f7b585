//! What operators ask of a cluster: `esker.v1.Admin`, typed.
//!
//! Any broker answers. A call whose answer was lost is made again: a topic that was created at the first try is then
//! "there already". Answers are the messages of `proto/esker/v1/admin.proto`, where their fields are described.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::connections::MAX_MESSAGE_BYTES;
use super::{Error, Isolation, Shared, Start};
use crate::protocol::grpc::v1::admin_client::AdminClient;
use crate::protocol::grpc::v1::list_offsets_request::At;
use crate::protocol::grpc::v1::{
    AlterTopicConfigsRequest, AssignedTopic, CreatePartitionsRequest, CreateTopicRequest, DeleteGroupOffsetsRequest,
    DeleteGroupRequest, DeleteRecordsRequest, DeleteTopicRequest, DescribeClusterRequest, DescribeGroupRequest,
    DescribeTopicRequest, DrainBrokerRequest, ListGroupsRequest, ListOffsetsRequest, ListTopicsRequest,
    SetGroupOffsetsRequest,
};

pub use crate::protocol::grpc::v1::{
    AssignedTopic as TopicPartitions, Broker, Config, DescribeClusterResponse as ClusterDescription,
    DescribeGroupResponse as GroupDescription, DescribeTopicResponse as TopicDescription, GroupMember, GroupOffset,
    GroupSummary, Leader, ListGroupsResponse as GroupList, PartitionInfo, PartitionOffset, TopicSummary,
};

/// Calls for operators; see the module. Every call has the errors of the client beside its own: nobody answers
/// ([`super::Reason::Unavailable`]), or not in time ([`super::Reason::TimedOut`]).
#[derive(Debug, Clone)]
pub struct Admin {
    shared: Arc<Shared>,
}

/// A topic that is to be created.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; 0: as the broker is set.
    pub partitions: i32,
    /// Configs by Kafka's names.
    pub configs: BTreeMap<String, String>,
    /// Only check whether it could be created.
    pub validate_only: bool,
}

/// Changes of a topic's configs, by Kafka's names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigChanges {
    /// These get values.
    pub set: BTreeMap<String, String>,
    /// These have their defaults again.
    pub unset: Vec<String>,
    /// Only check whether it could be done.
    pub validate_only: bool,
}

/// Makes a call: `ask!(self, rpc, Request { … })`.
macro_rules! ask {
    ($self:ident, $call:ident, $request:expr) => {{
        let request = $request;
        $self
            .shared
            .call(|channel| {
                let request = request.clone();
                let mut admin = AdminClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
                async move { admin.$call(request).await }
            })
            .await?
    }};
}

impl Admin {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The brokers of the cluster and what each has to do.
    pub async fn describe_cluster(&self) -> Result<ClusterDescription, Error> {
        Ok(ask!(self, describe_cluster, DescribeClusterRequest {}))
    }

    /// Has a broker give its partitions to the others and take none; or undoes that. Returns how many it leads now.
    ///
    /// Errors: there is no such live broker; or nobody would be left to take partitions.
    pub async fn drain_broker(&self, broker_id: i32, undo: bool) -> Result<u64, Error> {
        Ok(ask!(self, drain_broker, DrainBrokerRequest { broker_id, undo }).partitions)
    }

    /// Creates a topic.
    ///
    /// Errors: it is there already ([`Error::is_already_exists`]); or a name, number or config breaks a rule.
    pub async fn create_topic(&self, topic: NewTopic) -> Result<TopicSummary, Error> {
        let NewTopic { name, partitions, configs, validate_only } = topic;
        let configs = configs.into_iter().collect();
        let created = ask!(self, create_topic, CreateTopicRequest { name, partitions, configs, validate_only });
        Ok(created.topic.unwrap_or_default())
    }

    /// Topics in the order of their names; with those that brokers keep for themselves if `internal`.
    pub async fn list_topics(&self, internal: bool) -> Result<Vec<TopicSummary>, Error> {
        Ok(ask!(self, list_topics, ListTopicsRequest { internal }).topics)
    }

    /// One topic, who leads its partitions, its configs in force.
    ///
    /// Errors: there is none ([`Error::is_not_found`]).
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, Error> {
        Ok(ask!(self, describe_topic, DescribeTopicRequest { name: name.to_owned() }))
    }

    /// Deletes a topic and, after a while, its objects.
    ///
    /// Errors: there is none ([`Error::is_not_found`]).
    pub async fn delete_topic(&self, name: &str) -> Result<(), Error> {
        ask!(self, delete_topic, DeleteTopicRequest { name: name.to_owned() });
        Ok(())
    }

    /// Changes configs of a topic; those not named stay.
    ///
    /// Errors: there is no such topic; or a config is unknown or breaks a rule, and none was changed.
    pub async fn alter_topic_configs(&self, name: &str, changes: ConfigChanges) -> Result<(), Error> {
        let ConfigChanges { set, unset, validate_only } = changes;
        let set = set.into_iter().collect();
        ask!(self, alter_topic_configs, AlterTopicConfigsRequest { name: name.to_owned(), set, unset, validate_only });
        Ok(())
    }

    /// Gives a topic more partitions: `partitions` in all.
    ///
    /// Errors: there is no such topic; or it has as many already, or may not have so many.
    pub async fn create_partitions(&self, name: &str, partitions: i32, validate_only: bool) -> Result<(), Error> {
        ask!(self, create_partitions, CreatePartitionsRequest { name: name.to_owned(), partitions, validate_only });
        Ok(())
    }

    /// Offsets of a topic's partitions (of all if none is named): the first, the end (exclusive), or the first record at or
    /// after a time; a [`Start::Offset`] has no meaning here and is the first. Those that cannot be asked carry an error each.
    ///
    /// Errors: there is no such topic.
    pub async fn list_offsets(
        &self,
        topic: &str,
        partitions: &[i32],
        at: Start,
        isolation: Isolation,
    ) -> Result<Vec<PartitionOffset>, Error> {
        let at = match at {
            Start::Latest => At::Latest(true),
            Start::TimestampMs(at_ms) => At::TimestampMs(at_ms),
            Start::Earliest | Start::Offset(_) => At::Earliest(true),
        };
        let request = ListOffsetsRequest {
            topic: topic.to_owned(),
            partitions: partitions.to_vec(),
            at: Some(at),
            read_committed: isolation == Isolation::ReadCommitted,
        };
        Ok(ask!(self, list_offsets, request).offsets)
    }

    /// Moves the log start of partitions up: records below each offset go; -1: all that are committed. Returns the log start
    /// of each now, or an error.
    pub async fn delete_records(&self, before: Vec<PartitionOffset>) -> Result<Vec<PartitionOffset>, Error> {
        Ok(ask!(self, delete_records, DeleteRecordsRequest { before }).log_start)
    }

    /// Consumer groups of the whole cluster in the order of their names.
    pub async fn list_groups(&self) -> Result<GroupList, Error> {
        Ok(ask!(self, list_groups, ListGroupsRequest {}))
    }

    /// One group: its members, what each reads, and how far it has committed.
    ///
    /// Errors: there is none ([`Error::is_not_found`]).
    pub async fn describe_group(&self, group: &str) -> Result<GroupDescription, Error> {
        Ok(ask!(self, describe_group, DescribeGroupRequest { group: group.to_owned() }))
    }

    /// Forgets a group and its offsets.
    ///
    /// Errors: there is none; or it has members.
    pub async fn delete_group(&self, group: &str) -> Result<(), Error> {
        ask!(self, delete_group, DeleteGroupRequest { group: group.to_owned() });
        Ok(())
    }

    /// Sets committed offsets of a group without members, creating it if there is none. Returns those that could not be set.
    ///
    /// Errors: it has members.
    pub async fn set_group_offsets(
        &self,
        group: &str,
        offsets: Vec<PartitionOffset>,
    ) -> Result<Vec<PartitionOffset>, Error> {
        let request = SetGroupOffsetsRequest { group: group.to_owned(), offsets };
        Ok(ask!(self, set_group_offsets, request).failed)
    }

    /// Forgets committed offsets of partitions of topics that the group does not read at the moment. Returns those that could
    /// not be forgotten.
    ///
    /// Errors: there is no such group.
    pub async fn delete_group_offsets(
        &self,
        group: &str,
        partitions: Vec<AssignedTopic>,
    ) -> Result<Vec<PartitionOffset>, Error> {
        let request = DeleteGroupOffsetsRequest { group: group.to_owned(), partitions };
        Ok(ask!(self, delete_group_offsets, request).failed)
    }
}
