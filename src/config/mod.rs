//! Floor 1: the settings of `esker serve`: parsed, validated, documented.
//!
//! [`keys::KEYS`] is the one list of settings: name, unit, default, bounds, meaning. The command line's flags, the
//! `ESKER_…` environment variables, the keys of the TOML file and the table in the README all come from it. A setting
//! named `flush.put_rate` is the flag `--flush-put-rate`, the variable `ESKER_FLUSH_PUT_RATE` and the TOML key
//! `put_rate` of table `[flush]`. Flags beat environment beats file beats default.
//!
//! [`Settings`] is what the rest of the program sees: plain values in base units, already checked. Nothing here reads
//! the environment or a file by itself; the caller hands their contents in.

pub mod key;
pub mod keys;
pub mod load;
pub mod settings;
pub mod topic;
pub mod units;

#[cfg(test)]
mod tests;
pub use load::{ConfigError, Loaded, Sources, load};
pub use settings::{
    BrokerSettings, CacheSettings, ClusterSettings, CompactionSettings, EtcdSettings, FsyncPolicy, GroupSettings,
    GrpcSettings, HttpSettings, KafkaSettings, LogFormat, LogSettings, MetadataSetting, ObjectStoreSetting,
    RetentionSettings, Secret, Settings, StoreSettings, TopicSettings, TracingSettings,
};
