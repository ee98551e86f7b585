//! Floor 1: the settings of `esker serve`: parsed, validated, documented.
//!
//! [`keys::KEYS`] is the one list of settings: name, unit, default, bounds, meaning. The command line's flags, the
//! `ESKER_…` environment variables, the keys of the TOML file and the table in the README all come from it. A setting
//! named `flush.max_bytes` is the flag `--flush-max-bytes`, the variable `ESKER_FLUSH_MAX_BYTES` and the TOML key
//! `max_bytes` of table `[flush]`. Flags beat environment beats file beats default.
//!
//! [`Settings`] is what the rest of the program sees: plain values in base units, already checked. Nothing here reads
//! the environment or a file by itself; the caller hands their contents in.

pub mod settings;

pub use settings::{
    BrokerSettings, CacheSettings, FsyncPolicy, GroupSettings, HttpSettings, KafkaSettings, LogFormat, LogSettings,
    MetadataSetting, ObjectStoreSetting, RetentionSettings, Settings, StoreSettings, TopicSettings, TracingSettings,
};
