//! A topic's configs as numbers and flags, for the code that obeys them.

use super::{Configs, TopicDefaults, find, rule};

/// Whose time a record's timestamp is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The broker's, at arrival.
    LogAppendTime,
}

/// The configs that have a meaning here (and `min.insync.replicas`, which is shown), resolved against the broker's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicSettings {
    /// Age from which records may be dropped, in milliseconds; `None` keeps them for ever.
    pub retention_ms: Option<u64>,
    /// Size of a partition above which its oldest records are dropped, in bytes; `None` for no limit.
    pub retention_bytes: Option<u64>,
    /// Largest record batch, in bytes, header included.
    pub max_message_bytes: usize,
    /// Whose timestamps are kept.
    pub timestamp_type: TimestampType,
    /// Farthest that a CreateTime timestamp may lie behind the broker's clock, in milliseconds (inclusive).
    pub timestamp_before_max_ms: i64,
    /// Farthest that a CreateTime timestamp may lie ahead of the broker's clock, in milliseconds (inclusive).
    pub timestamp_after_max_ms: i64,
    /// `cleanup.policy` contains `delete`.
    pub cleanup_delete: bool,
    /// `cleanup.policy` contains `compact`: records without a key are refused.
    pub cleanup_compact: bool,
    /// How long a compacted topic keeps delete markers, in milliseconds.
    pub delete_retention_ms: u64,
    /// How long a record is safe from compaction, in milliseconds.
    pub min_compaction_lag_ms: u64,
    /// How long a record may wait for compaction, in milliseconds.
    pub max_compaction_lag_ms: u64,
    /// Accepted and shown, never enforced.
    pub min_insync_replicas: i32,
}

impl TopicSettings {
    /// Reads overrides over defaults. A value that does not parse (written by another version) counts as not there.
    pub fn resolve(configs: &Configs, defaults: &TopicDefaults) -> Self {
        let read = Reader { configs, defaults };
        let limit = |name| u64::try_from(read.number(name)).ok();
        let policy = read.text("cleanup.policy").to_ascii_lowercase();
        Self {
            retention_ms: limit("retention.ms"),
            retention_bytes: limit("retention.bytes"),
            max_message_bytes: usize::try_from(read.number("max.message.bytes")).unwrap_or(0),
            timestamp_type: if read.text("message.timestamp.type") == "LogAppendTime" {
                TimestampType::LogAppendTime
            } else {
                TimestampType::CreateTime
            },
            timestamp_before_max_ms: read.number("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: read.number("message.timestamp.after.max.ms"),
            cleanup_delete: rule::list_parts(&policy).any(|part| part == "delete"),
            cleanup_compact: rule::list_parts(&policy).any(|part| part == "compact"),
            delete_retention_ms: limit("delete.retention.ms").unwrap_or(0),
            min_compaction_lag_ms: limit("min.compaction.lag.ms").unwrap_or(0),
            max_compaction_lag_ms: limit("max.compaction.lag.ms").unwrap_or(0),
            min_insync_replicas: i32::try_from(read.number("min.insync.replicas")).unwrap_or(1),
        }
    }
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self::resolve(&Configs::new(), &TopicDefaults::default())
    }
}

struct Reader<'a> {
    configs: &'a Configs,
    defaults: &'a TopicDefaults,
}

impl Reader<'_> {
    /// The first of override, broker default and table default that passes the config's rule.
    fn text(&self, name: &str) -> &str {
        let Some(config) = find(name) else { return "" };
        let valid = |value: &&String| rule::check(config.name, config.kind, config.rule, value).is_ok();
        let from = |configs: &Configs| configs.get(name).as_ref().is_some_and(valid);
        if from(self.configs) {
            self.configs[name].trim()
        } else if from(&self.defaults.0) {
            self.defaults.0[name].trim()
        } else {
            config.default
        }
    }

    fn number(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or(0)
    }
}
