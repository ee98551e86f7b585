//! `esker group list|describe|reset|delete`, and `esker consume --group`.

use std::io::{BufRead, BufReader};

use serde_json::{Value, json};

use crate::harness::{Home, NOBODY, esker, helps, spawn};

#[test]
fn helps_have_examples() {
    helps(&["group"], &["list", "describe", "reset", "delete", "--bootstrap"]);
    helps(&["group", "list"], &["--json"]);
    helps(&["group", "describe"], &["--json"]);
    helps(
        &["group", "reset"],
        &["--to-earliest", "--to-latest", "--to-offset", "--to-timestamp", "--shift-by", "--execute"],
    );
    helps(&["group", "delete"], &["--json"]);
}

#[test]
fn a_group_reads_on_where_it_stood_and_can_be_moved() {
    let home = Home::new();
    let broker = home.broker(&[]);
    broker.esker_with(&["produce", "t"], "0\n1\n2\n3\n").ok();
    let read = |more: &[&str]| broker.esker(&[&["consume", "t", "-G", "g", "-e"], more].concat()).ok().stdout;
    assert_eq!(read(&["-c", "2"]), "0\n1\n");
    assert_eq!(read(&[]), "2\n3\n");
    broker.esker_with(&["produce", "t"], "4\n").ok();

    broker.esker(&["group", "list"]).ok().has(&["GROUP  STATE", "g      Empty"]);
    let list = broker.esker(&["group", "list", "--json"]).ok().json();
    assert_eq!((&list["groups"][0]["group"], &list["incomplete"]), (&json!("g"), &json!([])));
    broker.esker(&["group", "describe", "g"]).ok().has(&[
        "state        Empty\n",
        "lag          1\n",
        "COMMITTED  END  LAG",
    ]);
    let described = broker.esker(&["group", "describe", "g", "--json"]).ok().json();
    let offset = &described[0]["offsets"][0];
    let expected = (&json!(4), &json!(5), &json!(1));
    assert_eq!((&offset["committed_offset"], &offset["end_offset"], &offset["lag"]), expected);

    let reset = |more: &[&str]| broker.esker(&[&["group", "reset", "g", "--json"], more].concat()).ok().json();
    let moved = |to: i64| json!([{ "topic": "t", "partition": 0, "from": 4, "to": to }]);
    for (more, to) in [
        (&["--to-earliest"][..], 0),
        (&["--to-latest"], 5),
        (&["--to-offset", "3"], 3),
        (&["--to-offset", "99", "--topic", "t:0"], 5),
        (&["--shift-by", "-3"], 1),
        (&["--to-timestamp", "@0", "--topic", "t"], 0),
    ] {
        let plan = reset(more);
        assert_eq!((&plan["executed"], &plan["offsets"]), (&json!(false), &moved(to)), "{more:?}");
    }
    broker.esker(&["group", "reset", "g", "--to-earliest"]).ok().has(&["nothing was changed: say --execute"]);
    assert_eq!(reset(&["--to-offset", "3", "--execute"])["executed"], true);
    assert_eq!(read(&[]), "3\n4\n");

    broker.esker(&["group", "delete", "g"]).ok().has(&["deleted g\n"]);
    broker.esker(&["group", "delete", "g"]).fails(1, "g was not deleted");
    assert_eq!(broker.esker(&["group", "list", "--json"]).ok().json()["groups"], json!([]));
}

#[test]
fn ctrl_c_commits_what_was_printed() {
    let home = Home::new();
    let broker = home.broker(&[]);
    broker.esker_with(&["produce", "t"], "0\n1\n").ok();
    let mut member = spawn(&["consume", "t", "--group", "g", "-b", &broker.bootstrap()], &[]);
    let mut lines = BufReader::new(member.child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "0");
    assert_eq!(lines.next().unwrap().unwrap(), "1");
    let members = broker.esker(&["group", "describe", "g", "--json"]).ok().json();
    assert_eq!(members[0]["members"][0]["assignment"], json!([{ "topic": "t", "partitions": [0] }]));
    broker.esker(&["group", "describe", "g"]).ok().has(&["MEMBER", "t:0"]);
    broker.esker(&["group", "reset", "g", "--to-earliest"]).fails(1, "has members");
    member.interrupt();
    let ended = member.wait();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let described = broker.esker(&["group", "describe", "g", "--json"]).ok().json();
    assert_eq!(
        (&described[0]["offsets"][0]["committed_offset"], &described[0]["members"]),
        (&json!(2), &Value::Array(vec![]))
    );
}

#[test]
fn errors_say_what_is_wrong() {
    let home = Home::new();
    let broker = home.broker(&[]);
    broker.esker(&["group", "describe", "missing"]).fails(1, "missing");
    broker.esker(&["group", "reset", "missing", "--to-latest"]).fails(1, "missing");
    broker.esker(&["group", "reset", "g", "--to-latest", "--topic", "missing"]).fails(1, "missing");
    esker(&["group", "reset", "g"]).fails(2, "--to-earliest");
    esker(&["group", "reset", "g", "--to-latest", "--to-earliest"]).fails(2, "cannot be used with");
    esker(&["group", "reset", "g", "--to-timestamp", "soon"]).fails(2, "write a time");
    esker(&["group", "describe"]).fails(2, "<GROUP>");
    esker(&["group", "melt"]).fails(2, "unrecognized subcommand 'melt'");
    for command in [&["list"][..], &["describe", "g"], &["reset", "g", "--to-latest"], &["delete", "g"]] {
        let ran = esker(&[&["group"], command, &["--bootstrap", NOBODY, "--json"]].concat());
        assert_eq!(ran.stdout, "");
        ran.fails(1, "127.0.0.1:1: ").fails(1, "refused").fails(1, "9094");
        esker(&[&["group"], command, &["--colour"]].concat()).fails(2, "unexpected argument '--colour'");
    }
}
