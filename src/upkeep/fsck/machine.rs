//! What is wrong with a state or an object. Pure: bytes come in, faults go out.

use std::collections::{BTreeMap, BTreeSet};

use super::{Fault, FaultKind};
use crate::base::{SessionId, TopicPartition};
use crate::format::FormatError;
use crate::format::catalogue::CatalogueBackup;
use crate::format::checkpoint;
use crate::format::entry::{BatchFacts, Entry};
use crate::format::identity::Identity;
use crate::format::prelude::{ObjectKind, PRELUDE_BYTES, Prelude};
use crate::format::segment::read_footer;
use crate::format::state::{ObjectRef, PartitionState, Run};
use crate::wal::{Scan, scan_object};

/// A run that some partition's index names.
pub type Wanted = (TopicPartition, Run);

/// Gaps and overlaps of a partition's index: its runs must lie end to end from log start (or before it) to the end.
pub fn check_state(partition: TopicPartition, state: &PartitionState) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |kind, key: Option<String>, detail: String| {
        faults.push(Fault { kind, key, partition: Some(partition), detail });
    };
    let mut end = None;
    for run in &state.runs {
        let key = || Some(run.object.key());
        match end {
            None if run.first_offset > state.log_start => fault(
                FaultKind::Gap,
                key(),
                format!(
                    "offsets {}..{} are in no object: the index begins behind log start",
                    state.log_start, run.first_offset
                ),
            ),
            Some(end) if run.first_offset > end => {
                fault(FaultKind::Gap, key(), format!("offsets {end}..{} are in no object", run.first_offset));
            }
            Some(end) if run.first_offset < end => fault(
                FaultKind::Overlap,
                key(),
                format!("offsets {}..{end} are also in the object before", run.first_offset),
            ),
            _ => {}
        }
        end = Some(run.next_offset);
    }
    let end = end.unwrap_or(state.log_start);
    if end < state.next_offset {
        let detail = format!("offsets {end}..{} are in no object: the index ends too early", state.next_offset);
        fault(FaultKind::Gap, None, detail);
    } else if end > state.next_offset {
        fault(FaultKind::Overlap, None, format!("the index ends at {end}, the log at {}", state.next_offset));
    }
    faults
}

/// What is wrong with an object of batches (a segment or a seal, or a compacted run), of which indexes name the `wanted` runs.
pub fn check_batches(key: &str, place: ObjectRef, object: &[u8], wanted: &[Wanted]) -> Vec<Fault> {
    let (kind, session, seq) = match place {
        ObjectRef::Segment { session, seq } => (ObjectKind::Segment, session, seq),
        ObjectRef::Run { session, number, .. } => (ObjectKind::Run, session, number),
    };
    let whole = |kind, detail: String| {
        let concerned: BTreeSet<TopicPartition> = wanted.iter().map(|(partition, _)| *partition).collect();
        let fault = |partition| Fault { kind, key: Some(key.to_owned()), partition, detail: detail.clone() };
        if concerned.is_empty() {
            vec![fault(None)]
        } else {
            concerned.into_iter().map(|one| fault(Some(one))).collect()
        }
    };
    let needed = wanted.iter().map(|(_, run)| run_end(run)).max().unwrap_or(0);
    let prelude = match Prelude::decode(object) {
        Ok(prelude) => prelude,
        Err(error) => return whole(kind_of(&error), error.to_string()),
    };
    if (prelude.session, prelude.seq) != (session, seq) {
        return whole(FaultKind::Damaged, format!("it is seq {} of session {}", prelude.seq, prelude.session));
    }
    match prelude.kind {
        found if found == kind => {}
        _ if kind == ObjectKind::Run => return whole(FaultKind::Damaged, "it is no compacted run".to_owned()),
        ObjectKind::Seal if wanted.is_empty() && object.len() == PRELUDE_BYTES => return Vec::new(),
        ObjectKind::Seal if wanted.is_empty() => {
            return whole(FaultKind::Damaged, format!("{} bytes follow the seal", object.len() - PRELUDE_BYTES));
        }
        _ => return whole(FaultKind::Damaged, "it is no segment".to_owned()),
    }
    let scan = match scan_object(object) {
        Ok(scan) => scan,
        Err(error) => return whole(kind_of(&error), error.to_string()),
    };
    let at = scan.frames_end;
    match (read_footer(object), &scan.torn) {
        (Err(error), torn) => {
            let cut = (object.len() as u64) < needed || matches!(torn, None | Some(FormatError::Truncated(_)));
            if cut {
                return whole(FaultKind::Truncated, format!("it ends at byte {} without a footer", object.len()));
            }
            let torn = torn.as_ref().map_or(String::new(), |torn| format!("at byte {at}: {torn}; "));
            return whole(FaultKind::Damaged, format!("{torn}its footer: {error}"));
        }
        (Ok(_), Some(torn)) => return whole(FaultKind::Damaged, format!("at byte {at}: {torn}")),
        (Ok((_, footer)), None) if footer != scan.footer() => {
            return whole(FaultKind::Damaged, "its footer does not tell what its frames are".to_owned());
        }
        (Ok(_), None) => {}
    }
    check_runs(key, &scan, wanted)
}

