//! Streams: all of a store in a table, or one from its first object to its seal.

use std::fmt::Write as _;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::super::table::aligned;
use super::super::words::{count, size, time};
use super::state::State;
use super::text;
use crate::base::SessionId;
use crate::format::keys;
use crate::format::prelude::PRELUDE_BYTES;
use crate::format::segment::{Footer, Indexed, Section, TRAILER_BYTES, Trailer};
use crate::objstore::{ObjectMeta, ObjectStore};
use crate::partition::stream::load_stream;

/// Objects that are read at the same time.
const PARALLEL_READS: usize = 8;

/// What is printed, and whether all is well.
pub struct Told {
    /// For people.
    pub text: String,
    /// For programs.
    pub json: Value,
    /// What is broken.
    pub problems: Vec<String>,
}

/// The objects of one stream, as a listing shows them.
#[derive(Debug, Default)]
struct Listed {
    objects: BTreeMap<u64, ObjectMeta>,
    checkpoints: BTreeMap<u64, ObjectMeta>,
}

impl Listed {
    /// Seqs that are missing between the first and the last object.
    fn gaps(&self) -> Vec<std::ops::Range<u64>> {
        let seqs = self.objects.keys().zip(self.objects.keys().skip(1));
        seqs.filter(|(seq, next)| **next > **seq + 1).map(|(seq, next)| seq + 1..*next).collect()
    }

    fn sealed_at(&self) -> Option<u64> {
        let mut seals = self.objects.iter().filter(|(_, meta)| meta.size_bytes == PRELUDE_BYTES as u64);
        seals.next().map(|(seq, _)| *seq)
    }

    fn bytes(&self) -> u64 {
        self.objects.values().chain(self.checkpoints.values()).map(|meta| meta.size_bytes).sum()
    }
}

/// Every stream of the store.
pub async fn all(store: &Arc<dyn ObjectStore>) -> anyhow::Result<Told> {
    let mut streams: BTreeMap<SessionId, Listed> = BTreeMap::new();
    let mut listing = store.list(keys::LOG_PREFIX, None);
    while let Some(meta) = listing.try_next().await? {
        if let Some((session, seq)) = keys::parse_segment(&meta.key) {
            streams.entry(session).or_default().objects.insert(seq, meta);
        }
    }
    let mut listing = store.list(keys::CHECKPOINT_PREFIX, None);
    while let Some(meta) = listing.try_next().await? {
        if let Some((session, seq)) = keys::parse_checkpoint(&meta.key) {
            streams.entry(session).or_default().checkpoints.insert(seq, meta);
        }
    }
    let row = |(session, listed): (&SessionId, &Listed)| {
        let range = match (listed.objects.first_key_value(), listed.objects.last_key_value()) {
            (Some((first, _)), Some((last, _))) => format!("{first}..={last}"),
            _ => "-".to_owned(),
        };
        let sealed = listed.sealed_at().map_or("open".to_owned(), |seq| format!("sealed at {seq}"));
        let newest = listed.objects.values().chain(listed.checkpoints.values()).map(|meta| meta.modified_ms).max();
        vec![
            session.to_string(),
            listed.objects.len().to_string(),
            range,
            listed.checkpoints.len().to_string(),
            size(listed.bytes()),
            newest.map_or("-".to_owned(), time),
            sealed,
        ]
    };
    let rows: Vec<Vec<String>> = streams.iter().map(row).collect();
    let text = aligned(&["SESSION", "OBJECTS", "SEQS", "CHECKPOINTS", "BYTES", "NEWEST", "END"], &rows);
    let json = streams.iter().map(|(session, listed)| {
        json!({
            "session": session.to_string(),
            "objects": listed.objects.len(),
            "first_seq": listed.objects.first_key_value().map(|(seq, _)| seq),
            "last_seq": listed.objects.last_key_value().map(|(seq, _)| seq),
            "checkpoints": listed.checkpoints.keys().collect::<Vec<_>>(),
            "bytes": listed.bytes(),
            "sealed_at": listed.sealed_at(),
        })
    });
    Ok(Told { text, json: json.collect::<Vec<_>>().into(), problems: Vec::new() })
}

