//! Every topic config of Kafka 4, with its type, default, rule and what it means here.
//!
//! Source: Kafka's `LogConfig`, `TopicConfig` and `ServerTopicConfigSynonyms`; KIP-1030 for the defaults and bounds
//! that 4.0 changed. The sentences are ours.

use super::{ConfigType, Importance, Rule, TopicConfig};

const MAX: i64 = i64::MAX;
const DAY_MS: &str = "86400000";
const WEEK_MS: &str = "604800000";
const NEVER: &str = "9223372036854775807";

const fn config(
    name: &'static str,
    kind: ConfigType,
    default: &'static str,
    rule: Rule,
    synonyms: &'static [&'static str],
    doc: &'static str,
) -> TopicConfig {
    TopicConfig { name, kind, default, rule, importance: Importance::Medium, synonyms, doc }
}

use ConfigType::{Boolean, Double, Int, List, Long, String};
use Rule::{Any, AtLeast, Between, Flag, Fraction, OneOf, Only, Replicas, Subset};

/// Sorted by name.
pub const TOPIC_CONFIGS: &[TopicConfig] = &[
    config(
        "cleanup.policy",
        List,
        "delete",
        Subset(&["compact", "delete"]),
        &["log.cleanup.policy"],
        "What happens to old records: 'delete' drops them by age or size, 'compact' keeps the newest record of each key, \
         both together do both.",
    ),
    config(
        "compression.gzip.level",
        Int,
        "-1",
        Rule::GzipLevel,
        &["compression.gzip.level"],
        "Accepted for compatibility: batches are stored with the producer's own compression.",
    ),
    config(
        "compression.lz4.level",
        Int,
        "9",
        Between(1, 17),
        &["compression.lz4.level"],
        "Accepted for compatibility: batches are stored with the producer's own compression.",
    ),
    config(
        "compression.type",
        String,
        "producer",
        Only(
            "producer",
            &["uncompressed", "zstd", "lz4", "snappy", "gzip"],
            "batches are stored as the producer compressed them, so only 'producer' is possible; set compression.type in \
             the producer instead",
        ),
        &["compression.type"],
        "Batches are kept exactly as the producer compressed them; 'producer' is the only value.",
    ),
    config(
        "compression.zstd.level",
        Int,
        "3",
        Between(-131_072, 22),
        &["compression.zstd.level"],
        "Accepted for compatibility: batches are stored with the producer's own compression.",
    ),
    config(
        "delete.retention.ms",
        Long,
        DAY_MS,
        AtLeast(0),
        &["log.cleaner.delete.retention.ms"],
        "In a compacted topic, how long the marker of a deleted key stays readable, in milliseconds.",
    ),
    config(
        "file.delete.delay.ms",
        Long,
        "60000",
        AtLeast(0),
        &["log.segment.delete.delay.ms"],
        "Accepted for compatibility: objects are freed by garbage collection after its own grace period.",
    ),
    config(
        "flush.messages",
        Long,
        NEVER,
        AtLeast(1),
        &["log.flush.interval.messages"],
        "Accepted for compatibility: when data becomes durable is decided by the producer's acks and the broker's flush \
         settings.",
    ),
    config(
        "flush.ms",
        Long,
        NEVER,
        AtLeast(0),
        &["log.flush.interval.ms", "log.flush.scheduler.interval.ms"],
        "Accepted for compatibility: when data becomes durable is decided by the producer's acks and the broker's flush \
         settings.",
    ),
    config(
        "follower.replication.throttled.replicas",
        List,
        "",
        Replicas,
        &[],
        "Accepted for compatibility: there are no follower replicas, the object store replicates.",
    ),
    config(
        "index.interval.bytes",
        Int,
        "4096",
        AtLeast(0),
        &["log.index.interval.bytes"],
        "Accepted for compatibility: every stored run is indexed.",
    ),
    config(
        "leader.replication.throttled.replicas",
        List,
        "",
        Replicas,
        &[],
        "Accepted for compatibility: there are no follower replicas, the object store replicates.",
    ),
    config(
        "local.retention.bytes",
        Long,
        "-2",
        AtLeast(-2),
        &["log.local.retention.bytes"],
        "Accepted for compatibility: the local disk is a cache with one budget for the whole broker.",
    ),
    config(
        "local.retention.ms",
        Long,
        "-2",
        AtLeast(-2),
        &["log.local.retention.ms"],
        "Accepted for compatibility: the local disk is a cache with one budget for the whole broker.",
    ),
    config(
        "max.compaction.lag.ms",
        Long,
        NEVER,
        AtLeast(1),
        &["log.cleaner.max.compaction.lag.ms"],
        "In a compacted topic, the longest time that a record may wait before it is considered for compaction, in \
         milliseconds.",
    ),
    config(
        "max.message.bytes",
        Int,
        "1048588",
        AtLeast(0),
        &["message.max.bytes"],
        "Largest record batch that the topic takes, in bytes as sent (after compression, headers included).",
    ),
    TopicConfig {
        importance: Importance::Low,
        ..config(
            "message.downconversion.enable",
            Boolean,
            "true",
            Flag,
            &["log.message.downconversion.enable"],
            "Accepted for compatibility and without effect, as in Kafka 4: old message formats are not served.",
        )
    },
    config(
        "message.timestamp.after.max.ms",
        Long,
        "3600000",
        AtLeast(0),
        &["log.message.timestamp.after.max.ms"],
        "How far a record's timestamp may lie ahead of the broker's clock, in milliseconds; beyond it the batch is \
         refused. Only for CreateTime.",
    ),
    config(
        "message.timestamp.before.max.ms",
        Long,
        NEVER,
        AtLeast(0),
        &["log.message.timestamp.before.max.ms"],
        "How far a record's timestamp may lie behind the broker's clock, in milliseconds; beyond it the batch is refused. \
         Only for CreateTime.",
    ),
    config(
        "message.timestamp.type",
        String,
        "CreateTime",
        OneOf(&["CreateTime", "LogAppendTime"]),
        &["log.message.timestamp.type"],
        "Whether records keep the producer's timestamp (CreateTime) or get the broker's time of arrival (LogAppendTime).",
    ),
    config(
        "min.cleanable.dirty.ratio",
        Double,
        "0.5",
        Fraction,
        &["log.cleaner.min.cleanable.ratio"],
        "In a compacted topic, the share of not yet compacted bytes from which compaction is worth its cost (0 to 1).",
    ),
    config(
        "min.compaction.lag.ms",
        Long,
        "0",
        AtLeast(0),
        &["log.cleaner.min.compaction.lag.ms"],
        "In a compacted topic, how long a record is safe from compaction, in milliseconds.",
    ),
    config(
        "min.insync.replicas",
        Int,
        "1",
        AtLeast(1),
        &["min.insync.replicas"],
        "Accepted for compatibility: acks=all always means committed in the object store, which replicates.",
    ),
    config(
        "preallocate",
        Boolean,
        "false",
        Flag,
        &["log.preallocate"],
        "Accepted for compatibility: there are no log files of one topic.",
    ),
    config(
        "remote.log.copy.disable",
        Boolean,
        "false",
        Flag,
        &[],
        "Accepted for compatibility: all data is in the object store.",
    ),
    config(
        "remote.log.delete.on.disable",
        Boolean,
        "false",
        Flag,
        &[],
        "Accepted for compatibility: all data is in the object store.",
    ),
    config(
        "remote.storage.enable",
        Boolean,
        "false",
        Only("false", &["true"], "all data is in the object store anyway; leave it at 'false'"),
        &[],
        "Kafka's tiered storage. All data is in the object store anyway, so it cannot be switched on.",
    ),
    config(
        "retention.bytes",
        Long,
        "-1",
        Any,
        &["log.retention.bytes"],
        "Size of a partition in bytes above which its oldest records are dropped; negative for no limit.",
    ),
    config(
        "retention.ms",
        Long,
        WEEK_MS,
        AtLeast(-1),
        &["log.retention.ms", "log.retention.minutes", "log.retention.hours"],
        "Age in milliseconds from which records may be dropped; -1 keeps them for ever.",
    ),
    config(
        "segment.bytes",
        Int,
        "1073741824",
        AtLeast(1_048_576),
        &["log.segment.bytes"],
        "Accepted for compatibility: a segment object holds many partitions and is cut by the broker's flush settings.",
    ),
    config(
        "segment.index.bytes",
        Int,
        "10485760",
        AtLeast(4),
        &["log.index.size.max.bytes"],
        "Accepted for compatibility: the index lives in segment footers and checkpoints.",
    ),
    config(
        "segment.jitter.ms",
        Long,
        "0",
        AtLeast(0),
        &["log.roll.jitter.ms", "log.roll.jitter.hours"],
        "Accepted for compatibility: segments are cut by the broker's flush settings.",
    ),
    config(
        "segment.ms",
        Long,
        WEEK_MS,
        Between(1, MAX),
        &["log.roll.ms", "log.roll.hours"],
        "Accepted for compatibility: segments are cut by the broker's flush settings.",
    ),
    config(
        "unclean.leader.election.enable",
        Boolean,
        "false",
        Flag,
        &["unclean.leader.election.enable"],
        "Accepted for compatibility: a new leader always starts from committed data, so no election is unclean.",
    ),
];
