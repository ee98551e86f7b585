//! How many connections each address has open, so that one client machine cannot take them all.
//!
//! Invariant: an address has at most the limit of [`Permit`]s, and one that has none is not remembered; so the table is
//! never longer than the connections that are open.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

#[cfg(test)]
mod tests;

/// The connections of every address.
#[derive(Debug)]
pub struct PerIp {
    /// Connections that an address may have; `None` for no limit.
    limit: Option<usize>,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// Room for one connection of an address, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    table: Arc<PerIp>,
    ip: IpAddr,
}

impl PerIp {
    /// `limit` connections per address; 0 for no limit.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: (limit > 0).then_some(limit), open: Mutex::default() })
    }

    /// Room for one more connection of `ip`; `None` at the limit. An IPv4 address that arrives on an IPv6 socket is the
    /// same address.
    pub fn acquire(self: &Arc<Self>, ip: IpAddr) -> Option<Permit> {
        let ip = ip.to_canonical();
        if let Some(limit) = self.limit {
            let mut open = self.open.lock();
            let count = open.get(&ip).copied().unwrap_or(0);
            if count >= limit {
                return None;
            }
            open.insert(ip, count + 1);
        }
        Some(Permit { table: self.clone(), ip })
    }

    /// Addresses that are remembered.
    #[cfg(test)]
    pub fn addresses(&self) -> usize {
        self.open.lock().len()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.table.open.lock();
        if let Some(count) = open.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.ip);
            }
        }
    }
}
