//! Topics: creating (also because somebody asked for one), deleting, growing, configs.

use std::sync::Arc;

use uuid::Uuid;

use super::{Broker, BrokerError, Topic};
use crate::cluster::{
    ClusterImage, ConfigChange, CreatedTopic, NewPartitions, NewTopic, TopicError, TopicRef, check_name, is_internal,
};
use crate::config::topic::DescribedConfig;
use crate::config::topic::broker::describe_broker;

/// Most topics that one request may create by asking for them.
const MAX_AUTO_CREATED: usize = 100;

impl Broker {
    /// Creates topics; the answers are in the order of the requests. On return their partitions are open.
    pub async fn create_topics(
        &self,
        new: Vec<NewTopic>,
        validate_only: bool,
    ) -> Vec<Result<CreatedTopic, BrokerError>> {
        let created = self.catalogue.create_topics(new, validate_only).await;
        if !validate_only && created.iter().any(Result::is_ok) {
            self.partitions.settled(self.image().version).await;
        }
        created.into_iter().map(|answer| answer.map_err(BrokerError::from)).collect()
    }

    /// Creates those of `names` that do not exist, if the settings allow. Errors are left to whoever looks for the topic
    /// next: somebody else may have created it meanwhile.
    pub async fn auto_create(&self, mut names: Vec<String>) {
        if !self.configs.auto_create_topics_enable {
            return;
        }
        let image = self.image();
        names.retain(|name| image.topic(name).is_none() && !is_internal(name) && check_name(name).is_ok());
        names.sort_unstable();
        names.dedup();
        names.truncate(MAX_AUTO_CREATED);
        if names.is_empty() {
            return;
        }
        let new = names.into_iter().map(|name| NewTopic {
            name,
            partitions: -1,
            replication_factor: -1,
            ..NewTopic::default()
        });
        for answer in self.create_topics(new.collect(), false).await {
            match answer {
                Ok(created) => {
                    self.metrics.auto_created_topics.inc();
                    tracing::info!(topic = created.name, partitions = created.partitions, "created a topic on demand");
                }
                Err(BrokerError::Topic(TopicError::AlreadyExists(_))) => {}
                Err(error) => tracing::warn!(%error, "could not create a topic on demand"),
            }
        }
    }

    /// A topic by name, where an impossible name is another error than a missing topic.
    pub fn find_topic_for_metadata(&self, image: &ClusterImage, name: &str) -> Result<Arc<Topic>, BrokerError> {
        if image.topic(name).is_none() {
            check_name(name)?;
        }
        self.topic(image, name)
    }

    /// Deletes topics; the answers (name and id) are in the order of the requests.
    pub async fn delete_topics(&self, topics: Vec<TopicRef>) -> Vec<Result<(String, Uuid), BrokerError>> {
        let deleted = self.catalogue.delete_topics(topics).await;
        if deleted.iter().any(Result::is_ok) {
            self.partitions.settled(self.image().version).await;
        }
        deleted.into_iter().map(|answer| answer.map_err(BrokerError::from)).collect()
    }

    /// Adds partitions to a topic. On return they are open.
    pub async fn create_partitions(&self, new: &NewPartitions, validate_only: bool) -> Result<(), BrokerError> {
        self.catalogue.create_partitions(new, validate_only).await?;
        if !validate_only {
            self.partitions.settled(self.image().version).await;
        }
        Ok(())
    }

    /// Changes a topic's configs.
    pub async fn alter_topic_configs(
        &self,
        name: &str,
        change: &ConfigChange,
        validate_only: bool,
    ) -> Result<(), BrokerError> {
        Ok(self.catalogue.alter_configs(name, change, validate_only).await?)
    }

    /// A topic's configs in force; all, or those asked for.
    pub fn describe_topic_configs(
        &self,
        name: &str,
        only: Option<&[String]>,
    ) -> Result<Vec<DescribedConfig>, BrokerError> {
        Ok(self.catalogue.describe_configs(name, only)?)
    }

    /// A broker answers only for itself, and for all brokers together (the empty name).
    pub fn check_broker_name(&self, name: &str) -> Result<(), BrokerError> {
        if name.is_empty() {
            return Ok(());
        }
        let expected = self.node_id();
        match name.parse::<i32>() {
            Ok(id) if id == expected => Ok(()),
            Ok(_) => Err(BrokerError::InvalidRequest(format!(
                "Unexpected broker id, expected {expected} or empty string, but received {name}"
            ))),
            Err(_) => Err(BrokerError::InvalidRequest(format!("Broker id must be an integer, but it is: {name}"))),
        }
    }

    /// A broker's configs; `name` is its id, or empty for the (empty) cluster-wide dynamic ones.
    pub fn describe_broker_configs(
        &self,
        name: &str,
        only: Option<&[String]>,
    ) -> Result<Vec<DescribedConfig>, BrokerError> {
        self.check_broker_name(name)?;
        if name.is_empty() {
            return Ok(Vec::new());
        }
        let mut configs = describe_broker(&self.configs);
        if let Some(only) = only {
            configs.retain(|config| only.contains(&config.name));
        }
        Ok(configs)
    }
}
