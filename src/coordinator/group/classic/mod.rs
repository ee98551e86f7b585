//! The classic group protocol (KIP-62, KIP-134, KIP-345, KIP-394, KIP-559, KIP-814): join, sync, heartbeat, leave.
//!
//! ```text
//!                 first join                all joined, or time is up
//!       Empty ───────────────▶ PreparingRebalance ───────────────▶ CompletingRebalance
//!         ▲                      │      ▲     ▲                        │        │
//!         └──────────────────────┘      │     └────────────────────────┘        │ the leader's assignment
//!            nobody is left             │        somebody joins or leaves       ▼ is committed
//!                                       └───────────────────────────────────── Stable
//! ```
//!
//! Invariants: the generation only grows; all members of a generation get the one assignment that is in the log for it;
//! every rebalance ends, by its members' answers or by a deadline.

pub(super) mod group;
mod join;
mod leave;
mod member;
mod rebalance;
mod subscription;
mod sync;

pub(super) use group::{Group, State};
pub(super) use join::Join;
