//! `esker consume`.

use std::io::{BufRead, BufReader};

use serde_json::{Value, json};

use crate::harness::{Home, NOBODY, esker, helps, spawn};

#[test]
fn help_has_examples() {
    helps(&["consume"], &["--from", "--group", "--json", "-f", "-c", "-e", "%t topic", "--bootstrap"]);
}

#[test]
fn records_are_printed_from_where_it_is_said() {
    let home = Home::new();
    let broker = home.broker(&[]);
    broker.esker(&["topic", "create", "t", "-p", "2"]).ok();
    for partition in ["0", "1"] {
        let lines = [0, 1, 2, 3, 4].map(|number| format!("{partition}-{number}\n")).concat();
        broker.esker_with(&["produce", "t", "-p", partition], &lines).ok();
    }
    let read = |more: &[&str]| {
        let ran = broker.esker(&[&["consume", "t", "-e"], more].concat()).ok();
        let mut lines: Vec<String> = ran.stdout.lines().map(str::to_owned).collect();
        lines.sort();
        lines.join(" ")
    };
    assert_eq!(read(&[]), "0-0 0-1 0-2 0-3 0-4 1-0 1-1 1-2 1-3 1-4");
    assert_eq!(read(&["--from", "beginning", "-p", "1"]), "1-0 1-1 1-2 1-3 1-4");
    assert_eq!(read(&["--from", "3"]), "0-3 0-4 1-3 1-4");
    assert_eq!(read(&["--from", "-1"]), "0-4 1-4");
    assert_eq!(read(&["-o", "-100", "-p", "0"]), "0-0 0-1 0-2 0-3 0-4");
    assert_eq!(read(&["--from", "end"]), "");
    assert_eq!(read(&["--from", "@0", "-c", "1", "-p", "0"]), "0-0");
    assert_eq!(read(&["--from", "2100-01-01T00:00:00Z"]), "");

    let json = broker.esker(&["consume", "t", "-e", "-p", "1", "-c", "1", "--json"]).ok().json();
    assert_eq!((&json["topic"], &json["partition"], &json["offset"]), (&json!("t"), &json!(1), &json!(0)));
    assert_eq!((&json["key"], &json["value"]), (&Value::Null, &json!("1-0")));
}

#[test]
fn it_waits_for_more_until_it_is_told_to_stop() {
    let home = Home::new();
    let broker = home.broker(&[]);
    broker.esker_with(&["produce", "t"], "first\n").ok();
    let mut tail = spawn(&["consume", "t", "-b", &broker.bootstrap()], &[]);
    let mut lines = BufReader::new(tail.child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "first");
    broker.esker_with(&["produce", "t"], "second\n").ok();
    assert_eq!(lines.next().unwrap().unwrap(), "second");
    tail.interrupt();
    let ended = tail.wait();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));

    // `esker consume t | head -1`
    let mut tail = spawn(&["consume", "t", "-b", &broker.bootstrap()], &[]);
    let mut lines = BufReader::new(tail.child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "first");
    drop(lines);
    broker.esker_with(&["produce", "t"], "third\n").ok();
    let ended = tail.wait();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

#[test]
fn errors_say_what_is_wrong() {
    let home = Home::new();
    let broker = home.broker(&[]);
    broker.esker(&["consume", "missing", "-e"]).fails(1, "missing");
    broker.esker(&["topic", "create", "t"]).ok();
    broker.esker(&["consume", "t", "--from", "7"]).fails(1, "7");
    broker.esker(&["consume", "t", "-e", "-p", "3"]).fails(1, "partition 3");
    broker.esker(&["consume", "t", "--group", "g", "--from", "7"]).fails(1, "--from is beginning or end");
    esker(&["consume"]).fails(2, "<TOPIC>");
    esker(&["consume", "t", "--from", "yesterday"]).fails(2, "write beginning, end");
    esker(&["consume", "t", "-f", "%z"]).fails(2, "there is no %z");
    esker(&["consume", "t", "-f", "%s", "--json"]).fails(2, "cannot be used with");
    esker(&["consume", "t", "-c", "0"]).fails(2, "invalid value '0'");
    esker(&["consume", "t", "--colour"]).fails(2, "unexpected argument '--colour'");
    esker(&["consume", "t", "-b", NOBODY]).fails(1, "127.0.0.1:1: ").fails(1, "refused").fails(1, "9094");
}
