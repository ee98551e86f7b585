//! The settings as plain values, one struct per module that reads them.
//!
//! `Default` gives the documented defaults (for a file store), so tests can write
//! `LogSettings { flush_bytes: 4096, ..Default::default() }`.

use std::fmt;
use std::path::PathBuf;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Every setting of `esker serve`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// Who this broker is and where it keeps things.
    pub broker: BrokerSettings,
    /// Brokers among each other.
    pub cluster: ClusterSettings,
    /// The object store client.
    pub store: StoreSettings,
    /// The client of etcd.
    pub etcd: EtcdSettings,
    /// The log: cutting, uploading, write-ahead files, checkpoints.
    pub log: LogSettings,
    /// The read cache.
    pub cache: CacheSettings,
    /// The Kafka front door.
    pub kafka: KafkaSettings,
    /// Consumer groups.
    pub group: GroupSettings,
    /// Topics.
    pub topics: TopicSettings,
    /// Retention.
    pub retention: RetentionSettings,
    /// Compaction of tiers.
    pub compaction: CompactionSettings,
    /// The HTTP front door.
    pub http: HttpSettings,
    /// The gRPC front door.
    pub grpc: GrpcSettings,
    /// Logs for people and programs.
    pub tracing: TracingSettings,
}

/// Who this broker is and where it keeps things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerSettings {
    /// Local directory of this broker: write-ahead files, cache, embedded metadata, file store.
    pub data_dir: PathBuf,
    /// Where objects are.
    pub object_store: ObjectStoreSetting,
    /// Where metadata is.
    pub metadata: MetadataSetting,
    /// Name of the cluster; checked against the one in the data directory and in the metadata store when given.
    pub cluster: Option<String>,
    /// Kafka node id, 0 or more; `None` is the one that the data directory remembers, or a free one.
    pub broker_id: Option<i32>,
    /// Rack / availability zone told to clients.
    pub zone: Option<String>,
    /// How long the broker may take to commit what is open when it is asked to stop, in ms.
    pub stop_timeout_ms: u64,
}

impl Default for BrokerSettings {
    fn default() -> Self {
        let data_dir = PathBuf::from("./esker-data");
        Self {
            object_store: ObjectStoreSetting::File { dir: data_dir.join("objects") },
            data_dir,
            metadata: MetadataSetting::Embedded,
            cluster: None,
            broker_id: None,
            zone: None,
            stop_timeout_ms: 30_000,
        }
    }
}

/// Brokers among each other: leases, suspicion, balance, drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSettings {
    /// Time to live of a session's lease, in ms: a broker that was not heard of for longer has left.
    pub lease_ttl_ms: u64,
    /// Ms between two probes of another broker.
    pub probe_interval_ms: u64,
    /// A probe without an answer after this many ms has missed.
    pub probe_timeout_ms: u64,
    /// Misses in a row after which a broker is suspected.
    pub probe_misses: u32,
    /// Ms between two looks of the controller at how even the load is.
    pub balance_interval_ms: u64,
    /// How long a drain may take to hand partitions over, in ms; what is left then is taken over like a dead broker's.
    pub drain_timeout_ms: u64,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            lease_ttl_ms: 10_000,
            probe_interval_ms: 250,
            probe_timeout_ms: 1_000,
            probe_misses: 3,
            balance_interval_ms: 5_000,
            drain_timeout_ms: 30_000,
        }
    }
}

/// Where objects are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectStoreSetting {
    /// Files of a directory of this machine.
    File {
        /// The directory.
        dir: PathBuf,
    },
    /// A bucket that speaks S3. Credentials, region and endpoint come from the AWS environment and profile chain.
    S3 {
        /// Bucket name.
        bucket: String,
        /// Prefix of every key, without slashes at the ends; may be empty.
        prefix: String,
    },
    /// This process's memory; gone when it ends.
    Memory,
}

impl ObjectStoreSetting {
    /// Whether a write costs money and tens of milliseconds (S3), so that flushes are paced.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::S3 { .. })
    }
}

/// Where metadata is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataSetting {
    /// A file in the data directory; this process is the whole cluster.
    Embedded,
    /// etcd, shared by the brokers of a cluster.
    Etcd {
        /// `host:port` of its members.
        endpoints: Vec<String>,
        /// Whether the connections are TLS.
        tls: bool,
    },
}

/// A text that is never shown, not even by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being shown by accident.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The client of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdSettings {
    /// User of etcd's own authentication.
    pub user: Option<String>,
    /// Its password …
    pub password: Option<Secret>,
    /// … or the file that holds it.
    pub password_file: Option<PathBuf>,
    /// PEM file with the certificates of the authorities that sign the servers' certificates; without it the machine's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with the certificate of this client.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the key of that certificate.
    pub key_file: Option<PathBuf>,
    /// Longest time of one operation, repetitions included, in ms.
    pub request_timeout_ms: u64,
}

