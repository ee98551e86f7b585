//! What the gRPC door counts, and the places that its limits give out.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Which limit refused something.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LimitLabels {
    /// The setting, without its `grpc.`; `held_bytes` is the room for batches on their way.
    pub reason: &'static str,
}

/// See the module. Clones share the counters.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Open connections.
    pub connections: Gauge,
    /// Connections accepted since the start.
    pub accepted: Counter,
    /// Connections, group members and requests to write refused at a limit.
    pub refused: Family<LimitLabels, Counter>,
    /// Members of consumer groups that this broker keeps for clients.
    pub members: Gauge,
    /// Calls that stream, under way: a task each.
    pub streams: Gauge,
}

impl Metrics {
    /// Makes the metrics and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let made = Self::default();
        registry.register("esker_grpc_connections", "Open connections", made.connections.clone());
        registry.register("esker_grpc_accepted_connections", "Connections accepted", made.accepted.clone());
        let refused = made.refused.clone();
        registry.register("esker_grpc_refused", "Connections, group members and writes refused at a limit", refused);
        registry.register("esker_grpc_members", "Members of consumer groups kept for clients", made.members.clone());
        registry.register("esker_grpc_streams", "Calls that stream, under way", made.streams.clone());
        made
    }

    /// Counts a call that streams, for as long as the value lives.
    pub fn stream(&self) -> UnderWay {
        self.streams.inc();
        UnderWay(self.streams.clone())
    }

    /// Counts one refusal.
    pub fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&LimitLabels { reason }).inc();
    }
}

/// A call that streams.
#[derive(Debug)]
pub struct UnderWay(Gauge);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The places for group members.
#[derive(Debug, Clone)]
pub struct Seats {
    room: Arc<Semaphore>,
    metrics: Metrics,
}

/// A member's place, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    members: Gauge,
    _room: OwnedSemaphorePermit,
}

impl Seats {
    /// `count` places.
    pub fn new(count: usize, metrics: Metrics) -> Self {
        Self { room: Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS))), metrics }
    }

    /// A place, if there is one.
    pub fn take(&self) -> Option<Seat> {
        let Ok(room) = self.room.clone().try_acquire_owned() else {
            self.metrics.refuse("max_members");
            return None;
        };
        self.metrics.members.inc();
        Some(Seat { members: self.metrics.members.clone(), _room: room })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.members.dec();
    }
}
