use std::collections::BTreeMap;

use proptest::prelude::*;

use super::key::{Default as KeyDefault, Kind};
use super::keys::{KEYS, markdown_table};
use super::units::{parse_bytes, parse_ms, show_bytes, show_ms};
use super::*;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn try_load(flags: &[(&str, &str)], variables: &[(&str, &str)], file: &str) -> Result<Loaded, ConfigError> {
    load(&Sources { flags: &map(flags), variables: &map(variables), file: Some(("esker.toml", file)) })
}

fn problems(flags: &[(&str, &str)], variables: &[(&str, &str)], file: &str) -> Vec<String> {
    try_load(flags, variables, file).unwrap_err().0
}

#[test]
fn nothing_set_gives_the_defaults_of_the_structs() {
    assert_eq!(try_load(&[], &[], "").unwrap().settings, Settings::default());
}

#[test]
fn every_default_is_a_valid_value_and_every_name_is_unique() {
    let mut flags = std::collections::BTreeSet::new();
    for key in KEYS {
        for value in match key.default {
            KeyDefault::None => vec![],
            KeyDefault::Is(value) => vec![value],
            KeyDefault::ByStore { local, s3 } => vec![local, s3],
        } {
            let value = key.parse(value).unwrap_or_else(|problem| panic!("{}: {problem}", key.name));
            (key.apply)(&mut Settings::default(), &value).unwrap();
        }
        assert!(flags.insert(key.flag()), "{} clashes", key.name);
        assert!(key.doc.ends_with('.'), "{}: its meaning is a sentence", key.name);
        assert!(key.flag() != "config" && key.flag() != "help");
    }
}

#[test]
fn every_key_changes_the_settings() {
    for key in KEYS {
        let value = match key.kind {
            Kind::Size(..) if key.name == "cache.disk" => "1MiB".to_owned(),
            Kind::Text(_) if key.name == "object_store" => "memory://".to_owned(),
            Kind::Text(_) if key.name == "metadata" => continue,
            Kind::Text(_) => "other".to_owned(),
            Kind::Size(min, _) => min.to_string(),
            Kind::Duration(min, _) => format!("{}ms", min + 1),
            Kind::Count(_, max) => max.to_string(),
            Kind::Flag => "false".to_owned(),
            Kind::Rate => "17".to_owned(),
            Kind::Choice(words) => words.last().unwrap().to_string(),
            Kind::Address => "broker.example:1".to_owned(),
        };
        let mut settings = Settings::default();
        (key.apply)(&mut settings, &key.parse(&value).unwrap()).unwrap();
        assert_ne!(settings, Settings::default(), "{} = {value} changed nothing", key.name);
    }
}

#[test]
fn flags_beat_environment_beats_file() {
    let file = "broker_id = 3\n[flush]\nbytes = '3MiB'\nlinger = '3ms'\nidle = '3ms'";
    let env = [("ESKER_FLUSH_LINGER", "2ms"), ("ESKER_FLUSH_IDLE", "2ms")];
    let settings = try_load(&[("flush.idle", "1ms")], &env, file).unwrap().settings;
    assert_eq!(settings.log.flush_idle_ms, 1);
    assert_eq!(settings.log.flush_linger_ms, 2);
    assert_eq!(settings.log.flush_bytes, 3 << 20);
    assert_eq!(settings.broker.broker_id, Some(3));
}

#[test]
fn the_clusters_name_and_its_table_go_together_in_a_file() {
    let settings = try_load(&[], &[], "[cluster]\nname = 'north'\nprobe_misses = 5").unwrap().settings;
    assert_eq!((settings.broker.cluster.as_deref(), settings.cluster.probe_misses), (Some("north"), 5));
    assert_eq!(try_load(&[], &[], "cluster = 'south'").unwrap().settings.broker.cluster.as_deref(), Some("south"));
    let both = [("cluster", "flag"), ("cluster.lease_ttl", "20s")];
    let settings = try_load(&both, &[("ESKER_CLUSTER_PROBE_TIMEOUT", "2s")], "").unwrap().settings;
    let ClusterSettings { lease_ttl_ms, probe_timeout_ms, .. } = settings.cluster;
    assert_eq!((settings.broker.cluster.as_deref(), lease_ttl_ms, probe_timeout_ms), (Some("flag"), 20_000, 2_000));
    assert!(problems(&[], &[], "[cluster]\nnane = 'north'")[0].contains("there is no such setting"));
    assert!(problems(&[], &[], "[flush]\nname = 'north'")[0].contains("there is no such setting"));
}

