//! Incremental fetch sessions (KIP-227): the partitions that a consumer fetches are remembered, so that its next requests
//! carry only changes and replies only news.
//!
//! Invariant: sessions and the partitions in them are bounded ([`FetchSessions::new`], [`MAX_SESSION_PARTITIONS`],
//! [`MAX_CACHED_PARTITIONS`]). At a limit the longest unused session that rested long enough gives way; if none did, the
//! client gets no session (id 0) and goes on with full requests. Losing a session costs the client one full request.

use std::sync::Arc;

use indexmap::IndexMap;
use kafka_protocol::error::ResponseError as Kafka;
use kafka_protocol::messages::FetchRequest;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::base::{HashMap, Rng};

/// Most partitions of one session; a client with more gets none.
pub const MAX_SESSION_PARTITIONS: usize = 20_000;
/// Most partitions of all sessions together.
pub const MAX_CACHED_PARTITIONS: usize = 500_000;
/// A session unused for this long may be evicted (`min.incremental.fetch.session.eviction.ms`).
const EVICTABLE_AFTER_MS: u64 = 120_000;
const FIRST_TOPIC_IDS: i16 = 13;
const INITIAL_EPOCH: i32 = 0;
const FINAL_EPOCH: i32 = -1;

/// A topic as requests of a session name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TopicKey {
    /// Up to version 12.
    Name(Arc<str>),
    /// From version 13 on.
    Id(Uuid),
}

/// What is asked of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The topic.
    pub topic: TopicKey,
    /// The partition.
    pub partition: i32,
    /// First offset to read.
    pub offset: i64,
    /// Most bytes, as the client wants it.
    pub max_bytes: i32,
    /// Leader epoch that the client believes in, or -1.
    pub leader_epoch: i32,
}

/// What a reply said (or would say) about one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Bytes of records.
    pub records_bytes: usize,
    /// Error code.
    pub error_code: i16,
    /// High watermark.
    pub high_watermark: i64,
    /// Log start.
    pub log_start: i64,
}

/// What kind of fetch a request turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// Everything is in the request and in the reply.
    Full,
    /// As `Full`, and a session begins.
    New,
    /// Changes only.
    Incremental {
        /// The session.
        id: i32,
        /// Epoch of this request.
        epoch: i32,
    },
}

#[derive(Debug)]
struct Cached {
    offset: i64,
    max_bytes: i32,
    leader_epoch: i32,
    high_watermark: i64,
    log_start: i64,
}

#[derive(Debug)]
struct Remembered {
    next_epoch: i32,
    by_id: bool,
    used_ms: u64,
    partitions: IndexMap<(TopicKey, i32), Cached>,
}

#[derive(Debug, Default)]
struct Cache {
    sessions: HashMap<i32, Remembered>,
    partitions: usize,
}

/// The sessions of all consumers.
#[derive(Debug)]
pub struct FetchSessions {
    max_sessions: usize,
    cache: Mutex<Cache>,
}

impl FetchSessions {
    /// At most `max_sessions`.
    pub fn new(max_sessions: usize) -> Self {
        Self { max_sessions, cache: Mutex::default() }
    }

    /// Sessions and partitions now, for the gauges.
    pub fn size(&self) -> (usize, usize) {
        let cache = self.cache.lock();
        (cache.sessions.len(), cache.partitions)
    }

    /// What the request wants read, in order; or the error of the whole reply.
    pub fn begin(&self, request: &FetchRequest, version: i16, now_ms: u64) -> Result<(Context, Vec<Wanted>), Kafka> {
        let (id, epoch) = (request.session_id, request.session_epoch);
        let by_id = version >= FIRST_TOPIC_IDS;
        let mut cache = self.cache.lock();
        if epoch == INITIAL_EPOCH || epoch == FINAL_EPOCH {
            if id != 0 {
                cache.remove(id);
            }
            let context = if epoch == INITIAL_EPOCH { Context::New } else { Context::Full };
            return Ok((context, wanted(request, by_id)));
        }
        let cache = &mut *cache;
        let session = cache.sessions.get_mut(&id).ok_or(Kafka::FetchSessionIdNotFound)?;
        if session.next_epoch != epoch {
            return Err(Kafka::InvalidFetchSessionEpoch);
        }
        if session.by_id != by_id {
            return Err(Kafka::FetchSessionTopicIdError);
        }
        session.used_ms = now_ms;
        session.next_epoch = if epoch == i32::MAX { 1 } else { epoch + 1 };
        let before = session.partitions.len();
        session.update(request, by_id);
        cache.partitions = cache.partitions - before + session.partitions.len();
        let wanted = session.wanted();
        if wanted.is_empty() || wanted.len() > MAX_SESSION_PARTITIONS {
            cache.remove(id);
            return Ok((Context::Full, wanted));
        }
        Ok((Context::Incremental { id, epoch }, wanted))
    }

    /// Ends a request: the session id to tell, and which of the partitions the reply has to name. `told` is in the order
    /// of `wanted`.
    pub fn finish(
        &self,
        context: Context,
        wanted: &[Wanted],
        told: &[Told],
        now_ms: u64,
        rng: &Rng,
    ) -> (i32, Vec<bool>) {
        match context {
            Context::Full => (0, vec![true; told.len()]),
            Context::New => (self.create(wanted, told, now_ms, rng), vec![true; told.len()]),
            Context::Incremental { id, epoch } => (id, self.news(id, epoch, wanted, told)),
        }
    }

