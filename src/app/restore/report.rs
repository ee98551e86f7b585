//! What a restore found, as a table for people or as JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::machine::{Candidate, Gathered, Known, Origin, Plan, PlannedTopic};
use crate::app::commands::table::aligned;

/// End offsets of a topic that fit into a line.
const ENDS_SHOWN: usize = 8;

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing was changed.
    Found,
    /// The metadata store is rebuilt.
    Restored,
}

/// Everything that is told.
pub struct Report<'a> {
    /// How far it has come.
    pub state: State,
    /// Where the bucket is.
    pub store: &'a str,
    /// What the bucket says of itself.
    pub known: &'a Known,
    /// What was read.
    pub gathered: &'a Gathered,
    /// What is (to be) written.
    pub plan: &'a Plan,
    /// What was noticed on the way.
    pub notes: &'a [String],
}

impl Report<'_> {
    fn problems(&self) -> impl Iterator<Item = String> {
        let unreadable = self.gathered.unreadable.iter();
        let unreadable = unreadable.map(|(session, error)| {
            format!("the stream of session {session} is left out; what it alone held is lost: {error}")
        });
        self.notes.iter().cloned().chain(unreadable).chain(self.plan.problems.iter().cloned())
    }

    /// For people: aligned, each line ends with a line feed.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "cluster    {}", self.plan.cluster.cluster_id);
        let _ = writeln!(text, "bucket     {}", self.store);
        let backup = match &self.known.backup {
            None => "none".to_owned(),
            Some(backup) => format!("revision {}, {} topics", backup.revision, backup.topics.len()),
        };
        let _ = writeln!(text, "backup     {backup}");
        let sealed = self.gathered.streams.values().filter(|ended| ended.sealed).count();
        let _ = writeln!(text, "streams    {}, {sealed} of them sealed", self.gathered.streams.len());
        let _ = writeln!(text, "epochs     from {}", self.plan.cluster.epoch_base);
        let _ = writeln!(text, "producers  from id {}", self.plan.rebuilt.producer_ids.next_id);
        let rows: Vec<Vec<String>> = self.plan.topics.iter().map(row).collect();
        text.push('\n');
        text.push_str(&aligned(&["TOPIC", "PARTITIONS", "WRITTEN", "RECORDS", "FROM", "END OFFSETS"], &rows));
        if !self.plan.deleted.is_empty() {
            let _ = writeln!(text, "\n{} deleted topics stay deleted", self.plan.deleted.len());
        }
        for (at, problem) in self.problems().enumerate() {
            let _ = writeln!(text, "{}{problem}", if at == 0 { "\nnot as it was:\n  " } else { "  " });
        }
        let last = match self.state {
            State::Found => "nothing was changed",
            State::Restored => "the metadata store is rebuilt: start the brokers",
        };
        let _ = writeln!(text, "\n{last}");
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let origin = |topic: &PlannedTopic| match topic.origin {
            Origin::Backup => "backup",
            Origin::Streams => "streams",
        };
        let topics = self.plan.topics.iter().map(|topic| {
            let partitions = (0..).zip(&topic.partitions).zip(&topic.leader_epochs).map(partition);
            json!({
                "name": topic.record.name,
                "id": topic.record.id,
                "origin": origin(topic),
                "configs": topic.record.configs,
                "partitions": partitions.collect::<Vec<_>>(),
            })
        });
        json!({
            "restored": self.state == State::Restored,
            "cluster_id": self.plan.cluster.cluster_id,
            "object_store": self.store,
            "backup_revision": self.known.backup.as_ref().map(|backup| backup.revision),
            "streams": self.gathered.streams.len(),
            "unreadable_streams": self.gathered.unreadable.len(),
            "epoch_base": self.plan.cluster.epoch_base,
            "next_producer_id": self.plan.rebuilt.producer_ids.next_id,
            "topics": topics.collect::<Vec<_>>(),
            "deleted_topics": self.plan.deleted,
            "problems": self.problems().collect::<Vec<_>>(),
        })
    }
}

fn partition(((index, candidate), leader_epoch): ((u32, &Option<Candidate>), &i32)) -> Value {
    json!({
        "partition": index,
        "leader_epoch": leader_epoch,
        "log_start": candidate.map_or(0, |candidate| candidate.log_start),
        "end_offset": candidate.map_or(0, |candidate| candidate.end_offset),
        "session": candidate.map(|candidate| candidate.session.to_string()),
        "missing_objects": candidate.map_or(0, |candidate| candidate.missing_runs),
    })
}

fn row(topic: &PlannedTopic) -> Vec<String> {
    let written: Vec<&Candidate> = topic.partitions.iter().flatten().collect();
    let records: i64 = written.iter().map(|candidate| candidate.end_offset - candidate.log_start).sum();
    let ends = topic.partitions.iter().take(ENDS_SHOWN);
    let mut ends: Vec<String> =
        ends.map(|candidate| candidate.map_or(0, |candidate| candidate.end_offset).to_string()).collect();
    if topic.partitions.len() > ENDS_SHOWN {
        ends.push("…".to_owned());
    }
    let origin = match topic.origin {
        Origin::Backup => "backup",
        Origin::Streams => "streams only",
    };
    vec![
        topic.record.name.clone(),
        topic.partitions.len().to_string(),
        written.len().to_string(),
        records.to_string(),
        origin.to_owned(),
        ends.join(" "),
    ]
}
