//! Folds the metadata store's keys into [`ClusterImage`]s. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use uuid::Uuid;

use super::image::{ClusterImage, Topic, is_internal};
use super::keys::{Key, KeySpace};
use crate::config::topic::{TopicDefaults, TopicSettings};
use crate::format::metadata::{
    AssignmentChunk, AssignmentRecord, BrokerRecord, ClusterRecord, ControllerRecord, DeletionRecord, MetadataError,
    MetadataValue, ProducerIdRecord, SessionRecord, TopicRecord,
};
use crate::meta::{Event, KeyValue};

/// The records that images are made of, as last read.
#[derive(Debug)]
pub struct Fold {
    keys: KeySpace,
    defaults: TopicDefaults,
    image: ClusterImage,
    topics: HashMap<String, (TopicRecord, u64)>,
    names: HashMap<Uuid, String>,
    chunks: HashMap<Uuid, BTreeMap<u32, (AssignmentChunk, u64)>>,
    /// Topics touched since the last image.
    touched: Vec<Uuid>,
}

impl Fold {
    /// Nothing read yet.
    pub fn new(keys: KeySpace, defaults: TopicDefaults) -> Self {
        Self {
            keys,
            defaults,
            image: ClusterImage::default(),
            topics: HashMap::new(),
            names: HashMap::new(),
            chunks: HashMap::new(),
            touched: Vec::new(),
        }
    }

    /// Forgets everything and reads a whole snapshot.
    pub fn load(&mut self, entries: &[KeyValue], revision: u64) -> Result<(), MetadataError> {
        let mut fresh = Self::new(self.keys.clone(), self.defaults.clone());
        for entry in entries {
            fresh.put(entry)?;
        }
        fresh.image.version = revision;
        *self = fresh;
        Ok(())
    }

    /// Takes one change. `Event::Resync` is the caller's to handle.
    pub fn apply(&mut self, event: &Event) -> Result<(), MetadataError> {
        match event {
            Event::Put(entry) => {
                self.put(entry)?;
                self.image.version = self.image.version.max(entry.mod_revision);
            }
            Event::Delete { key, revision } => {
                self.delete(key);
                self.image.version = self.image.version.max(*revision);
            }
            Event::Resync => {}
        }
        Ok(())
    }

    fn put(&mut self, entry: &KeyValue) -> Result<(), MetadataError> {
        let Some(key) = self.keys.parse(&entry.key) else { return Ok(()) };
        match key {
            Key::Cluster => {
                let record = ClusterRecord::decode(&entry.key, &entry.value)?;
                self.image.cluster_id = record.cluster_id;
                self.image.created_ms = record.created_ms;
            }
            Key::Controller => {
                self.image.controller = Some(ControllerRecord::decode(&entry.key, &entry.value)?.session);
                self.image.controller_revision = entry.mod_revision;
            }
            Key::Broker(id) => {
                self.image.brokers.insert(id, Arc::new(BrokerRecord::decode(&entry.key, &entry.value)?));
            }
            Key::Topic(name) => {
                let record = TopicRecord::decode(&entry.key, &entry.value)?;
                self.touched.push(record.id);
                self.names.insert(record.id, name.clone());
                if let Some((old, _)) = self.topics.insert(name, (record, entry.mod_revision)) {
                    self.touched.push(old.id);
                }
            }
            Key::Assignments(topic_id, chunk) => {
                let record = AssignmentChunk::decode(&entry.key, &entry.value)?;
                self.chunks.entry(topic_id).or_default().insert(chunk, (record, entry.mod_revision));
                self.touched.push(topic_id);
            }
            Key::Deletion(topic_id) => {
                let record = DeletionRecord::decode(&entry.key, &entry.value)?;
                self.image.deletions.insert(topic_id, Arc::new(record));
            }
            Key::Claim(id) => {
                self.image.claims.insert(id, self.keys.epoch(entry.mod_revision));
            }
            Key::Session(session) => {
                self.image.sessions.insert(session, SessionRecord::decode(&entry.key, &entry.value)?.sealed);
            }
            Key::ProducerIds => {
                self.image.next_producer_id = ProducerIdRecord::decode(&entry.key, &entry.value)?.next_id;
            }
            Key::Rebuild => {}
        }
        Ok(())
    }

    fn delete(&mut self, key: &str) {
        match self.keys.parse(key) {
            Some(Key::Controller) => {
                self.image.controller = None;
                self.image.controller_revision = 0;
            }
            Some(Key::Broker(id)) => {
                self.image.brokers.remove(&id);
            }
            Some(Key::Topic(name)) => {
                if let Some((record, _)) = self.topics.remove(&name) {
                    self.names.remove(&record.id);
                    self.touched.push(record.id);
                }
            }
            Some(Key::Assignments(topic_id, chunk)) => {
                if let Some(chunks) = self.chunks.get_mut(&topic_id) {
                    chunks.remove(&chunk);
                    if chunks.is_empty() {
                        self.chunks.remove(&topic_id);
                    }
                }
                self.touched.push(topic_id);
            }
            Some(Key::Deletion(topic_id)) => {
                self.image.deletions.remove(&topic_id);
            }
            Some(Key::Claim(id)) => {
                self.image.claims.remove(&id);
            }
            Some(Key::Session(session)) => {
                self.image.sessions.remove(&session);
            }
            Some(Key::Cluster | Key::ProducerIds | Key::Rebuild) | None => {}
        }
    }

    /// The image of everything applied so far.
    pub fn image(&mut self) -> ClusterImage {
        self.touched.sort_unstable();
        self.touched.dedup();
        for id in std::mem::take(&mut self.touched) {
            let old = self.image.by_id.remove(&id);
            if let Some(old) = old {
                self.image.partition_count -= old.partitions.len();
                // A topic created again under the same name may already stand there.
                if self.image.by_name.get(old.name.as_str()).is_some_and(|topic| topic.id == id) {
                    self.image.by_name.remove(old.name.as_str());
                }
            }
            if let Some(topic) = self.assemble(id) {
                let topic = Arc::new(topic);
                self.image.partition_count += topic.partitions.len();
                self.image.by_name.insert(Arc::from(topic.name.as_str()), topic.clone());
                self.image.by_id.insert(id, topic);
            }
        }
        self.image.clone()
    }

    /// The topic, if its record and all its chunks are there.
    fn assemble(&self, id: Uuid) -> Option<Topic> {
        let (record, mod_revision) = self.topics.get(self.names.get(&id)?)?;
        if record.id != id {
            return None;
        }
        let chunks = self.chunks.get(&id)?;
        let partitions: Vec<AssignmentRecord> =
            chunks.values().flat_map(|(chunk, _)| chunk.partitions.iter().cloned()).collect();
        let whole = chunks.keys().enumerate().all(|(at, chunk)| *chunk as usize == at);
        if !whole || partitions.len() != record.partitions as usize {
            return None;
        }
        Some(Topic {
            name: record.name.clone(),
            id,
            internal: is_internal(&record.name),
            replication_factor: record.replication_factor,
            configs: record.configs.clone(),
            settings: TopicSettings::resolve(&record.configs, &self.defaults),
            created_ms: record.created_ms,
            partitions,
            mod_revision: *mod_revision,
            chunk_revisions: chunks.values().map(|(_, revision)| *revision).collect(),
        })
    }
}
