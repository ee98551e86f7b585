//! What `esker cluster` understands and prints.

use std::collections::BTreeMap;

use super::{ClusterCommand, as_json, brokers_text, command, parse, status_text};
use crate::app::commands::Remote;
use crate::protocol::grpc::v1::{Broker, DescribeClusterResponse};

fn typed(arguments: &[&str], variables: &[(&str, &str)]) -> Option<ClusterCommand> {
    let matches = command().try_get_matches_from([&["cluster"], arguments].concat()).ok()?;
    let variables: BTreeMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    parse(&matches, &variables)
}

fn at(bootstrap: &[&str], json: bool) -> Remote {
    Remote { bootstrap: bootstrap.iter().map(|one| (*one).to_owned()).collect(), json }
}

#[test]
fn flags_beat_the_environment_which_beats_the_default() {
    assert_eq!(typed(&["status"], &[]), Some(ClusterCommand::Status(at(&["127.0.0.1:9094"], false))));
    let env = [("ESKER_BOOTSTRAP", "a:1, b:2")];
    assert_eq!(typed(&["brokers", "--json"], &env), Some(ClusterCommand::Brokers(at(&["a:1", "b:2"], true))));
    assert_eq!(typed(&["-b", "c:3", "status"], &env), Some(ClusterCommand::Status(at(&["c:3"], false))));
}

#[test]
fn a_drain_names_a_broker() {
    let remote = at(&["127.0.0.1:9094"], false);
    let drain = ClusterCommand::Drain { remote, broker_id: 3, undo: true, timeout_s: 0 };
    assert_eq!(typed(&["drain", "3", "--undo", "--timeout", "0"], &[]), Some(drain));
    assert_eq!(typed(&["drain"], &[]), None);
    assert_eq!(typed(&["drain", "three"], &[]), None);
    assert_eq!(typed(&["melt"], &[]), None);
}

fn cluster() -> DescribeClusterResponse {
    let broker = |id: i32, partitions: u64, draining: bool| Broker {
        id,
        session_epoch: 40 + id as u64,
        host: format!("broker-{id}"),
        port: 9092,
        zone: (id == 1).then(|| "a".to_owned()),
        endpoints: [("grpc".to_owned(), format!("broker-{id}:9094"))].into(),
        draining,
        partitions,
        leaving_partitions: if draining { partitions } else { 0 },
    };
    DescribeClusterResponse {
        cluster_id: "abc".to_owned(),
        metadata_revision: 77,
        controller_id: Some(1),
        brokers: vec![broker(1, 12, false), broker(2, 3, true), broker(3, 0, true)],
        topics: 2,
        partitions: 16,
        offline_partitions: 1,
        answering_broker_id: 1,
    }
}

#[test]
fn people_see_aligned_text() {
    let brokers = "\
BROKER  KAFKA          ZONE  STATE     PARTITIONS  LEAVING
     1  broker-1:9092  a     serving           12        0
     2  broker-2:9092  -     draining           3        3
     3  broker-3:9092  -     drained            0        0
";
    assert_eq!(brokers_text(&cluster()), brokers);
    let status = "\
cluster     abc
controller  broker 1
brokers     3
topics      2
partitions  16 (1 without a live leader, 3 moving)

";
    assert_eq!(status_text(&cluster()), format!("{status}{brokers}"));
}

#[test]
fn programs_see_all_of_it() {
    let read: serde_json::Value = serde_json::from_str(&as_json(&cluster())).unwrap();
    assert_eq!(read["brokers"][1]["leaving_partitions"], 3);
    assert_eq!(read["brokers"][1]["zone"], serde_json::Value::Null);
    assert_eq!(read["brokers"][0]["endpoints"]["grpc"], "broker-1:9094");
    assert_eq!(read["controller_id"], 1);
}