impl Default for EtcdSettings {
    fn default() -> Self {
        Self {
            user: None,
            password: None,
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            request_timeout_ms: 5_000,
        }
    }
}

/// The object store client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSettings {
    /// A GET that is slower than nearly all before it, and than this many ms, is asked a second time; 0 never.
    pub get_hedge_after_ms: u64,
    /// One try of a request is given up after this many ms.
    pub request_timeout_ms: u64,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self { get_hedge_after_ms: 10, request_timeout_ms: 10_000 }
    }
}

/// When the write-ahead file is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsyncPolicy {
    /// One `fdatasync` for all `acks=1` replies that wait at that moment.
    Group,
    /// Never: `acks=1` survives a killed process, not a power loss.
    Never,
}

/// The log: cutting, uploading, write-ahead files, checkpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct LogSettings {
    /// The open segment is cut when it holds this many bytes.
    pub flush_bytes: usize,
    /// … or when its oldest byte is this old, in ms (250 on s3, 5 on file and memory).
    pub flush_linger_ms: u64,
    /// … or when replies wait and no byte came for this many ms, as long as the PUT bucket allows.
    pub flush_idle_ms: u64,
    /// Quiescent cuts per second, sustained. File and memory stores are not limited: `f64::INFINITY`.
    pub put_rate_per_s: f64,
    /// Quiescent cuts that may be spent at once.
    pub put_burst: u32,
    /// Segments uploaded at once.
    pub upload_concurrency: usize,
    /// An upload that has not answered after this many ms is sent a second time (same key, same id); 0 never.
    pub hedge_after_ms: u64,
    /// Bytes appended but not committed; at the limit producers wait.
    pub unflushed_bytes: usize,
    /// When the write-ahead file is synced.
    pub wal_fsync: FsyncPolicy,
    /// Bytes of write-ahead files on local disk, uncommitted and kept as cache together.
    pub wal_disk_bytes: u64,
    /// Bytes of committed segment buffers kept in memory for tailing readers.
    pub memory_tail_bytes: usize,
    /// Ms between checkpoints.
    pub checkpoint_interval_ms: u64,
    /// Segments between checkpoints.
    pub checkpoint_segments: u64,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            flush_bytes: (8 * MIB) as usize,
            flush_linger_ms: 10,
            flush_idle_ms: 5,
            put_rate_per_s: f64::INFINITY,
            put_burst: 8,
            upload_concurrency: 8,
            hedge_after_ms: 2_000,
            unflushed_bytes: (128 * MIB) as usize,
            wal_fsync: FsyncPolicy::Group,
            wal_disk_bytes: GIB,
            memory_tail_bytes: (32 * MIB) as usize,
            checkpoint_interval_ms: 300_000,
            checkpoint_segments: 512,
        }
    }
}

/// The read cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSettings {
    /// Memory for pages of objects.
    pub memory_bytes: u64,
    /// Local disk for pages of objects; 0 for none (a file store needs none).
    pub disk_bytes: u64,
    /// Size of a page.
    pub page_bytes: u64,
    /// Pages read ahead of a sequential reader.
    pub readahead_pages: usize,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { memory_bytes: 64 * MIB, disk_bytes: 0, page_bytes: MIB, readahead_pages: 4 }
    }
}

/// The Kafka front door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaSettings {
    /// Address to listen on, `host:port`; port 0 lets the machine choose.
    pub listen: String,
    /// Address told to clients, `host:port`; `None` is the address that the listener got.
    pub advertise: Option<String>,
    /// Second address to listen on, for clients that reach the brokers under other addresses.
    pub external_listen: Option<String>,
    /// Address told to clients that came through the second one.
    pub external_advertise: Option<String>,
    /// Connections at once; more are closed at once.
    pub max_connections: usize,
    /// Connections at once from one IP address; more are closed at once. 0 for no limit of its own.
    pub max_connections_per_ip: usize,
    /// Largest request, in bytes of its frame.
    pub max_request_bytes: usize,
    /// Bytes of requests read but not yet answered, per connection; at the limit the connection is not read.
    pub inflight_bytes_per_connection: usize,
    /// … and of all connections together.
    pub inflight_bytes: usize,
    /// Largest fetch response, in bytes, whatever the client asks.
    pub max_fetch_bytes: usize,
    /// Fetches waiting for new data at once; more are answered at once with what there is.
    pub max_fetch_waiters: usize,
    /// Incremental fetch sessions kept (KIP-227).
    pub max_fetch_sessions: usize,
    /// A connection without a request for this many ms is closed.
    pub idle_timeout_ms: u64,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9092".to_owned(),
            advertise: None,
            external_listen: None,
            external_advertise: None,
            max_connections: 10_000,
            max_connections_per_ip: 0,
            max_request_bytes: (100 * MIB) as usize,
            inflight_bytes_per_connection: (128 * MIB) as usize,
            inflight_bytes: (512 * MIB) as usize,
            max_fetch_bytes: (55 * MIB) as usize,
            max_fetch_waiters: 20_000,
            max_fetch_sessions: 1_000,
            idle_timeout_ms: 600_000,
        }
    }
}

