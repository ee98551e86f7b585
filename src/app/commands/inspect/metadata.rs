//! Values of the metadata store in words. Pure.

use std::fmt::Write as _;

use serde_json::Value;

use super::super::words::{count, time};
use super::describe::Stored;
use crate::cluster::{Key, KeySpace};
use crate::format::metadata::{
    AssignmentChunk, AssignmentRecord, BrokerRecord, ClaimRecord, ClusterRecord, ControllerRecord, DeletionRecord,
    MetadataError, MetadataValue, PARTITIONS_PER_CHUNK, ProducerIdRecord, RebuildRecord, SessionRecord, TopicRecord,
};

/// Describes what is stored under a key. Values that cannot be read are told to `problems`.
pub fn stored(key: &str, mod_revision: u64, lease: i64, value: &[u8], problems: &mut Vec<String>) -> Stored {
    let words = words(key, value).unwrap_or_else(|error| {
        problems.push(error.to_string());
        "cannot be read".to_owned()
    });
    let value =
        serde_json::from_slice(value).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(value).into_owned()));
    Stored { key: key.to_owned(), mod_revision, lease, value, words }
}

fn words(key: &str, value: &[u8]) -> Result<String, MetadataError> {
    // `/esker/<cluster name>/…`
    let name = key.strip_prefix("/esker/").and_then(|rest| rest.split_once('/')).map(|(name, _)| name);
    let Some(parsed) = name.and_then(|name| KeySpace::of_cluster(name).parse(key)) else {
        return Ok("not a key of this version of Esker".to_owned());
    };
    Ok(match parsed {
        Key::Cluster => {
            let record = ClusterRecord::decode(key, value)?;
            let epochs = if record.epoch_base == 0 {
                String::new()
            } else {
                format!(", rebuilt from the bucket with epochs from {}", record.epoch_base)
            };
            format!("cluster {}, made {}{epochs}", record.cluster_id, time(record.created_ms))
        }
        Key::Controller => format!("the controller is session {}", ControllerRecord::decode(key, value)?.session),
        Key::Claim(id) => {
            let claim = ClaimRecord::decode(key, value)?;
            let started = time(claim.started_ms);
            format!("broker id {id} is in use by process {} of {} since {started}", claim.pid, claim.host)
        }
        Key::Broker(id) => {
            let record = BrokerRecord::decode(key, value)?;
            let zone = record.rack.map_or(String::new(), |zone| format!(", zone {zone}"));
            let draining = if record.draining { ", draining" } else { "" };
            format!("broker {id} at {}:{}, session {}{zone}{draining}", record.host, record.port, record.session)
        }
        Key::Session(_) => {
            let record = SessionRecord::decode(key, value)?;
            let started = time(record.started_ms);
            match record.sealed {
                None => format!("begun {started}, its stream is not sealed"),
                Some(sealed) => format!("begun {started}, sealed at {} on {}", sealed.seq, time(sealed.at_ms)),
            }
        }
        Key::Topic(_) => {
            let record = TopicRecord::decode(key, value)?;
            let configs: Vec<String> = record.configs.iter().map(|(name, value)| format!(", {name}={value}")).collect();
            let partitions = count(record.partitions as usize, "partition");
            format!("id {}, {partitions}, made {}{}", record.id, time(record.created_ms), configs.concat())
        }
        Key::Assignments(_, chunk) => {
            let partitions = AssignmentChunk::decode(key, value)?.partitions;
            let first = chunk as usize * PARTITIONS_PER_CHUNK;
            let each: Vec<String> =
                (first..).zip(&partitions).map(|(index, record)| assignment(index, record)).collect();
            each.join("; ")
        }
        Key::ProducerIds => format!("ids below {} are taken", ProducerIdRecord::decode(key, value)?.next_id),
        Key::Deletion(_) => {
            let record = DeletionRecord::decode(key, value)?;
            let partitions = count(record.partitions as usize, "partition");
            format!("topic {} of {partitions} was deleted {}", record.name, time(record.deleted_ms))
        }
        Key::Rebuild => {
            let record = RebuildRecord::decode(key, value)?;
            format!("a restore that began {} is not finished: run esker cluster restore again", time(record.started_ms))
        }
    })
}

fn assignment(index: usize, record: &AssignmentRecord) -> String {
    let mut text = format!("{index}: session {} under epoch {}", record.session, record.leader_epoch);
    for from in &record.from {
        let _ = write!(text, ", state from session {} under epoch {}", from.session, from.leader_epoch);
    }
    if let Some(target) = record.target {
        let _ = write!(text, ", on its way to session {target}");
    }
    if !record.acquired {
        text.push_str(", no stream holds it yet");
    }
    text
}
