//! The binary as people run it: what it says, what it refuses, how it ends.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// A command with nothing of this machine's settings.
fn esker(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_esker"));
    command.args(arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn finish(arguments: &[&str]) -> Output {
    esker(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const FREE_PORTS: [&str; 6] =
    ["--kafka-listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];

/// A broker on free ports; killed when dropped.
struct Broker {
    child: Child,
    kafka: String,
    grpc: String,
    http: String,
}

impl Broker {
    fn start(data_dir: &Path, more: &[&str]) -> Self {
        let data_dir = data_dir.to_str().unwrap();
        let ports = FREE_PORTS;
        let mut child = esker(&[&["serve", "--data-dir", data_dir], &ports[..], more].concat()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = Vec::new();
        while let Some(Ok(line)) = lines.next() {
            let last = line.starts_with("  try");
            said.push(line);
            if last {
                break;
            }
        }
        let word = |name: &str| {
            let line = said.iter().find(|line| line.trim_start().starts_with(name));
            line.and_then(|line| line.split_whitespace().nth(1)).unwrap_or_default().to_owned()
        };
        if said.is_empty() {
            let mut log = String::new();
            child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
            panic!("the broker did not start: {log}");
        }
        let http = word("http").trim_start_matches("http://").trim_end_matches('/').to_owned();
        // Nobody reads the log: it must not fill the pipe.
        let mut stderr = child.stderr.take().unwrap();
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Self { child, kafka: word("kafka"), grpc: word("grpc"), http }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Exit code after a signal; `None` if the signal itself ended it.
    fn end(mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn no_sub_command_prints_help_and_usage_errors_are_two() {
    let help = finish(&[]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("serve"), "{}", text(&help.stdout));
    for arguments in [&["brew"][..], &["serve", "--flush-linger", "5"], &["serve", "--config", "/nowhere.toml"]] {
        let failed = finish(arguments);
        assert_eq!(failed.status.code(), Some(2), "{arguments:?}: {}", text(&failed.stderr));
        assert!(failed.stdout.is_empty() && !failed.stderr.is_empty());
        assert!(!text(&failed.stderr).contains('\u{1b}'), "no colours where nobody looks");
    }
}

#[test]
fn a_broker_starts_says_where_and_stops_on_a_signal() {
    let temp = tempfile::tempdir().unwrap();
    for signal in ["-TERM", "-INT"] {
        let broker = Broker::start(temp.path(), &[]);
        assert!(broker.get("/healthz").starts_with("HTTP/1.1 200"));
        assert!(broker.get("/readyz").ends_with("ready\n"));
        let metrics = broker.get("/metrics");
        for name in ["process_resident_memory_bytes", "esker_build_info", "esker_cluster_partitions"] {
            assert!(metrics.contains(name), "{name}");
        }
        assert!(metrics.ends_with("# EOF\n"));
        TcpStream::connect(&broker.kafka).unwrap();
        assert_eq!(broker.end(signal), Some(0));
    }
}

#[test]
fn after_a_kill_the_next_start_takes_over() {
    let temp = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        assert_eq!(Broker::start(temp.path(), &[]).end("-KILL"), None);
    }
    assert_eq!(Broker::start(temp.path(), &[]).end("-TERM"), Some(0));
}

#[test]
fn a_data_directory_and_a_port_have_one_owner() {
    let temp = tempfile::tempdir().unwrap();
    let broker = Broker::start(temp.path(), &[]);
    let data_dir = temp.path().to_str().unwrap();
    let second = finish(&["serve", "--data-dir", data_dir]);
    assert_eq!(second.status.code(), Some(1));
    let message = text(&second.stderr);
    assert!(message.contains("is in use by another esker (process ") && message.contains("--data-dir"), "{message}");

    let other = tempfile::tempdir().unwrap();
    let doors = [("--kafka-listen", &broker.kafka), ("--grpc-listen", &broker.grpc), ("--http-listen", &broker.http)];
    for (flag, address) in doors {
        // Of a flag that is given twice the last one counts.
        let arguments = [&["serve", "--data-dir", other.path().to_str().unwrap()], &FREE_PORTS[..], &[flag, address]];
        let taken = finish(&arguments.concat());
        assert_eq!(taken.status.code(), Some(1));
        let message = text(&taken.stderr);
        assert!(message.contains(address) && message.contains("in use") && message.contains(flag), "{message}");
    }
}

#[test]
fn directories_that_are_not_its_own_are_left_alone() {
    let refused = |dir: &Path, more: &[&str]| {
        let ports = FREE_PORTS;
        let output = finish(&[&["serve", "--data-dir", dir.to_str().unwrap()], &ports[..], more].concat());
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr)
    };
    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(foreign.path().join("thesis.txt"), "precious").unwrap();
    assert!(refused(foreign.path(), &[]).contains("is no data directory of esker"));

    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert_eq!(Broker::start(first.path(), &[]).end("-TERM"), Some(0));
    assert!(refused(first.path(), &["--broker-id", "7"]).contains("belongs to broker 1"));
    let objects = format!("file://{}", first.path().join("objects").display());
    let message = refused(second.path(), &["--object-store", &objects]);
    assert!(message.contains("the object store") && message.contains("belongs to cluster"), "{message}");

    let version = first.path().join("VERSION");
    let newer = std::fs::read_to_string(&version).unwrap().replace("format: 1", "format: 2");
    std::fs::write(&version, newer).unwrap();
    let message = refused(first.path(), &[]);
    assert!(message.contains("format version 2") && message.contains("newer esker"), "{message}");
}

#[test]
fn a_memory_store_keeps_nothing() {
    let temp = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        assert_eq!(Broker::start(temp.path(), &["--object-store", "memory://"]).end("-TERM"), Some(0));
    }
    assert!(!temp.path().join("VERSION").exists() && !temp.path().join("wal").exists());
}

#[test]
fn a_port_that_only_waits_is_no_obstacle() {
    // A listener that was closed a moment ago leaves connections in TIME_WAIT; a restart must get the port all the same.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let client = TcpStream::connect(&address).unwrap();
    let (server, _) = listener.accept().unwrap();
    drop((server, listener));
    let mut rest = Vec::new();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (&client).read_to_end(&mut rest).unwrap();
    let temp = tempfile::tempdir().unwrap();
    let broker = Broker::start(temp.path(), &["--kafka-listen", &address]);
    assert_eq!(broker.kafka, address);
    drop(client);
}

#[test]
fn commands_ask_a_broker_over_grpc() {
    let temp = tempfile::tempdir().unwrap();
    let broker = Broker::start(temp.path(), &[]);
    let asked = |arguments: &[&str]| finish(&[&["cluster"], arguments, &["--bootstrap", &broker.grpc]].concat());

    let status = asked(&["status"]);
    assert_eq!(status.status.code(), Some(0));
    let said = text(&status.stdout);
    assert!(
        said.contains("controller  broker 1") && said.contains(&broker.kafka) && said.contains("serving"),
        "{said}"
    );
    let brokers: serde_json::Value = serde_json::from_slice(&asked(&["brokers", "--json"]).stdout).unwrap();
    assert_eq!(brokers[0]["endpoints"]["grpc"], broker.grpc);

    let refused = |arguments: &[&str], code: i32, why: &str| {
        let output = asked(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let message = text(&output.stderr);
        assert!(message.starts_with("error: ") && message.contains(why), "{message}");
    };
    refused(&["drain", "1"], 1, "is the only one that takes partitions");
    refused(&["drain", "7"], 1, "no live broker 7");
    refused(&["drain", "seven"], 2, "invalid value 'seven'");
    let nobody = finish(&["cluster", "status", "-b", "127.0.0.1:1"]);
    assert_eq!(nobody.status.code(), Some(1));
    let message = text(&nobody.stderr);
    assert!(message.contains("127.0.0.1:1: ") && message.contains("refused") && message.contains("9094"), "{message}");
}
