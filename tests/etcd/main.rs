//! The etcd store against real members that are killed, paused, cut off, filled up and compacted.
//!
//! What every store does is in `tests/contract/meta.rs`; here is what only etcd has.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod broker;
mod doors;
mod drain;
mod faults;
mod history;
mod leases;
mod limits;
mod members;
#[path = "../support/process.rs"]
#[allow(dead_code, reason = "shared with the crash tests")]
mod process;
mod proxy;
mod restore;
mod security;
mod server;
#[path = "../support/wire.rs"]
#[allow(dead_code, reason = "shared with the crash tests")]
mod wire;

use std::time::Duration;

use bytes::Bytes;
use esker::base::{Clock, Rng};
use esker::meta::{Compare, EtcdMeta, EtcdOptions, Event, MetaStore, Metrics, TxnOutcome, Watch, Write};

/// An answer that takes longer is missing.
const PATIENCE: Duration = Duration::from_secs(90);
/// Longest time of one operation, in milliseconds, for stores that must give up in a test.
const SHORT_MS: u64 = 1_500;

fn options(endpoints: &[String]) -> EtcdOptions {
    EtcdOptions::new(endpoints.to_vec())
}

fn store_with(options: EtcdOptions) -> (EtcdMeta, Metrics) {
    let metrics = Metrics::detached();
    (EtcdMeta::new(options, Clock::system(), Rng::system(), metrics.clone()).unwrap(), metrics)
}

fn store(endpoints: &[String]) -> EtcdMeta {
    store_with(options(endpoints)).0
}

/// A store that gives up soon.
fn hasty(endpoints: &[String]) -> EtcdMeta {
    store_with(EtcdOptions { request_timeout_ms: SHORT_MS, ..options(endpoints) }).0
}

fn put(key: &str, value: &str) -> Write {
    leased(key, value, 0)
}

fn leased(key: &str, value: &str, lease: i64) -> Write {
    Write::Put { key: key.to_owned(), value: Bytes::from(value.to_owned()), lease }
}

fn at(key: &str, mod_revision: u64) -> Compare {
    Compare { key: key.to_owned(), mod_revision }
}

async fn commit(store: &EtcdMeta, writes: Vec<Write>) -> u64 {
    match store.txn(vec![], writes).await.unwrap() {
        TxnOutcome::Committed { revision } => revision,
        TxnOutcome::Conflict => panic!("conflict"),
    }
}

async fn value(store: &EtcdMeta, key: &str) -> Option<String> {
    let entry = store.get(key).await.unwrap()?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}

async fn next(watch: &mut Watch) -> Vec<Event> {
    tokio::time::timeout(PATIENCE, watch.recv()).await.expect("an event comes in time").expect("the watch is open")
}

/// Repeats until it holds.
async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

/// A directory and a member of its own, or the end of the test where no server was asked for.
macro_rules! member {
    ($folder:ident, $member:ident $(, $flag:expr)*) => {
        if $crate::server::binary().is_none() {
            return;
        }
        let $folder = tempfile::tempdir().unwrap();
        #[allow(unused_mut, reason = "not every test restarts it")]
        let mut $member = $crate::server::Member::alone($folder.path(), &[$($flag),*]);
    };
}
use member;
