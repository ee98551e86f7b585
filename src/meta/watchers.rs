//! Watches over the changes of a store in this process.
//!
//! The last changes are kept ([`MAX_HISTORY_EVENTS`], [`MAX_HISTORY_BYTES`]) for watches that start in the past; an
//! older start gets `Resync`. A watcher that does not keep up ([`WATCH_QUEUE_CHANGES`]) gets `Resync` as its last word:
//! memory never grows with a slow reader. One change (one revision) is never split over two messages.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use super::machine::Change;
use super::{Event, Watch};

/// Changes that wait for one watcher before it is told to read everything again.
pub const WATCH_QUEUE_CHANGES: usize = 1024;
/// Most events that are kept for watches that start in the past.
pub const MAX_HISTORY_EVENTS: usize = 16_384;
/// Most bytes (keys and values) of events that are kept for watches that start in the past.
pub const MAX_HISTORY_BYTES: usize = 16 * 1024 * 1024;

/// The watches of one store.
#[derive(Debug, Default)]
pub struct Watchers {
    /// Changes up to this revision are not in `history`.
    compacted: u64,
    history: VecDeque<Change>,
    history_events: usize,
    history_bytes: usize,
    open: Vec<Watcher>,
}

#[derive(Debug)]
struct Watcher {
    prefix: String,
    from: u64,
    events: mpsc::Sender<Vec<Event>>,
    /// Room for the `Resync`; taken when it was sent, and nothing follows.
    last_word: Option<mpsc::OwnedPermit<Vec<Event>>>,
}

impl Watchers {
    /// History starts after `revision`.
    pub fn starting_after(revision: u64) -> Self {
        Self { compacted: revision, ..Self::default() }
    }

    /// A watch of keys that start with `prefix`, from revision `from` (inclusive) on.
    pub fn watch(&mut self, prefix: &str, from: u64) -> Watch {
        let (events, watch) = mpsc::channel(WATCH_QUEUE_CHANGES + 1);
        let last_word = events.clone().try_reserve_owned().ok();
        let mut watcher = Watcher { prefix: prefix.to_owned(), from, events, last_word };
        if from <= self.compacted {
            watcher.resync();
        } else {
            for change in &self.history {
                watcher.offer(change);
            }
        }
        self.open.retain(|watcher| !watcher.events.is_closed());
        self.open.push(watcher);
        watch
    }

    /// Tells every watcher of a change that has become durable.
    pub fn publish(&mut self, change: Change) {
        self.open.retain_mut(|watcher| {
            watcher.offer(&change);
            !watcher.events.is_closed()
        });
        self.history_events += change.events.len();
        self.history_bytes += size_bytes(&change);
        self.history.push_back(change);
        while self.history_events > MAX_HISTORY_EVENTS || self.history_bytes > MAX_HISTORY_BYTES {
            let Some(oldest) = self.history.pop_front() else { break };
            self.history_events -= oldest.events.len();
            self.history_bytes -= size_bytes(&oldest);
            self.compacted = oldest.revision;
        }
    }
}

impl Watcher {
    fn offer(&mut self, change: &Change) {
        if self.last_word.is_none() || change.revision < self.from {
            return;
        }
        let seen = |event: &&Event| match event {
            Event::Put(entry) => entry.key.starts_with(&self.prefix),
            Event::Delete { key, .. } => key.starts_with(&self.prefix),
            Event::Resync => true,
        };
        let events: Vec<Event> = change.events.iter().filter(seen).cloned().collect();
        if !events.is_empty() && matches!(self.events.try_send(events), Err(mpsc::error::TrySendError::Full(_))) {
            self.resync();
        }
    }

    fn resync(&mut self) {
        if let Some(permit) = self.last_word.take() {
            permit.send(vec![Event::Resync]);
        }
    }
}

fn size_bytes(change: &Change) -> usize {
    let size = |event: &Event| match event {
        Event::Put(entry) => entry.key.len() + entry.value.len(),
        Event::Delete { key, .. } => key.len(),
        Event::Resync => 0,
    };
    change.events.iter().map(size).sum()
}
