//! From flags, environment and file to [`Settings`].

use std::collections::BTreeMap;
use std::fmt;

use super::key::{Default as KeyDefault, Key};
use super::keys::KEYS;
use super::settings::{MetadataSetting, ObjectStoreSetting, Settings};

/// Where values come from; the first that has a key wins.
pub struct Sources<'a> {
    /// Values of flags, by key name.
    pub flags: &'a BTreeMap<String, String>,
    /// Environment variables, by name.
    pub variables: &'a BTreeMap<String, String>,
    /// Name and text of the TOML file.
    pub file: Option<(&'a str, &'a str)>,
}

/// Everything that is wrong with the settings, one sentence each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// Settings, and what looks like a mistake but need not be one.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Sentences for the log.
    pub warnings: Vec<String>,
}

/// Reads every key from the first source that has it, checks it and puts it in its place.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut problems = Vec::new();
    let file = match sources.file {
        None => BTreeMap::new(),
        Some((name, text)) => read_file(name, text, &mut problems),
    };
    let mut settings = Settings::default();
    let mut set = Vec::new();
    for key in KEYS {
        let found = sources
            .flags
            .get(key.name)
            .map(|value| (value, format!("--{}", key.flag())))
            .or_else(|| sources.variables.get(&key.variable()).map(|value| (value, key.variable())))
            .or_else(|| file.get(key.name).map(|value| (value, sources.file.map_or("file", |file| file.0).to_owned())));
        if let Some((value, origin)) = found {
            set.push(key.name);
            if let Err(problem) = key.parse(value).and_then(|value| (key.apply)(&mut settings, &value)) {
                problems.push(format!("{} = '{}' (from {origin}): {problem}", key.name, shown(value)));
            }
        }
    }
    if !problems.is_empty() {
        return Err(ConfigError(problems));
    }
    fill_defaults(&mut settings, &set);
    problems.extend(cross_check(&settings));
    if !problems.is_empty() {
        return Err(ConfigError(problems));
    }
    Ok(Loaded { settings, warnings: near_misses(sources.variables) })
}

/// A value as it may be shown: without the user and password of a URL.
fn shown(value: &str) -> String {
    match (value.find("://"), value.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at => format!("{}***{}", &value[..scheme + 3], &value[at..]),
        _ => value.to_owned(),
    }
}

/// Defaults that depend on other settings.
fn fill_defaults(settings: &mut Settings, set: &[&str]) {
    if !set.contains(&"object_store") {
        settings.broker.object_store = ObjectStoreSetting::File { dir: settings.broker.data_dir.join("objects") };
    }
    let remote = settings.broker.object_store.is_remote();
    for key in KEYS.iter().filter(|key| !set.contains(&key.name)) {
        let default = match key.default {
            KeyDefault::None => continue,
            KeyDefault::Is(value) => value,
            KeyDefault::ByStore { local, s3 } => {
                if remote {
                    s3
                } else {
                    local
                }
            }
        };
        // Every default parses: a test goes through them.
        if let Ok(value) = key.parse(default) {
            let _ = (key.apply)(settings, &value);
        }
    }
}

