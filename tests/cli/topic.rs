//! `esker topic create|list|describe|alter|delete`.

use serde_json::json;

use crate::harness::{Home, NOBODY, esker, helps};

#[test]
fn helps_have_examples() {
    helps(&["topic"], &["create", "list", "describe", "alter", "delete", "--bootstrap"]);
    helps(&["topic", "create"], &["--partitions", "--config", "--if-not-exists", "--json"]);
    helps(&["topic", "list"], &["--internal"]);
    helps(&["topic", "describe"], &["--json"]);
    helps(&["topic", "alter"], &["--set", "--unset", "--partitions"]);
    helps(&["topic", "delete"], &["--yes", "--if-exists"]);
}

#[test]
fn a_topic_from_its_beginning_to_its_end() {
    let home = Home::new();
    let broker = home.broker(&[]);
    let create = ["topic", "create", "orders", "-p", "3", "--config", "retention.ms=3600000"];
    broker.esker(&create).ok().has(&["created orders with 3 partitions\n"]);
    broker.esker(&create).fails(1, "orders was not created").fails(1, "exists");
    broker.esker(&[&create[..], &["--if-not-exists"]].concat()).ok().has(&["orders is there already\n"]);
    let made = broker.esker(&["topic", "create", "a", "b", "--json"]).ok().json();
    assert_eq!((&made[0]["name"], &made[1]["created"], &made[1]["partitions"]), (&json!("a"), &json!(true), &json!(1)));

    broker.esker(&["topic", "list"]).ok().has(&["TOPIC   PARTITIONS  ID\n", "orders           3  "]);
    let list = broker.esker(&["topic", "list", "--json"]).ok().json();
    let names: Vec<_> = list.as_array().unwrap().iter().map(|topic| topic["name"].clone()).collect();
    assert_eq!(names, ["a", "b", "orders"]);

    broker.esker_with(&["produce", "orders", "-p", "1"], "x\ny\n").ok();
    let described =
        ["topic       orders\n", "config      retention.ms=3600000\n", "PARTITION  LEADER  EPOCH  FIRST  END\n"];
    let text = broker.esker(&["topic", "describe", "orders"]).ok().has(&described).stdout;
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(rows.iter().any(|row| row[..] == ["1", "1", row.get(2).copied().unwrap_or_default(), "0", "2"]), "{text}");
    let described = broker.esker(&["topic", "describe", "orders", "--json"]).ok().json();
    assert_eq!(described[0]["partitions"][1]["end_offset"], 2);
    assert_eq!(described[0]["partitions"][1]["leader_endpoint"], broker.bootstrap());
    let retention = described[0]["configs"].as_array().unwrap().iter().find(|one| one["name"] == "retention.ms");
    assert_eq!(retention.unwrap(), &json!({ "name": "retention.ms", "value": "3600000", "overridden": true }));

    let alter = ["topic", "alter", "orders", "--set", "max.message.bytes=2000", "--unset", "retention.ms", "-p", "5"];
    broker.esker(&alter).ok().has(&["changed orders\n"]);
    broker.esker(&["topic", "alter", "orders", "-p", "5"]).fails(1, "nothing was changed");
    let described = broker.esker(&["topic", "describe", "orders"]).ok().has(&["max.message.bytes=2000"]);
    assert!(!described.stdout.contains("retention.ms"), "{}", described.stdout);

    broker.esker(&["topic", "delete", "a", "b"]).ok().has(&["deleted a\ndeleted b\n"]);
    broker.esker(&["topic", "delete", "a"]).fails(1, "a was not deleted");
    broker.esker(&["topic", "delete", "a", "--if-exists"]).ok().has(&["a is not there\n"]);
    let gone = broker.esker(&["topic", "delete", "orders", "--yes", "--json"]).ok().json();
    assert_eq!(gone, json!({ "deleted": ["orders"] }));
    assert_eq!(broker.esker(&["topic", "list", "--json"]).ok().json(), json!([]));
}

#[test]
fn errors_say_what_is_wrong() {
    let home = Home::new();
    let broker = home.broker(&[]);
    broker.esker(&["topic", "describe", "missing"]).fails(1, "missing");
    broker.esker(&["topic", "alter", "missing", "--set", "retention.ms=1"]).fails(1, "missing");
    broker.esker(&["topic", "create", "t", "--config", "colour=red"]).fails(1, "colour");
    broker.esker(&["topic", "create", "not a name"]).fails(1, "not a name");
    broker.esker(&["topic", "create", "t"]).ok();
    broker.esker(&["topic", "alter", "t", "--set", "retention.ms=soon"]).fails(1, "retention.ms");
    broker.esker(&["topic", "alter", "t"]).fails(1, "nothing to change");
    esker(&["topic", "create", "t", "-p", "0"]).fails(2, "invalid value '0'");
    esker(&["topic", "create", "t", "--config", "retention.ms"]).fails(2, "write CONFIG=VALUE");
    esker(&["topic", "create"]).fails(2, "<TOPIC>");
    esker(&["topic", "melt"]).fails(2, "unrecognized subcommand 'melt'");
    for command in [&["create", "t"][..], &["list"], &["describe", "t"], &["alter", "t", "-p", "2"], &["delete", "t"]] {
        let ran = esker(&[&["topic"], command, &["--bootstrap", NOBODY, "--json"]].concat());
        assert_eq!(ran.stdout, "");
        ran.fails(1, "127.0.0.1:1: ").fails(1, "refused").fails(1, "9094");
        esker(&[&["topic"], command, &["--colour"]].concat()).fails(2, "unexpected argument '--colour'");
    }
}
