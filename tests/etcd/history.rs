//! One writer, many watchers, trouble in between: every committed write is seen once, in order, by each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use esker::meta::{EtcdMeta, Event, MetaError, MetaStore, TxnOutcome};

use crate::{at, next, put};

/// What a writer knows: revision by value for what was acknowledged, and the values of which it knows nothing.
#[derive(Debug, Default)]
pub struct Written {
    pub acknowledged: BTreeMap<u64, u64>,
    pub unknown: Vec<u64>,
}

/// A writer that goes on until it is told to stop.
pub struct Writer {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Written>,
}

impl Writer {
    /// Writes 0, 1, 2, … to `key`, each with a compare on the write before.
    pub fn start(store: EtcdMeta, key: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, key) = (stop.clone(), key.to_owned());
        let task = tokio::spawn(async move {
            let (mut written, mut number, mut revision) = (Written::default(), 0, 0);
            while !stopped.load(Ordering::Relaxed) {
                match store.txn(vec![at(&key, revision)], vec![put(&key, &number.to_string())]).await {
                    Ok(TxnOutcome::Committed { revision: new }) => {
                        written.acknowledged.insert(number, new);
                        revision = new;
                    }
                    // The answer to the write before was lost, and it was carried out (only this task writes).
                    Ok(TxnOutcome::Conflict) => {
                        revision = known(&store, &key).await;
                        continue;
                    }
                    Err(MetaError::Unavailable { reason, .. }) => {
                        if reason.ends_with("it may have happened") {
                            written.unknown.push(number);
                        } else {
                            assert!(reason.ends_with("it has not happened"), "{reason}");
                        }
                        revision = known(&store, &key).await;
                    }
                    Err(error) => panic!("{error}"),
                }
                number += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            written
        });
        Self { stop, task }
    }

    pub async fn stop(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

async fn known(store: &EtcdMeta, key: &str) -> u64 {
    loop {
        match store.get(key).await {
            Ok(found) => return found.map_or(0, |entry| entry.mod_revision),
            Err(error) => assert!(matches!(error, MetaError::Unavailable { .. }), "{error}"),
        }
    }
}

/// Watches `key` from `from` until `last` is seen: revision by value. `Resync` is not expected.
pub async fn follow(store: EtcdMeta, key: String, from: u64, last: String) -> BTreeMap<u64, u64> {
    let mut watch = store.watch(&key, from).await.unwrap();
    let (mut seen, mut newest) = (BTreeMap::new(), from - 1);
    loop {
        for event in next(&mut watch).await {
            let Event::Put(entry) = event else { panic!("{event:?}") };
            assert!(entry.mod_revision > newest, "revision {} after {newest}", entry.mod_revision);
            newest = entry.mod_revision;
            let text = std::str::from_utf8(&entry.value).unwrap();
            if text == last {
                return seen;
            }
            assert!(seen.insert(text.parse().unwrap(), entry.mod_revision).is_none(), "value {text} twice");
        }
    }
}

/// Everything that was acknowledged was seen, and nothing that was not written.
pub fn check(written: &Written, seen: &BTreeMap<u64, u64>) {
    for (value, revision) in &written.acknowledged {
        assert_eq!(seen.get(value), Some(revision), "value {value} was acknowledged at {revision}");
    }
    for value in seen.keys() {
        let known = written.acknowledged.contains_key(value) || written.unknown.contains(value);
        assert!(known, "value {value} was seen, but not written");
    }
    println!("{} acknowledged, {} unknown, {} seen", written.acknowledged.len(), written.unknown.len(), seen.len());
}
