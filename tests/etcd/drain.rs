//! Two brokers on one etcd and one directory of objects: `esker cluster`, and a broker that gives everything away.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use esker::protocol::batch::BatchBuilder;
use serde_json::Value;

use crate::process::{Broker, Doors, Setup};
use crate::server::{Member, binary};
use crate::wire::Connection;

const PARTITIONS: i32 = 8;
const NOT_LEADER: i16 = 6;

fn start(folder: &Path, id: i32, endpoint: &str) -> (Broker, Doors) {
    let own = folder.join(id.to_string());
    std::fs::create_dir_all(&own).unwrap();
    let (metadata, objects) = (format!("etcd://{endpoint}"), format!("file://{}", folder.join("objects").display()));
    let id = id.to_string();
    Setup::new(&own, &["--metadata", &metadata, "--object-store", &objects, "--broker-id", &id]).start()
}

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// `esker cluster …`, asked of one broker.
fn cluster(grpc: SocketAddr, arguments: &[&str]) -> Said {
    let binary = std::env::var_os("ESKER_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_esker").into());
    let output =
        Command::new(binary).arg("cluster").args(arguments).arg("--bootstrap").arg(grpc.to_string()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Partitions of each broker, by its id.
fn led(grpc: SocketAddr) -> Vec<(i64, u64)> {
    let brokers: Value = serde_json::from_str(&cluster(grpc, &["brokers", "--json"]).out).unwrap();
    let one = |broker: &Value| (broker["id"].as_i64().unwrap(), broker["partitions"].as_u64().unwrap());
    brokers.as_array().unwrap().iter().map(one).collect()
}

fn metric(http: SocketAddr, name: &str) -> u64 {
    let mut stream = TcpStream::connect(http).unwrap();
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.trim().parse().unwrap()
}

/// Produces to whoever leads the partition; gives the offset.
fn produce(brokers: &mut [Connection], partition: i32, value: &str) -> Option<i64> {
    for broker in brokers {
        let batch = BatchBuilder::new().key_value(1_700_000_000_000, "key", value.as_bytes().to_vec()).build();
        broker.send_produce("drained", partition, -1, batch).unwrap();
        let produced = broker.receive_produce().unwrap();
        if produced.error == 0 {
            return Some(produced.base_offset);
        }
        assert_eq!(produced.error, NOT_LEADER);
    }
    None
}

fn drained_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let etcd = Member::alone(&folder.path().join("etcd"), &[]);
    let (one, first) = start(folder.path(), 1, &etcd.endpoint());
    let (two, second) = start(folder.path(), 2, &etcd.endpoint());
    until("both are known", || led(first.grpc).len() == 2);
    let mut connections = [Connection::open(first.kafka).unwrap(), Connection::open(second.kafka).unwrap()];
    assert_eq!(connections[0].create_topic("drained", PARTITIONS).unwrap(), 0);
    until("each leads half", || led(second.grpc) == [(1, 4), (2, 4)]);
    for round in 0..3 {
        for partition in 0..PARTITIONS {
            let mut offset = None;
            until("somebody leads it", || {
                offset = produce(&mut connections, partition, &format!("{partition}/{round}"));
                offset.is_some()
            });
            assert_eq!(offset, Some(round));
        }
    }

    let drain = cluster(second.grpc, &["drain", "1"]);
    assert_eq!(
        (drain.code, drain.out.as_str()),
        (Some(0), "broker 1 leads nothing; it can be stopped\n"),
        "{}",
        drain.err
    );
    assert_eq!(led(second.grpc), [(1, 0), (2, 8)]);
    let last = cluster(first.grpc, &["drain", "2"]);
    assert_eq!(last.code, Some(1));
    assert!(last.err.contains("broker 2 is the only one"), "{}", last.err);
    // Their states came from the broker that gave them away, not from its stream.
    assert_eq!(metric(second.http, "esker_broker_loads_told_total"), 4);
    assert_eq!(metric(second.http, "esker_broker_loads_read_total"), 0);
    let values = |connection: &mut Connection, partition: i32| -> Vec<String> {
        let fetched = connection.fetch("drained", partition, 0, 100).unwrap();
        assert_eq!(fetched.error, 0);
        let values = fetched.records.iter().filter_map(|record| record.value.as_ref());
        values.map(|value| String::from_utf8(value.to_vec()).unwrap()).collect()
    };
    for partition in 0..PARTITIONS {
        let expected: Vec<String> = (0..3).map(|round| format!("{partition}/{round}")).collect();
        let [_, second] = &mut connections;
        assert_eq!(values(second, partition), expected);
        assert_eq!(produce(&mut connections, partition, "more"), Some(3));
    }

    let undone = cluster(first.grpc, &["drain", "1", "--undo"]);
    assert_eq!((undone.code, undone.out.as_str()), (Some(0), "broker 1 takes partitions again\n"), "{}", undone.err);
    until("each leads half again", || led(first.grpc) == [(1, 4), (2, 4)]);
    for broker in [one, two] {
        assert!(broker.stop().success());
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let clock = esker::base::Clock::system();
    let deadline_ms = clock.boot_ms() + 60_000;
    while !holds() {
        assert!(clock.boot_ms() < deadline_ms, "not within a minute: {what}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_gives_everything_away_when_an_operator_says_so() {
    if binary().is_some() {
        tokio::task::spawn_blocking(drained_and_back).await.unwrap();
    }
}
