//! Draining a broker by an operator's wish: its record says so, and the controller moves its partitions away.
//!
//! The wish is on the broker's record, which ends with its lease: a process that is started again takes partitions again.

use super::catalogue::Catalogue;
use super::image::ClusterImage;
use super::keys::Key;
use crate::base::ErrorKind;
use crate::format::metadata::{BrokerRecord, MetadataError, MetadataValue};
use crate::meta::{Compare, MetaError, TxnOutcome, Write};

/// Tries before giving up because the broker's record changes all the time.
const MAX_TRIES: usize = 8;

/// Why a broker does not drain.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DrainError {
    /// No live broker has the id.
    #[error("there is no live broker {0}")]
    NoSuchBroker(i32),
    /// Nobody else could take its partitions.
    #[error("broker {0} is the only one that takes partitions: start another before this one drains")]
    LastBroker(i32),
    /// The metadata store did not answer, or others were always faster; the wish may or may not be on record.
    #[error("{0}")]
    Unavailable(String),
    /// Damaged metadata.
    #[error("{0}")]
    Broken(String),
}

impl DrainError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchBroker(_) => ErrorKind::NotFound,
            Self::LastBroker(_) => ErrorKind::Conflict,
            Self::Unavailable(_) => ErrorKind::Retriable,
            Self::Broken(_) => ErrorKind::Corrupt,
        }
    }
}

impl From<MetaError> for DrainError {
    fn from(error: MetaError) -> Self {
        match error.kind() {
            ErrorKind::Retriable => Self::Unavailable(error.to_string()),
            _ => Self::Broken(error.to_string()),
        }
    }
}

impl From<MetadataError> for DrainError {
    fn from(error: MetadataError) -> Self {
        Self::Broken(error.to_string())
    }
}

impl Catalogue {
    /// Has a broker give its partitions to the others and take none; with `draining` false, take them again. Repeating it is
    /// fine. Returns once the image shows it: the partitions follow.
    pub async fn set_draining(&self, broker_id: i32, draining: bool) -> Result<(), DrainError> {
        let shared = self.shared();
        let key = shared.keys.key(&Key::Broker(broker_id));
        for _ in 0..MAX_TRIES {
            let entry = shared.store.get(&key).await?.ok_or(DrainError::NoSuchBroker(broker_id))?;
            let record = BrokerRecord::decode(&entry.key, &entry.value)?;
            if record.draining == draining {
                self.wait_for(entry.mod_revision).await;
                return Ok(());
            }
            if draining && !has_heir(&self.image(), broker_id) {
                return Err(DrainError::LastBroker(broker_id));
            }
            let value = BrokerRecord { draining, ..record }.encode();
            let unchanged = Compare { key: key.clone(), mod_revision: entry.mod_revision };
            let write = Write::Put { key: key.clone(), value, lease: entry.lease };
            match shared.store.txn(vec![unchanged], vec![write]).await {
                Ok(TxnOutcome::Committed { revision }) => {
                    self.wait_for(revision).await;
                    return Ok(());
                }
                Ok(TxnOutcome::Conflict) => {}
                // It died between the two calls.
                Err(MetaError::LeaseExpired { .. }) => return Err(DrainError::NoSuchBroker(broker_id)),
                Err(error) => return Err(error.into()),
            }
        }
        Err(DrainError::Unavailable(format!("the record of broker {broker_id} changes all the time; try again")))
    }
}

/// Whether another broker takes partitions.
fn has_heir(image: &ClusterImage, broker_id: i32) -> bool {
    image.candidates().any(|broker| broker.session.broker_id != broker_id)
}
