//! `esker cluster status|brokers|drain|restore`.

use crate::harness::{Home, NOBODY, esker, esker_with, helps};

#[test]
fn helps_have_examples_and_only_flags_that_mean_something() {
    helps(&["cluster"], &["status", "brokers", "drain", "restore", "--bootstrap"]);
    helps(&["cluster", "status"], &["--json", "--bootstrap", "ESKER_BOOTSTRAP"]);
    helps(&["cluster", "brokers"], &["--json", "--bootstrap"]);
    helps(&["cluster", "drain"], &["--undo", "--timeout", "SIGTERM"]);
    helps(&["cluster", "restore"], &["--dry-run", "--object-store", "--json"]);
    let restore = esker(&["cluster", "restore", "--help"]);
    assert!(!restore.stdout.contains("bootstrap"), "{}", restore.stdout);
    esker(&["cluster", "restore", "--dry-run", "-b", NOBODY]).fails(2, "asks no broker");
}

#[test]
fn status_and_brokers_for_people_and_programs() {
    let home = Home::new();
    let broker = home.broker(&["--zone", "a"]);
    let kafka = broker.doors.kafka.to_string();
    broker.esker(&["cluster", "status"]).ok().has(&["controller  broker 1", "brokers     1", &kafka, "serving"]);
    let status = broker.esker(&["cluster", "status", "--json"]).ok().json();
    assert_eq!(status["controller_id"], 1);
    assert_eq!(status["offline_partitions"], 0);
    assert_eq!(status["brokers"][0]["zone"], "a");

    broker.esker(&["cluster", "brokers"]).ok().has(&["BROKER  KAFKA", &kafka]);
    let brokers = broker.esker(&["cluster", "--json", "brokers"]).ok().json();
    assert_eq!(brokers[0]["id"], 1);
    assert_eq!(brokers[0]["endpoints"]["grpc"], broker.bootstrap());

    // A flag beats the variable; of several addresses the first that answers is asked.
    let flag = [NOBODY, &broker.bootstrap()].join(",");
    esker_with(&["cluster", "status", "-b", &flag], &[("ESKER_BOOTSTRAP", NOBODY)], "").ok();
}

#[test]
fn a_drain_says_how_it_went_or_why_not() {
    let home = Home::new();
    let broker = home.broker(&[]);
    broker.esker(&["cluster", "drain", "1"]).fails(1, "is the only one that takes partitions");
    broker.esker(&["cluster", "drain", "7"]).fails(1, "no live broker 7");
    broker.esker(&["cluster", "drain", "1", "--undo"]).ok().has(&["broker 1 takes partitions again\n"]);
    let undone = broker.esker(&["cluster", "drain", "1", "--undo", "--json"]).ok().json();
    assert_eq!(undone, serde_json::json!({ "broker_id": 1, "draining": false, "partitions": 0 }));
    esker(&["cluster", "drain", "seven"]).fails(2, "invalid value 'seven'");
    esker(&["cluster", "drain"]).fails(2, "<BROKER>");
}

#[test]
fn without_a_broker_it_is_said_who_was_asked() {
    for command in [&["status"][..], &["brokers"], &["drain", "1"]] {
        let ran = esker(&[&["cluster"], command, &["--bootstrap", NOBODY, "--json"]].concat());
        assert_eq!(ran.stdout, "");
        ran.fails(1, "127.0.0.1:1: ").fails(1, "refused").fails(1, "9094");
        esker(&[&["cluster"], command, &["--colour"]].concat()).fails(2, "unexpected argument '--colour'");
    }
    esker(&["cluster", "melt"]).fails(2, "unrecognized subcommand 'melt'");
    // Alone it prints its help, to stderr: nothing was asked for.
    assert_eq!(esker(&["cluster"]).code, Some(2));
}

#[test]
fn a_restore_looks_before_it_writes() {
    let home = Home::new();
    home.broker(&[]).stop();
    let (data_dir, other) = (home.data_dir(), home.path().join("other"));
    let store = format!("file://{data_dir}/objects");
    let other = other.to_str().unwrap();
    let arguments = ["cluster", "restore", "--data-dir", other, "--object-store", &store];
    let with = |more: &[&str]| esker(&[&arguments[..], more].concat());
    with(&["--dry-run"]).ok().has(&["cluster    ", "streams    ", "nothing was changed"]);
    let found = with(&["--dry-run", "--json"]).ok().json();
    assert_eq!(found["restored"], false);
    assert_eq!(found["object_store"], store);
    with(&[]).fails(1, "nothing was changed: say --yes, or --dry-run to only look");
    with(&["--yes"]).ok().has(&["the metadata store is rebuilt: start the brokers"]);
    with(&["--yes"]).fails(1, "error: ");
    with(&["--name-topic", "x"]).fails(2, "write ID=NAME");
    esker(&["cluster", "restore", "--object-store", "memory://"]).fails(1, "nothing to restore from");
    esker(&["cluster", "restore", "--kafka-listen", "x:1"]).fails(2, "unexpected argument '--kafka-listen'");
}
