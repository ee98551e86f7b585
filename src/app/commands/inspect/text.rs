//! Descriptions for people: a few lines of `name  value`, then a table. Pure.

use std::fmt::Write as _;

use super::super::table::aligned;
use super::super::words::{bytes, count, size, time};
use super::describe::{Batch, Checkpoint, Content, Data, Description, Metalog, Record, Said, Segment, Stored};
use super::state::{Run, State};

/// Most characters of a key or value that are shown; `--json` has all of it.
const DATA_CHARACTERS: usize = 100;

/// The description; each line ends with a line feed. With `all`, also every run of a state.
pub fn text(description: &Description, all: bool) -> String {
    let (kind, fields, rest) = match &description.content {
        Content::Segment(segment) => ("segment", segment_fields(segment), frames(segment, all)),
        Content::Run(segment) => ("compacted run", segment_fields(segment), frames(segment, all)),
        Content::Seal(head) => {
            let stream = vec![
                field("stream", format!("session {}, ends before seq {}", head.session, head.seq)),
                field("object id", head.object_id),
            ];
            ("seal", stream, String::new())
        }
        Content::Checkpoint(checkpoint) => ("checkpoint", checkpoint_fields(checkpoint), states(checkpoint, all)),
        Content::Catalogue { backup } => {
            let rows = backup.topics.iter().map(|saved| {
                let configs: Vec<String> =
                    saved.topic.configs.iter().map(|(name, value)| format!("{name}={value}")).collect();
                vec![
                    saved.topic.name.clone(),
                    saved.topic.id.to_string(),
                    saved.topic.partitions.to_string(),
                    saved.leader_epochs.iter().max().map_or("-".to_owned(), ToString::to_string),
                    configs.join(" "),
                ]
            });
            let table =
                aligned(&["TOPIC", "ID", "PARTITIONS", "LEADER EPOCH", "CONFIGS"], &rows.collect::<Vec<Vec<String>>>());
            let unsealed = backup.sessions.iter().filter(|saved| saved.sealed.is_none()).count();
            let fields = vec![
                field("cluster", format!("{}, made {}", backup.cluster_id, time(backup.created_ms))),
                field("revision", backup.revision),
                field("producers", format!("ids below {} are taken", backup.next_producer_id)),
                field("sessions", format!("{}, {unsealed} of them not sealed", backup.sessions.len())),
                field("deleted", count(backup.deletions.len(), "topic")),
            ];
            ("backup of the catalogue", fields, table)
        }
        Content::Identity { fields } => {
            let fields = fields.iter().map(|(name, value)| field(name, value)).collect();
            ("identity", fields, String::new())
        }
        Content::Metalog(Metalog { revision, records, entries }) => {
            let fields = vec![field("revision", revision), field("records", records), field("keys", entries.len())];
            ("file of the embedded metadata store", fields, values(entries))
        }
        Content::Unknown => ("unknown", Vec::new(), String::new()),
    };
    let mut lines = vec![field("object", &description.name), field("kind", kind), field("bytes", description.bytes)];
    lines.extend(fields);
    lines.extend(description.notes.iter().map(|note| field("note", note)));
    lines.extend(description.problems.iter().map(|problem| field("DAMAGED", problem)));
    let mut text = String::new();
    for (name, value) in lines {
        let _ = writeln!(text, "{name:<10}  {value}");
    }
    if !rest.is_empty() {
        text.push('\n');
        text.push_str(&rest);
    }
    text
}

/// Keys of the metadata store.
pub fn values(entries: &[Stored]) -> String {
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|stored| {
            let lease = if stored.lease == 0 { "-".to_owned() } else { format!("{:x}", stored.lease) };
            vec![stored.key.clone(), stored.mod_revision.to_string(), lease, stored.words.clone()]
        })
        .collect();
    aligned(&["KEY", "REVISION", "LEASE", "VALUE"], &rows)
}

fn field(name: &str, value: impl std::fmt::Display) -> (String, String) {
    (name.to_owned(), value.to_string())
}

fn segment_fields(segment: &Segment) -> Vec<(String, String)> {
    let batches = || {
        segment.frames.iter().filter_map(|frame| match &frame.entry {
            Said::Batch(batch) => Some(batch),
            _ => None,
        })
    };
    let records: i64 =
        batches().map(|batch| batch.last_offset.saturating_sub(batch.base_offset).saturating_add(1)).sum();
    let mut partitions: Vec<_> =
        segment.frames.iter().map(|frame| (frame.partition.topic_id, frame.partition.partition)).collect();
    partitions.sort_unstable();
    partitions.dedup();
    let head = &segment.head;
    vec![
        field("stream", format!("session {}, seq {}", head.session, head.seq)),
        field("object id", head.object_id),
        field(
            "holds",
            format!(
                "{} of {}: {} with {records} offsets, {}",
                count(segment.frames.len(), "frame"),
                count(partitions.len(), "partition"),
                count(batches().count(), "batch"),
                count(segment.frames.len() - batches().count(), "control frame"),
            ),
        ),
    ]
}

