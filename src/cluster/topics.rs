//! What operations on topics would write: Kafka's rules (`ReplicationControlManager`, `ConfigurationControlManager`,
//! `Topic`), pure.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::error::TopicError;
use super::image::{ClusterImage, Topic};
use super::limits::{MAX_CONFIG_BYTES, MAX_PARTITIONS_PER_TOPIC, MAX_TOPIC_NAME_CHARS};
use crate::base::SessionId;
use crate::config::topic::{self, Configs, TopicDefaults};
use crate::format::metadata::{AssignmentChunk, AssignmentRecord, PARTITIONS_PER_CHUNK, TopicRecord};

/// A topic to create, as a client asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// Number of partitions, or -1 for the broker's default.
    pub partitions: i32,
    /// Replication factor, or -1 for the broker's default; any positive one is taken.
    pub replication_factor: i16,
    /// Replicas by partition, if the client chose them (then the two above must be -1).
    pub assignments: Vec<(i32, Vec<i32>)>,
    /// Configs, in the client's order; `None` is a null value.
    pub configs: Vec<(String, Option<String>)>,
}

/// Partitions to add, as a client asks for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewPartitions {
    /// The topic.
    pub name: String,
    /// Number of partitions afterwards.
    pub total: i32,
    /// Replicas of each added partition, if the client chose them.
    pub assignments: Option<Vec<Vec<i32>>>,
}

/// A change of a topic's configs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigChange {
    /// IncrementalAlterConfigs (KIP-339): these, and nothing else.
    Incremental(Vec<(String, ConfigOp)>),
    /// AlterConfigs: these, and everything else back to its default. `None` is a null value.
    Replace(Vec<(String, Option<String>)>),
}

/// A change of one config; values are `None` where the client sent null.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigOp {
    /// Sets it.
    Set(Option<String>),
    /// Back to its default.
    Delete,
    /// Adds to a list.
    Append(Option<String>),
    /// Takes out of a list.
    Subtract(Option<String>),
}

/// What is given when a request leaves it open, and where it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRules {
    /// Partitions of a topic created without a number.
    pub default_partitions: i32,
    /// Replication factor shown for a topic created without one.
    pub default_replication_factor: i16,
    /// The broker's defaults of topic configs.
    pub defaults: TopicDefaults,
    /// Most topics of the cluster.
    pub max_topics: usize,
    /// Most partitions of the cluster.
    pub max_partitions: usize,
}

impl Default for TopicRules {
    fn default() -> Self {
        Self {
            default_partitions: 1,
            default_replication_factor: 1,
            defaults: TopicDefaults::default(),
            max_topics: super::limits::DEFAULT_MAX_TOPICS,
            max_partitions: super::limits::DEFAULT_MAX_PARTITIONS,
        }
    }
}

/// Judges a topic name.
pub fn check_name(name: &str) -> Result<(), TopicError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let wrong = if name.is_empty() {
        "the empty string is not allowed".to_owned()
    } else if name == "." || name == ".." {
        format!("'{name}' is not allowed")
    } else if name.len() > MAX_TOPIC_NAME_CHARS {
        format!("the length of '{name}' is longer than the max allowed length {MAX_TOPIC_NAME_CHARS}")
    } else if !name.bytes().all(legal) {
        format!("'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'")
    } else {
        return Ok(());
    };
    Err(TopicError::InvalidName(format!("Topic name is invalid: {wrong}")))
}

/// Whether two names differ in nothing but '.' and '_' (their metrics would have one name).
pub fn collide(a: &str, b: &str) -> bool {
    let plain = |byte| if byte == b'.' { b'_' } else { byte };
    a.len() == b.len() && a.bytes().map(plain).eq(b.bytes().map(plain))
}

/// Plans topic after topic of one request, against the image and each other.
#[derive(Debug)]
pub struct Creation<'a> {
    image: &'a ClusterImage,
    rules: &'a TopicRules,
    /// Names planned so far.
    planned: Vec<String>,
    partitions: usize,
}

