//! Floor 3: sessions, who leads what, and the topics of the cluster, over the metadata store.
//!
//! [`Catalogue`] keeps a [`ClusterImage`] up to date and changes topics; the keys and values that it reads and writes are
//! in [`keys`] and `format::metadata`. [`Sessions`] starts and ends the lives of brokers; [`identity`] keeps clusters apart; [`backup`] saves the catalogue in the object store. Everything that decides (`fold`, `topics`, `batch`) is pure.
//!
//! Invariants: one live session per broker id; leader epochs only grow; every change compares the controller's key and the
//! revision of each record it replaces, so a controller that was paused changes nothing; a topic and all its assignments
//! appear and disappear together.

pub mod assignments;
pub mod backup;
mod batch;
mod broker_ids;
mod catalogue;
pub mod controller;
mod departed;
mod drain;
pub mod error;
mod fold;
pub mod identity;
pub mod image;
pub mod keys;
mod leadership;
pub mod limits;
pub mod metrics;
pub mod placement;
mod producer_ids;
pub mod rebuild;
mod registration;
pub mod suspicion;
#[cfg(test)]
mod tests;
mod topics;

pub use assignments::Handover;
pub use backup::Backups;
pub use broker_ids::IdWish;
pub use catalogue::{Catalogue, CreatedTopic, TopicRef};
pub use controller::{Controller, ControllerSettings, Reach};
pub use departed::{Brokers, Departed};
pub use drain::DrainError;
pub use error::{ClusterError, TopicError};
pub use image::{CONSUMER_OFFSETS, ClusterImage, GRPC_ENDPOINT, TRANSACTION_STATE, Topic, is_internal};
pub use keys::{Key, KeySpace};
pub use leadership::Leadership;
pub use metrics::Metrics;
pub use placement::take_over;
pub use producer_ids::ProducerIds;
pub use registration::{Identity, Registration, Sessions};
pub use suspicion::ProbeOutcome;
#[cfg(test)]
pub use tests::picture;
pub use topics::{ConfigChange, ConfigOp, NewPartitions, NewTopic, TopicRules, check_name};