fn frames(segment: &Segment, all: bool) -> String {
    let row = |frame: &super::describe::Frame| {
        let partition = format!("{}-{}", frame.partition.topic_id, frame.partition.partition);
        vec![frame.position.to_string(), frame.bytes.to_string(), partition, said(&frame.entry)]
    };
    let rows: Vec<Vec<String>> = segment.frames.iter().map(row).collect();
    let table = aligned(&["POSITION", "BYTES", "PARTITION", "ENTRY"], &rows);
    let mut text = String::new();
    let mut lines = table.lines();
    if let Some(header) = lines.next() {
        text.push_str(header);
        text.push('\n');
    }
    for (line, frame) in lines.zip(&segment.frames) {
        text.push_str(line);
        text.push('\n');
        match &frame.entry {
            Said::Batch(batch) => batch.records.iter().flatten().for_each(|record| text.push_str(&record_line(record))),
            Said::Acquired { state } | Said::Released { state } if all => text.push_str(&runs(&state.runs)),
            Said::RunsReplaced { runs: replaced } if all => text.push_str(&runs(replaced)),
            _ => {}
        }
    }
    text
}

fn said(entry: &Said) -> String {
    match entry {
        Said::Batch(batch) => batch_words(batch),
        Said::Acquired { state } => format!("acquired by this stream: {}", state.words()),
        Said::Released { state } => format!("released by this stream: {}", state.words()),
        Said::LogStartMoved { log_start } => format!("log start moved to {log_start}"),
        Said::ProducersExpired { up_to_ms } => {
            format!("producers that last wrote at {} or before are forgotten", time(*up_to_ms))
        }
        Said::Dropped => "the partition was deleted".to_owned(),
        Said::RunsReplaced { runs } => match (runs.first(), runs.last()) {
            (Some(first), Some(last)) => format!(
                "offsets {}..{} are read from {} from here on",
                first.first_offset,
                last.next_offset,
                count(runs.len(), "other run")
            ),
            _ => "no runs are replaced".to_owned(),
        },
    }
}

fn batch_words(batch: &Batch) -> String {
    let mut text = match batch.marker {
        Some(marker) => format!("marker at {}: {marker} of a transaction", batch.base_offset),
        None => format!("batch {}..={}, compression {}", batch.base_offset, batch.last_offset, batch.compression),
    };
    if batch.transactional && batch.marker.is_none() {
        text.push_str(", transactional");
    }
    if let Some(producer) = batch.producer {
        let _ = write!(
            text,
            ", producer {} epoch {} from sequence {}",
            producer.producer_id, producer.producer_epoch, producer.base_sequence
        );
    }
    let _ = write!(
        text,
        ", leader epoch {}, newest timestamp {}, written {}",
        batch.leader_epoch,
        time(batch.max_timestamp),
        time(batch.append_ms)
    );
    text
}

fn record_line(record: &Record) -> String {
    let data = |data: &Option<Data>| data.as_ref().map_or("null".to_owned(), |data| bytes(&data.0, DATA_CHARACTERS));
    let headers: Vec<String> = record
        .headers
        .iter()
        .map(|(name, value)| format!(" {}={}", bytes(&name.0, DATA_CHARACTERS), data(value)))
        .collect();
    let headers = if headers.is_empty() { String::new() } else { format!("  headers{}", headers.concat()) };
    format!(
        "    {}  {}  key {}  value {}{headers}\n",
        record.offset,
        time(record.timestamp),
        data(&record.key),
        data(&record.value)
    )
}

fn checkpoint_fields(checkpoint: &Checkpoint) -> Vec<(String, String)> {
    let head = &checkpoint.head;
    vec![
        field("stream", format!("session {}, its state after seq {}", head.session, head.seq)),
        field("object id", head.object_id),
        field("holds", count(checkpoint.partitions.len(), "partition")),
    ]
}

fn states(checkpoint: &Checkpoint, all: bool) -> String {
    let mut text = String::from("PARTITION\n");
    for saved in &checkpoint.partitions {
        let (topic, partition) = (saved.partition.topic_id, saved.partition.partition);
        let state = saved.state.as_ref().map_or("DAMAGED".to_owned(), State::words);
        let _ = writeln!(text, "{topic}-{partition}  {state} ({})", size(saved.bytes));
        if let Some(state) = saved.state.as_ref().filter(|_| all) {
            text.push_str(&runs(&state.runs));
        }
    }
    text
}

/// A line for each run.
pub fn runs(runs: &[Run]) -> String {
    let line = |run: &Run| {
        format!(
            "    {}..{}  {} at byte {}, {}, newest timestamp {}\n",
            run.first_offset,
            run.next_offset,
            run.key,
            run.position,
            size(u64::from(run.length)),
            time(run.max_timestamp)
        )
    };
    runs.iter().map(line).collect()
}
