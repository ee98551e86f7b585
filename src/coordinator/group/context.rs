//! What the steps of all groups of a shard share: time, deadlines, the store, and what is being appended.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;

use super::api::Reply;
use super::limits::COMMIT_TIMEOUT_MS;
use super::metrics::GroupMetrics;
use super::records::{Key, OffsetValue};
use super::store::Store;
use super::timers::Timers;
use crate::base::HashMap;
use crate::config::GroupSettings;
use crate::coordinator::runtime::{Effects, Now, RawRecord, ReplyTo, Ticket};

/// A group id, a member id: shared between maps and deadlines.
pub(super) type Name = Arc<str>;

/// What a deadline is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum TimerKey {
    /// The member's session (or a pending member's id) ends.
    Session(Name, Name),
    /// The group stops waiting for members to join.
    Join(Name),
    /// The group stops waiting for members to ask for their assignment.
    Sync(Name),
    /// Replies stop waiting for their records to be committed.
    Commit(Ticket),
    /// Expired offsets are looked for.
    Expiry,
}

/// What happens to a group when the records of a ticket are committed, or are given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Continuation {
    /// The leader's assignment is stored: hand it out.
    Assign { group: Name, generation: i32, assignment: HashMap<Name, Bytes> },
    /// A static member's new id is stored: answer its `JoinGroup`.
    Replaced { group: Name, member: Name, api_version: i16, old_leader: Option<Name> },
}

/// See the module.
pub(super) struct Context {
    pub(super) now: Now,
    pub(super) settings: Arc<GroupSettings>,
    pub(super) metrics: GroupMetrics,
    pub(super) timers: Timers<TimerKey>,
    pub(super) store: Store,
    /// Replies that wait for a ticket.
    parked: BTreeMap<Ticket, Vec<(ReplyTo, Reply)>>,
    /// What else waits for a ticket.
    continuations: BTreeMap<Ticket, Vec<Continuation>>,
    /// The newest ticket that touched a group's stored state, while it is not committed.
    touched: HashMap<String, Ticket>,
    /// The next ticket to give out.
    next: Ticket,
    records: Vec<RawRecord>,
    replies: Vec<(ReplyTo, Reply)>,
}

impl Context {
    pub(super) fn new(settings: Arc<GroupSettings>, metrics: GroupMetrics) -> Self {
        Self {
            now: Now { boot_ms: 0, wall_ms: 0 },
            settings,
            metrics,
            timers: Timers::default(),
            store: Store::default(),
            parked: BTreeMap::new(),
            continuations: BTreeMap::new(),
            touched: HashMap::default(),
            next: Ticket(1),
            records: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// Sets a deadline `in_ms` from now; negative counts as now.
    pub(super) fn after(&mut self, key: TimerKey, in_ms: i32) {
        self.timers.set(key, self.now.boot_ms + u64::try_from(in_ms).unwrap_or(0));
    }

    /// Appends one record and folds it into the store at once.
    fn append(&mut self, group: &str, key: Bytes, value: Option<Bytes>) {
        if let Err(error) = self.store.apply(&key, value.as_deref()) {
            // Made by this very program a line above: a check that writer and reader agree.
            tracing::error!(%error, group, "a record that was just made cannot be read; it is not written");
            return;
        }
        self.touched.insert(group.to_owned(), self.next);
        self.records.push(RawRecord { key, value });
    }

    pub(super) fn append_offset(&mut self, group: &str, topic: &str, partition: i32, value: Option<&OffsetValue>) {
        let value = value.map(|value| value.encode(value.version()));
        self.append(group, Key::offset(group, topic, partition), value);
    }

    /// Appends an encoded group value, or a tombstone.
    pub(super) fn append_group(&mut self, group: &str, value: Option<Bytes>) {
        self.append(group, Key::group(group), value);
    }

    /// Whether this step has appended something so far.
    pub(super) fn appended(&self) -> bool {
        !self.records.is_empty()
    }

    /// Runs `continuation` when what this step appends is committed. The step must append.
    pub(super) fn when_committed(&mut self, continuation: Continuation) {
        self.continuations.entry(self.next).or_default().push(continuation);
    }

    /// Answers now: the reply promises nothing durable.
    pub(super) fn reply(&mut self, to: ReplyTo, reply: Reply) {
        self.replies.push((to, reply));
    }

    /// Answers when what this step appends is committed; now if it appends nothing.
    pub(super) fn reply_when_committed(&mut self, to: ReplyTo, reply: Reply) {
        if self.appended() {
            self.parked.entry(self.next).or_default().push((to, reply));
        } else {
            self.reply(to, reply);
        }
    }

    /// Answers when everything that is stored of `group` is committed.
    pub(super) fn reply_when_settled(&mut self, to: ReplyTo, group: &str, reply: Reply) {
        let Some(ticket) = self.touched.get(group).copied() else { return self.reply(to, reply) };
        self.parked.entry(ticket).or_default().push((to, reply));
        // The ticket's own deadline may have passed already.
        if self.timers.get(&TimerKey::Commit(ticket)).is_none() {
            self.timers.set(TimerKey::Commit(ticket), self.now.boot_ms + COMMIT_TIMEOUT_MS);
        }
    }

    /// Ends a step.
    pub(super) fn finish(&mut self) -> Effects<Reply> {
        let append = if self.records.is_empty() {
            None
        } else {
            let ticket = self.next;
            self.next = Ticket(ticket.0 + 1);
            self.timers.set(TimerKey::Commit(ticket), self.now.boot_ms + COMMIT_TIMEOUT_MS);
            Some((ticket, std::mem::take(&mut self.records)))
        };
        Effects { append, replies: std::mem::take(&mut self.replies) }
    }

    /// The records of `ticket` and before are committed: lets replies go and returns what else waited.
    pub(super) fn settle(&mut self, ticket: Ticket) -> Vec<Continuation> {
        let later = self.parked.split_off(&Ticket(ticket.0 + 1));
        for (_, replies) in std::mem::replace(&mut self.parked, later) {
            self.replies.extend(replies);
        }
        self.touched.retain(|_, newest| *newest > ticket);
        self.timers.cancel(&TimerKey::Commit(ticket));
        let later = self.continuations.split_off(&Ticket(ticket.0 + 1));
        std::mem::replace(&mut self.continuations, later).into_values().flatten().collect()
    }

    /// Replies have waited for `ticket` long enough: answers them with a retriable error and returns what else waited.
    /// The records may still be committed; the store keeps them.
    pub(super) fn give_up(&mut self, ticket: Ticket) -> Vec<Continuation> {
        for (to, reply) in self.parked.remove(&ticket).unwrap_or_default() {
            self.replies.push((to, reply.failed(ResponseError::CoordinatorNotAvailable)));
        }
        self.continuations.remove(&ticket).unwrap_or_default()
    }

    /// Everything that waits, for good.
    pub(super) fn take_parked(&mut self) -> Vec<(ReplyTo, Reply)> {
        self.continuations.clear();
        std::mem::take(&mut self.parked).into_values().flatten().collect()
    }
}
