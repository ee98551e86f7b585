use std::path::PathBuf;

use crate::base::{Clock, ErrorKind, Rng};
use crate::objstore::open::Location;
use crate::objstore::{OpenOptions, open};

#[test]
fn urls_are_read() {
    let s3 = |bucket: &str, prefix: &str| Location::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() };
    for (text, location) in [
        ("memory://", Location::Memory),
        ("file:///var/lib/esker", Location::File(PathBuf::from("/var/lib/esker"))),
        ("file:///with%20space", Location::File(PathBuf::from("/with space"))),
        ("file://./data/x", Location::File(PathBuf::from("./data/x"))),
        ("file://data", Location::File(PathBuf::from("data"))),
        ("s3://bucket", s3("bucket", "")),
        ("s3://bucket/", s3("bucket", "")),
        ("s3://bucket/a/b/", s3("bucket", "a/b/")),
    ] {
        assert_eq!(Location::parse(text).unwrap(), location, "{text}");
    }
}

#[test]
fn bad_urls_say_what_to_type() {
    for text in
        ["", "/tmp/x", "gs://bucket", "file://", "s3://", "s3:///prefix", "memory://x", "s3://b/a//b", "s3://b/../c"]
    {
        let error = Location::parse(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let words = error.to_string();
        assert!(words.contains("s3://bucket/prefix") && words.contains(text), "{words}");
    }
}

#[tokio::test]
async fn a_path_through_a_file_is_refused_with_its_name() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let url = format!("file://{}/below", file.display());
    let error = open(&url, OpenOptions::new(Clock::system(), Rng::seeded(1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Environment);
    assert!(error.to_string().contains("below"), "{error}");
}