    fn create(&self, wanted: &[Wanted], told: &[Told], now_ms: u64, rng: &Rng) -> i32 {
        if wanted.is_empty() || wanted.len() > MAX_SESSION_PARTITIONS {
            return 0;
        }
        let mut cache = self.cache.lock();
        while cache.sessions.len() >= self.max_sessions || cache.partitions + wanted.len() > MAX_CACHED_PARTITIONS {
            if !cache.evict(now_ms) {
                return 0;
            }
        }
        let mut id = 0;
        while id == 0 || cache.sessions.contains_key(&id) {
            id = (rng.u64() & 0x7fff_ffff) as i32;
        }
        let by_id = matches!(wanted[0].topic, TopicKey::Id(_));
        let partitions = wanted.iter().zip(told).map(|(wanted, told)| {
            let cached = Cached {
                offset: wanted.offset,
                max_bytes: wanted.max_bytes,
                leader_epoch: wanted.leader_epoch,
                high_watermark: told.high_watermark,
                log_start: told.log_start,
            };
            ((wanted.topic.clone(), wanted.partition), cached)
        });
        let session = Remembered { next_epoch: 1, by_id, used_ms: now_ms, partitions: partitions.collect() };
        cache.partitions += session.partitions.len();
        cache.sessions.insert(id, session);
        id
    }

    fn news(&self, id: i32, epoch: i32, wanted: &[Wanted], told: &[Told]) -> Vec<bool> {
        let mut cache = self.cache.lock();
        // A session that was evicted or used by another request meanwhile is not this request's to update.
        let session = cache
            .sessions
            .get_mut(&id)
            .filter(|session| session.next_epoch == if epoch == i32::MAX { 1 } else { epoch + 1 });
        let Some(session) = session else { return vec![true; told.len()] };
        let named = wanted.iter().zip(told).map(|(wanted, told)| {
            let Some(at) = session.partitions.get_index_of(&(wanted.topic.clone(), wanted.partition)) else {
                return true;
            };
            let cached = &mut session.partitions[at];
            let mut news = told.records_bytes > 0;
            if told.error_code != 0 {
                // Told again in full once the error is over.
                cached.high_watermark = -1;
                news = true;
            } else {
                news |= cached.high_watermark != told.high_watermark || cached.log_start != told.log_start;
                cached.high_watermark = told.high_watermark;
                cached.log_start = told.log_start;
            }
            if told.records_bytes > 0 {
                // Whoever got records goes to the end, so that the others get their turn.
                let last = session.partitions.len() - 1;
                session.partitions.move_index(at, last);
            }
            news
        });
        named.collect()
    }
}

impl Cache {
    fn remove(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.partitions -= session.partitions.len();
        }
    }

    /// Makes room; false if every session is in use.
    fn evict(&mut self, now_ms: u64) -> bool {
        let oldest = self.sessions.iter().min_by_key(|(_, session)| session.used_ms);
        let Some((&id, session)) = oldest else { return false };
        if now_ms.saturating_sub(session.used_ms) < EVICTABLE_AFTER_MS {
            return false;
        }
        self.remove(id);
        true
    }
}

impl Remembered {
    fn update(&mut self, request: &FetchRequest, by_id: bool) {
        for wanted in wanted(request, by_id) {
            let Wanted { topic, partition, offset, max_bytes, leader_epoch } = wanted;
            let cached = self.partitions.entry((topic, partition)).or_insert(Cached {
                offset,
                max_bytes,
                leader_epoch,
                high_watermark: -1,
                log_start: -1,
            });
            cached.offset = offset;
            cached.max_bytes = max_bytes;
            cached.leader_epoch = leader_epoch;
        }
        for forgotten in &request.forgotten_topics_data {
            let topic = key(by_id, &forgotten.topic, forgotten.topic_id);
            for partition in &forgotten.partitions {
                self.partitions.shift_remove(&(topic.clone(), *partition));
            }
        }
    }

    fn wanted(&self) -> Vec<Wanted> {
        let all = self.partitions.iter().map(|((topic, partition), cached)| Wanted {
            topic: topic.clone(),
            partition: *partition,
            offset: cached.offset,
            max_bytes: cached.max_bytes,
            leader_epoch: cached.leader_epoch,
        });
        all.collect()
    }
}

fn key(by_id: bool, name: &str, id: Uuid) -> TopicKey {
    if by_id { TopicKey::Id(id) } else { TopicKey::Name(Arc::from(name)) }
}

fn wanted(request: &FetchRequest, by_id: bool) -> Vec<Wanted> {
    let topics = request.topics.iter().map(|topic| (key(by_id, &topic.topic, topic.topic_id), &topic.partitions));
    let partitions = topics.flat_map(|(topic, partitions)| {
        partitions.iter().map(move |partition| Wanted {
            topic: topic.clone(),
            partition: partition.partition,
            offset: partition.fetch_offset,
            max_bytes: partition.partition_max_bytes,
            leader_epoch: partition.current_leader_epoch,
        })
    });
    partitions.collect()
}
