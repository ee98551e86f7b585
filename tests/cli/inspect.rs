//! `esker inspect`, on what a broker wrote.

use std::path::PathBuf;

use crate::harness::{Home, Ran, esker, helps};
use crate::written;

/// `esker inspect …` of the home's data directory.
fn inspect(home: &Home, arguments: &[&str]) -> Ran {
    esker(&[&["inspect"], arguments, &["--data-dir", &home.data_dir()]].concat())
}

/// The session of the home's only stream.
fn session(home: &Home) -> String {
    inspect(home, &["stream", "--json"]).ok().json()[0]["session"].as_str().unwrap().to_owned()
}

#[test]
fn help_names_every_kind() {
    helps(&["inspect"], &["segment", "checkpoint", "seal", "stream", "metadata", "catalogue", "wal", "--records"]);
    esker(&["inspect"]).fails(2, "<KIND>");
    esker(&["inspect", "sediment", "x"]).fails(2, "[possible values: object");
    esker(&["inspect", "segment"]).fails(2, "needs the NAME");
    esker(&["inspect", "segment", "x", "--colour"]).fails(2, "unexpected argument '--colour'");
}

#[test]
fn streams_segments_and_checkpoints_are_told() {
    let home = Home::new();
    written::orders(&home, 4);
    let session = session(&home);
    inspect(&home, &["stream"]).ok().has(&["SESSION", &session, "open"]);
    // The next start seals it.
    home.broker(&[]).stop();
    let short = session.replace("-0000000000000000000", "-");
    inspect(&home, &["stream"]).ok().has(&["SESSION", &session, "sealed at"]);

    let stream = inspect(&home, &["stream", &short]).ok();
    let stream = stream.has(&["2 partitions at its end", "offsets 0..12", "checkpoints  after "]);
    assert!(!stream.stdout.contains("DAMAGED"));
    let json = inspect(&home, &["stream", &session, "--json"]).ok().json();
    assert_eq!(json["partitions"][1]["state"]["next_offset"], 12);
    assert_eq!(json["problems"], serde_json::json!([]));
    let objects = json["objects"].as_array().unwrap();
    let last = objects.last().unwrap();
    assert_eq!((&last["kind"], &last["seq"]), (&"seal".into(), &json["sealed_at"]));
    let keys: Vec<&str> = objects.iter().filter_map(|object| object["key"].as_str()).collect();

    // Every segment by its key, and as a file.
    let mut values = Vec::new();
    for key in &keys[..keys.len() - 1] {
        inspect(&home, &["segment", key]).ok().has(&["kind        segment", "POSITION", &session]);
        let json = inspect(&home, &["segment", key, "--records", "--json"]).ok().json();
        assert_eq!((&json["kind"], &json["has_footer"]), (&"segment".into(), &true.into()));
        for record in
            json["frames"].as_array().unwrap().iter().filter_map(|frame| frame["records"].as_array()).flatten()
        {
            values.push(format!("{}={}", record["key"].as_str().unwrap(), record["value"].as_str().unwrap()));
        }
        let file = home.data("objects").join(key);
        esker(&["inspect", "object", file.to_str().unwrap()]).ok().has(&["frame"]);
    }
    assert_eq!(values.len(), 2 * 4 * 3);
    assert!(values.contains(&"key-1=value-3-2".to_owned()), "{values:?}");
    inspect(&home, &["segment", keys[0], "--records"]).ok();
    inspect(&home, &["seal", last["key"].as_str().unwrap()]).ok().has(&["kind        seal", "ends before seq"]);
    inspect(&home, &["seal", keys[0]]).fails(1, "something else than a seal");

    let after = json["checkpoints"].as_array().unwrap().last().unwrap().as_u64().unwrap();
    let checkpoint = format!("ckpt/{session}/{after:020}.ckpt");
    inspect(&home, &["checkpoint", &checkpoint, "--runs"]).ok().has(&[
        "offsets 0..12",
        "    0..",
        "holds       2 part",
    ]);
    let json = inspect(&home, &["checkpoint", &checkpoint, "--json"]).ok().json();
    assert_eq!(json["partitions"][0]["state"]["next_offset"], 12);
    inspect(&home, &["object", "cluster"]).ok().has(&["an object store"]);
}

