//! Any durable object in words. Pure: bytes come in, a description goes out, up to where the bytes are broken.
//!
//! A description is what `--json` prints; [`super::text`] prints the same for people. Nothing here panics, whatever the bytes.

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::super::words;
use super::state::{Run, State};
use crate::base::{SessionId, TopicPartition};
use crate::format::catalogue::CatalogueBackup;
use crate::format::checkpoint;
use crate::format::entry::{BatchFacts, Entry};
use crate::format::frame::FRAME_HEADER_BYTES;
use crate::format::identity::Identity;
use crate::format::keys;
use crate::format::metalog::{self, Operation};
use crate::format::prelude::{ObjectKind, PRELUDE_BYTES, Prelude};
use crate::format::segment::{MAX_SEGMENT_BYTES, read_footer};
use crate::protocol::batch::{Compression, records_within};
use crate::wal::{ScannedEntry, scan_object};

/// Most bytes that the records of one batch are decompressed to.
const RECORDS_LIMIT_BYTES: usize = 64 << 20;

/// An object, and what is wrong with it.
#[derive(Debug, Serialize)]
pub struct Description {
    /// Its key, or its file.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// What it is and holds.
    #[serde(flatten)]
    pub content: Content,
    /// Worth knowing, and in order.
    pub notes: Vec<String>,
    /// What is broken; empty if nothing is.
    pub problems: Vec<String>,
}

/// What an object is and holds.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Content {
    /// Batches and control entries; also a write-ahead file.
    Segment(Segment),
    /// A compacted run: its `seq` is its number.
    Run(Segment),
    /// The end of a stream.
    Seal(Head),
    /// The states of a session's partitions.
    Checkpoint(Checkpoint),
    /// A backup of the catalogue.
    Catalogue {
        /// All of it.
        backup: Box<CatalogueBackup>,
    },
    /// `VERSION` of a data directory, or `cluster` of a bucket.
    Identity {
        /// What it belongs to, by name.
        fields: Vec<(&'static str, String)>,
    },
    /// The file of the embedded metadata store.
    Metalog(Metalog),
    /// None of these.
    Unknown,
}

/// What the first bytes say.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Head {
    /// Whose stream it is of.
    #[serde(serialize_with = "as_text")]
    pub session: SessionId,
    /// Its place in the stream.
    pub seq: u64,
    /// Unique id of the write.
    pub object_id: uuid::Uuid,
}

/// A segment or write-ahead file.
#[derive(Debug, Serialize)]
pub struct Segment {
    /// The first bytes.
    #[serde(flatten)]
    pub head: Head,
    /// It has a footer that can be read.
    pub has_footer: bool,
    /// Its whole frames, in order.
    pub frames: Vec<Frame>,
}

/// One entry.
#[derive(Debug, Serialize)]
pub struct Frame {
    /// Where it stands, in bytes.
    pub position: u32,
    /// Its length in bytes.
    pub bytes: u32,
    /// Whose it is.
    #[serde(flatten)]
    pub partition: Partition,
    /// What it says.
    #[serde(flatten)]
    pub entry: Said,
}

/// A partition.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Partition {
    /// The topic's id.
    pub topic_id: uuid::Uuid,
    /// Index.
    pub partition: i32,
}

/// What an entry says.
#[derive(Debug, Serialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Said {
    /// Records.
    Batch(Box<Batch>),
    /// The stream has the partition from here on.
    Acquired {
        /// In this state.
        state: State,
    },
    /// The stream gave the partition away.
    Released {
        /// In this state.
        state: State,
    },
    /// Records before this offset are gone.
    LogStartMoved {
        /// New log start.
        log_start: i64,
    },
    /// Idle producers were forgotten.
    ProducersExpired {
        /// Those that last wrote at or before this time, in milliseconds since the Unix epoch.
        up_to_ms: i64,
    },
    /// The partition was deleted.
    Dropped,
    /// Batches are read from other objects from here on.
    RunsReplaced {
        /// From these.
        runs: Vec<Run>,
    },
}

/// A record batch.
#[derive(Debug, Serialize)]
pub struct Batch {
    /// First offset.
    pub base_offset: i64,
    /// Last offset (inclusive).
    pub last_offset: i64,
    /// `none`, `gzip`, …
    pub compression: &'static str,
    /// Largest timestamp in milliseconds since the Unix epoch.
    pub max_timestamp: i64,
    /// Broker's time of writing in milliseconds since the Unix epoch.
    pub append_ms: i64,
    /// Under which it was appended.
    pub leader_epoch: i32,
    /// Idempotent producer.
    pub producer: Option<Producer>,
    /// It belongs to a transaction.
    pub transactional: bool,
    /// It is the marker that ends a transaction: `commit` or `abort`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marker: Option<&'static str>,
    /// Its records, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<Vec<Record>>,
}

