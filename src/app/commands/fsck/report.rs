//! What a check found, for people and for programs. Pure.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::{Value, json};
use uuid::Uuid;

use super::super::table::aligned;
use super::super::words::{count, size, time};
use super::bytes_of;
use crate::base::TopicPartition;
use crate::upkeep::fsck::{Fault, Orphan, Report};

/// Most lines of each kind that people are shown; `--json` has all.
const LINES: usize = 50;

/// What was found and done.
pub struct Told<'a> {
    /// The object store's address.
    pub store: &'a str,
    /// What was found.
    pub report: &'a Report,
    /// Orphans that were deleted.
    pub removed: &'a [Orphan],
    /// Names of topics.
    pub names: &'a HashMap<Uuid, String>,
    /// Objects were not read.
    pub quick: bool,
}

impl Told<'_> {
    /// For people: aligned, each line ends with a line feed.
    pub fn text(&self) -> String {
        let report = self.report;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<12}  {value}");
        };
        line("object store", self.store.to_owned());
        line("cluster", report.cluster_id.clone().unwrap_or_else(|| "unknown".to_owned()));
        line("objects", format!("{}, {}", report.objects, size(report.bytes)));
        let checked = if self.quick { "only lengths were looked at".to_owned() } else { size(report.checked_bytes) };
        line("checked", format!("{checked}, {} that must stay", count(report.streams.len(), "stream")));
        line("partitions", format!("{} with {} offsets", report.partitions, report.offsets));
        line("faults", if report.faults.is_empty() { "none".to_owned() } else { report.faults.len().to_string() });
        let orphans = match &report.orphans {
            None => "not known".to_owned(),
            Some(orphans) if orphans.is_empty() => "none".to_owned(),
            Some(orphans) => format!("{}, {}; brokers collect them in time", orphans.len(), size(bytes_of(orphans))),
        };
        line("orphans", orphans);
        if !self.removed.is_empty() {
            line("removed", format!("{}, {}", count(self.removed.len(), "orphan"), size(bytes_of(self.removed))));
        }
        if !report.unknown.is_empty() {
            line(
                "not ours",
                format!("{} with keys that this version does not know", count(report.unknown.len(), "object")),
            );
        }
        report.notes.iter().for_each(|note| line("note", note.clone()));
        if !report.faults.is_empty() {
            let rows: Vec<Vec<String>> = report.faults.iter().take(LINES).map(|fault| self.fault_row(fault)).collect();
            text.push('\n');
            text.push_str(&aligned(&["FAULT", "PARTITION", "OBJECT", "WHAT"], &rows));
            more(&mut text, report.faults.len());
        }
        let orphans = report.orphans.as_deref().unwrap_or_default();
        if !orphans.is_empty() {
            let row = |orphan: &Orphan| vec![orphan.key.clone(), orphan.bytes.to_string(), time(orphan.modified_ms)];
            let rows: Vec<Vec<String>> = orphans.iter().take(LINES).map(row).collect();
            text.push('\n');
            text.push_str(&aligned(&["ORPHAN", "BYTES", "WRITTEN"], &rows));
            more(&mut text, orphans.len());
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let report = self.report;
        let orphan =
            |orphan: &Orphan| json!({ "key": orphan.key, "bytes": orphan.bytes, "modified_ms": orphan.modified_ms });
        let fault = |fault: &Fault| {
            json!({
                "kind": fault.kind.word(),
                "key": fault.key,
                "topic": fault.partition.and_then(|partition| self.names.get(&partition.topic_id)),
                "topic_id": fault.partition.map(|partition| partition.topic_id),
                "partition": fault.partition.map(|partition| partition.partition),
                "detail": fault.detail,
            })
        };
        json!({
            "object_store": self.store,
            "cluster_id": report.cluster_id,
            "objects": report.objects,
            "bytes": report.bytes,
            "checked_bytes": report.checked_bytes,
            "streams": report.streams.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "partitions": report.partitions,
            "offsets": report.offsets,
            "faults": report.faults.iter().map(fault).collect::<Vec<_>>(),
            "orphans": report.orphans.as_ref().map(|orphans| orphans.iter().map(orphan).collect::<Vec<_>>()),
            "removed": self.removed.iter().map(orphan).collect::<Vec<_>>(),
            "unknown": report.unknown,
            "notes": report.notes,
        })
    }

    fn fault_row(&self, fault: &Fault) -> Vec<String> {
        let key = fault.key.clone().unwrap_or_else(|| "-".to_owned());
        vec![fault.kind.word().to_owned(), self.partition(fault.partition), key, fault.detail.clone()]
    }

    fn partition(&self, partition: Option<TopicPartition>) -> String {
        let Some(partition) = partition else { return "-".to_owned() };
        match self.names.get(&partition.topic_id) {
            Some(name) => format!("{name}-{}", partition.partition),
            None => partition.to_string(),
        }
    }
}

fn more(text: &mut String, all: usize) {
    if all > LINES {
        let _ = writeln!(text, "… and {} more; --json has all", all - LINES);
    }
}
