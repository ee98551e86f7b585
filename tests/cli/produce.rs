//! `esker produce`.

use serde_json::json;

use crate::harness::{Home, NOBODY, esker, helps};

#[test]
fn help_has_examples() {
    helps(&["produce"], &["-k", "-H", "--partition", "--compression", "--acks", "FILE", "--bootstrap"]);
}

#[test]
fn lines_become_records() {
    let home = Home::new();
    let broker = home.broker(&[]);
    broker.esker(&["topic", "create", "t", "-p", "2"]).ok();
    let ran = broker.esker_with(&["produce", "t", "-k", ":", "-H", "from=test", "-p", "1"], "a:1\nb:2:3\n\nplain").ok();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("4 records written to t\n", ""));
    let read = broker.esker(&["consume", "t", "-e", "-f", "%p@%o %k|%K=%s %h\\n"]).ok();
    let lines = ["1@0 a|1=1 from=test", "1@1 b|1=2:3 from=test", "1@2 |-1= from=test", "1@3 |-1=plain from=test", ""];
    assert_eq!(read.stdout, lines.join("\n"));

    let file = home.path().join("lines.txt");
    std::fs::write(&file, "x\n".repeat(1_000)).unwrap();
    let file = file.to_str().unwrap();
    for codec in ["gzip", "snappy", "lz4", "zstd"] {
        let arguments = ["produce", codec, file, file, "--compression", codec, "--acks", "1", "--json"];
        let written = broker.esker(&arguments).ok().json();
        let partition = json!({ "partition": 0, "first_offset": 0, "last_offset": 1_999 });
        let expected = json!({ "topic": codec, "records": 2_000, "bytes": 2_000, "partitions": [partition] });
        assert_eq!(written, expected);
        let read = broker.esker(&["consume", codec, "--exit"]).ok();
        assert_eq!(read.stdout, "x\n".repeat(2_000));
    }
    assert_eq!(broker.esker_with(&["produce", "t"], "").ok().stdout, "0 records written to t\n");
}

#[test]
fn errors_name_the_line() {
    let home = Home::new();
    let broker = home.broker(&["--topics-auto-create", "false"]);
    broker.esker_with(&["produce", "missing"], "x\n").fails(1, "stdin, line 1").fails(1, "missing");
    broker.esker(&["topic", "create", "t", "--config", "max.message.bytes=1000"]).ok();
    let input = format!("fine\n{}\n", "x".repeat(2_000));
    broker.esker_with(&["produce", "t"], &input).fails(1, "stdin, line 2: not written");
    // What was fine before and after it is there.
    assert_eq!(broker.esker(&["consume", "t", "-e"]).ok().stdout, "fine\n");
    broker.esker_with(&["produce", "t", "-p", "9"], "x\n").fails(1, "stdin, line 1").fails(1, "partition 9");
    broker.esker(&["produce", "t", "/nowhere"]).fails(1, "/nowhere cannot be read");
    esker(&["produce"]).fails(2, "<TOPIC>");
    esker(&["produce", "t", "-z", "rar"]).fails(2, "invalid value 'rar'");
    esker(&["produce", "t", "--acks", "0"]).fails(2, "invalid value '0'");
    esker(&["produce", "t", "-p", "-1"]).fails(2, "-1");
    esker(&["produce", "t", "-H", "plain"]).fails(2, "write NAME=VALUE");
    esker(&["produce", "t", "--colour"]).fails(2, "unexpected argument '--colour'");
    esker(&["produce", "t", "-b", NOBODY]).fails(1, "127.0.0.1:1: ").fails(1, "refused").fails(1, "9094");
}
