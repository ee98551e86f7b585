//! The settings in the words of the parts that they are for.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use prometheus_client::registry::Registry;
use url::Url;
use uuid::Uuid;

use crate::base::{Clock, Rng, SessionId, Tasks};
use crate::cache;
use crate::cluster::GRPC_ENDPOINT;
use crate::cluster::{IdWish, TopicRules};
use crate::config::topic::broker::BrokerConfigs;
use crate::config::{FsyncPolicy, MetadataSetting, ObjectStoreSetting, Settings, StoreSettings};
use crate::format::metadata::BrokerRecord;
use crate::frontend::kafka::EXTERNAL_ENDPOINT;
use crate::objstore::hedge::HedgePolicy;
use crate::objstore::{self, ObjectStore, OpenOptions, S3Options};
use crate::partition::{LogLimits, LogOptions, WalFsync};
use crate::upkeep::compact::Policy;
use crate::upkeep::{CompactionSettings, UpkeepSettings};
use crate::wal::Disk;

/// An idempotent producer that has not written for this long is forgotten, in ms (Kafka's `producer.id.expiration.ms`).
const PRODUCER_EXPIRATION_MS: i32 = 86_400_000;

/// Where this process listens.
#[derive(Debug, Clone, Copy)]
pub struct Doors {
    /// Kafka clients.
    pub kafka: SocketAddr,
    /// Health and metrics.
    pub http: SocketAddr,
    /// gRPC, for clients and other brokers.
    pub grpc: SocketAddr,
}

/// The address that clients are told, `host:port`.
pub fn advertised(settings: &Settings, doors: Doors) -> String {
    settings.kafka.advertise.clone().unwrap_or_else(|| doors.kafka.to_string())
}

/// Which broker id this process asks for: with embedded metadata it is alone and is broker 1, unless told otherwise.
pub fn id_wish(settings: &Settings, remembered: Option<i32>, directory_id: Uuid, host: String, pid: u32) -> IdWish {
    let alone = settings.broker.metadata == MetadataSetting::Embedded;
    let asked = settings.broker.broker_id.or_else(|| alone.then(|| remembered.unwrap_or(1)));
    IdWish { asked, remembered, directory_id, host, pid }
}

/// What clients and other brokers are told of this one.
pub fn broker_record(settings: &Settings, session: SessionId, doors: Doors) -> anyhow::Result<BrokerRecord> {
    let advertised = advertised(settings, doors);
    let (host, port) = advertised.rsplit_once(':').context("advertise is host:port")?;
    let external = settings.kafka.external_advertise.iter();
    let external = external.map(|address| (EXTERNAL_ENDPOINT.to_owned(), address.clone()));
    Ok(BrokerRecord {
        session,
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port: port.parse().context("advertise is host:port")?,
        rack: settings.broker.zone.clone(),
        endpoints: [
            ("http".to_owned(), reachable(host, doors.http)),
            (GRPC_ENDPOINT.to_owned(), reachable(host, doors.grpc)),
        ]
        .into_iter()
        .chain(external)
        .collect(),
        draining: false,
    })
}

/// Where other brokers reach a door: at the address it listens on, or at the advertised host if that is any.
fn reachable(advertised_host: &str, door: SocketAddr) -> String {
    if door.ip().is_unspecified() { format!("{advertised_host}:{}", door.port()) } else { door.to_string() }
}

/// What Kafka's tools are shown as the configs of broker `node_id`.
pub fn broker_configs(settings: &Settings, node_id: i32, doors: Doors) -> BrokerConfigs {
    let (group, topics) = (&settings.group, &settings.topics);
    let int = |value: usize| i32::try_from(value).unwrap_or(i32::MAX);
    BrokerConfigs {
        node_id,
        advertised: advertised(settings, doors),
        rack: settings.broker.zone.clone(),
        num_partitions: topics.num_partitions,
        auto_create_topics_enable: topics.auto_create,
        socket_request_max_bytes: int(settings.kafka.max_request_bytes),
        group_min_session_timeout_ms: group.min_session_timeout_ms,
        group_max_session_timeout_ms: group.max_session_timeout_ms,
        group_initial_rebalance_delay_ms: group.initial_rebalance_delay_ms,
        group_max_size: int(group.max_size),
        offsets_retention_minutes: i32::try_from(group.offsets_retention_ms / 60_000).unwrap_or(i32::MAX),
        offsets_topic_num_partitions: group.offsets_topic_partitions,
        producer_id_expiration_ms: PRODUCER_EXPIRATION_MS,
        ..BrokerConfigs::default()
    }
}