/// Rules between settings.
fn cross_check(settings: &Settings) -> Vec<String> {
    let mut problems = Vec::new();
    let (log, kafka, group, cluster) = (&settings.log, &settings.kafka, &settings.group, &settings.cluster);
    let mut rule = |holds: bool, problem: &str| {
        if !holds {
            problems.push(problem.to_owned());
        }
    };
    rule(log.unflushed_bytes >= 2 * log.flush_bytes, "memory.unflushed must be at least twice flush.bytes");
    rule(
        log.wal_disk_bytes >= 2 * log.flush_bytes as u64,
        "wal.disk must be at least twice flush.bytes: one segment is uploaded while the next one grows",
    );
    rule(
        kafka.inflight_bytes_per_connection >= kafka.max_request_bytes,
        "kafka.inflight_per_connection must be at least kafka.max_request",
    );
    rule(
        kafka.inflight_bytes >= kafka.inflight_bytes_per_connection,
        "kafka.inflight must be at least kafka.inflight_per_connection",
    );
    rule(
        group.min_session_timeout_ms <= group.max_session_timeout_ms,
        "group.min_session_timeout must not be above group.max_session_timeout",
    );
    rule(
        cluster.probe_interval_ms < cluster.lease_ttl_ms && cluster.probe_timeout_ms < cluster.lease_ttl_ms,
        "cluster.probe_interval and cluster.probe_timeout must be below cluster.lease_ttl: probes are to notice a dead \
         broker before its lease does",
    );
    let etcd = &settings.etcd;
    let (with_etcd, tls) = match &settings.broker.metadata {
        MetadataSetting::Embedded => (false, false),
        MetadataSetting::Etcd { tls, .. } => (true, *tls),
    };
    rule(
        !with_etcd || settings.broker.object_store != ObjectStoreSetting::Memory,
        "object_store memory:// ends with the process, and metadata in etcd does not: use another object_store, or \
         metadata embedded",
    );
    rule(
        tls || etcd.ca_file.is_none() && etcd.cert_file.is_none() && etcd.key_file.is_none(),
        "etcd.ca_file, etcd.cert_file and etcd.key_file are for TLS: write metadata as etcds://…",
    );
    rule(etcd.cert_file.is_some() == etcd.key_file.is_some(), "etcd.cert_file and etcd.key_file go together");
    rule(
        etcd.password.is_none() || etcd.password_file.is_none(),
        "etcd.password and etcd.password_file are two answers to one question: set one",
    );
    rule(
        etcd.user.is_some() == (etcd.password.is_some() || etcd.password_file.is_some()),
        "etcd.user and its password (etcd.password_file, or etcd.password) go together",
    );
    let everywhere = |address: &str| address.starts_with("0.0.0.0:") || address.starts_with("[::]:");
    rule(
        kafka.advertise.is_some() || !everywhere(&kafka.listen),
        "kafka.listen is every address of this machine: say with advertise (--advertise host:port) which one clients \
         are to use",
    );
    rule(
        kafka.external_listen.is_some() == kafka.external_advertise.is_some(),
        "kafka.external_listen and kafka.external_advertise belong together: give both or none",
    );
    rule(
        !kafka.external_advertise.as_deref().is_some_and(everywhere),
        "kafka.external_advertise must name a host that clients can reach, not every address",
    );
    rule(
        !kafka.advertise.as_deref().is_some_and(everywhere),
        "advertise must name a host that clients can reach, not every address",
    );
    problems
}

/// The file's keys, flattened to `table.key`, with their values as text.
fn read_file(name: &str, text: &str, problems: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut flat = BTreeMap::new();
    match text.parse::<toml::Table>() {
        Ok(table) => flatten(name, "", &table, &mut flat, problems),
        Err(error) => problems.push(format!("{name} is not TOML: {error}")),
    }
    flat
}

fn flatten(
    file: &str,
    prefix: &str,
    table: &toml::Table,
    flat: &mut BTreeMap<String, String>,
    problems: &mut Vec<String>,
) {
    for (key, value) in table {
        let mut name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        let is_key = |name: &str| KEYS.iter().any(|known| known.name == name);
        // `cluster` is a value and a table; in the table the value is called `name`.
        if let Some(both) = name.strip_suffix(".name").filter(|table| is_key(table)) {
            name.truncate(both.len());
        }
        let known = is_key(&name);
        let is_table =
            KEYS.iter().any(|known| known.name.strip_prefix(&*name).is_some_and(|rest| rest.starts_with('.')));
        let value = match value {
            toml::Value::Table(inner) if !known || is_table => {
                flatten(file, &name, inner, flat, problems);
                continue;
            }
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(truth) => truth.to_string(),
            _ if known => {
                problems.push(format!("{name} (from {file}): must be one value, not a table, list or date"));
                continue;
            }
            _ => String::new(),
        };
        if known {
            flat.insert(name, value);
        } else {
            let suggestion = suggest(&name, KEYS.iter().map(|key| key.name), 3);
            let hint = suggestion.map_or_else(
                || "; 'esker serve --help' lists all".to_owned(),
                |near| format!("; did you mean '{near}'?"),
            );
            problems.push(format!("{name} (from {file}): there is no such setting{hint}"));
        }
    }
}

/// Variables that start with `ESKER_`, are not ours, and are a slip of the hand away from one of ours.
fn near_misses(variables: &BTreeMap<String, String>) -> Vec<String> {
    let ours: Vec<String> = KEYS.iter().map(Key::variable).collect();
    variables
        .keys()
        .filter(|name| name.starts_with("ESKER_") && !ours.contains(name))
        .filter_map(|name| {
            let near = suggest(name, ours.iter().map(String::as_str), 2)?;
            Some(format!("the variable {name} sets nothing; did you mean {near}?"))
        })
        .collect()
}

/// The name nearest to `name`, if it is within `most` edits, or holds the same last part.
fn suggest<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone, most: usize) -> Option<&'a str> {
    let near = known.clone().map(|other| (edits(name, other), other)).min();
    if let Some((distance, other)) = near
        && distance <= most
    {
        return Some(other);
    }
    let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
    let mut same = known.filter(|other| last(other) == last(name));
    same.next().filter(|_| same.next().is_none())
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replace = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
