//! The broker that serves now. A process whose session was ended registers anew and makes a new [`Broker`]; front doors
//! keep the slot, not what is in it.
//!
//! Invariant: a request works with the one broker that was there when it began. One that began before a change ends with
//! the errors of the old log, which clients repeat; nothing waits for it.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Broker;

/// See the module. Clones share one slot.
#[derive(Debug, Clone)]
pub struct BrokerSlot {
    current: Arc<ArcSwap<Broker>>,
}

impl BrokerSlot {
    /// A slot that holds `broker`.
    pub fn new(broker: Arc<Broker>) -> Self {
        Self { current: Arc::new(ArcSwap::new(broker)) }
    }

    /// The broker that serves now. Keep it for one request at most: it keeps all of a session's parts.
    pub fn current(&self) -> Arc<Broker> {
        self.current.load_full()
    }

    /// From now on `broker` serves; gives back the one before.
    pub fn replace(&self, broker: Arc<Broker>) -> Arc<Broker> {
        self.current.swap(broker)
    }
}