/// Who wrote a batch, idempotently.
#[derive(Debug, Clone, Copy, Serialize)]
#[expect(clippy::struct_field_names, reason = "as Kafka calls them")]
pub struct Producer {
    /// Its id.
    pub producer_id: i64,
    /// Its epoch.
    pub producer_epoch: i16,
    /// Sequence of the first record.
    pub base_sequence: i32,
}

/// One record.
#[derive(Debug, Serialize)]
pub struct Record {
    /// Its offset.
    pub offset: i64,
    /// In milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// Key.
    pub key: Option<Data>,
    /// Value; `None` is a tombstone.
    pub value: Option<Data>,
    /// Headers in order.
    pub headers: Vec<(Data, Option<Data>)>,
}

/// Bytes of a record: a string in JSON if they are text, otherwise `{"hex": "…"}`.
#[derive(Debug, Clone)]
pub struct Data(pub Bytes);

impl Serialize for Data {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        if let Ok(text) = std::str::from_utf8(&self.0) {
            return to.serialize_str(text);
        }
        let mut map = to.serialize_map(Some(1))?;
        map.serialize_entry("hex", &words::hex(&self.0))?;
        map.end()
    }
}

/// A checkpoint.
#[derive(Debug, Serialize)]
pub struct Checkpoint {
    /// The first bytes; `seq` is the last segment that was folded in.
    #[serde(flatten)]
    pub head: Head,
    /// Each partition, in order.
    pub partitions: Vec<Saved>,
}

/// A partition of a checkpoint.
#[derive(Debug, Serialize)]
pub struct Saved {
    /// Which.
    #[serde(flatten)]
    pub partition: Partition,
    /// Where its state stands, in bytes.
    pub position: u64,
    /// The state's length in bytes.
    pub bytes: u64,
    /// Its state; `None` if it is damaged.
    pub state: Option<State>,
}

/// What the file of the embedded metadata store holds.
#[derive(Debug, Serialize)]
pub struct Metalog {
    /// The store's revision.
    pub revision: u64,
    /// Records of the file.
    pub records: usize,
    /// The keys, in order.
    pub entries: Vec<Stored>,
}

/// A key of the metadata store.
#[derive(Debug, Clone, Serialize)]
pub struct Stored {
    /// The key.
    pub key: String,
    /// Revision of its last write.
    pub mod_revision: u64,
    /// Lease that it hangs on; 0 for none.
    pub lease: i64,
    /// The value; a string if it is no JSON.
    pub value: Value,
    /// The value in words.
    pub words: String,
}

fn as_text<S: serde::Serializer>(session: &SessionId, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(session)
}

impl From<TopicPartition> for Partition {
    fn from(TopicPartition { topic_id, partition }: TopicPartition) -> Self {
        Self { topic_id, partition }
    }
}

impl From<Prelude> for Head {
    fn from(prelude: Prelude) -> Self {
        Self { session: prelude.session, seq: prelude.seq, object_id: prelude.object_id }
    }
}

/// Describes the object or file `name`. With `with_records`, also the records of batches.
pub fn describe(name: &str, object: &Bytes, with_records: bool) -> Description {
    let mut description = Description {
        name: name.to_owned(),
        bytes: object.len() as u64,
        content: Content::Unknown,
        notes: Vec::new(),
        problems: Vec::new(),
    };
    let (notes, problems) = (&mut description.notes, &mut description.problems);
    let content = match first_bytes(object) {
        First::Esker => match Prelude::decode(object) {
            Err(error) => {
                problems.push(format!("at byte 0: {error}"));
                Content::Unknown
            }
            Ok(prelude) => {
                check_name(name, &prelude, problems);
                match prelude.kind {
                    ObjectKind::Segment => Content::Segment(segment(prelude, object, with_records, notes, problems)),
                    ObjectKind::Run => Content::Run(segment(prelude, object, with_records, notes, problems)),
                    ObjectKind::Checkpoint => saved_states(prelude, object, problems),
                    ObjectKind::Seal => {
                        if object.len() > PRELUDE_BYTES {
                            problems.push(format!("{} bytes follow the seal", object.len() - PRELUDE_BYTES));
                        }
                        Content::Seal(prelude.into())
                    }
                }
            }
        },
        First::Metalog => metadata_file(object, notes, problems),
        First::Catalogue => match CatalogueBackup::decode(object) {
            Ok(backup) => Content::Catalogue { backup: Box::new(backup) },
            Err(error) => unreadable(&error, problems),
        },
        First::Identity => match Identity::decode(object) {
            Ok(identity) => Content::Identity { fields: identity_fields(&identity) },
            Err(error) => unreadable(&error, problems),
        },
        First::Other => {
            let shown = words::bytes(&object[..object.len().min(16)], 16);
            problems.push(format!(
                "this is nothing that Esker wrote, or its first bytes are damaged: it begins with {shown}"
            ));
            Content::Unknown
        }
    };
    Description { content, ..description }
}

