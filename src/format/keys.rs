//! Object keys, relative to the store's prefix.
//!
//! ```text
//! cluster                                      id of the cluster the bucket belongs to, and the format version
//! log/<broker>-<epoch, 20 digits>/<seq, 20 digits>.seg    segment or seal
//! ckpt/<broker>-<epoch, 20 digits>/<seq, 20 digits>.ckpt  checkpoint after segment seq
//! runs/<broker>-<epoch, 20 digits>/<number, 20 digits>-<commit before, 20 digits>.run   compacted run
//! catalogue/<revision, 20 digits>              backup of the catalogue as of a revision of the metadata store
//! ```

use crate::base::SessionId;

/// The object that names the cluster a bucket belongs to.
pub const CLUSTER: &str = "cluster";
/// Every segment and seal.
pub const LOG_PREFIX: &str = "log/";
/// Every checkpoint.
pub const CHECKPOINT_PREFIX: &str = "ckpt/";
/// Every compacted run.
pub const RUNS_PREFIX: &str = "runs/";
/// Every backup of the catalogue.
pub const CATALOGUE_PREFIX: &str = "catalogue/";

/// Key of the backup that shows the catalogue at `revision`; they list in the order of revisions.
pub fn catalogue(revision: u64) -> String {
    format!("catalogue/{revision:020}")
}

/// The revision of a catalogue backup's key; `None` for any other key.
pub fn parse_catalogue(key: &str) -> Option<u64> {
    let revision = key.strip_prefix(CATALOGUE_PREFIX)?.parse().ok()?;
    (catalogue(revision) == key).then_some(revision)
}

/// Key of segment (or seal) `seq` of a session's stream.
pub fn segment(session: SessionId, seq: u64) -> String {
    format!("log/{session}/{seq:020}.seg")
}

/// Prefix of a session's stream.
pub fn stream_prefix(session: SessionId) -> String {
    format!("log/{session}/")
}

/// Key of the checkpoint that holds a session's state after segment `seq`.
pub fn checkpoint(session: SessionId, seq: u64) -> String {
    format!("ckpt/{session}/{seq:020}.ckpt")
}

/// Prefix of a session's checkpoints.
pub fn checkpoints_prefix(session: SessionId) -> String {
    format!("ckpt/{session}/")
}

/// Key of compacted run `number` of a session. The entry that puts it into partitions stands in a segment of the session's
/// stream before `commit_before`, or nowhere.
pub fn run(session: SessionId, number: u64, commit_before: u64) -> String {
    format!("runs/{session}/{number:020}-{commit_before:020}.run")
}

/// Session, number and `commit_before` of a compacted run's key; `None` for any other key.
pub fn parse_run(key: &str) -> Option<(SessionId, u64, u64)> {
    let (owner, name) = key.strip_prefix(RUNS_PREFIX)?.split_once('/')?;
    let (number, commit_before) = name.strip_suffix(".run")?.split_once('-')?;
    let (session, number, commit_before) = (owner.parse().ok()?, number.parse().ok()?, commit_before.parse().ok()?);
    (run(session, number, commit_before) == key).then_some((session, number, commit_before))
}

/// The session and seq of a segment key; `None` for any other key.
pub fn parse_segment(key: &str) -> Option<(SessionId, u64)> {
    parse(key.strip_prefix(LOG_PREFIX)?, ".seg")
}

/// The session and seq of a checkpoint key; `None` for any other key.
pub fn parse_checkpoint(key: &str) -> Option<(SessionId, u64)> {
    parse(key.strip_prefix(CHECKPOINT_PREFIX)?, ".ckpt")
}

fn parse(rest: &str, suffix: &str) -> Option<(SessionId, u64)> {
    let (session, name) = rest.split_once('/')?;
    let digits = name.strip_suffix(suffix)?;
    if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((session.parse().ok()?, digits.parse().ok()?))
}
