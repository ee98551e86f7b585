use super::*;

fn configs(pairs: &[(&str, &str)]) -> Configs {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn judge(name: &str, value: &str) -> Result<(), String> {
    validate(&configs(&[(name, value)]), &TopicDefaults::default()).map_err(|error| error.to_string())
}

#[test]
fn the_table_is_sorted_and_every_default_passes_its_own_rule() {
    assert!(TOPIC_CONFIGS.windows(2).all(|two| two[0].name < two[1].name));
    for config in TOPIC_CONFIGS {
        assert_eq!(judge(config.name, config.default), Ok(()), "{}", config.name);
        assert_eq!(find(config.name).map(|found| found.name), Some(config.name));
        assert!(config.doc.ends_with('.'), "{}", config.name);
    }
}

#[test]
fn every_topic_config_of_kafka_4_is_known() {
    let kafka = "cleanup.policy compression.gzip.level compression.lz4.level compression.type compression.zstd.level \
        delete.retention.ms file.delete.delay.ms flush.messages flush.ms follower.replication.throttled.replicas \
        index.interval.bytes leader.replication.throttled.replicas local.retention.bytes local.retention.ms \
        max.compaction.lag.ms max.message.bytes message.timestamp.after.max.ms message.timestamp.before.max.ms \
        message.timestamp.type min.cleanable.dirty.ratio min.compaction.lag.ms min.insync.replicas preallocate \
        remote.log.copy.disable remote.log.delete.on.disable remote.storage.enable retention.bytes retention.ms \
        segment.bytes segment.index.bytes segment.jitter.ms segment.ms unclean.leader.election.enable";
    for name in kafka.split_whitespace() {
        assert!(find(name).is_some(), "{name}");
    }
}

#[test]
fn values_are_held_against_type_and_rule() {
    for (name, good) in [
        ("retention.ms", "-1"),
        ("retention.ms", " 1000 "),
        ("retention.bytes", "-5"),
        ("cleanup.policy", "compact,delete"),
        ("cleanup.policy", "compact, delete"),
        ("message.timestamp.type", "LogAppendTime"),
        ("preallocate", "TRUE"),
        ("min.cleanable.dirty.ratio", "0.25"),
        ("compression.gzip.level", "-1"),
        ("compression.zstd.level", "-131072"),
        ("leader.replication.throttled.replicas", "*"),
        ("leader.replication.throttled.replicas", "0:1,1:2"),
        ("max.message.bytes", "2147483647"),
    ] {
        assert_eq!(judge(name, good), Ok(()), "{name}={good}");
    }
    for (name, bad, reason) in [
        ("retention.ms", "-2", "at least -1"),
        ("retention.ms", "1.5", "Not a number"),
        ("retention.ms", "", "Not a number"),
        ("max.message.bytes", "2147483648", "Not a number"),
        ("segment.bytes", "1000", "at least 1048576"),
        ("cleanup.policy", "shrink", "must be one of: compact, delete"),
        ("message.timestamp.type", "createtime", "must be one of: CreateTime, LogAppendTime"),
        ("preallocate", "yes", "true or false"),
        ("min.cleanable.dirty.ratio", "1.5", "between 0 and 1"),
        ("min.cleanable.dirty.ratio", "NaN", "Not a number"),
        ("compression.gzip.level", "0", "between 1 and 9"),
        ("leader.replication.throttled.replicas", "0:a", "pair"),
        ("compression.type", "zstd", "in the producer instead"),
        ("compression.type", "brotli", "must be one of: producer"),
        ("remote.storage.enable", "true", "in the object store anyway"),
        ("retention.hours", "1", "Unknown topic config name: retention.hours"),
    ] {
        let error = judge(name, bad).expect_err(bad);
        assert!(error.contains(reason), "{name}={bad}: {error}");
    }
}

#[test]
fn compaction_lags_must_not_contradict_each_other() {
    let both = configs(&[("min.compaction.lag.ms", "20"), ("max.compaction.lag.ms", "10")]);
    let error = validate(&both, &TopicDefaults::default()).expect_err("20 > 10").to_string();
    assert!(error.contains("(20)") && error.contains("(10)"), "{error}");
}

#[test]
fn settings_take_the_override_then_the_broker_then_kafka() {
    let plain = TopicSettings::default();
    assert_eq!(plain.retention_ms, Some(604_800_000));
    assert_eq!(plain.retention_bytes, None);
    assert_eq!(plain.max_message_bytes, 1_048_588);
    assert!(plain.cleanup_delete && !plain.cleanup_compact);
    let broker = TopicDefaults(configs(&[("retention.ms", "5000"), ("retention.bytes", "77")]));
    let over =
        configs(&[("retention.ms", "-1"), ("cleanup.policy", "compact"), ("message.timestamp.type", "LogAppendTime")]);
    let settings = TopicSettings::resolve(&over, &broker);
    assert_eq!(settings.retention_ms, None);
    assert_eq!(settings.retention_bytes, Some(77));
    assert_eq!(settings.timestamp_type, TimestampType::LogAppendTime);
    assert!(settings.cleanup_compact && !settings.cleanup_delete);
}

#[test]
fn a_stored_value_that_makes_no_sense_counts_as_not_there() {
    let over = configs(&[("retention.ms", "for ever"), ("max.message.bytes", "-9")]);
    assert_eq!(TopicSettings::resolve(&over, &TopicDefaults::default()), TopicSettings::default());
}

#[test]
fn describing_a_topic_names_every_source() {
    let over = configs(&[("retention.ms", "1")]);
    let broker = TopicDefaults(configs(&[("retention.ms", "5000"), ("retention.bytes", "77")]));
    let described = describe_topic(&over, &broker);
    assert_eq!(described.len(), TOPIC_CONFIGS.len());
    let of = |name: &str| described.iter().find(|config| config.name == name).expect("described").clone();
    let retention = of("retention.ms");
    assert_eq!((retention.value.as_deref(), retention.source), (Some("1"), ConfigSource::Topic));
    let places: Vec<_> = retention.synonyms.iter().map(|at| (at.name.as_str(), at.source)).collect();
    assert_eq!(
        places,
        [
            ("retention.ms", ConfigSource::Topic),
            ("log.retention.ms", ConfigSource::StaticBroker),
            ("log.retention.ms", ConfigSource::Default)
        ]
    );
    assert_eq!(of("retention.bytes").source, ConfigSource::StaticBroker);
    assert_eq!(of("segment.bytes").source, ConfigSource::Default);
}

#[test]
fn the_broker_lists_its_settings_under_kafkas_names() {
    let settings = broker::BrokerConfigs { node_id: 3, log_retention_ms: 60_000, ..broker::BrokerConfigs::default() };
    let described = broker::describe_broker(&settings);
    assert!(described.windows(2).all(|two| two[0].name < two[1].name));
    let of = |name: &str| described.iter().find(|config| config.name == name).expect("listed").clone();
    assert_eq!((of("node.id").value.as_deref(), of("node.id").source), (Some("3"), ConfigSource::StaticBroker));
    assert_eq!(of("log.retention.ms").source, ConfigSource::StaticBroker);
    assert_eq!(of("num.partitions").source, ConfigSource::Default);
    assert!(described.iter().all(|config| config.read_only && !config.sensitive));
    assert_eq!(settings.topic_defaults(), TopicDefaults(configs(&[("retention.ms", "60000")])));
    assert_eq!(broker::BrokerConfigs::default().topic_defaults(), TopicDefaults::default());
}
