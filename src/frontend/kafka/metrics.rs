//! What the Kafka front door counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Labels of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// API name, as Kafka spells it.
    pub api: &'static str,
    /// API version.
    pub version: i16,
}

/// Labels of a latency.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiLabels {
    /// API name, as Kafka spells it.
    pub api: &'static str,
}

/// Labels of an error code sent to a client.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ErrorLabels {
    /// API name, as Kafka spells it.
    pub api: &'static str,
    /// Kafka's error code.
    pub code: i16,
}

/// Why a connection was closed by this side.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CloseLabels {
    /// One word.
    pub reason: &'static str,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Requests by API and version.
    pub requests: Family<RequestLabels, Counter>,
    /// Error codes in replies by API; a request with several partitions may count several.
    pub errors: Family<ErrorLabels, Counter>,
    /// Seconds from a request's last byte to its encoded reply.
    pub latency_s: Family<ApiLabels, Histogram, fn() -> Histogram>,
    /// Bytes of request frames.
    pub received_bytes: Counter,
    /// Bytes of response frames.
    pub sent_bytes: Counter,
    /// Open connections.
    pub connections: Gauge,
    /// Connections accepted since the start.
    pub accepted: Counter,
    /// Connections refused at a limit.
    pub refused: Family<CloseLabels, Counter>,
    /// Connections closed by this side, by reason.
    pub closed: Family<CloseLabels, Counter>,
    /// Bytes of requests read and not yet answered (or, for produce, not yet copied into the log).
    pub inflight_bytes: Gauge,
    /// Times that a connection was not read on because of an in-flight limit.
    pub throttled_reads: Counter,
    /// Requests of an API or version that is not served.
    pub unsupported: Counter,
    /// Incremental fetch sessions kept.
    pub fetch_sessions: Gauge,
    /// Partitions in them.
    pub fetch_session_partitions: Gauge,
}

fn latency_histogram() -> Histogram {
    // 0.1 ms to 105 s, doubling.
    Histogram::new(exponential_buckets(0.0001, 2.0, 21))
}

impl Metrics {
    /// Makes the metrics and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let made = Self {
            requests: Family::default(),
            errors: Family::default(),
            latency_s: Family::new_with_constructor(latency_histogram),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            connections: Gauge::default(),
            accepted: Counter::default(),
            refused: Family::default(),
            closed: Family::default(),
            inflight_bytes: Gauge::default(),
            throttled_reads: Counter::default(),
            unsupported: Counter::default(),
            fetch_sessions: Gauge::default(),
            fetch_session_partitions: Gauge::default(),
        };
        let mut add = |name: &str, help: &str, metric: Registered| metric.add(registry, name, help);
        add("requests", "Kafka requests by API and version", Registered::Requests(made.requests.clone()));
        add("errors", "Error codes in replies by API", Registered::Errors(made.errors.clone()));
        add(
            "request_latency_seconds",
            "From a request's last byte to its reply",
            Registered::Latency(made.latency_s.clone()),
        );
        add("received_bytes", "Bytes of request frames", Registered::Counter(made.received_bytes.clone()));
        add("sent_bytes", "Bytes of response frames", Registered::Counter(made.sent_bytes.clone()));
        add("connections", "Open connections", Registered::Gauge(made.connections.clone()));
        add("accepted_connections", "Connections accepted", Registered::Counter(made.accepted.clone()));
        add("refused_connections", "Connections refused at a limit", Registered::Closed(made.refused.clone()));
        add("closed_connections", "Connections closed by the broker", Registered::Closed(made.closed.clone()));
        add(
            "inflight_bytes",
            "Bytes of requests read and not answered",
            Registered::Gauge(made.inflight_bytes.clone()),
        );
        add(
            "throttled_reads",
            "Times a connection waited at an in-flight limit",
            Registered::Counter(made.throttled_reads.clone()),
        );
        add(
            "unsupported_requests",
            "Requests of an API or version not served",
            Registered::Counter(made.unsupported.clone()),
        );
        add("fetch_sessions", "Incremental fetch sessions kept", Registered::Gauge(made.fetch_sessions.clone()));
        let in_sessions = Registered::Gauge(made.fetch_session_partitions.clone());
        add("fetch_session_partitions", "Partitions in incremental fetch sessions", in_sessions);
        made
    }
}

enum Registered {
    Requests(Family<RequestLabels, Counter>),
    Errors(Family<ErrorLabels, Counter>),
    Latency(Family<ApiLabels, Histogram, fn() -> Histogram>),
    Closed(Family<CloseLabels, Counter>),
    Counter(Counter),
    Gauge(Gauge),
}

impl Registered {
    fn add(self, registry: &mut Registry, name: &str, help: &str) {
        let name = format!("esker_kafka_{name}");
        match self {
            Self::Requests(metric) => registry.register(name, help, metric),
            Self::Errors(metric) => registry.register(name, help, metric),
            Self::Latency(metric) => registry.register(name, help, metric),
            Self::Closed(metric) => registry.register(name, help, metric),
            Self::Counter(metric) => registry.register(name, help, metric),
            Self::Gauge(metric) => registry.register(name, help, metric),
        }
    }
}