fn run_end(run: &Run) -> u64 {
    u64::from(run.position) + u64::from(run.length)
}

/// Whether the batches that stand in an object are those that indexes say.
fn check_runs(key: &str, scan: &Scan, wanted: &[Wanted]) -> Vec<Fault> {
    let mut batches: BTreeMap<TopicPartition, Vec<&BatchFacts>> = BTreeMap::new();
    for scanned in &scan.entries {
        if let Entry::Batch(facts) = &scanned.entry {
            batches.entry(scanned.partition).or_default().push(facts);
        }
    }
    let mut faults = Vec::new();
    for (partition, run) in wanted {
        let mut fault = |kind, detail: String| {
            faults.push(Fault { kind, key: Some(key.to_owned()), partition: Some(*partition), detail });
        };
        let range = u64::from(run.position)..run_end(run);
        let inside = batches.get(partition).into_iter().flatten();
        let inside = inside.filter(|facts| range.contains(&u64::from(facts.position)));
        let mut next = run.first_offset;
        for facts in inside {
            if facts.base_offset != next {
                let kind = if facts.base_offset > next { FaultKind::Gap } else { FaultKind::Overlap };
                fault(kind, format!("a batch begins at offset {} where {next} follows", facts.base_offset));
            }
            next = facts.last_offset + 1;
        }
        if next != run.next_offset {
            let kind = if next < run.next_offset { FaultKind::Gap } else { FaultKind::Overlap };
            fault(kind, format!("it holds offsets up to {next}, the index says {}", run.next_offset));
        }
    }
    faults
}

/// What is wrong with the checkpoint after `seq` of a stream.
pub fn check_checkpoint(key: &str, session: SessionId, seq: u64, object: &[u8]) -> Vec<Fault> {
    let fault = |kind, partition, detail| vec![Fault { kind, key: Some(key.to_owned()), partition, detail }];
    match checkpoint::decode(object) {
        Err(error) => {
            let kind = match checkpoint::read_index(object) {
                // Without its end there is no index.
                Err(FormatError::WrongMagic("a whole checkpoint") | FormatError::Truncated(_)) => FaultKind::Truncated,
                _ => FaultKind::Damaged,
            };
            fault(kind, None, error.to_string())
        }
        Ok((prelude, _)) if (prelude.session, prelude.seq) != (session, seq) => {
            fault(FaultKind::Damaged, None, format!("it is after seq {} of session {}", prelude.seq, prelude.session))
        }
        Ok((_, states)) => {
            let gaps = states.iter().flat_map(|(partition, state)| check_state(*partition, state));
            gaps.map(|gap| Fault { key: Some(key.to_owned()), ..gap }).collect()
        }
    }
}

/// What is wrong with a backup of the catalogue.
pub fn check_catalogue(key: &str, object: &[u8]) -> Vec<Fault> {
    told(key, CatalogueBackup::decode(object).err())
}

/// What is wrong with the object that names the cluster.
pub fn check_identity(key: &str, object: &[u8], cluster_id: Option<&str>) -> Vec<Fault> {
    match Identity::decode(object) {
        Err(error) => told(key, Some(error)),
        Ok(found) if cluster_id.is_some_and(|id| id != found.cluster_id()) => {
            let detail = format!("it names cluster {}, the metadata store another", found.cluster_id());
            vec![Fault { kind: FaultKind::Damaged, key: Some(key.to_owned()), partition: None, detail }]
        }
        Ok(_) => Vec::new(),
    }
}

fn told(key: &str, error: Option<FormatError>) -> Vec<Fault> {
    let fault = |error: FormatError| Fault {
        kind: kind_of(&error),
        key: Some(key.to_owned()),
        partition: None,
        detail: error.to_string(),
    };
    error.map(fault).into_iter().collect()
}

/// The kind of fault that unreadable bytes are.
pub fn kind_of(error: &FormatError) -> FaultKind {
    match error {
        FormatError::Truncated(_) => FaultKind::Truncated,
        _ => FaultKind::Damaged,
    }
}
