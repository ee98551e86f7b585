//! Does this store keep the one promise that commits stand on? Asked at start, by racing.
//!
//! Some S3 servers ignore `If-None-Match: *`, some check it without atomicity: the second create in sequence is refused,
//! but several win a race. On such a store two brokers could both believe that they committed, so it is refused. The rest
//! of what Esker uses (reads, ranges, listings, deletes) is tried once as well.
//!
//! Proof is remembered in a file of the caller's (docs/formats/object-stores.md), by the store's name, so that a restart
//! asks only for one object. A crash
//! leaves objects below `probe/`, which nothing refers to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Created, ObjectStore, Payload, StoreError};
use crate::base::{Clock, Rng};

/// Contenders for each key.
pub const CONTENDERS: usize = 16;
/// Keys that are fought for.
pub const ROUNDS: usize = 4;
/// Rounds without any answer that are forgiven.
const LOST_ROUNDS_MAX: usize = 4;
/// Bytes of each object.
const OBJECT_BYTES: usize = 64;
/// Proof older than this is asked for again, in milliseconds: servers are replaced and upgraded.
const PROOF_LASTS_MS: i64 = 30 * 24 * 3_600 * 1_000;
/// Grows when the probe asks for more; older proof then counts no longer.
const PROBE_VERSION: u32 = 1;
/// Stores that a file remembers; more are not.
const REMEMBERED_MAX: usize = 64;

/// What the probe needs.
#[derive(Debug, Clone)]
pub struct ProbeOptions {
    /// Where proof is kept, a file that only this process writes; `None` to ask every time (a local store answers at once).
    pub marker: Option<PathBuf>,
    /// For the age of proof.
    pub clock: Clock,
    /// For fresh keys.
    pub rng: Rng,
}

/// What the probe found: the store may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// Whether earlier proof was found, so that nothing was raced for.
    pub remembered: bool,
    /// Creates that were answered without a clear result (S3's 409 among them); some are normal.
    pub unclear: usize,
    /// Time it took, in milliseconds.
    pub took_ms: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Marker {
    stores: BTreeMap<String, Proof>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Proof {
    probe_version: u32,
    proved_ms: i64,
}

/// Tries the store. Its name is its `Debug` text (URL and server).
///
/// Errors: `Config` when it breaks a promise (a clear text with what to do), `Refused` and `Unavailable` from the store.
pub async fn probe(store: &Arc<dyn ObjectStore>, options: &ProbeOptions) -> Result<ProbeReport, StoreError> {
    let started_ms = options.clock.boot_ms();
    let took_ms = || options.clock.boot_ms().saturating_sub(started_ms);
    let name = format!("{store:?}");
    if let Some(marker) = &options.marker
        && read_marker(marker).stores.get(&name).is_some_and(|proof| is_fresh(proof, &options.clock))
    {
        // Still there, and still ours?
        let key = format!("probe/{}", options.rng.uuid().simple());
        return match store.size(&key).await {
            Ok(_) | Err(StoreError::NotFound { .. }) => {
                Ok(ProbeReport { remembered: true, unclear: 0, took_ms: took_ms() })
            }
            Err(error) => Err(error),
        };
    }
    let run = Run { store, name: &name, base: format!("probe/{}", options.rng.uuid().simple()), rng: &options.rng };
    let outcome = run.all().await;
    run.clean_up().await;
    let unclear = outcome?;
    if let Some(marker) = &options.marker {
        remember(marker, &name, options);
    }
    let report = ProbeReport { remembered: false, unclear, took_ms: took_ms() };
    tracing::info!(store = name, ?report, "object store keeps its promises");
    Ok(report)
}

struct Run<'a> {
    store: &'a Arc<dyn ObjectStore>,
    name: &'a str,
    base: String,
    rng: &'a Rng,
}

