//! Producer ids: unique in the cluster, taken in blocks.
//!
//! A block is taken by one transaction and used from memory; while one is in use the next one is taken ahead, so that
//! producers can start for a while when the metadata store is down. A crash leaves the rest of the blocks unused.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::ClusterError;
use super::keys::{Key, KeySpace};
use super::limits::PRODUCER_ID_BLOCK;
use super::metrics::Metrics;
use crate::format::metadata::{MetadataValue, ProducerIdRecord};
use crate::meta::{Compare, MetaStore, TxnOutcome, Write};

/// Tries of one block before the caller is told to come again.
const MAX_TRIES: usize = 16;

/// Gives out producer ids. Clones share the blocks.
#[derive(Debug, Clone)]
pub struct ProducerIds {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn MetaStore>,
    key: String,
    metrics: Metrics,
    blocks: Mutex<Blocks>,
    /// One taker at a time.
    taking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Blocks {
    current: Range<i64>,
    spare: Range<i64>,
}

impl Blocks {
    fn next(&mut self) -> Option<i64> {
        if self.current.is_empty() {
            self.current = std::mem::take(&mut self.spare);
        }
        self.current.next()
    }

    fn add(&mut self, block: Range<i64>) {
        if self.current.is_empty() { self.current = block } else { self.spare = block }
    }
}

impl ProducerIds {
    /// No block yet; the first is taken when it is needed, or by [`ProducerIds::take_ahead`].
    pub fn new(store: Arc<dyn MetaStore>, keys: &KeySpace, metrics: Metrics) -> Self {
        let key = keys.key(&Key::ProducerIds);
        let (blocks, taking) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { shared: Arc::new(Shared { store, key, metrics, blocks, taking }) }
    }

    /// An id that nobody had before.
    ///
    /// Errors: those of the metadata store, once both blocks are used up.
    pub async fn next(&self) -> Result<i64, ClusterError> {
        loop {
            let (next, low) = {
                let mut blocks = self.shared.blocks.lock();
                (blocks.next(), blocks.spare.is_empty())
            };
            match next {
                Some(id) => {
                    if low {
                        self.take_in_background();
                    }
                    return Ok(id);
                }
                None => self.take(false).await?,
            }
        }
    }

    /// Takes blocks until one is in use and one is spare.
    pub async fn take_ahead(&self) -> Result<(), ClusterError> {
        self.take(true).await
    }

    fn take_in_background(&self) {
        // Somebody is at it already.
        let Ok(free) = self.shared.taking.try_lock() else { return };
        drop(free);
        let ids = self.clone();
        tokio::spawn(async move {
            if let Err(error) = ids.take(true).await {
                tracing::warn!(%error, "no spare block of producer ids; trying again with the next producer");
            }
        });
    }

    async fn take(&self, ahead: bool) -> Result<(), ClusterError> {
        let _one = self.shared.taking.lock().await;
        loop {
            let enough = {
                let blocks = self.shared.blocks.lock();
                if ahead { !blocks.spare.is_empty() } else { !blocks.current.is_empty() || !blocks.spare.is_empty() }
            };
            if enough {
                return Ok(());
            }
            let block = self.shared.take_block().await?;
            self.shared.metrics.producer_id_blocks.inc();
            self.shared.blocks.lock().add(block);
        }
    }
}

impl Shared {
    async fn take_block(&self) -> Result<Range<i64>, ClusterError> {
        for _ in 0..MAX_TRIES {
            let (start, mod_revision) = match self.store.get(&self.key).await? {
                Some(entry) => (ProducerIdRecord::decode(&entry.key, &entry.value)?.next_id, entry.mod_revision),
                None => (0, 0),
            };
            let Some(end) = start.checked_add(PRODUCER_ID_BLOCK) else {
                return Err(ClusterError::Limit("all producer ids are used up".to_owned()));
            };
            let compare = Compare { key: self.key.clone(), mod_revision };
            let value = ProducerIdRecord { next_id: end }.encode();
            let write = Write::Put { key: self.key.clone(), value, lease: 0 };
            if let TxnOutcome::Committed { .. } = self.store.txn(vec![compare], vec![write]).await? {
                return Ok(start..end);
            }
        }
        Err(ClusterError::Contended("other brokers were always faster to take producer ids; try again".to_owned()))
    }
}
