//! Who looks dead. Pure: outcomes of probes come in, suspects go out.
//!
//! Suspicion may be aggressive because sealing is safe; it must not be endless, or two brokers that cannot reach each other
//! would seal each other for ever. So a session is suspected only after it has answered once (a wrong address is no sign of
//! death), and a broker that came back after a mistake is given twice as long the next time.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::base::SessionId;

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// The broker answered.
    Answered,
    /// Its host says that nobody listens there: the process is gone.
    Refused,
    /// No answer in time.
    Silent,
}

/// Refusals in a row that make a suspect.
const REFUSALS: u32 = 2;
/// Doublings at most.
const MAX_STRIKES: u32 = 6;
/// A mistake is forgotten after this many milliseconds.
const STRIKE_KEPT_MS: u64 = 600_000;

#[derive(Debug, Default)]
struct Standing {
    answered: bool,
    refusals: u32,
    silences: u32,
}

#[derive(Debug, Clone, Copy)]
struct Strike {
    count: u32,
    at_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Suspicion {
    /// Probes without an answer in a row that make a suspect.
    misses: u32,
    known: BTreeMap<SessionId, Standing>,
    strikes: BTreeMap<i32, Strike>,
    /// Sessions that were suspected for silence: were they mistaken?
    silenced: BTreeMap<SessionId, u64>,
}

impl Suspicion {
    /// Nobody is known. `misses` probes without an answer in a row make a suspect; at least 1.
    pub fn new(misses: u32) -> Self {
        let (known, strikes, silenced) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { misses: misses.max(1), known, strikes, silenced }
    }

    /// Forgets sessions that are not probed any more. One of a broker that was suspected and lives again is a mistake.
    pub fn probed(&mut self, sessions: &BTreeSet<SessionId>, now_ms: u64) {
        self.known.retain(|session, _| sessions.contains(session));
        self.strikes.retain(|_, strike| now_ms.saturating_sub(strike.at_ms) < STRIKE_KEPT_MS);
        self.silenced.retain(|_, at_ms| now_ms.saturating_sub(*at_ms) < STRIKE_KEPT_MS);
        for session in sessions {
            let before = self.silenced.range(..*session).map(|(old, _)| *old);
            let mistaken: Vec<SessionId> = before.filter(|old| old.broker_id == session.broker_id).collect();
            for old in mistaken {
                self.silenced.remove(&old);
                let count = self.strikes.get(&session.broker_id).map_or(0, |strike| strike.count);
                let strike = Strike { count: (count + 1).min(MAX_STRIKES), at_ms: now_ms };
                self.strikes.insert(session.broker_id, strike);
            }
        }
    }

    /// Takes the outcome of one probe in.
    pub fn observe(&mut self, session: SessionId, outcome: ProbeOutcome, now_ms: u64) {
        let standing = self.known.entry(session).or_default();
        match outcome {
            ProbeOutcome::Answered => *standing = Standing { answered: true, ..Standing::default() },
            ProbeOutcome::Refused => standing.refusals += 1,
            ProbeOutcome::Silent => standing.silences += 1,
        }
        if self.is_silent(session) {
            self.silenced.entry(session).or_insert(now_ms);
        }
    }

    fn is_silent(&self, session: SessionId) -> bool {
        let strikes = self.strikes.get(&session.broker_id).map_or(0, |strike| strike.count);
        let limit = self.misses.saturating_mul(1 << strikes);
        self.known.get(&session).is_some_and(|standing| standing.answered && standing.silences >= limit)
    }

    /// Whether the next probe may show somebody to be dead who has just refused one: it should not wait.
    pub fn is_urgent(&self) -> bool {
        self.known.values().any(|standing| standing.answered && (1..REFUSALS).contains(&standing.refusals))
    }

    /// Who looks dead now.
    pub fn suspects(&self) -> BTreeSet<SessionId> {
        let refused = |standing: &Standing| standing.answered && standing.refusals >= REFUSALS;
        let suspected = |(session, standing): &(&SessionId, &Standing)| refused(standing) || self.is_silent(**session);
        self.known.iter().filter(suspected).map(|(session, _)| *session).collect()
    }
}