/// What an object's first bytes promise.
enum First {
    Esker,
    Metalog,
    Catalogue,
    Identity,
    Other,
}

fn first_bytes(object: &[u8]) -> First {
    match object.get(..8).unwrap_or(object) {
        b"ESKRSEGM" | b"ESKRSEAL" | b"ESKRCKPT" | b"ESKRRUNS" => First::Esker,
        b"ESKRMETA" => First::Metalog,
        _ if object.starts_with(b"esker catalogue\n") => First::Catalogue,
        _ if object.starts_with(b"esker ") => First::Identity,
        _ => First::Other,
    }
}

fn unreadable(error: &impl std::fmt::Display, problems: &mut Vec<String>) -> Content {
    problems.push(error.to_string());
    Content::Unknown
}

/// An object that lies under another's key is as bad as a damaged one.
fn check_name(name: &str, prelude: &Prelude, problems: &mut Vec<String>) {
    let run = || keys::parse_run(name).map(|(session, number, _)| (session, number));
    let key = keys::parse_segment(name).or_else(|| keys::parse_checkpoint(name)).or_else(run);
    if let Some((session, seq)) = key
        && (session, seq) != (prelude.session, prelude.seq)
    {
        problems.push(format!("it says that it is seq {} of session {}", prelude.seq, prelude.session));
    }
}

fn segment(
    prelude: Prelude,
    object: &Bytes,
    with_records: bool,
    notes: &mut Vec<String>,
    problems: &mut Vec<String>,
) -> Segment {
    let mut segment = Segment { head: prelude.into(), has_footer: false, frames: Vec::new() };
    if object.len() as u64 > MAX_SEGMENT_BYTES {
        problems.push(format!("it is longer than a segment can be ({MAX_SEGMENT_BYTES} bytes)"));
        return segment;
    }
    let footer = read_footer(object);
    let scan = match scan_object(object) {
        Ok(scan) => scan,
        Err(error) => {
            problems.push(error.to_string());
            return segment;
        }
    };
    match &footer {
        Ok((trailer, footer)) => {
            segment.has_footer = true;
            if let Some(error) = &scan.torn {
                let left = trailer.footer_position.saturating_sub(scan.frames_end);
                problems.push(format!(
                    "at byte {}: {error}; the {left} bytes up to the footer are left out",
                    scan.frames_end
                ));
            } else if *footer != scan.footer() {
                problems.push("the footer does not tell what the frames are".to_owned());
            }
        }
        Err(error) => {
            problems.push(format!("it has no footer that can be read: {error}"));
            let left = object.len() - scan.frames_end as usize;
            if left > 0 {
                notes.push(format!("whole frames end at byte {}, {left} bytes follow", scan.frames_end));
            }
        }
    }
    segment.frames = scan.entries.into_iter().map(|scanned| frame(scanned, object, with_records, problems)).collect();
    segment
}

fn frame(scanned: ScannedEntry, object: &Bytes, with_records: bool, problems: &mut Vec<String>) -> Frame {
    let ScannedEntry { partition, entry, position, frame_bytes } = scanned;
    let mut said = said(&entry);
    if let (Said::Batch(batch), true) = (&mut said, with_records) {
        let end = position as usize + frame_bytes as usize;
        let payload = object.slice((position as usize + FRAME_HEADER_BYTES).min(end)..end);
        batch.records = Some(records_of(&payload, position, problems));
    }
    Frame { position, bytes: frame_bytes, partition: partition.into(), entry: said }
}

fn said(entry: &Entry) -> Said {
    match entry {
        Entry::Batch(facts) => Said::Batch(Box::new(batch(facts))),
        Entry::Acquired(state) => Said::Acquired { state: (&**state).into() },
        Entry::Released(state) => Said::Released { state: (&**state).into() },
        Entry::LogStartMoved { log_start } => Said::LogStartMoved { log_start: *log_start },
        Entry::ProducersExpired { up_to_ms } => Said::ProducersExpired { up_to_ms: *up_to_ms },
        Entry::RunsReplaced(runs) => Said::RunsReplaced { runs: runs.iter().map(Run::from).collect() },
        Entry::Dropped => Said::Dropped,
    }
}

