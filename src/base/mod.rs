//! Floor 0: the words every other module speaks, and the only door to ambient time and randomness.
//!
//! Nothing here does IO. [`Clock`] and [`Rng`] are values that the composition root makes and hands down, so a test or
//! a simulator can replace them; `clippy.toml` bans the standard library's ambient clocks everywhere else.

pub mod backoff;
pub mod clock;
pub mod crash;
pub mod ids;
pub mod kind;
pub mod maps;
pub mod per_ip;
pub mod rng;
pub mod tasks;

pub use backoff::Backoff;
pub use clock::{Clock, ManualClock};
pub use ids::{SessionId, TopicPartition};
pub use kind::ErrorKind;
pub use maps::{HashMap, HashSet};
pub use rng::Rng;
pub use tasks::Tasks;
