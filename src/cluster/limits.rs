//! Limits of the cluster's metadata.

/// Default of the most topics of a cluster (`topics.max_topics`).
pub const DEFAULT_MAX_TOPICS: usize = 20_000;
/// Default of the most partitions of a cluster (`topics.max_partitions`).
pub const DEFAULT_MAX_PARTITIONS: usize = 100_000;
/// Most partitions of one topic: a topic and all its assignments are created in one transaction of at most 128 writes.
pub const MAX_PARTITIONS_PER_TOPIC: usize = 10_000;
/// Longest topic name in characters (Kafka's own limit).
pub const MAX_TOPIC_NAME_CHARS: usize = 249;
/// Most bytes of one topic's config overrides, names and values together.
pub const MAX_CONFIG_BYTES: usize = 64 * 1024;
/// Most topics of one request: beyond it the request is refused, not the cluster slowed down.
pub const MAX_TOPICS_PER_REQUEST: usize = 10_000;
/// Producer ids taken from the metadata store at a time (Kafka's `ProducerIdsBlock` size).
pub const PRODUCER_ID_BLOCK: i64 = 1_000;
/// Most `from` streams of one partition; a chunk of assignments stays below the request limit of etcd.
pub const MAX_FROM_STREAMS: usize = 64;
/// Writes of a batched transaction that leave room for its guards.
pub const WRITES_PER_TXN: usize = 120;
/// Bytes of values of a batched transaction; a single topic may need more, up to etcd's own limit.
pub const BYTES_PER_TXN: usize = 1024 * 1024;
/// Events of the watch that are folded into one image.
pub const MAX_EVENTS_PER_IMAGE: usize = 4096;
/// Partitions that the controller has on their way from one live broker to another at a time.
pub const MAX_MOVES_IN_FLIGHT: usize = 1_000;
