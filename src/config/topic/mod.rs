//! Topic configs: which exist, what they may be, what they mean; and the broker configs that clients can list.
//!
//! Stored configs are overrides only (name to text). [`validate`] judges them before they are stored; [`TopicSettings`]
//! reads them afterwards and never fails, so a config written by a newer version cannot stop a broker.

pub mod broker;
mod describe;
mod rule;
mod settings;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use describe::{ConfigSource, DescribedConfig, Synonym, describe_topic};
pub use settings::{TimestampType, TopicSettings};
pub use table::TOPIC_CONFIGS;

/// Overrides of one topic: config name to value.
pub type Configs = BTreeMap<String, String>;

/// Broker-level values that replace the table's defaults, by topic config name (`retention.ms`, …).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicDefaults(pub Configs);

impl TopicDefaults {
    /// What a topic without an override of `config` has.
    pub fn value<'a>(&'a self, config: &'a TopicConfig) -> &'a str {
        self.0.get(config.name).map_or(config.default, String::as_str)
    }
}

/// The type of a config's value, as DescribeConfigs tells it (KIP-569).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigType {
    /// `true` or `false`.
    Boolean,
    /// Text.
    String,
    /// 32-bit signed integer.
    Int,
    /// 16-bit signed integer.
    Short,
    /// 64-bit signed integer.
    Long,
    /// Floating point.
    Double,
    /// Comma-separated texts.
    List,
}

impl ConfigType {
    /// The number on the wire (`DescribeConfigsResponse.ConfigType`).
    pub const fn id(self) -> i8 {
        match self {
            Self::Boolean => 1,
            Self::String => 2,
            Self::Int => 3,
            Self::Short => 4,
            Self::Long => 5,
            Self::Double => 6,
            Self::List => 7,
        }
    }
}

/// How much a config matters, in Kafka's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importance {
    /// High.
    High,
    /// Medium.
    Medium,
    /// Low.
    Low,
}

/// What a value may be, beyond being of its type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// Anything of the type.
    Any,
    /// A number of at least this (inclusive).
    AtLeast(i64),
    /// A number between these (both inclusive).
    Between(i64, i64),
    /// A number between 0 and 1 (both inclusive).
    Fraction,
    /// `true` or `false`.
    Flag,
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// Any of these texts, separated by commas.
    Subset(&'static [&'static str]),
    /// -1, or 1 to 9.
    GzipLevel,
    /// `partition:broker` pairs, `*`, or nothing (Kafka's throttled-replica lists).
    Replicas,
    /// One text only; Kafka's other values are refused with the sentence.
    Only(&'static str, &'static [&'static str], &'static str),
}

/// One topic config.
#[derive(Debug, Clone, Copy)]
pub struct TopicConfig {
    /// Its name.
    pub name: &'static str,
    /// Type of its value.
    pub kind: ConfigType,
    /// Kafka's default, as text.
    pub default: &'static str,
    /// What it may be.
    pub rule: Rule,
    /// Kafka's grading.
    pub importance: Importance,
    /// Broker configs that give its default, most specific first; empty if there is none.
    pub synonyms: &'static [&'static str],
    /// What it means here, in a sentence or two.
    pub doc: &'static str,
}

/// A config that cannot be taken; Kafka's `INVALID_CONFIG`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such topic config.
    #[error("Unknown topic config name: {0}")]
    Unknown(String),
    /// The value breaks the config's type or rule.
    #[error("Invalid value {value} for configuration {name}: {reason}")]
    Invalid {
        /// The config.
        name: String,
        /// The value received.
        value: String,
        /// Which rule it breaks.
        reason: String,
    },
    /// Two configs contradict each other.
    #[error("{0}")]
    Contradiction(String),
}

/// The config of that name.
pub fn find(name: &str) -> Option<&'static TopicConfig> {
    TOPIC_CONFIGS.binary_search_by(|config| config.name.cmp(name)).ok().map(|at| &TOPIC_CONFIGS[at])
}

/// Judges a topic's whole set of overrides, as it would be stored.
pub fn validate(configs: &Configs, defaults: &TopicDefaults) -> Result<(), ConfigError> {
    for (name, value) in configs {
        let config = find(name).ok_or_else(|| ConfigError::Unknown(name.clone()))?;
        rule::check(config.name, config.kind, config.rule, value)?;
    }
    let settings = TopicSettings::resolve(configs, defaults);
    if settings.min_compaction_lag_ms > settings.max_compaction_lag_ms {
        return Err(ConfigError::Contradiction(format!(
            "conflict topic config setting min.compaction.lag.ms ({}) > max.compaction.lag.ms ({})",
            settings.min_compaction_lag_ms, settings.max_compaction_lag_ms
        )));
    }
    Ok(())
}