#[test]
fn metadata_and_backups_are_told() {
    let home = Home::new();
    let broker = home.broker(&[]);
    // Also beside the broker that uses it.
    let shown = inspect(&home, &["metadata"]).ok();
    shown.has(&["/esker/esker/cluster", "broker 1 at 127.0.0.1", "the controller is session", "KEY"]);
    let brokers = inspect(&home, &["metadata", "brokers/", "--json"]).ok().json();
    assert_eq!(brokers["entries"][0]["value"]["port"], broker.doors.kafka.port());
    inspect(&home, &["metadata", "nothing/like/it"]).fails(1, "no key");
    broker.stop();
    let log = home.data("meta/metadata.log");
    esker(&["inspect", "metadata", log.to_str().unwrap()])
        .ok()
        .has(&["file of the embedded metadata store", "revision"]);
    let version = home.data("VERSION");
    esker(&["inspect", "object", version.to_str().unwrap()]).ok().has(&["a data directory", "broker      1"]);
}

#[test]
fn a_backup_of_the_catalogue_is_told() {
    let home = Home::new();
    std::fs::create_dir_all(home.data("objects/catalogue")).unwrap();
    inspect(&home, &["catalogue"]).fails(1, "there is no backup of the catalogue");
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/catalogue/v1.txt");
    std::fs::copy(golden, home.data("objects/catalogue/00000000000000000042")).unwrap();
    inspect(&home, &["catalogue"]).ok().has(&["backup of the catalogue", "TOPIC", "LEADER EPOCH"]);
    let json = inspect(&home, &["catalogue", "--json"]).ok().json();
    assert!(json["backup"]["topics"].is_array() && json["kind"] == "catalogue", "{json}");
}

#[test]
fn write_ahead_files_may_end_anywhere() {
    let home = Home::new();
    written::orders(&home, 1);
    let session = session(&home);
    let object = home.data(&format!("objects/log/{session}/00000000000000000000.seg"));
    let whole = std::fs::read(object).unwrap();
    let dir = home.data(&format!("wal/{session}"));
    std::fs::create_dir_all(&dir).unwrap();
    let torn = dir.join("00000000000000000009.seg");
    std::fs::write(&torn, &whole[..whole.len() - 30]).unwrap();
    esker(&["inspect", "wal", torn.to_str().unwrap()]).ok().has(&["not finished", "frame"]);
    esker(&["inspect", "segment", torn.to_str().unwrap()]).fails(1, "no footer");
    inspect(&home, &["wal"]).ok().has(&["FILE", "growing, or cut by a crash", torn.to_str().unwrap()]);
    let files = inspect(&home, &["wal", "--json"]).ok().json();
    assert_eq!(files.as_array().unwrap().iter().filter(|file| file["file"] == torn.to_str().unwrap()).count(), 1);
}

#[test]
fn damage_is_told_up_to_where_it_is_and_fails() {
    let home = Home::new();
    written::orders(&home, 3);
    let session = session(&home);
    let json = inspect(&home, &["stream", &session, "--json"]).ok().json();
    let key = json["objects"][2]["key"].as_str().unwrap().to_owned();
    let file = home.data("objects").join(&key);
    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[64 + 60] ^= 4;
    std::fs::write(&file, &flipped).unwrap();
    let damaged = inspect(&home, &["segment", &key]).fails(1, "at byte 64");
    damaged.has(&["DAMAGED     at byte 64"]);
    let json = inspect(&home, &["segment", &key, "--json"]).json();
    assert!(json["problems"][0].as_str().unwrap().starts_with("at byte 64"), "{json}");

    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    inspect(&home, &["segment", &key]).fails(1, "no footer");
    inspect(&home, &["stream", &session]).fails(1, &key).has(&["DAMAGED: "]);
    std::fs::remove_file(&file).unwrap();
    inspect(&home, &["stream", &session]).fails(1, "are missing").has(&["MISSING"]);
    inspect(&home, &["segment", &key]).fails(1, "does not exist");

    std::fs::write(&file, "my thesis").unwrap();
    inspect(&home, &["segment", &key]).fails(1, "nothing that Esker wrote");
}

#[test]
fn places_that_are_not_there_are_not_made() {
    let home = Home::new();
    inspect(&home, &["stream"]).fails(1, "the object store '").fails(1, "--object-store or --data-dir");
    inspect(&home, &["metadata"]).fails(1, "metadata.log");
    inspect(&home, &["wal"]).fails(1, "the data directory '");
    inspect(&home, &["segment", "./nowhere"]).fails(1, "there is no file './nowhere'");
    assert!(!home.data("").exists());
    esker(&["inspect", "stream", "--object-store", "memory://"]).fails(1, "nothing to look at");
    std::fs::create_dir_all(home.data("objects")).unwrap();
    inspect(&home, &["stream", "1-42"]).fails(1, "nothing of session 1-00000000000000000042");
    inspect(&home, &["stream", "forty"]).fails(1, "is no session");
    assert_eq!(inspect(&home, &["stream", "--json"]).ok().json(), serde_json::json!([]));
}