impl<'a> Creation<'a> {
    /// Nothing planned yet.
    pub fn new(image: &'a ClusterImage, rules: &'a TopicRules) -> Self {
        Self { image, rules, planned: Vec::new(), partitions: 0 }
    }

    /// The record of the topic, or why it cannot be created.
    pub fn plan(&mut self, new: &NewTopic, id: Uuid, now_ms: i64) -> Result<TopicRecord, TopicError> {
        check_name(&new.name)?;
        if self.image.topic(&new.name).is_some() {
            return Err(TopicError::AlreadyExists(new.name.clone()));
        }
        self.check_collision(&new.name)?;
        let configs = creation_configs(&new.configs)?;
        check_configs(&configs, &self.rules.defaults)?;
        let (partitions, replication_factor) = self.shape(new)?;
        self.check_limits(partitions)?;
        self.planned.push(new.name.clone());
        self.partitions += partitions as usize;
        Ok(TopicRecord { name: new.name.clone(), id, partitions, replication_factor, configs, created_ms: now_ms })
    }

    fn check_collision(&self, name: &str) -> Result<(), TopicError> {
        if !name.contains(['.', '_']) {
            return Ok(());
        }
        let existing = self.image.topics().map(|topic| topic.name.as_str());
        match existing.chain(self.planned.iter().map(String::as_str)).find(|other| collide(name, other)) {
            Some(other) => {
                Err(TopicError::InvalidName(format!("Topic '{name}' collides with existing topic: {other}")))
            }
            None => Ok(()),
        }
    }

    fn shape(&self, new: &NewTopic) -> Result<(u32, i16), TopicError> {
        if !new.assignments.is_empty() {
            return manual_shape(self.image, new);
        }
        if new.replication_factor < -1 || new.replication_factor == 0 {
            return Err(TopicError::InvalidReplicationFactor(
                "Replication factor must be larger than 0, or -1 to use the default value.".to_owned(),
            ));
        }
        if new.partitions < -1 || new.partitions == 0 {
            return Err(TopicError::InvalidPartitions(
                "Number of partitions was set to an invalid non-positive value.".to_owned(),
            ));
        }
        let partitions = if new.partitions == -1 { self.rules.default_partitions } else { new.partitions };
        let replication_factor =
            if new.replication_factor == -1 { self.rules.default_replication_factor } else { new.replication_factor };
        check_count(partitions)?;
        Ok((partitions as u32, replication_factor))
    }

    fn check_limits(&self, partitions: u32) -> Result<(), TopicError> {
        let topics = self.image.topic_count() + self.planned.len();
        if topics >= self.rules.max_topics {
            return Err(TopicError::LimitReached(format!(
                "The cluster has {topics} topics, topics.max_topics allows {}.",
                self.rules.max_topics
            )));
        }
        check_cluster_partitions(self.image.partition_count + self.partitions, partitions as usize, self.rules)
    }
}

fn check_count(partitions: i32) -> Result<(), TopicError> {
    if partitions as usize > MAX_PARTITIONS_PER_TOPIC {
        return Err(TopicError::InvalidPartitions(format!(
            "A topic can have at most {MAX_PARTITIONS_PER_TOPIC} partitions, not {partitions}."
        )));
    }
    Ok(())
}

fn check_cluster_partitions(existing: usize, added: usize, rules: &TopicRules) -> Result<(), TopicError> {
    if existing + added > rules.max_partitions {
        return Err(TopicError::LimitReached(format!(
            "The cluster has {existing} partitions and cannot have {added} more, topics.max_partitions allows {}.",
            rules.max_partitions
        )));
    }
    Ok(())
}

