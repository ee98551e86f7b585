//! The durable state of one partition of `__consumer_offsets`: the fold of its records.
//!
//! Invariant: nothing but [`Store::apply`] changes it, and a live append, a load and a snapshot all go through it on the
//! same bytes, so replaying the log gives the state that the live coordinator had.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::records::{BadRecord, GroupValue, Key, OffsetValue};
use crate::coordinator::runtime::RawRecord;

/// Counted per record beside its key and value, for the record batch's own fields (upper bound), in bytes.
const RECORD_OVERHEAD_BYTES: u64 = 16;

/// What is stored of one group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredGroup {
    /// The newest group metadata record's value, as written; `None` for a simple group.
    pub value: Option<Bytes>,
    /// Committed offsets by topic and partition.
    pub offsets: BTreeMap<String, BTreeMap<i32, OffsetValue>>,
}

impl StoredGroup {
    fn is_empty(&self) -> bool {
        self.value.is_none() && self.offsets.is_empty()
    }
}

/// What [`Store::apply`] did with a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// The state took it in.
    Stored,
    /// A key of a type that is not served here; skipped.
    Skipped(i16),
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Store {
    groups: BTreeMap<String, StoredGroup>,
    live_bytes: u64,
    offsets: usize,
}

fn offset_bytes(group: &str, topic: &str, value: &OffsetValue) -> u64 {
    (group.len() + topic.len() + value.metadata.len()) as u64 + 36 + RECORD_OVERHEAD_BYTES
}

fn group_bytes(group: &str, value: &Bytes) -> u64 {
    (group.len() + value.len()) as u64 + 4 + RECORD_OVERHEAD_BYTES
}

impl Store {
    /// Takes in one record. An unreadable one changes nothing.
    pub fn apply(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<Applied, BadRecord> {
        match Key::decode(key)? {
            Key::Offset { group, topic, partition } => match value.map(OffsetValue::decode).transpose()? {
                Some(value) => self.put_offset(&group, &topic, partition, value),
                None => self.remove_offset(&group, &topic, partition),
            },
            Key::Group { group } => {
                if let Some(value) = value {
                    GroupValue::decode(value)?;
                }
                self.set_group(&group, value.map(Bytes::copy_from_slice));
            }
            Key::Unknown { version } => return Ok(Applied::Skipped(version)),
        }
        Ok(Applied::Stored)
    }

    fn put_offset(&mut self, group: &str, topic: &str, partition: i32, value: OffsetValue) {
        self.live_bytes += offset_bytes(group, topic, &value);
        let stored = self.groups.entry(group.to_owned()).or_default();
        let partitions = stored.offsets.entry(topic.to_owned()).or_default();
        match partitions.insert(partition, value) {
            Some(old) => self.live_bytes -= offset_bytes(group, topic, &old),
            None => self.offsets += 1,
        }
    }

    fn remove_offset(&mut self, group: &str, topic: &str, partition: i32) {
        let Some(stored) = self.groups.get_mut(group) else { return };
        let Some(partitions) = stored.offsets.get_mut(topic) else { return };
        if let Some(old) = partitions.remove(&partition) {
            self.live_bytes -= offset_bytes(group, topic, &old);
            self.offsets -= 1;
        }
        if partitions.is_empty() {
            stored.offsets.remove(topic);
        }
        if stored.is_empty() {
            self.groups.remove(group);
        }
    }

    fn set_group(&mut self, group: &str, value: Option<Bytes>) {
        self.live_bytes += value.as_ref().map_or(0, |value| group_bytes(group, value));
        let stored = self.groups.entry(group.to_owned()).or_default();
        if let Some(old) = std::mem::replace(&mut stored.value, value) {
            self.live_bytes -= group_bytes(group, &old);
        }
        if stored.is_empty() {
            self.groups.remove(group);
        }
    }

    /// What is stored of `group`.
    pub fn group(&self, group: &str) -> Option<&StoredGroup> {
        self.groups.get(group)
    }

    /// Every group, in order of its id.
    pub fn groups(&self) -> impl Iterator<Item = (&str, &StoredGroup)> {
        self.groups.iter().map(|(id, stored)| (id.as_str(), stored))
    }

    /// A committed offset.
    pub fn offset(&self, group: &str, topic: &str, partition: i32) -> Option<&OffsetValue> {
        self.groups.get(group)?.offsets.get(topic)?.get(&partition)
    }

    /// About how many bytes the records of the live state take in the log.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// How many offsets are stored.
    pub fn offsets(&self) -> usize {
        self.offsets
    }

    /// Whole groups as records, from the one after `after` (from the first for `None`), until at least `enough_bytes` are
    /// gathered; with the id of the last group, or `None` when there are no more.
    ///
    /// Applying all slices in order to an empty store gives this store. Records appended between two slices do not
    /// matter: a slice holds the values of its own moment and the log holds the later ones behind it.
    pub fn snapshot(&self, after: Option<&str>, enough_bytes: usize) -> (Vec<RawRecord>, Option<String>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut records = Vec::new();
        let mut bytes = 0;
        for (group, stored) in self.groups.range::<str, _>((from, Bound::Unbounded)) {
            let first = records.len();
            if let Some(value) = &stored.value {
                records.push(RawRecord { key: Key::group(group), value: Some(value.clone()) });
            }
            for (topic, partitions) in &stored.offsets {
                for (partition, value) in partitions {
                    let encoded = value.encode(value.version());
                    records.push(RawRecord { key: Key::offset(group, topic, *partition), value: Some(encoded) });
                }
            }
            bytes += records[first..].iter().map(RawRecord::bytes).sum::<usize>();
            if bytes >= enough_bytes {
                return (records, Some(group.clone()));
            }
        }
        (records, None)
    }
}