#[test]
fn an_s3_store_paces_its_flushes() {
    let settings = try_load(&[("object_store", "s3://my-bucket/a/b/")], &[], "").unwrap().settings;
    let bucket = ObjectStoreSetting::S3 { bucket: "my-bucket".to_owned(), prefix: "a/b".to_owned() };
    assert_eq!(settings.broker.object_store, bucket);
    assert_eq!(settings.log.flush_linger_ms, 250);
    assert!((settings.log.put_rate_per_s - 4.0).abs() < f64::EPSILON);
    let own = try_load(&[("object_store", "s3://my-bucket"), ("flush.linger", "7ms")], &[], "").unwrap().settings;
    assert_eq!(own.log.flush_linger_ms, 7);
}

#[test]
fn the_file_store_follows_the_data_directory() {
    let settings = try_load(&[("data_dir", "/d")], &[], "").unwrap().settings;
    assert_eq!(settings.broker.object_store, ObjectStoreSetting::File { dir: "/d/objects".into() });
    let settings = try_load(&[("data_dir", "/d"), ("object_store", "file:///o")], &[], "").unwrap().settings;
    assert_eq!(settings.broker.object_store, ObjectStoreSetting::File { dir: "/o".into() });
}

#[test]
fn etcd_is_named_by_its_members() {
    let metadata = |url: &str| try_load(&[("metadata", url)], &[], "").unwrap().settings.broker.metadata;
    let etcd = |endpoints: &[&str], tls| {
        let endpoints = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
        MetadataSetting::Etcd { endpoints, tls }
    };
    assert_eq!(metadata("embedded"), MetadataSetting::Embedded);
    assert_eq!(metadata("etcd://a"), etcd(&["a:2379"], false));
    assert_eq!(metadata("etcd://a:1, b.c:2,[::1]:3/"), etcd(&["a:1", "b.c:2", "[::1]:3"], false));
    assert_eq!(metadata("etcds://[::1]"), etcd(&["[::1]:2379"], true));
}

#[test]
fn a_password_is_never_shown() {
    let flags = [("metadata", "etcd://a"), ("etcd.user", "esker")];
    let settings = try_load(&flags, &[("ESKER_ETCD_PASSWORD", "s3cret")], "").unwrap().settings;
    assert_eq!(settings.etcd.password.as_ref().map(Secret::reveal), Some("s3cret"));
    assert!(!format!("{settings:?}").contains("s3cret"));
}

#[test]
fn mistakes_are_named_with_their_place_and_all_at_once() {
    assert_eq!(
        problems(
            &[("flush.bytes", "8MB!")],
            &[("ESKER_FLUSH_LINGER", "250")],
            "[flush]\nidl = '5ms'\n[wal]\nfsync = 'maybe'"
        ),
        [
            "flush.idl (from esker.toml): there is no such setting; did you mean 'flush.idle'?",
            "flush.bytes = '8MB!' (from --flush-bytes): 'MB!' is no unit of size; write a size like 65536, 512KiB, 8MiB \
             or 1GiB",
            "flush.linger = '250' (from ESKER_FLUSH_LINGER): the unit is missing; write a duration with its unit, like \
             250ms, 30s, 5min, 12h or 7d",
            "wal.fsync = 'maybe' (from esker.toml): must be one of: group, never",
        ]
    );
}