fn manual_shape(image: &ClusterImage, new: &NewTopic) -> Result<(u32, i16), TopicError> {
    for (given, what) in [(i32::from(new.replication_factor), "replication factor"), (new.partitions, "numPartitions")]
    {
        if given != -1 {
            return Err(TopicError::InvalidRequest(format!(
                "A manual partition assignment was specified, but {what} was not set to -1."
            )));
        }
    }
    let mut seen = BTreeSet::new();
    let mut factor = None;
    for (partition, replicas) in &new.assignments {
        if !seen.insert(*partition) {
            return Err(TopicError::InvalidAssignment(format!(
                "Found multiple manual partition assignments for partition {partition}"
            )));
        }
        check_replicas(image, replicas, factor)?;
        factor = Some(replicas.len());
    }
    if seen.iter().enumerate().any(|(at, partition)| i32::try_from(at) != Ok(*partition)) {
        return Err(TopicError::InvalidAssignment(
            "partitions should be a consecutive 0-based integer sequence".to_owned(),
        ));
    }
    check_count(i32::try_from(seen.len()).unwrap_or(i32::MAX))?;
    Ok((seen.len() as u32, factor.and_then(|factor| i16::try_from(factor).ok()).unwrap_or(1)))
}

fn check_replicas(image: &ClusterImage, replicas: &[i32], factor: Option<usize>) -> Result<(), TopicError> {
    let wrong = |text: String| Err(TopicError::InvalidAssignment(text));
    if replicas.is_empty() {
        return wrong("The manual partition assignment includes an empty replica list.".to_owned());
    }
    let mut seen = BTreeSet::new();
    for replica in replicas {
        if !seen.insert(replica) {
            return wrong(format!("The manual partition assignment includes the broker {replica} more than once."));
        }
        if !image.brokers.contains_key(replica) {
            return wrong(format!(
                "The manual partition assignment includes broker {replica}, but no such broker is registered."
            ));
        }
    }
    match factor {
        Some(factor) if factor != replicas.len() => wrong(format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is not consistent with \
             previous partitions, which have {factor} replica(s).",
            replicas.len()
        )),
        _ => Ok(()),
    }
}

fn creation_configs(given: &[(String, Option<String>)]) -> Result<Configs, TopicError> {
    let nulls: Vec<&str> = given.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name.as_str()).collect();
    if !nulls.is_empty() {
        return Err(TopicError::InvalidConfig(format!(
            "Null value not supported for topic configs: {}",
            nulls.join(",")
        )));
    }
    Ok(given.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect())
}

fn check_configs(configs: &Configs, defaults: &TopicDefaults) -> Result<(), TopicError> {
    let bytes: usize = configs.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_CONFIG_BYTES {
        return Err(TopicError::InvalidConfig(format!(
            "The configs of one topic may take {MAX_CONFIG_BYTES} bytes, these take {bytes}."
        )));
    }
    Ok(topic::validate(configs, defaults)?)
}

/// The assignment chunks of a new topic: epoch 0, no earlier stream. `leaders` has one session per partition.
pub fn first_chunks(leaders: &[SessionId]) -> Vec<AssignmentChunk> {
    let chunk = |leaders: &[SessionId]| AssignmentChunk {
        partitions: leaders.iter().map(|session| first_assignment(*session)).collect(),
    };
    leaders.chunks(PARTITIONS_PER_CHUNK).map(chunk).collect()
}

fn first_assignment(session: SessionId) -> AssignmentRecord {
    AssignmentRecord { session, leader_epoch: 0, from: Vec::new(), target: None, acquired: false }
}

