//! The dependency tree: one of each key crate, one TLS provider. Reads `Cargo.lock`, so it costs nothing.

use std::collections::BTreeMap;

/// Crates of which two versions would give types that do not fit together.
const ONE_OF_EACH: &[&str] = &[
    "arrow",
    "axum",
    "bytes",
    "foyer",
    "hyper",
    "kafka-protocol",
    "object_store",
    "prometheus-client",
    "prost",
    "rustls",
    "tokio",
    "tonic",
    "tracing",
    "zstd-sys",
];
/// Crates that must not be there, with the reason.
const REFUSED: &[(&str, &str)] =
    &[("aws-lc-sys", "the rustls provider is ring"), ("native-tls", "TLS is rustls"), ("openssl-sys", "TLS is rustls")];

/// Versions of each package that the binary is built with: what the lock file leads to from esker without dev-dependencies
/// cannot be told from the file, so all of it counts.
fn locked() -> BTreeMap<String, Vec<String>> {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).expect("Cargo.lock is there");
    let lock: toml::Table = text.parse().expect("Cargo.lock is TOML");
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in lock["package"].as_array().expect("Cargo.lock lists packages") {
        let field = |name: &str| package[name].as_str().expect("a package has a name and a version").to_owned();
        versions.entry(field("name")).or_default().push(field("version"));
    }
    versions
}

#[test]
fn key_crates_are_there_once() {
    let locked = locked();
    for name in ONE_OF_EACH {
        let versions = locked.get(*name).map(Vec::as_slice).unwrap_or_default();
        assert!(versions.len() <= 1, "{name} is in the tree as {}; `cargo tree -i {name}`", versions.join(" and "));
    }
}

#[test]
fn refused_crates_are_not_there() {
    let locked = locked();
    for (name, reason) in REFUSED {
        assert!(!locked.contains_key(*name), "{name} is in the tree, but {reason}; `cargo tree -i {name}`");
    }
}
