//! The one list of settings.

use std::fmt::Write as _;

use super::key::{Default, Key, Kind, Value, check_address};
use super::settings::{FsyncPolicy, LogFormat, MetadataSetting, ObjectStoreSetting, Secret, Settings};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// `file://…`, `s3://bucket/prefix`, `memory://`.
fn object_store(settings: &mut Settings, value: &Value) -> Result<(), String> {
    let text = value.text();
    let (scheme, rest) =
        text.split_once("://").ok_or("must be file://DIR, s3://BUCKET/PREFIX or memory://".to_owned())?;
    settings.broker.object_store = match scheme {
        "file" if rest.is_empty() => return Err("file:// needs a directory: file:///var/lib/esker/objects".to_owned()),
        "file" => ObjectStoreSetting::File { dir: rest.into() },
        "memory" if rest.is_empty() => ObjectStoreSetting::Memory,
        "memory" => return Err("memory:// takes nothing after it".to_owned()),
        "s3" => {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
            if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(name) {
                return Err(format!("'{bucket}' is no bucket name (3 to 63 of a-z, 0-9, '-' and '.')"));
            }
            let prefix = prefix.trim_matches('/');
            let key = |c: char| c.is_ascii_alphanumeric() || "._=/-".contains(c);
            if !prefix.chars().all(key) || prefix.contains("//") {
                return Err(format!("the prefix '{prefix}' may hold only A-Z, a-z, 0-9 and . _ = - /"));
            }
            ObjectStoreSetting::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() }
        }
        other => return Err(format!("'{other}://' is not known; use file://DIR, s3://BUCKET/PREFIX or memory://")),
    };
    Ok(())
}

/// `embedded`, `etcd://host:port,…`, `etcds://host:port,…`.
fn metadata(settings: &mut Settings, value: &Value) -> Result<(), String> {
    const FORMS: &str = "use 'embedded', etcd://HOST:2379,HOST:2379, or etcds:// for TLS";
    let text = value.text();
    settings.broker.metadata = match text.split_once("://") {
        None if text == "embedded" => MetadataSetting::Embedded,
        Some((scheme @ ("etcd" | "etcds"), hosts)) => {
            if hosts.contains('@') {
                return Err("user and password do not go here: set etcd.user and etcd.password_file".to_owned());
            }
            let endpoints = hosts.trim_end_matches('/').split(',').map(|host| etcd_endpoint(host.trim()));
            MetadataSetting::Etcd { endpoints: endpoints.collect::<Result<_, _>>()?, tls: scheme == "etcds" }
        }
        _ => return Err(format!("is not known; {FORMS}")),
    };
    Ok(())
}

/// `host:port`; the port is etcd's own if it is left out.
fn etcd_endpoint(host: &str) -> Result<String, String> {
    let with_port = match host.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') || name.ends_with(']') => host.to_owned(),
        _ => format!("{host}:2379"),
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    if !with_port.chars().all(legal) {
        return Err(format!("'{host}' is no host:port"));
    }
    match check_address(&with_port) {
        Ok(()) if !with_port.ends_with(":0") => Ok(with_port),
        _ => Err(format!("'{host}' is no host:port")),
    }
}

macro_rules! key {
    ($name:literal, $kind:expr, $default:expr, $common:literal, $doc:literal, $apply:expr) => {
        Key { name: $name, kind: $kind, default: $default, common: $common, doc: $doc, apply: $apply }
    };
}

/// Puts a value where it belongs; for keys whose form says all.
macro_rules! set {
    ($($field:ident).+ = $method:ident) => {
        |settings, value| {
            settings.$($field).+ = value.$method();
            Ok(())
        }
    };
    ($($field:ident).+ = some $method:ident) => {
        |settings, value| {
            settings.$($field).+ = Some(value.$method());
            Ok(())
        }
    };
}