#[test]
fn each_mistake_has_its_message() {
    for (flag, value, part) in [
        ("flush.bytes", "1", "must be within 64KiB..256MiB"),
        ("broker_id", "-1", "must be a whole number within 0.."),
        ("broker_id", "99999999999999999999", "must be a whole number"),
        ("kafka.listen", "9092", "must be host:port"),
        ("kafka.listen", "::1:9092", "must be host:port"),
        ("kafka.listen", "localhost:kafka", "'kafka' is no port"),
        ("kafka.listen", "0.0.0.0:9092", "--advertise host:port"),
        ("advertise", "0.0.0.0:9092", "must name a host"),
        ("kafka.external_listen", "127.0.0.1:19092", "give both or none"),
        ("kafka.external_advertise", "localhost:19092", "give both or none"),
        ("object_store", "/var/objects", "must be file://DIR"),
        ("object_store", "gs://bucket", "'gs://' is not known"),
        ("object_store", "s3://Bad_Bucket", "no bucket name"),
        ("object_store", "s3://bucket/sp ace", "the prefix"),
        ("object_store", "memory://x", "nothing after"),
        ("object_store", "file://", "needs a directory"),
        ("metadata", "zookeeper://localhost:2181", "use 'embedded', etcd://HOST:2379"),
        ("metadata", "etcd://", "no host:port"),
        ("metadata", "etcd://a:2379,,b:2379", "no host:port"),
        ("metadata", "etcd://a:0", "no host:port"),
        ("metadata", "etcd://a/b", "no host:port"),
        ("metadata", "etcd://u:secret@a:2379", "metadata = 'etcd://***@a:2379' (from --metadata): user and password"),
        ("etcd.user", "esker", "go together"),
        ("etcd.password", "secret", "go together"),
        ("etcd.ca_file", "ca.pem", "write metadata as etcds://"),
        ("zone", "", "must not be empty"),
        ("flush.put_rate", "0", "1 or more"),
        ("flush.put_rate", "0.5", "whole number"),
        ("flush.linger", "99999999999999999999999s", "with its unit"),
        ("flush.linger", "9999999999999999d", "does not fit"),
        ("memory.unflushed", "2MiB", "at least twice flush.bytes"),
        ("kafka.max_request", "1GiB", "kafka.inflight_per_connection must be"),
        ("group.min_session_timeout", "2h", "must not be above"),
        ("cluster.lease_ttl", "999ms", "must be within 1s..5min"),
        ("cluster.lease_ttl", "1s", "must be below cluster.lease_ttl"),
        ("cluster.probe_interval", "10s", "must be below cluster.lease_ttl"),
        ("cluster.probe_misses", "0", "must be within 1.."),
    ] {
        let found = problems(&[(flag, value)], &[], "");
        assert!(found.len() == 1 && found[0].contains(part), "{flag} = {value}: {found:?}");
    }
    for (file, part) in [
        ("flush = 3", "flush (from esker.toml): there is no such setting"),
        ("[flush]\nbytes = [1]", "must be one value"),
        ("bytes = 1\n[[x", "is not TOML"),
        ("[kafka]\nauto_create = true", "did you mean 'topics.auto_create'?"),
        ("[nonsense]\nx = 1", "'esker serve --help' lists all"),
    ] {
        let found = problems(&[], &[], file);
        assert!(found.len() == 1 && found[0].contains(part), "{file}: {found:?}");
    }
}

#[test]
fn a_variable_that_is_nearly_ours_is_pointed_out() {
    let loaded =
        try_load(&[], &[("ESKER_FLUSH_LINGR", "1ms"), ("ESKER_SERVICE_HOST", "x"), ("HOME", "/")], "").unwrap();
    assert_eq!(loaded.warnings, ["the variable ESKER_FLUSH_LINGR sets nothing; did you mean ESKER_FLUSH_LINGER?"]);
}

#[test]
fn the_document_has_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let document = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        document.contains(&markdown_table()),
        "docs/configuration.md must hold this table:\n\n{}",
        markdown_table()
    );
}

proptest! {
    #[test]
    fn sizes_and_durations_read_back(number in any::<u64>(), shift in 0u32..64) {
        let number = number >> shift;
        prop_assert_eq!(parse_bytes(&show_bytes(number)), Ok(number));
        prop_assert_eq!(parse_ms(&show_ms(number)), Ok(number));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,24}", file in "\\PC{0,80}") {
        for key in KEYS {
            let _ = key.parse(&text);
            let _ = try_load(&[(key.name, &text)], &[], "");
        }
        let _ = try_load(&[], &[], &file);
    }
}
