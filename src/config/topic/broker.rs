//! The broker configs that DescribeConfigs lists for a BROKER resource.
//!
//! A small table under Kafka's names, for the tools that look there (`kafka-configs`, schema registries, UIs). The values
//! are the broker's real settings, handed in by the composition root; none can be altered by a request.

use super::{ConfigSource, ConfigType, Configs, DescribedConfig, Synonym, TopicDefaults};

/// The settings that are shown, in Kafka's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerConfigs {
    /// Kafka node id.
    pub node_id: i32,
    /// Where clients connect, `host:port`.
    pub advertised: String,
    /// Rack or zone, if one was given.
    pub rack: Option<String>,
    /// Partitions of a topic created without a number.
    pub num_partitions: i32,
    /// Replication factor shown for a topic created without one.
    pub default_replication_factor: i16,
    /// Whether Metadata requests may create topics.
    pub auto_create_topics_enable: bool,
    /// Whether DeleteTopics is allowed.
    pub delete_topic_enable: bool,
    /// Age from which records may be dropped, in milliseconds; -1 for ever.
    pub log_retention_ms: i64,
    /// Bytes of a partition above which records are dropped; -1 for no limit.
    pub log_retention_bytes: i64,
    /// Largest record batch, in bytes.
    pub message_max_bytes: i32,
    /// Largest request, in bytes.
    pub socket_request_max_bytes: i32,
    /// Shortest session timeout that a group member may ask for, in milliseconds.
    pub group_min_session_timeout_ms: i32,
    /// Longest session timeout that a group member may ask for, in milliseconds.
    pub group_max_session_timeout_ms: i32,
    /// How long a new group waits for more members, in milliseconds.
    pub group_initial_rebalance_delay_ms: i32,
    /// Most members of a group.
    pub group_max_size: i32,
    /// How long offsets of an empty group are kept, in minutes.
    pub offsets_retention_minutes: i32,
    /// Partitions of `__consumer_offsets`.
    pub offsets_topic_num_partitions: i32,
    /// Partitions of `__transaction_state`.
    pub transaction_state_log_num_partitions: i32,
    /// How long an idle idempotent producer is remembered, in milliseconds.
    pub producer_id_expiration_ms: i32,
}

impl Default for BrokerConfigs {
    /// Kafka's defaults.
    fn default() -> Self {
        Self {
            node_id: 1,
            advertised: "127.0.0.1:9092".to_owned(),
            rack: None,
            num_partitions: 1,
            default_replication_factor: 1,
            auto_create_topics_enable: true,
            delete_topic_enable: true,
            log_retention_ms: 604_800_000,
            log_retention_bytes: -1,
            message_max_bytes: 1_048_588,
            socket_request_max_bytes: 104_857_600,
            group_min_session_timeout_ms: 6_000,
            group_max_session_timeout_ms: 1_800_000,
            group_initial_rebalance_delay_ms: 3_000,
            group_max_size: i32::MAX,
            offsets_retention_minutes: 10_080,
            offsets_topic_num_partitions: 50,
            transaction_state_log_num_partitions: 50,
            producer_id_expiration_ms: 86_400_000,
        }
    }
}

impl BrokerConfigs {
    /// The defaults that these settings give to topics: only what differs from Kafka's own.
    pub fn topic_defaults(&self) -> TopicDefaults {
        let given = [
            ("retention.ms", self.log_retention_ms),
            ("retention.bytes", self.log_retention_bytes),
            ("max.message.bytes", i64::from(self.message_max_bytes)),
        ];
        let differs = |(name, value): (&str, i64)| {
            let value = value.to_string();
            super::find(name).filter(|config| config.default != value).map(|_| (name.to_owned(), value))
        };
        TopicDefaults(given.into_iter().filter_map(differs).collect::<Configs>())
    }
}

/// The broker's configs, by name.
pub fn describe_broker(settings: &BrokerConfigs) -> Vec<DescribedConfig> {
    let usual = BrokerConfigs::default();
    let (now, kafka) = (rows(settings), rows(&usual));
    let mut described: Vec<_> = now
        .into_iter()
        .zip(kafka)
        .map(|(row, usual)| {
            let given = row.value != usual.value || row.name == "node.id";
            let source = if given { ConfigSource::StaticBroker } else { ConfigSource::Default };
            let synonym = Synonym { name: row.name.to_owned(), value: row.value.clone(), source };
            DescribedConfig {
                name: row.name.to_owned(),
                value: row.value,
                source,
                read_only: true,
                sensitive: false,
                synonyms: vec![synonym],
                kind: row.kind,
                doc: row.doc,
            }
        })
        .collect();
    described.sort_by(|a, b| a.name.cmp(&b.name));
    described
}