/// What adding partitions (led by `leaders`, one for each) writes: the topic's new record and the chunks that change or are new, by chunk number.
pub fn plan_partitions(
    image: &ClusterImage,
    rules: &TopicRules,
    new: &NewPartitions,
    leaders: &[SessionId],
) -> Result<(TopicRecord, BTreeMap<u32, AssignmentChunk>), TopicError> {
    let topic = image.topic(&new.name).ok_or_else(|| TopicError::UnknownTopic(new.name.clone()))?;
    let current = topic.partitions.len();
    let wrong = |text: String| Err(TopicError::InvalidPartitions(text));
    let total = usize::try_from(new.total).unwrap_or(0);
    if total == current {
        return wrong(format!("Topic already has {current} partition(s)."));
    }
    if total < current {
        return wrong(format!(
            "The topic {} currently has {current} partition(s); {} would not be an increase.",
            new.name, new.total
        ));
    }
    check_count(new.total)?;
    if let Some(assignments) = &new.assignments {
        if assignments.len() != total - current {
            return Err(TopicError::InvalidAssignment(format!(
                "Attempted to add {} additional partition(s), but only {} assignment(s) were specified.",
                total - current,
                assignments.len()
            )));
        }
        for replicas in assignments {
            let factor = usize::try_from(topic.replication_factor).ok();
            check_replicas(image, replicas, factor)?;
        }
    }
    check_cluster_partitions(image.partition_count, total - current, rules)?;
    let mut partitions = topic.partitions.clone();
    partitions.extend(leaders.iter().take(total - current).map(|session| first_assignment(*session)));
    let first_chunk = current / PARTITIONS_PER_CHUNK;
    let chunks = partitions[first_chunk * PARTITIONS_PER_CHUNK..].chunks(PARTITIONS_PER_CHUNK);
    let chunks = chunks
        .zip(first_chunk as u32..)
        .map(|(chunk, number)| (number, AssignmentChunk { partitions: chunk.to_vec() }));
    let chunks = chunks.collect();
    Ok((TopicRecord { partitions: total as u32, ..record_of(topic) }, chunks))
}

/// The topic's record with changed configs, or `None` if nothing changes.
pub fn plan_configs(
    topic: &Topic,
    rules: &TopicRules,
    change: &ConfigChange,
) -> Result<Option<TopicRecord>, TopicError> {
    let configs = match change {
        ConfigChange::Replace(given) => creation_configs(given)?,
        ConfigChange::Incremental(changes) => {
            let mut configs = topic.configs.clone();
            let mut seen = BTreeSet::new();
            for (name, op) in changes {
                if !seen.insert(name) {
                    return Err(TopicError::InvalidRequest(format!(
                        "Error due to duplicate config keys: {name} is altered twice"
                    )));
                }
                apply_op(&mut configs, &rules.defaults, name, op)?;
            }
            configs
        }
    };
    check_configs(&configs, &rules.defaults)?;
    Ok((configs != topic.configs).then(|| TopicRecord { configs, ..record_of(topic) }))
}

fn apply_op(configs: &mut Configs, defaults: &TopicDefaults, name: &str, op: &ConfigOp) -> Result<(), TopicError> {
    let null = || TopicError::InvalidRequest(format!("Null value not supported for: {name}"));
    let list = |word: &str| match topic::find(name) {
        Some(config) if config.kind == topic::ConfigType::List => {
            let current = configs.get(name).map_or_else(|| defaults.value(config), String::as_str);
            Ok(current.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>())
        }
        _ => Err(TopicError::InvalidConfig(format!("Can't {word} to key {name} because its type is not LIST."))),
    };
    match op {
        ConfigOp::Set(value) => {
            configs.insert(name.to_owned(), value.clone().ok_or_else(null)?);
        }
        ConfigOp::Delete => {
            configs.remove(name);
        }
        ConfigOp::Append(value) => {
            let mut parts = list("APPEND")?;
            for part in value.as_ref().ok_or_else(null)?.split(',') {
                if !parts.iter().any(|have| have == part) {
                    parts.push(part.to_owned());
                }
            }
            configs.insert(name.to_owned(), parts.join(","));
        }
        ConfigOp::Subtract(value) => {
            let mut parts = list("SUBTRACT")?;
            for part in value.as_ref().ok_or_else(null)?.split(',') {
                if let Some(at) = parts.iter().position(|have| have == part) {
                    parts.remove(at);
                }
            }
            configs.insert(name.to_owned(), parts.join(","));
        }
    }
    Ok(())
}

/// The stored record of a topic.
pub fn record_of(topic: &Topic) -> TopicRecord {
    TopicRecord {
        name: topic.name.clone(),
        id: topic.id,
        partitions: topic.partitions.len() as u32,
        replication_factor: topic.replication_factor,
        configs: topic.configs.clone(),
        created_ms: topic.created_ms,
    }
}
