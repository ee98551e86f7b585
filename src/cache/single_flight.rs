//! Single flight: what is being loaded, and who waits for it.
//!
//! The first who asks for a missing thing leads: it gets a [`Flight`] and starts a task that loads the thing and lands the
//! flight. The others follow: they get a [`Waiter`]. A leader that goes away disturbs nobody, since the task is its own.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::base::HashMap;

/// The task that loaded the thing ended without a result: a panic, or a runtime that stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abandoned;

type Landing<V, E> = Result<V, E>;
type Listed<V, E> = (u64, watch::Receiver<Option<Landing<V, E>>>);

/// The loads under way: at most one a key. Clones share them.
pub struct Flights<K, V, E>(Arc<Mutex<State<K, V, E>>>);

struct State<K, V, E> {
    next_id: u64,
    by_key: HashMap<K, Listed<V, E>>,
}

/// What somebody who asks for a thing gets.
pub enum Boarding<K: Eq + Hash, V, E> {
    /// It is here already.
    Found(V),
    /// Nobody loads it: the caller must, and then lands the flight.
    Lead(Flight<K, V, E>),
    /// Somebody does.
    Follow(Waiter<V, E>),
}

impl<K, V, E> Clone for Flights<K, V, E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V, E> Default for Flights<K, V, E> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { next_id: 0, by_key: HashMap::default() })))
    }
}

impl<K, V, E> fmt::Debug for Flights<K, V, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("under_way", &self.0.lock().by_key.len()).finish()
    }
}

impl<K: Eq + Hash, V, E> State<K, V, E> {
    /// Whether this very load was still listed.
    fn remove(&mut self, flight: &Flight<K, V, E>) -> bool {
        let listed = self.by_key.get(&flight.key).is_some_and(|(id, _)| *id == flight.id);
        if listed {
            self.by_key.remove(&flight.key);
        }
        listed
    }
}

impl<K: Eq + Hash + Clone, V: Clone, E: Clone> Flights<K, V, E> {
    /// Joins the load of a thing or starts one. `find` is asked under the lock, so that a load which has just landed is
    /// not repeated.
    pub fn board(&self, key: &K, find: impl FnOnce() -> Option<V>) -> Boarding<K, V, E> {
        let mut state = self.0.lock();
        if let Some((_, landing)) = state.by_key.get(key) {
            return Boarding::Follow(Waiter(landing.clone()));
        }
        if let Some(found) = find() {
            return Boarding::Found(found);
        }
        let id = state.next_id;
        state.next_id += 1;
        let (tell, landing) = watch::channel(None);
        state.by_key.insert(key.clone(), (id, landing));
        Boarding::Lead(Flight { key: key.clone(), id, tell, flights: self.clone() })
    }

    /// Whether a load of this thing is under way.
    pub fn contains(&self, key: &K) -> bool {
        self.0.lock().by_key.contains_key(key)
    }

    /// Lets the load of a thing, if any, end for those who already wait for it, unseen by those who come later.
    pub fn detach(&self, key: &K) {
        self.0.lock().by_key.remove(key);
    }

    /// Gives up loads for which nobody waits any more; all of them or, if one is still wanted, none.
    pub fn give_up_unwanted(&self, flights: Vec<Flight<K, V, E>>) -> Option<Vec<Flight<K, V, E>>> {
        let mut state = self.0.lock();
        // The map's own receiver is not a waiter.
        let wanted = |flight: &Flight<K, V, E>| {
            let listed = state.by_key.get(&flight.key).is_some_and(|(id, _)| *id == flight.id);
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

    /// Loads under way.
    pub fn len(&self) -> usize {
        self.0.lock().by_key.len()
    }

    /// Whether nothing is being loaded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A load under way. Dropped without landing, it tells its waiters that it was abandoned.
pub struct Flight<K: Eq + Hash, V, E> {
    key: K,
    id: u64,
    tell: watch::Sender<Option<Landing<V, E>>>,
    flights: Flights<K, V, E>,
}

impl<K: Eq + Hash, V: Clone, E: Clone> Flight<K, V, E> {
    /// What is to be loaded.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// Someone to wait for this load.
    pub fn waiter(&self) -> Waiter<V, E> {
        Waiter(self.tell.subscribe())
    }

    /// Ends the load. `keep` puts a good result where the next one who asks finds it; it is not called if the load was
    /// detached.
    pub fn land(self, landing: Result<V, E>, keep: impl FnOnce(&K, &V)) {
        let mut state = self.flights.0.lock();
        if state.remove(&self)
            && let Ok(value) = &landing
        {
            keep(&self.key, value);
        }
        drop(state);
        self.tell.send_replace(Some(landing));
    }
}

impl<K: Eq + Hash, V, E> Drop for Flight<K, V, E> {
    fn drop(&mut self) {
        self.flights.0.lock().remove(self);
    }
}

/// Waits for a load. Dropping it does not disturb the load.
pub struct Waiter<V, E>(watch::Receiver<Option<Landing<V, E>>>);

impl<V: Clone, E: Clone + From<Abandoned>> Waiter<V, E> {
    /// How the load ended.
    pub async fn landing(mut self) -> Result<V, E> {
        match self.0.wait_for(Option::is_some).await {
            Ok(landing) => landing.clone().unwrap_or_else(|| Err(Abandoned.into())),
            Err(_) => Err(Abandoned.into()),
        }
    }
}