fn batch(facts: &BatchFacts) -> Batch {
    let compression = match Compression::from_id(facts.attributes & 0x07) {
        Some(Compression::None) => "none",
        Some(Compression::Gzip) => "gzip",
        Some(Compression::Snappy) => "snappy",
        Some(Compression::Lz4) => "lz4",
        Some(Compression::Zstd) => "zstd",
        None => "unknown",
    };
    let producer = (facts.producer_id >= 0).then_some(Producer {
        producer_id: facts.producer_id,
        producer_epoch: facts.producer_epoch,
        base_sequence: facts.base_sequence,
    });
    Batch {
        base_offset: facts.base_offset,
        last_offset: facts.last_offset,
        compression,
        max_timestamp: facts.max_timestamp,
        append_ms: facts.append_ms,
        leader_epoch: facts.leader_epoch,
        producer,
        transactional: facts.is_transactional(),
        marker: facts.marker.map(|marker| if marker.commit { "commit" } else { "abort" }),
        records: None,
    }
}

fn records_of(batch: &Bytes, position: u32, problems: &mut Vec<String>) -> Vec<Record> {
    let mut taken = Vec::new();
    let read = records_within(batch, RECORDS_LIMIT_BYTES).and_then(|records| {
        for record in records {
            let record = record?;
            let headers = record.headers.into_iter().map(|(name, value)| (Data(name), value.map(Data)));
            taken.push(Record {
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key.map(Data),
                value: record.value.map(Data),
                headers: headers.collect(),
            });
        }
        Ok(())
    });
    if let Err(error) = read {
        problems.push(format!("the records of the batch at byte {position}: {error}"));
    }
    taken
}

fn saved_states(prelude: Prelude, object: &Bytes, problems: &mut Vec<String>) -> Content {
    let mut partitions = Vec::new();
    match checkpoint::read_index(object) {
        Err(error) => problems.push(error.to_string()),
        Ok((_, index)) => {
            for located in index {
                let (start, end) = (located.range.start, located.range.end);
                let bytes = object.get(start as usize..end as usize).unwrap_or_default();
                let state = match located.decode(bytes) {
                    Ok(state) => Some((&state).into()),
                    Err(error) => {
                        problems.push(format!("the state of partition {} at byte {start}: {error}", located.partition));
                        None
                    }
                };
                let partition = located.partition.into();
                partitions.push(Saved { partition, position: start, bytes: end - start, state });
            }
        }
    }
    Content::Checkpoint(Checkpoint { head: prelude.into(), partitions })
}

fn metadata_file(object: &Bytes, notes: &mut Vec<String>, problems: &mut Vec<String>) -> Content {
    let mut found = Metalog { revision: 0, records: 0, entries: Vec::new() };
    match metalog::scan(object) {
        Err(error) => problems.push(error.to_string()),
        Ok((records, good)) => {
            if good < object.len() {
                notes.push(format!(
                    "{} bytes at the end are a change that was not finished; the next start cuts them off",
                    object.len() - good
                ));
            }
            found.records = records.len();
            let mut entries = std::collections::BTreeMap::new();
            for record in records {
                found.revision = record.revision;
                for operation in record.operations {
                    match operation {
                        Operation::Put { key, mod_revision, lease, value, .. } => {
                            entries.insert(key, (mod_revision, lease, value));
                        }
                        Operation::Delete { key } => {
                            entries.remove(&key);
                        }
                    }
                }
            }
            let stored = entries.into_iter().map(|(key, (revision, lease, value))| {
                super::metadata::stored(&key, revision, lease, &value, problems)
            });
            found.entries = stored.collect();
        }
    }
    Content::Metalog(found)
}

fn identity_fields(identity: &Identity) -> Vec<(&'static str, String)> {
    match identity {
        Identity::DataDirectory { cluster_id, directory_id, broker_id } => vec![
            ("of", "a data directory".to_owned()),
            ("cluster", cluster_id.clone()),
            ("directory", directory_id.to_string()),
            ("broker", broker_id.to_string()),
        ],
        Identity::ObjectStore { cluster_id, epoch_base } => vec![
            ("of", "an object store".to_owned()),
            ("cluster", cluster_id.clone()),
            ("epochs", format!("from {epoch_base}")),
        ],
    }
}
