//! Who reads forward, and how far ahead to load for them. Pure: pages in, pages out.
//!
//! A reader is known by where its last read ended: a read of the same object that starts in that page or the next one
//! continues it. Each continuation doubles the window, up to a limit; a jump starts anew with none.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::base::HashMap;

/// Forward readers remembered at once; the one that has been remembered longest is forgotten first.
pub(super) const TRACKED_READERS: usize = 4096;

/// The readers seen lately.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    max_pages: u64,
    /// By object and the page in which the last read ended.
    readers: HashMap<(Arc<str>, u64), Reader>,
    /// Insertion order of `readers`, with stale entries (of readers that moved on) in between.
    order: VecDeque<((Arc<str>, u64), u64)>,
    next_id: u64,
}

#[derive(Debug, Clone, Copy)]
struct Reader {
    id: u64,
    window_pages: u64,
    /// Pages below this number have been asked for ahead already.
    loaded_to: u64,
}

impl ReadAhead {
    /// Loads at most `max_pages` ahead of a reader; 0 never loads ahead.
    pub(super) fn new(max_pages: u64) -> Self {
        Self { max_pages, ..Self::default() }
    }

    /// Notes a read of pages `first..=last` and returns the pages to load ahead, none of them at or past `end_page`
    /// (exclusive).
    pub(super) fn note(&mut self, object: &Arc<str>, first: u64, last: u64, end_page: u64) -> Range<u64> {
        if self.max_pages == 0 {
            return 0..0;
        }
        let known = [Some(first), first.checked_sub(1)]
            .into_iter()
            .flatten()
            .find_map(|page| self.readers.remove(&(object.clone(), page)));
        let id = self.next_id;
        self.next_id += 1;
        let mut reader = match known {
            Some(known) => Reader { id, window_pages: (known.window_pages * 2).clamp(1, self.max_pages), ..known },
            None => Reader { id, window_pages: 0, loaded_to: 0 },
        };
        let from = reader.loaded_to.max(last + 1);
        let to = (last + 1 + reader.window_pages).min(end_page).max(from);
        reader.loaded_to = to;
        let key = (object.clone(), last);
        self.order.push_back((key.clone(), id));
        self.readers.insert(key, reader);
        self.forget_oldest();
        from..to
    }

    fn forget_oldest(&mut self) {
        while self.readers.len() > TRACKED_READERS || self.order.len() > 2 * TRACKED_READERS {
            let Some((key, id)) = self.order.pop_front() else { break };
            if self.readers.get(&key).is_some_and(|reader| reader.id == id) {
                self.readers.remove(&key);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn tracked(&self) -> (usize, usize) {
        (self.readers.len(), self.order.len())
    }
}