struct Row {
    name: &'static str,
    kind: ConfigType,
    value: Option<String>,
    doc: &'static str,
}

fn row(name: &'static str, kind: ConfigType, value: impl std::fmt::Display, doc: &'static str) -> Row {
    Row { name, kind, value: Some(value.to_string()), doc }
}

fn rows(settings: &BrokerConfigs) -> Vec<Row> {
    use ConfigType::{Boolean, Int, List, Long, String};
    let listener = format!("PLAINTEXT://{}", settings.advertised);
    vec![
        row("node.id", Int, settings.node_id, "This broker's id."),
        row("broker.id", Int, settings.node_id, "This broker's id, under its older name."),
        row("process.roles", List, "broker,controller", "What this process does."),
        row("advertised.listeners", String, &listener, "Where clients connect."),
        Row {
            name: "broker.rack",
            kind: String,
            value: settings.rack.clone(),
            doc: "The zone that this broker was told it is in.",
        },
        row("num.partitions", Int, settings.num_partitions, "Partitions of a topic created without a number."),
        row(
            "default.replication.factor",
            Int,
            settings.default_replication_factor,
            "Replication factor shown for topics created without one; the object store replicates.",
        ),
        row(
            "auto.create.topics.enable",
            Boolean,
            settings.auto_create_topics_enable,
            "Whether asking for the metadata of a missing topic creates it.",
        ),
        row("delete.topic.enable", Boolean, settings.delete_topic_enable, "Whether topics can be deleted."),
        row("log.retention.ms", Long, settings.log_retention_ms, "Default of the topic config retention.ms."),
        row("log.retention.bytes", Long, settings.log_retention_bytes, "Default of the topic config retention.bytes."),
        row("log.cleanup.policy", List, "delete", "Default of the topic config cleanup.policy."),
        row("log.message.timestamp.type", String, "CreateTime", "Default of the topic config message.timestamp.type."),
        row("compression.type", String, "producer", "Batches are kept as the producer compressed them."),
        row("min.insync.replicas", Int, 1, "Default of the topic config min.insync.replicas; never enforced."),
        row("message.max.bytes", Int, settings.message_max_bytes, "Default of the topic config max.message.bytes."),
        row("socket.request.max.bytes", Int, settings.socket_request_max_bytes, "Largest request in bytes."),
        row(
            "group.min.session.timeout.ms",
            Int,
            settings.group_min_session_timeout_ms,
            "Shortest session timeout that a group member may ask for, in milliseconds.",
        ),
        row(
            "group.max.session.timeout.ms",
            Int,
            settings.group_max_session_timeout_ms,
            "Longest session timeout that a group member may ask for, in milliseconds.",
        ),
        row(
            "group.initial.rebalance.delay.ms",
            Int,
            settings.group_initial_rebalance_delay_ms,
            "How long a new group waits for more members before its first rebalance, in milliseconds.",
        ),
        row("group.max.size", Int, settings.group_max_size, "Most members of one group."),
        row(
            "offsets.retention.minutes",
            Int,
            settings.offsets_retention_minutes,
            "How long the offsets of a group without members are kept, in minutes.",
        ),
        row(
            "offsets.topic.num.partitions",
            Int,
            settings.offsets_topic_num_partitions,
            "Partitions of __consumer_offsets; fixed once it exists.",
        ),
        row(
            "offsets.topic.replication.factor",
            ConfigType::Short,
            settings.default_replication_factor,
            "Replication factor shown for __consumer_offsets.",
        ),
        row(
            "transaction.state.log.num.partitions",
            Int,
            settings.transaction_state_log_num_partitions,
            "Partitions of __transaction_state; fixed once it exists.",
        ),
        row(
            "producer.id.expiration.ms",
            Int,
            settings.producer_id_expiration_ms,
            "How long an idempotent producer that no longer writes is remembered, in milliseconds.",
        ),
    ]
}