/// One stream. `progress` hears how many of how many objects are read.
pub async fn one(
    store: &Arc<dyn ObjectStore>,
    session: SessionId,
    runs: bool,
    mut progress: impl FnMut(usize, usize),
) -> anyhow::Result<Told> {
    let mut listed = Listed::default();
    let objects: Vec<ObjectMeta> = store.list(&keys::stream_prefix(session), None).try_collect().await?;
    listed.objects.extend(objects.into_iter().filter_map(|meta| Some((keys::parse_segment(&meta.key)?.1, meta))));
    let objects: Vec<ObjectMeta> = store.list(&keys::checkpoints_prefix(session), None).try_collect().await?;
    listed
        .checkpoints
        .extend(objects.into_iter().filter_map(|meta| Some((keys::parse_checkpoint(&meta.key)?.1, meta))));
    if listed.objects.is_empty() && listed.checkpoints.is_empty() {
        anyhow::bail!("there is nothing of session {session} in {store:?}; 'esker inspect stream' lists the streams");
    }
    let mut problems = Vec::new();
    let reads: Vec<_> = listed.objects.iter().map(|(seq, meta)| footer(store.clone(), *seq, meta.clone())).collect();
    let mut reads = stream::iter(reads).buffered(PARALLEL_READS);
    let (mut rows, mut objects) = (Vec::new(), Vec::new());
    let gaps = listed.gaps();
    while let Some((seq, meta, read)) = reads.next().await {
        if let Some(gap) = gaps.iter().find(|gap| gap.end == seq) {
            let missing = format!("{}..={}", gap.start, gap.end - 1);
            problems.push(format!(
                "seqs {missing} are missing: what follows was never committed, unless they were removed or are being \
                 uploaded at this moment"
            ));
            rows.push(vec![missing.clone(), "-".to_owned(), "-".to_owned(), "MISSING".to_owned()]);
            objects.push(json!({ "first_seq": gap.start, "last_seq": gap.end - 1, "kind": "missing" }));
        }
        let (words, value) = match read {
            Ok(found) => (found.words(), found.json()),
            Err(error) => {
                problems.push(format!("object '{}': {error}", meta.key));
                (format!("DAMAGED: {error}"), json!({ "kind": "damaged", "problem": error }))
            }
        };
        rows.push(vec![seq.to_string(), size(meta.size_bytes), time(meta.modified_ms), words]);
        let mut object =
            json!({ "seq": seq, "key": meta.key, "bytes": meta.size_bytes, "modified_ms": meta.modified_ms });
        if let (Value::Object(object), Value::Object(value)) = (&mut object, value) {
            object.extend(value);
        }
        objects.push(object);
        progress(objects.len(), listed.objects.len());
    }
    let mut text = format!("session  {session} (broker {}, epoch {})\n", session.broker_id, session.epoch);
    let checkpoints: Vec<String> = listed.checkpoints.keys().map(ToString::to_string).collect();
    let after = if checkpoints.is_empty() { "none".to_owned() } else { format!("after {}", checkpoints.join(", ")) };
    let _ = writeln!(text, "checkpoints  {after}\n");
    text.push_str(&aligned(&["SEQ", "BYTES", "WRITTEN", "HOLDS"], &rows));
    let mut partitions = Vec::new();
    match load_stream(store, session).await {
        Err(error) => problems.push(error.to_string()),
        Ok(state) => {
            let end = if state.sealed { "sealed at" } else { "next is" };
            let _ = writeln!(
                text,
                "\n{end} seq {}; {} at its end:",
                state.next_seq,
                count(state.partitions.len(), "partition")
            );
            for (partition, state) in &state.partitions {
                let state = State::from(state);
                let _ = writeln!(text, "{partition}  {}", state.words());
                if runs {
                    text.push_str(&text::runs(&state.runs));
                }
                partitions
                    .push(json!({ "topic_id": partition.topic_id, "partition": partition.partition, "state": state }));
            }
        }
    }
    for problem in &problems {
        let _ = writeln!(text, "DAMAGED  {problem}");
    }
    let json = json!({
        "session": session.to_string(),
        "sealed_at": listed.sealed_at(),
        "checkpoints": listed.checkpoints.keys().collect::<Vec<_>>(),
        "objects": objects,
        "partitions": partitions,
        "problems": problems,
    });
    Ok(Told { text, json, problems })
}

/// What an object of a stream is.
enum Found {
    Seal,
    Segment(Footer),
}

impl Found {
    fn json(&self) -> Value {
        match self {
            Self::Seal => json!({ "kind": "seal" }),
            Self::Segment(footer) => {
                let (batches, records, controls) = numbers(footer);
                json!({
                    "kind": "segment",
                    "partitions": footer.sections.len(),
                    "batches": batches,
                    "offsets": records,
                    "control_frames": controls,
                })
            }
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Seal => "seal: the stream ends here".to_owned(),
            Self::Segment(footer) => {
                let (batches, records, controls) = numbers(footer);
                format!(
                    "{}: {} with {records} offsets, {}",
                    count(footer.sections.len(), "partition"),
                    count(batches, "batch"),
                    count(controls, "control frame")
                )
            }
        }
    }
}

/// Batches, offsets, control frames.
fn numbers(footer: &Footer) -> (usize, i64, usize) {
    let batches = || footer.sections.iter().flat_map(Section::batches);
    let entries: usize = footer.sections.iter().map(|section| section.entries.len()).sum();
    let controls = footer.sections.iter().flat_map(|section| &section.entries);
    let controls = controls.filter(|entry| matches!(entry, Indexed::Control(_))).count();
    let records = batches().map(|batch| batch.last_offset - batch.base_offset + 1).sum();
    (entries - controls, records, controls)
}

async fn footer(store: Arc<dyn ObjectStore>, seq: u64, meta: ObjectMeta) -> (u64, ObjectMeta, Result<Found, String>) {
    let read = read_footer(&store, &meta).await;
    (seq, meta, read)
}

async fn read_footer(store: &Arc<dyn ObjectStore>, meta: &ObjectMeta) -> Result<Found, String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let end = meta.size_bytes;
    if end == PRELUDE_BYTES as u64 {
        let bytes = store.get(&meta.key).await.map_err(|error| words(&error))?;
        let described = super::describe::describe(&meta.key, &bytes, false);
        return described.problems.into_iter().next().map_or(Ok(Found::Seal), Err);
    }
    let trailer_at = end.saturating_sub(TRAILER_BYTES as u64);
    let trailer = store.get_range(&meta.key, trailer_at..end).await.map_err(|error| words(&error))?;
    let trailer = Trailer::decode(&trailer, end).map_err(|error| words(&error))?;
    let footer = store.get_range(&meta.key, trailer.footer_range()).await.map_err(|error| words(&error))?;
    trailer.decode_footer(&footer).map(Found::Segment).map_err(|error| words(&error))
}
