//! What is known of topics: how many partitions, and who led them when it was asked last. Leaders may have changed since;
//! brokers say so, and then it is asked again.

use std::sync::Arc;

use parking_lot::Mutex;

use super::connections::MAX_MESSAGE_BYTES;
use super::{Error, Shared};
use crate::base::HashMap;
use crate::protocol::grpc::v1;
use crate::protocol::grpc::v1::admin_client::AdminClient;
use crate::protocol::grpc::v1::producer_client::ProducerClient;

/// Topics that are remembered; the next one empties the table first.
const MAX_TOPICS: usize = 10_000;

/// A topic as it was when it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TopicView {
    /// gRPC address of each partition's leader, where there is one.
    pub leaders: Vec<Option<Arc<str>>>,
}

#[derive(Debug, Default)]
pub(super) struct Metadata {
    topics: Mutex<HashMap<Arc<str>, Arc<TopicView>>>,
}

impl Shared {
    /// A topic as it was when it was asked for last; asks if it never was.
    pub(super) async fn topic(&self, name: &str) -> Result<Arc<TopicView>, Error> {
        let known = self.metadata.topics.lock().get(name).cloned();
        match known {
            Some(view) => Ok(view),
            None => self.refresh(name).await,
        }
    }

    /// A topic as it is now.
    pub(super) async fn refresh(&self, name: &str) -> Result<Arc<TopicView>, Error> {
        let request = v1::DescribeTopicRequest { name: name.to_owned() };
        let described = self
            .call(|channel| {
                let request = request.clone();
                let mut admin = AdminClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
                async move { admin.describe_topic(request).await }
            })
            .await;
        let mut topics = self.metadata.topics.lock();
        let described = match described {
            Ok(described) => described,
            Err(error) => {
                if error.is_not_found() {
                    topics.remove(name);
                }
                return Err(error);
            }
        };
        let leader = |leader: v1::Leader| Arc::from(leader.grpc_endpoint);
        let leaders = described.partitions.into_iter().map(|one| one.leader.map(leader)).collect();
        let view = Arc::new(TopicView { leaders });
        if topics.len() >= MAX_TOPICS {
            topics.clear();
        }
        topics.insert(name.into(), view.clone());
        Ok(view)
    }

    /// A topic that is to be written to: brokers create it if they are set to.
    pub(super) async fn topic_to_write(&self, name: &str) -> Result<Arc<TopicView>, Error> {
        match self.topic(name).await {
            Err(error) if error.is_not_found() => {}
            other => return other,
        }
        // A request without records is refused, but only after the topic was made.
        let request = v1::ProduceRequest { topic: name.to_owned(), ..v1::ProduceRequest::default() };
        let touch = |channel| {
            let request = request.clone();
            async move { ProducerClient::new(channel).produce(request).await }
        };
        let _ = self.call(touch).await;
        self.refresh(name).await
    }
}
