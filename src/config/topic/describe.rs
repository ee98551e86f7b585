//! Configs as DescribeConfigs shows them.

use super::{ConfigType, Configs, TOPIC_CONFIGS, TopicDefaults};

/// Where a shown value comes from (`DescribeConfigsResponse.ConfigSource`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    /// Set on the topic.
    Topic,
    /// Set in the broker's own settings.
    StaticBroker,
    /// Nobody set it.
    Default,
}

impl ConfigSource {
    /// The number on the wire.
    pub const fn id(self) -> i8 {
        match self {
            Self::Topic => 1,
            Self::StaticBroker => 4,
            Self::Default => 5,
        }
    }
}

/// One place that gives a config a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synonym {
    /// Name of the config there.
    pub name: String,
    /// Value there; `None` for none.
    pub value: Option<String>,
    /// Which place.
    pub source: ConfigSource,
}

/// A config with its value in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedConfig {
    /// Its name.
    pub name: String,
    /// The value in force; `None` for none or a sensitive one.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: ConfigSource,
    /// Whether it cannot be altered by a request.
    pub read_only: bool,
    /// Whether its value is hidden.
    pub sensitive: bool,
    /// Every place that gives it a value, the one in force first.
    pub synonyms: Vec<Synonym>,
    /// Type of the value.
    pub kind: ConfigType,
    /// What it means.
    pub doc: &'static str,
}

/// All topic configs by name, with the values in force for a topic with these overrides.
pub fn describe_topic(overrides: &Configs, defaults: &TopicDefaults) -> Vec<DescribedConfig> {
    let describe = |config: &super::TopicConfig| {
        let mut synonyms = Vec::new();
        let mut add = |name: &str, value: &str, source| {
            synonyms.push(Synonym { name: name.to_owned(), value: Some(value.to_owned()), source });
        };
        if let Some(value) = overrides.get(config.name) {
            add(config.name, value, ConfigSource::Topic);
        }
        let broker_name = config.synonyms.first().copied();
        if let Some(value) = defaults.0.get(config.name) {
            add(broker_name.unwrap_or(config.name), value, ConfigSource::StaticBroker);
        }
        add(broker_name.unwrap_or(config.name), config.default, ConfigSource::Default);
        DescribedConfig {
            name: config.name.to_owned(),
            value: synonyms[0].value.clone(),
            source: synonyms[0].source,
            read_only: false,
            sensitive: false,
            synonyms,
            kind: config.kind,
            doc: config.doc,
        }
    };
    TOPIC_CONFIGS.iter().map(describe).collect()
}