/// Consumer groups; names and defaults are Kafka's `group.*` and `offsets.*` broker settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSettings {
    /// Shortest session timeout a member may ask for, in ms.
    pub min_session_timeout_ms: i32,
    /// Longest session timeout a member may ask for, in ms.
    pub max_session_timeout_ms: i32,
    /// How long the first rebalance of an empty group waits for more members, in ms.
    pub initial_rebalance_delay_ms: i32,
    /// Members of one group.
    pub max_size: usize,
    /// Groups of this broker.
    pub max_groups: usize,
    /// Largest metadata string of a committed offset, in bytes.
    pub offset_metadata_max_bytes: usize,
    /// Offsets of an empty group are kept this long, in ms.
    pub offsets_retention_ms: i64,
    /// Ms between looks for expired offsets.
    pub offsets_retention_check_ms: u64,
    /// Partitions of `__consumer_offsets`; fixed once the topic exists.
    pub offsets_topic_partitions: i32,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            max_size: 10_000,
            max_groups: 100_000,
            offset_metadata_max_bytes: 4_096,
            offsets_retention_ms: 7 * 24 * 3_600_000,
            offsets_retention_check_ms: 600_000,
            offsets_topic_partitions: 50,
        }
    }
}

/// Topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSettings {
    /// Whether producing to or asking for an unknown topic creates it.
    pub auto_create: bool,
    /// Partitions of a topic when its creator names no number.
    pub num_partitions: i32,
    /// Topics of the cluster.
    pub max_topics: usize,
    /// Partitions of the cluster, all topics together.
    pub max_partitions: usize,
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self { auto_create: true, num_partitions: 1, max_topics: 20_000, max_partitions: 100_000 }
    }
}

/// Retention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Ms between looks for data past its retention.
    pub check_interval_ms: u64,
    /// An unreferenced object is deleted only this many ms after it was first found so.
    pub delete_grace_ms: u64,
}

impl Default for RetentionSettings {
    fn default() -> Self {
        Self { check_interval_ms: 300_000, delete_grace_ms: 600_000 }
    }
}

/// Compaction of tiers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactionSettings {
    /// Ms between two looks; 0 for no compaction.
    pub interval_ms: u64,
    /// Bytes of batches in one compacted object, about.
    pub run_bytes: u64,
    /// A partition with this many runs in segments is compacted.
    pub segments: usize,
    /// A partition that has had batches in segments for this many ms is compacted.
    pub max_wait_ms: u64,
    /// Bytes copied per second, on the average.
    pub bytes_per_s: u64,
}

impl Default for CompactionSettings {
    fn default() -> Self {
        Self { interval_ms: 5_000, run_bytes: 64 << 20, segments: 128, max_wait_ms: 600_000, bytes_per_s: 256 << 20 }
    }
}

/// The HTTP front door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// Address to listen on, `host:port`; port 0 lets the machine choose.
    pub listen: String,
    /// Connections at once; more are closed at once.
    pub max_connections: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9096".to_owned(), max_connections: 256 }
    }
}

/// The gRPC front door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcSettings {
    /// Address to listen on, `host:port`; port 0 lets the machine choose.
    pub listen: String,
    /// Connections at once; more wait.
    pub max_connections: usize,
    /// Connections at once from one IP address; more are closed. 0 for no limit of its own.
    pub max_connections_per_ip: usize,
    /// Bytes of the largest request message.
    pub max_message_bytes: usize,
    /// Members of consumer groups that are kept for clients.
    pub max_members: usize,
}

impl Default for GrpcSettings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9094".to_owned(),
            max_connections: 1_000,
            max_connections_per_ip: 0,
            max_message_bytes: 16 << 20,
            max_members: 1_000,
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Logs for people and programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracingSettings {
    /// Filter in the syntax of `tracing` (`info`, `esker=debug,info`, …).
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
}

impl Default for TracingSettings {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Text }
    }
}
