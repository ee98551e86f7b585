//! From the answers of a watch stream to whole revisions, each once, in order. Pure.
//!
//! etcd may send what one answer holds in fragments, and a fragment may end within a revision: its events are held back
//! until the revision is complete. Nothing below [`Assembler::next_revision`] is given out, so a watch that was cut and
//! begun again from there misses nothing and doubles nothing.

use super::wire::{self, WatchResponse};
use crate::meta::{Event, KeyValue};

/// Most events of one revision that are held back; etcd's transactions make 128 at most, unless its limit was raised.
pub const MAX_HELD_EVENTS: usize = 65_536;

/// What an answer comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Whole revisions; may be empty.
    Deliver(Vec<Event>),
    /// What the watch wants is not to be had any more.
    Resync,
    /// The server ended the watch for this reason; begin again from [`Assembler::next_revision`].
    Again(String),
}

/// The state of one watch.
#[derive(Debug)]
pub struct Assembler {
    next_revision: u64,
    held: Vec<Event>,
}

impl Assembler {
    /// Nothing seen yet; `from` is the first revision that is wanted.
    pub fn new(from: u64) -> Self {
        Self { next_revision: from, held: Vec::new() }
    }

    /// The first revision that has not been given out.
    pub fn next_revision(&self) -> u64 {
        self.next_revision
    }

    /// The stream is a new one: what was incomplete comes again.
    pub fn begin(&mut self) {
        self.held.clear();
    }

    /// Takes the next answer of the stream.
    pub fn accept(&mut self, answer: WatchResponse) -> Step {
        if answer.compact_revision != 0 {
            return Step::Resync;
        }
        if answer.canceled {
            return Step::Again(answer.cancel_reason);
        }
        let events = answer.events.into_iter().filter_map(event);
        self.held.extend(events.filter(|event| revision(event) >= self.next_revision));
        let whole = if answer.fragment {
            let last = self.held.last().map_or(0, revision);
            self.held.partition_point(|event| revision(event) < last)
        } else {
            self.held.len()
        };
        let rest = self.held.split_off(whole);
        let whole = std::mem::replace(&mut self.held, rest);
        if self.held.len() > MAX_HELD_EVENTS {
            return Step::Resync;
        }
        if let Some(last) = whole.last() {
            self.next_revision = revision(last) + 1;
        }
        Step::Deliver(whole)
    }
}

fn revision(event: &Event) -> u64 {
    match event {
        Event::Put(entry) => entry.mod_revision,
        Event::Delete { revision, .. } => *revision,
        Event::Resync => 0,
    }
}

/// `None` for keys that are no text: not ours.
fn event(event: wire::Event) -> Option<Event> {
    let delete = event.kind == wire::Event::DELETE;
    let entry = key_value(event.kv?)?;
    Some(if delete { Event::Delete { key: entry.key, revision: entry.mod_revision } } else { Event::Put(entry) })
}

/// `None` for keys that are no text: not ours.
pub fn key_value(found: wire::KeyValue) -> Option<KeyValue> {
    Some(KeyValue {
        key: std::str::from_utf8(&found.key).ok()?.to_owned(),
        value: found.value,
        create_revision: found.create_revision as u64,
        mod_revision: found.mod_revision as u64,
        lease: found.lease,
    })
}
