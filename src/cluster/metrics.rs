//! Counters of the cluster's metadata.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What this broker knows and did of the cluster. Clones share the same counters.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Topics of the cluster.
    pub topics: Gauge,
    /// Partitions of the cluster.
    pub partitions: Gauge,
    /// Live brokers.
    pub brokers: Gauge,
    /// Images made since the start.
    pub images: Counter,
    /// Times that everything was read again because events were lost.
    pub resyncs: Counter,
    /// Watches that ended in an error.
    pub watch_errors: Counter,
    /// Transactions that lost a race and were planned again.
    pub conflicts: Counter,
    /// Keep-alives of the session's lease.
    pub lease_keep_alives: Counter,
    /// Keep-alives that got no answer.
    pub lease_keep_alive_errors: Counter,
    /// Blocks of producer ids taken.
    pub producer_id_blocks: Counter,
    /// Times that this broker became the controller.
    pub elections: Counter,
    /// Streams of dead sessions that this broker sealed as the controller.
    pub seals: Counter,
    /// Partitions of sealed streams that this broker gave a new leader.
    pub take_overs: Counter,
    /// Partitions that this broker told to move, as the controller.
    pub moves: Counter,
    /// Backups of the catalogue that this broker wrote, as the controller.
    pub backups: Counter,
    /// Backups that failed and were tried again.
    pub backup_errors: Counter,
    /// When the newest backup was written, in seconds since the Unix epoch, as the controller knows it; 0 elsewhere.
    pub backup_written_seconds: Gauge,
    /// For how long a change of the catalogue has waited to be saved, in milliseconds; 0 if none waits.
    pub backup_waiting_ms: Gauge,
}

impl Metrics {
    /// Makes the counters and names them in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let it = Self::default();
        let mut gauge = |name, help, gauge: &Gauge| registry.register(name, help, gauge.clone());
        gauge("esker_cluster_topics", "Topics of the cluster", &it.topics);
        gauge("esker_cluster_partitions", "Partitions of the cluster", &it.partitions);
        gauge("esker_cluster_brokers", "Live brokers", &it.brokers);
        gauge(
            "esker_cluster_backup_written_seconds",
            "Unix time of the newest backup of the catalogue, where this broker is the controller",
            &it.backup_written_seconds,
        );
        gauge(
            "esker_cluster_backup_waiting_ms",
            "For how long a change of the catalogue has waited to be saved in the object store",
            &it.backup_waiting_ms,
        );
        let mut counter = |name, help, counter: &Counter| registry.register(name, help, counter.clone());
        counter("esker_cluster_images", "Images of the cluster made", &it.images);
        counter("esker_cluster_resyncs", "Full reads of the metadata after lost events", &it.resyncs);
        counter("esker_cluster_watch_errors", "Metadata watches that ended in an error", &it.watch_errors);
        counter("esker_cluster_conflicts", "Metadata transactions that lost a race", &it.conflicts);
        counter("esker_cluster_lease_keep_alives", "Keep-alives of the session's lease", &it.lease_keep_alives);
        counter(
            "esker_cluster_lease_keep_alive_errors",
            "Keep-alives of the session's lease without an answer",
            &it.lease_keep_alive_errors,
        );
        counter("esker_cluster_elections", "Times that this broker became the controller", &it.elections);
        counter("esker_cluster_seals", "Streams of dead sessions sealed", &it.seals);
        counter("esker_cluster_take_overs", "Partitions of sealed streams given a new leader", &it.take_overs);
        counter("esker_cluster_moves", "Partitions told to move", &it.moves);
        counter("esker_cluster_backups", "Backups of the catalogue written", &it.backups);
        counter("esker_cluster_backup_errors", "Backups of the catalogue that failed", &it.backup_errors);
        counter("esker_cluster_producer_id_blocks", "Blocks of producer ids taken", &it.producer_id_blocks);
        it
    }
}
