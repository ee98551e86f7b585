//! `esker.v1.Admin`: what operators ask.

use tonic::{Request, Response, Status};

use super::errors::status;
use crate::base::{HashMap, SessionId};
use crate::broker::BrokerSlot;
use crate::cluster::ClusterImage;
use crate::protocol::grpc::v1;

/// See the module.
#[derive(Debug)]
pub struct Admin {
    slot: BrokerSlot,
}

impl Admin {
    /// Answers by the broker in `slot`.
    pub fn new(slot: BrokerSlot) -> Self {
        Self { slot }
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
        broker.set_draining(broker_id, !undo).await.map_err(|error| status(&error))?;
        let image = broker.image();
        let partitions = image.brokers.get(&broker_id).map_or(0, |broker| image.led_by(broker.session).count() as u64);
        Ok(Response::new(v1::DrainBrokerResponse { partitions }))
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
