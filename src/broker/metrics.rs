//! What the broker counts, whichever door it came through.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Batches appended for clients.
    pub produced_batches: Counter,
    /// Records appended for clients.
    pub produced_records: Counter,
    /// Bytes of batches appended for clients.
    pub produced_bytes: Counter,
    /// Batches that broke a rule.
    pub refused_batches: Counter,
    /// Topics created because somebody asked for them.
    pub auto_created_topics: Counter,
    /// Producer ids given out.
    pub producer_ids: Counter,
    /// Partitions whose state another broker told when it gave them away.
    pub loads_told: Counter,
    /// Partitions whose state was looked for in a stream.
    pub loads_read: Counter,
    /// Topics of the cluster.
    pub topics: Gauge,
    /// Partitions that this broker leads.
    pub partitions: Gauge,
    /// Partitions that this broker is to lead and does not yet.
    pub opening_partitions: Gauge,
}

impl Metrics {
    /// Makes the metrics and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let made = Self::default();
        let counters = [
            ("produced_batches", "Batches appended for clients", &made.produced_batches),
            ("produced_records", "Records appended for clients", &made.produced_records),
            ("produced_bytes", "Bytes of batches appended for clients", &made.produced_bytes),
            ("refused_batches", "Produced batches that broke a rule", &made.refused_batches),
            ("auto_created_topics", "Topics created because a client asked for them", &made.auto_created_topics),
            ("producer_ids", "Producer ids given out", &made.producer_ids),
            ("loads_told", "Partitions whose state the broker that gave them away told", &made.loads_told),
            ("loads_read", "Partitions whose state was looked for in a stream", &made.loads_read),
        ];
        for (name, help, counter) in counters {
            registry.register(format!("esker_broker_{name}"), help, counter.clone());
        }
        registry.register("esker_broker_topics", "Topics of the cluster", made.topics.clone());
        registry.register("esker_broker_partitions", "Partitions that this broker leads", made.partitions.clone());
        let opening = made.opening_partitions.clone();
        registry.register("esker_broker_opening_partitions", "Partitions that this broker is to lead soon", opening);
        made
    }
}