/// Every setting, in the order of help and documents.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key!("data_dir", Kind::Text("DIR"), Default::Is("./esker-data"), true,
        "Directory of this broker: write-ahead files, read cache, embedded metadata and, by default, the \
         objects. One process at a time.",
        |settings, value| {
            settings.broker.data_dir = value.text().into();
            Ok(())
        }),
    key!("object_store", Kind::Text("URL"), Default::None, true,
        "Where objects are: `file://DIR`, `s3://BUCKET/PREFIX` or `memory://`. Without it: `objects` in the data \
         directory. S3 credentials, region and endpoint come from the AWS environment and profile chain.",
        object_store),
    key!("metadata", Kind::Text("URL"), Default::Is("embedded"), true,
        "Where metadata is. `embedded`: a file in the data directory. `etcd://HOST:2379,HOST:2379`: etcd 3.4 or newer, \
         shared by the brokers of a cluster; `etcds://…`: the same over TLS.", metadata),
    key!("kafka.listen", Kind::Address, Default::Is("127.0.0.1:9092"), true,
        "Where Kafka clients connect. Port 0 lets the machine choose.", set!(kafka.listen = text)),
    key!("grpc.listen", Kind::Address, Default::Is("127.0.0.1:9094"), true,
        "Where gRPC clients, `esker` commands and other brokers connect. Port 0 lets the machine choose.",
        set!(grpc.listen = text)),
    key!("http.listen", Kind::Address, Default::Is("127.0.0.1:9096"), true,
        "Where `/healthz`, `/readyz` and `/metrics` are served.", set!(http.listen = text)),
    key!("advertise", Kind::Address, Default::None, true,
        "Address that clients are told to connect to. Without it: the one listened on.",
        set!(kafka.advertise = some text)),
    key!("kafka.external_listen", Kind::Address, Default::None, false,
        "A second address for Kafka clients that reach the brokers under other addresses (from outside of a container \
         network, say). Needs `kafka.external_advertise`.", set!(kafka.external_listen = some text)),
    key!("kafka.external_advertise", Kind::Address, Default::None, false,
        "Address of this broker that clients are told who came through the second listener of any broker.",
        set!(kafka.external_advertise = some text)),
    key!("cluster", Kind::Text("NAME"), Default::None, true,
        "Name of the cluster. A data directory or object store of another name is refused.",
        set!(broker.cluster = some text)),
    key!("broker_id", Kind::Count(0, 2_147_483_646), Default::None, true,
        "Kafka node id. Without it: the one that the data directory remembers; for a new directory the lowest free id \
         from 1 on.", set!(broker.broker_id = some int)),
    key!("zone", Kind::Text("ZONE"), Default::None, true,
        "Availability zone, told to clients as the rack.", set!(broker.zone = some text)),
    key!("log", Kind::Text("FILTER"), Default::Is("info"), true,
        "What to log, in the filter syntax of the tracing crate: `warn`, `info,esker=debug`.",
        set!(tracing.filter = text)),
    key!("log_format", Kind::Choice(&["text", "json"]), Default::Is("text"), true,
        "How log lines look.",
        |settings, value| {
            settings.tracing.format = if value.text() == "json" { LogFormat::Json } else { LogFormat::Text };
            Ok(())
        }),
    key!("stop_timeout", Kind::Duration(0, HOUR), Default::Is("30s"), false,
        "How long a stop may take to commit what is open.", set!(broker.stop_timeout_ms = number)),
    key!("cluster.lease_ttl", Kind::Duration(1_000, 5 * MINUTE), Default::Is("10s"), false,
        "A broker that the metadata store has not heard of for this long has left: its partitions go to others, its id \
         is free.", set!(cluster.lease_ttl_ms = number)),
    key!("cluster.probe_interval", Kind::Duration(10, MINUTE), Default::Is("250ms"), false,
        "Time between two probes of each other broker.", set!(cluster.probe_interval_ms = number)),
    key!("cluster.probe_timeout", Kind::Duration(10, MINUTE), Default::Is("1s"), false,
        "A probe that is not answered for this long has missed.", set!(cluster.probe_timeout_ms = number)),
    key!("cluster.probe_misses", Kind::Count(1, 1_000), Default::Is("3"), false,
        "Probes missed in a row after which a broker is suspected and its partitions are taken over.",
        |settings, value| {
            settings.cluster.probe_misses = u32::try_from(value.number()).unwrap_or(u32::MAX);
            Ok(())
        }),
    key!("cluster.balance_interval", Kind::Duration(100, HOUR), Default::Is("5s"), false,
        "Time between two looks of the controller at whether partitions should move to even out the load.",
        set!(cluster.balance_interval_ms = number)),
    key!("cluster.drain_timeout", Kind::Duration(0, HOUR), Default::Is("30s"), false,
        "How long a drain may take to hand partitions over. What is left then is taken over as from a dead broker.",
        set!(cluster.drain_timeout_ms = number)),
    key!("flush.bytes", Kind::Size(64 * KIB, 256 * MIB), Default::Is("8MiB"), false,
        "The open segment is uploaded when it holds this much.", set!(log.flush_bytes = size)),
    key!("flush.linger", Kind::Duration(0, MINUTE), Default::ByStore { local: "10ms", s3: "250ms" }, false,
        "… or when its oldest byte is this old.", set!(log.flush_linger_ms = number)),
    key!("flush.idle", Kind::Duration(0, MINUTE), Default::Is("5ms"), false,
        "… or when replies wait and nothing came for this long, as often as `flush.put_rate` allows.",
        set!(log.flush_idle_ms = number)),
    key!("flush.put_rate", Kind::Rate, Default::ByStore { local: "unlimited", s3: "4" }, false,
        "Early uploads (`flush.idle`) per second, sustained.",
        |settings, value| {
            settings.log.put_rate_per_s = if let Value::Rate(rate) = value { *rate } else { f64::INFINITY };
            Ok(())
        }),
    key!("flush.put_burst", Kind::Count(1, 10_000), Default::Is("8"), false,
        "Early uploads that may come at once.",
        |settings, value| {
            settings.log.put_burst = u32::try_from(value.number()).unwrap_or(u32::MAX);
            Ok(())
        }),
    key!("upload.concurrency", Kind::Count(1, 256), Default::Is("8"), false,
        "Segments uploaded at once.", set!(log.upload_concurrency = size)),
    key!("upload.hedge_after", Kind::Duration(0, MINUTE), Default::Is("2s"), false,
        "An upload that has not answered for this long is sent a second time; 0 never.",
        set!(log.hedge_after_ms = number)),
    key!("memory.unflushed", Kind::Size(MIB, TIB), Default::Is("128MiB"), false,
        "Bytes taken from producers and not yet committed. At the limit producers wait.",
        set!(log.unflushed_bytes = size)),
    key!("memory.tail", Kind::Size(0, TIB), Default::ByStore { local: "32MiB", s3: "64MiB" }, false,
        "Committed segments kept in memory for consumers at the end.", set!(log.memory_tail_bytes = size)),
    key!("wal.fsync", Kind::Choice(&["group", "never"]), Default::Is("group"), false,
        "When the write-ahead file is synced: `group`, before an acks=1 reply, one sync for all that wait; \
         `never`: acks=1 survives a killed process but not a power loss.",
        |settings, value| {
            settings.log.wal_fsync = if value.text() == "never" { FsyncPolicy::Never } else { FsyncPolicy::Group };
            Ok(())
        }),
    key!("wal.disk", Kind::Size(16 * MIB, 1024 * TIB), Default::Is("1GiB"), false,
        "Local disk for write-ahead files. While the object store is down, acks=1 goes on until it is used up; \
         otherwise what is left of it serves reads.", set!(log.wal_disk_bytes = number)),
    key!("checkpoint.interval", Kind::Duration(1_000, DAY), Default::Is("5min"), false,
        "Time between checkpoints.", set!(log.checkpoint_interval_ms = number)),
    key!("checkpoint.segments", Kind::Count(1, 1_000_000), Default::Is("512"), false,
        "Segments between checkpoints.", set!(log.checkpoint_segments = number)),
    key!("store.hedge_after", Kind::Duration(0, MINUTE), Default::Is("10ms"), false,
        "A GET of an S3 store that is slower than nearly all before it, and than this, is asked a second time; 0 never.",
        set!(store.get_hedge_after_ms = number)),
    key!("store.request_timeout", Kind::Duration(100, HOUR), Default::Is("10s"), false,
        "One try of a request to an S3 store, besides what its bytes need at 1 MiB/s.", set!(store.request_timeout_ms = number)),
    key!("etcd.user", Kind::Text("NAME"), Default::None, false,
        "User of etcd's own authentication, where that is on.", set!(etcd.user = some text)),
    key!("etcd.password", Kind::Text("PASSWORD"), Default::None, false,
        "Its password. Other users of the machine can read flags: better `ESKER_ETCD_PASSWORD`, or `etcd.password_file`.",
        |settings, value| {
            settings.etcd.password = Some(Secret::new(value.text()));
            Ok(())
        }),
    key!("etcd.password_file", Kind::Text("FILE"), Default::None, false,
        "File that holds the password, alone on its first line.", set!(etcd.password_file = some path)),
    key!("etcd.ca_file", Kind::Text("FILE"), Default::None, false,
        "PEM file with the certificates that etcd's are signed by (`etcds://`). Without it: those that the machine trusts.",
        set!(etcd.ca_file = some path)),
    key!("etcd.cert_file", Kind::Text("FILE"), Default::None, false,
        "PEM file with this broker's certificate, where etcd asks for one (`etcds://`).",
        set!(etcd.cert_file = some path)),
    key!("etcd.key_file", Kind::Text("FILE"), Default::None, false,
        "PEM file with the key of `etcd.cert_file`.", set!(etcd.key_file = some path)),
    key!("etcd.request_timeout", Kind::Duration(100, HOUR), Default::Is("5s"), false,
        "Longest time of one operation of etcd, its repetitions at other members included.",
        set!(etcd.request_timeout_ms = number)),
    key!("cache.memory", Kind::Size(MIB, TIB), Default::Is("64MiB"), false,
        "Memory for pages of objects.", set!(cache.memory_bytes = number)),
    key!("cache.disk", Kind::Size(0, 1024 * TIB), Default::ByStore { local: "0", s3: "4GiB" }, false,
        "Local disk for pages of objects; 0 for none.", set!(cache.disk_bytes = number)),
    key!("cache.page", Kind::Size(64 * KIB, 64 * MIB), Default::Is("1MiB"), false,
        "Size of a page: the unit of reads from the object store.", set!(cache.page_bytes = number)),
    key!("cache.readahead", Kind::Count(0, 64), Default::Is("4"), false,
        "Pages fetched ahead of a sequential reader.", set!(cache.readahead_pages = size)),
    key!("kafka.max_connections", Kind::Count(1, 1_000_000), Default::Is("10000"), false,
        "Kafka connections at once; more are closed.", set!(kafka.max_connections = size)),
    key!("kafka.max_connections_per_ip", Kind::Count(0, 1_000_000), Default::Is("0"), false,
        "Kafka connections at once from one IP address; more are closed. 0 for no limit but `kafka.max_connections`.",
        set!(kafka.max_connections_per_ip = size)),
    key!("kafka.max_request", Kind::Size(64 * KIB, GIB), Default::Is("100MiB"), false,
        "Largest request; the connection of a larger one is closed.", set!(kafka.max_request_bytes = size)),
    key!("kafka.inflight_per_connection", Kind::Size(64 * KIB, 16 * GIB), Default::Is("128MiB"), false,
        "Bytes of one connection's requests that are read but not answered. At the limit it is not read.",
        set!(kafka.inflight_bytes_per_connection = size)),
    key!("kafka.inflight", Kind::Size(64 * KIB, TIB), Default::Is("512MiB"), false,
        "… and of all connections together.", set!(kafka.inflight_bytes = size)),
    key!("kafka.max_fetch", Kind::Size(64 * KIB, GIB), Default::Is("55MiB"), false,
        "Largest fetch response, whatever the client asks.", set!(kafka.max_fetch_bytes = size)),
    key!("kafka.max_fetch_waiters", Kind::Count(1, 10_000_000), Default::Is("20000"), false,
        "Fetches that wait for new data at once; more are answered with what there is.",
        set!(kafka.max_fetch_waiters = size)),
    key!("kafka.max_fetch_sessions", Kind::Count(0, 1_000_000), Default::Is("1000"), false,
        "Incremental fetch sessions kept (KIP-227).", set!(kafka.max_fetch_sessions = size)),
    key!("kafka.idle_timeout", Kind::Duration(1_000, 30 * DAY), Default::Is("10min"), false,
        "A connection without a request for this long is closed.", set!(kafka.idle_timeout_ms = number)),
    key!("grpc.max_connections", Kind::Count(1, 100_000), Default::Is("1000"), false,
        "gRPC connections at once; more wait.", set!(grpc.max_connections = size)),
    key!("grpc.max_connections_per_ip", Kind::Count(0, 100_000), Default::Is("0"), false,
        "gRPC connections at once from one IP address; more are closed. 0 for no limit but `grpc.max_connections`.",
        set!(grpc.max_connections_per_ip = size)),
    key!("grpc.max_message", Kind::Size(64 * KIB, GIB), Default::Is("16MiB"), false,
        "Largest message of a gRPC request; a larger one is refused.", set!(grpc.max_message_bytes = size)),
    key!("grpc.max_members", Kind::Count(0, 1_000_000), Default::Is("1000"), false,
        "Members of consumer groups that this broker keeps for gRPC clients; more are refused.",
        set!(grpc.max_members = size)),
    key!("http.max_connections", Kind::Count(1, 100_000), Default::Is("256"), false,
        "HTTP connections at once; more wait.", set!(http.max_connections = size)),
    key!("topics.auto_create", Kind::Flag, Default::Is("true"), false,
        "Whether a topic that clients use is created when it does not exist.",
        |settings, value| {
            settings.topics.auto_create = *value == Value::Flag(true);
            Ok(())
        }),
    key!("topics.num_partitions", Kind::Count(1, 10_000), Default::Is("1"), false,
        "Partitions of a topic whose creator names no number.", set!(topics.num_partitions = int)),
    key!("topics.max_topics", Kind::Count(1, 1_000_000), Default::Is("20000"), false,
        "Topics of the cluster.", set!(topics.max_topics = size)),
    key!("topics.max_partitions", Kind::Count(1, 1_000_000), Default::Is("100000"), false,
        "Partitions of the cluster, all topics together.", set!(topics.max_partitions = size)),
    key!("retention.check_interval", Kind::Duration(100, DAY), Default::Is("5min"), false,
        "Time between looks for data past its retention.", set!(retention.check_interval_ms = number)),
    key!("retention.delete_grace", Kind::Duration(0, 30 * DAY), Default::Is("10min"), false,
        "An object that nothing needs any more is deleted this long after that was first seen.",
        set!(retention.delete_grace_ms = number)),
    key!("compaction.interval", Kind::Duration(0, DAY), Default::Is("5s"), false,
        "Time between looks for small segments to put together; 0 for none.", set!(compaction.interval_ms = number)),
    key!("compaction.run_bytes", Kind::Size(64 * KIB, 512 * MIB), Default::Is("64MiB"), false,
        "Bytes of one compacted object, about; compaction takes as much memory.", set!(compaction.run_bytes = number)),
    key!("compaction.segments", Kind::Count(1, 100_000), Default::Is("128"), false,
        "A partition whose batches lie in this many segments is compacted.", set!(compaction.segments = size)),
    key!("compaction.max_wait", Kind::Duration(0, 30 * DAY), Default::Is("10min"), false,
        "A partition that has had batches in segments for this long is compacted.",
        set!(compaction.max_wait_ms = number)),
    key!("compaction.bytes_per_second", Kind::Size(64 * KIB, TIB), Default::Is("256MiB"), false,
        "Bytes that compaction copies per second, on the average.", set!(compaction.bytes_per_s = number)),
    key!("group.min_session_timeout", Kind::Duration(1, DAY), Default::Is("6s"), false,
        "Shortest session timeout that a group member may ask for.", set!(group.min_session_timeout_ms = int)),
    key!("group.max_session_timeout", Kind::Duration(1, DAY), Default::Is("30min"), false,
        "Longest session timeout that a group member may ask for.", set!(group.max_session_timeout_ms = int)),
    key!("group.initial_rebalance_delay", Kind::Duration(0, 10 * MINUTE), Default::Is("3s"), false,
        "How long the first rebalance of an empty group waits for more members.",
        set!(group.initial_rebalance_delay_ms = int)),
    key!("group.max_size", Kind::Count(1, 1_000_000), Default::Is("10000"), false,
        "Members of one group.", set!(group.max_size = size)),
    key!("group.max_groups", Kind::Count(1, 10_000_000), Default::Is("100000"), false,
        "Groups of this broker.", set!(group.max_groups = size)),
    key!("offsets.metadata_max", Kind::Size(0, MIB), Default::Is("4KiB"), false,
        "Largest metadata text of a committed offset.", set!(group.offset_metadata_max_bytes = size)),
    key!("offsets.retention", Kind::Duration(MINUTE, 3650 * DAY), Default::Is("7d"), false,
        "How long the offsets of an empty group are kept.",
        |settings, value| {
            settings.group.offsets_retention_ms = i64::try_from(value.number()).unwrap_or(i64::MAX);
            Ok(())
        }),
    key!("offsets.retention_check", Kind::Duration(1_000, DAY), Default::Is("10min"), false,
        "Time between looks for expired offsets.", set!(group.offsets_retention_check_ms = number)),
    key!("offsets.topic_partitions", Kind::Count(1, 10_000), Default::Is("50"), false,
        "Partitions of `__consumer_offsets`; counts when that topic is created.",
        set!(group.offsets_topic_partitions = int)),
];

/// The table of `docs/configuration.md`.
pub fn markdown_table() -> String {
    let mut table = String::from("| setting | default | bounds (inclusive) | meaning |\n|---|---|---|---|\n");
    for key in KEYS {
        let (name, default, bounds, doc) = (key.name, key.default_text(), key.bounds_text(), key.doc);
        // Writing to a String cannot fail.
        let _ = writeln!(table, "| `{name}` | {default} | {bounds} | {doc} |");
    }
    table
}