/// Defaults and limits of topics.
pub fn topic_rules(settings: &Settings, configs: &BrokerConfigs) -> TopicRules {
    TopicRules {
        default_partitions: settings.topics.num_partitions,
        max_topics: settings.topics.max_topics,
        max_partitions: settings.topics.max_partitions,
        defaults: configs.topic_defaults(),
        ..TopicRules::default()
    }
}

/// The read cache.
pub fn cache(settings: &Settings, data_dir: &Path) -> cache::Settings {
    let cache = &settings.cache;
    cache::Settings {
        page_bytes: cache.page_bytes,
        memory_bytes: cache.memory_bytes,
        disk_bytes: cache.disk_bytes,
        disk_dir: (cache.disk_bytes > 0).then(|| data_dir.join("cache")),
        read_ahead_bytes: cache.page_bytes * cache.readahead_pages as u64,
        ..cache::Settings::default()
    }
}

/// Paces of retention and garbage collection.
pub fn upkeep(settings: &Settings) -> UpkeepSettings {
    UpkeepSettings {
        interval_ms: settings.retention.check_interval_ms,
        grace_ms: settings.retention.delete_grace_ms,
        producer_expiration_ms: u64::from(PRODUCER_EXPIRATION_MS.unsigned_abs()),
    }
}

/// Paces of compaction.
pub fn compaction(settings: &Settings) -> CompactionSettings {
    let compaction = &settings.compaction;
    let (run_bytes, segments, max_wait_ms) = (compaction.run_bytes, compaction.segments, compaction.max_wait_ms);
    CompactionSettings {
        interval_ms: compaction.interval_ms,
        policy: Policy { run_bytes, segments, max_wait_ms },
        bytes_per_s: compaction.bytes_per_s,
    }
}

/// The object store.
pub fn store(settings: &StoreSettings, clock: &Clock, rng: &Rng, metrics: &mut Registry) -> OpenOptions {
    let defaults = OpenOptions::new(clock.clone(), rng.clone());
    let least_ms = settings.get_hedge_after_ms;
    OpenOptions {
        metrics: objstore::Metrics::register(metrics),
        hedge: (least_ms > 0).then(|| HedgePolicy { least_ms, ..HedgePolicy::default() }),
        s3: S3Options { request_timeout_ms: settings.request_timeout_ms, ..defaults.s3 },
        ..defaults
    }
}

/// The log of `session`.
pub fn log(
    settings: &Settings,
    session: SessionId,
    store: &Arc<dyn ObjectStore>,
    (disk, data_dir): (&Arc<dyn Disk>, &Path),
    (clock, rng, tasks): (&Clock, &Rng, &Tasks),
) -> LogOptions {
    let log = &settings.log;
    let in_memory = settings.broker.object_store == ObjectStoreSetting::Memory;
    LogOptions {
        session,
        limits: LogLimits {
            flush_bytes: u32::try_from(log.flush_bytes).unwrap_or(u32::MAX),
            flush_linger_us: log.flush_linger_ms * 1000,
            flush_idle_us: log.flush_idle_ms * 1000,
            idle_cuts_per_s: if log.put_rate_per_s.is_finite() { (log.put_rate_per_s.ceil() as u32).max(1) } else { 0 },
            idle_cuts_burst: log.put_burst,
            uploads: log.upload_concurrency,
            unflushed_bytes: log.unflushed_bytes as u64,
            wal_disk_bytes: log.wal_disk_bytes,
            memory_tail_bytes: log.memory_tail_bytes as u64,
            checkpoint_segments: log.checkpoint_segments,
            checkpoint_interval_us: log.checkpoint_interval_ms * 1000,
            ..LogLimits::default()
        },
        disk: disk.clone(),
        wal_root: (!in_memory).then(|| data_dir.join("wal")),
        wal_fsync: match log.wal_fsync {
            FsyncPolicy::Group => WalFsync::Group,
            FsyncPolicy::Never => WalFsync::Never,
        },
        hedge_after_ms: (log.hedge_after_ms > 0).then_some(log.hedge_after_ms),
        store: store.clone(),
        clock: clock.clone(),
        rng: rng.clone(),
        tasks: tasks.clone(),
    }
}

/// The setting as a URL again, with the directory absolute.
pub fn store_url(setting: &ObjectStoreSetting) -> anyhow::Result<String> {
    Ok(match setting {
        ObjectStoreSetting::Memory => "memory://".to_owned(),
        ObjectStoreSetting::S3 { bucket, prefix } => format!("s3://{bucket}/{prefix}"),
        ObjectStoreSetting::File { dir } => {
            let dir = std::path::absolute(dir).with_context(|| format!("object_store '{}'", dir.display()))?;
            Url::from_file_path(&dir)
                .map_err(|()| anyhow!("object_store '{}' is no usable path", dir.display()))?
                .into()
        }
    })
}