impl Run<'_> {
    async fn all(&self) -> Result<usize, StoreError> {
        let (mut decided, mut lost, mut unclear) = (0, 0, 0);
        while decided < ROUNDS {
            match self.race(decided + lost).await? {
                Some(unanswered) => {
                    decided += 1;
                    unclear += unanswered;
                }
                None if lost < LOST_ROUNDS_MAX => lost += 1,
                None => {
                    return Err(StoreError::Unavailable {
                        operation: "probe",
                        key: self.base.clone(),
                        reason: format!("{} gave no clear answer to any of {CONTENDERS} creates", self.name),
                    });
                }
            }
        }
        self.sequence().await?;
        Ok(unclear)
    }

    /// One key, many creates. The number of unclear answers, or `None` if nothing landed at all.
    async fn race(&self, round: usize) -> Result<Option<usize>, StoreError> {
        let key = format!("{}/race-{round}", self.base);
        let ids: Vec<Uuid> = (0..CONTENDERS).map(|_| self.rng.uuid()).collect();
        let contenders = ids.iter().map(|id| {
            let (store, key, object) = (self.store.clone(), key.clone(), object(*id));
            // Tasks of their own, so that they really run beside each other.
            tokio::spawn(async move { store.create(&key, object).await })
        });
        let mut winners = Vec::new();
        let mut unclear = 0;
        for (id, joined) in ids.iter().zip(join_all(contenders).await) {
            let answer = joined.unwrap_or_else(|error| {
                Err(StoreError::Unavailable { operation: "probe", key: key.clone(), reason: error.to_string() })
            });
            match answer {
                Ok(Created::Yes) => winners.push(*id),
                Ok(Created::Exists) => {}
                Err(StoreError::Unavailable { .. }) => unclear += 1,
                Err(other) => return Err(other),
            }
        }
        if winners.len() > 1 {
            let won = winners.len();
            return Err(self.broken(&format!(
                "{won} of {CONTENDERS} simultaneous conditional creates of one key were all told that they had won"
            )));
        }
        let stored = match self.store.get(&key).await {
            Ok(stored) => stored,
            Err(StoreError::NotFound { .. }) if winners.is_empty() => return Ok(None),
            Err(StoreError::NotFound { .. }) => return Err(self.broken("a created object could not be read back")),
            Err(error) => return Err(error),
        };
        match winners.first() {
            Some(winner) if stored != object(*winner).0[0] => {
                Err(self.broken("the object of the one winner of a race was replaced by a loser's"))
            }
            None if !ids.iter().any(|id| stored == object(*id).0[0]) => {
                Err(self.broken("an object came back with other bytes than any that were sent"))
            }
            _ => Ok(Some(unclear)),
        }
    }

    /// The rest, in order, on one key.
    async fn sequence(&self) -> Result<(), StoreError> {
        let key = format!("{}/sequence", self.base);
        let (ours, theirs) = (self.rng.uuid(), self.rng.uuid());
        self.store.put(&key, object(ours)).await?;
        match self.store.create(&key, object(theirs)).await {
            Ok(Created::Yes) => {
                return Err(
                    self.broken("a conditional create of a key that exists was accepted (If-None-Match is ignored)")
                );
            }
            Ok(Created::Exists) | Err(StoreError::Unavailable { .. }) => {}
            Err(other) => return Err(other),
        }
        let whole = object(ours).0[0].clone();
        if self.store.get(&key).await? != whole {
            return Err(self.broken("a refused create changed the object"));
        }
        if self.store.get_range(&key, 10..20).await? != whole.slice(10..20) {
            return Err(self.broken("a ranged read gave other bytes than the object has there"));
        }
        if self.store.size(&key).await? != OBJECT_BYTES as u64 {
            return Err(self.broken("an object's length is reported wrongly"));
        }
        let mut found = false;
        let mut objects = self.store.list(&format!("{}/", self.base), None);
        while let Some(listed) = objects.next().await {
            found |= listed?.key == key;
        }
        if !found {
            return Err(self.broken("an object that was just written is missing from a listing"));
        }
        self.store.delete(&key).await?;
        match self.store.size(&key).await {
            Err(StoreError::NotFound { .. }) => Ok(()),
            Ok(_) => Err(self.broken("an object that was deleted is still there")),
            Err(error) => Err(error),
        }
    }

    fn broken(&self, what: &str) -> StoreError {
        StoreError::Config(format!(
            "object store {} cannot be used: {what}. Esker commits with PUT If-None-Match: * and would lose or double data \
             here. Use a store that decides such races for one (AWS S3, MinIO, a local directory), or upgrade this one",
            self.name
        ))
    }

    async fn clean_up(&self) {
        let prefix = format!("{}/", self.base);
        let keys: Vec<String> = self
            .store
            .list(&prefix, None)
            .filter_map(|listed| async move { listed.ok().map(|object| object.key) })
            .collect()
            .await;
        for key in keys {
            if let Err(error) = self.store.delete(&key).await {
                tracing::warn!(%error, "an object of the probe stays behind");
            }
        }
    }
}

fn object(id: Uuid) -> Payload {
    let mut bytes = vec![0x5A; OBJECT_BYTES];
    bytes[16..32].copy_from_slice(id.as_bytes());
    Bytes::from(bytes).into()
}

fn is_fresh(proof: &Proof, clock: &Clock) -> bool {
    let age_ms = clock.wall_ms() - proof.proved_ms;
    proof.probe_version == PROBE_VERSION && (0..PROOF_LASTS_MS).contains(&age_ms)
}

/// What the file says; nothing if it is missing or unreadable, which only costs a probe.
fn read_marker(path: &Path) -> Marker {
    std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Failing to remember only costs the next start a probe.
fn remember(path: &Path, name: &str, options: &ProbeOptions) {
    let mut marker = read_marker(path);
    marker.stores.retain(|_, proof| is_fresh(proof, &options.clock));
    if marker.stores.len() >= REMEMBERED_MAX {
        return;
    }
    let proof = Proof { probe_version: PROBE_VERSION, proved_ms: options.clock.wall_ms() };
    marker.stores.insert(name.to_owned(), proof);
    let temp = path.with_extension("json.new");
    let written = serde_json::to_vec_pretty(&marker)
        .map_err(std::io::Error::other)
        .and_then(|text| std::fs::write(&temp, text))
        .and_then(|()| std::fs::rename(&temp, path));
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "the proof of the object store could not be kept");
        let _ = std::fs::remove_file(&temp);
    }
}
