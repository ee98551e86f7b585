//! Single flight: which pages are being loaded, and who waits for them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::PageKey;
use super::reader::ReadError;

/// How a load ended. An empty page lies wholly past the object's end.
pub(super) type Landing = Result<Bytes, ReadError>;

/// The pages being loaded. Bounded by the loads that the callers started: at most one entry per page.
#[derive(Debug, Default, Clone)]
pub(super) struct Flights(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    by_page: HashMap<PageKey, (u64, watch::Receiver<Option<Landing>>)>,
}

impl State {
    /// Whether this very load was still listed.
    fn remove(&mut self, flight: &Flight) -> bool {
        let listed = self.by_page.get(&flight.key).is_some_and(|(id, _)| *id == flight.id);
        if listed {
            self.by_page.remove(&flight.key);
        }
        listed
    }
}

/// Either the leader of a load or one of those who wait for it.
pub(super) enum Boarding {
    /// Nobody loads this page: the caller must, and then lands the flight.
    Lead(Flight),
    /// Somebody does.
    Follow(Waiter),
}

impl Flights {
    /// Joins the load of a page or starts one. `find` is asked under the lock, so that a load which has just landed is
    /// not repeated.
    pub(super) fn board(&self, key: &PageKey, find: impl FnOnce() -> Option<Bytes>) -> Result<Boarding, Bytes> {
        let mut state = self.0.lock();
        if let Some((_, landing)) = state.by_page.get(key) {
            return Ok(Boarding::Follow(Waiter(landing.clone())));
        }
        if let Some(found) = find() {
            return Err(found);
        }
        let id = state.next_id;
        state.next_id += 1;
        let (tell, landing) = watch::channel(None);
        state.by_page.insert(key.clone(), (id, landing));
        Ok(Boarding::Lead(Flight { key: key.clone(), id, tell, flights: self.clone() }))
    }

    /// Whether a load of this page is under way.
    pub(super) fn contains(&self, key: &PageKey) -> bool {
        self.0.lock().by_page.contains_key(key)
    }

    /// Lets the load of a page, if any, end for those who already wait for it, unseen by those who come later.
    pub(super) fn detach(&self, key: &PageKey) {
        self.0.lock().by_page.remove(key);
    }

    /// Gives up loads for which nobody waits any more; all of them or, if one is still wanted, none.
    pub(super) fn give_up_unwanted(&self, flights: Vec<Flight>) -> Option<Vec<Flight>> {
        let mut state = self.0.lock();
        // The map's own receiver is not a waiter.
        let wanted = |flight: &Flight| {
            let listed = state.by_page.get(&flight.key).is_some_and(|(id, _)| *id == flight.id);
            flight.tell.receiver_count() > usize::from(listed)
        };
        if flights.iter().any(wanted) {
            return Some(flights);
        }
        for flight in &flights {
            state.remove(flight);
        }
        drop(state);
        None
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().by_page.len()
    }
}

/// A load under way. Dropped without landing (a panic, a runtime that stops), it fails its waiters.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) key: PageKey,
    id: u64,
    tell: watch::Sender<Option<Landing>>,
    flights: Flights,
}

impl Flight {
    /// Someone to wait for this load.
    pub(super) fn waiter(&self) -> Waiter {
        Waiter(self.tell.subscribe())
    }

    /// Ends the load. `keep` puts a good page where the next reader finds it; it is not called if the page was
    /// invalidated while it was being loaded.
    pub(super) fn land(self, landing: Landing, keep: impl FnOnce(PageKey, Bytes)) {
        let mut state = self.flights.0.lock();
        if state.remove(&self)
            && let Ok(bytes) = &landing
            && !bytes.is_empty()
        {
            keep(self.key.clone(), bytes.clone());
        }
        drop(state);
        self.tell.send_replace(Some(landing));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.0.lock().remove(self);
    }
}

/// Waits for a load. Dropping it does not disturb the load.
#[derive(Debug)]
pub(super) struct Waiter(watch::Receiver<Option<Landing>>);

impl Waiter {
    /// The page.
    pub(super) async fn landing(mut self) -> Landing {
        match self.0.wait_for(Option::is_some).await {
            Ok(landing) => landing.clone().unwrap_or_else(|| Err(ReadError::abandoned())),
            Err(_) => Err(ReadError::abandoned()),
        }
    }
}
