//! The broker itself, on etcd that is not there yet, comes, and goes for a while.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use esker::base::Clock;
use esker::meta::MetaStore as _;
use esker::objstore::s3::{S3Options, create_bucket};
use esker::protocol::batch::BatchBuilder;

use crate::process::{Broker, Setup};
use crate::proxy::{Mode, Proxy};
use crate::server::{Member, binary, free_port};
use crate::wire::Connection;
use crate::{store, until};

/// How long a store that is not there stays away, so that the broker has tried more than once.
const AWAY: Duration = Duration::from_secs(2);

fn setup(folder: &Path, endpoint: &str, http: u16, more: &[&str]) -> Setup {
    let (metadata, http) = (format!("etcd://{endpoint}"), format!("127.0.0.1:{http}"));
    Setup::new(folder, &[&["--metadata", &metadata, "--http-listen", &http], more].concat())
}

/// What `/readyz` says, or nothing while nobody listens.
fn readiness(port: u16) -> String {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    asked().unwrap_or_default()
}

async fn ready(mut broker: Broker) -> (Broker, SocketAddr, Connection) {
    let waiting = tokio::task::spawn_blocking(move || match broker.ready() {
        Ok(doors) => (broker, doors),
        Err(status) => panic!("the broker ended with {status}:\n{}", broker.log_tail()),
    });
    let (broker, doors) = waiting.await.unwrap();
    (broker, doors.kafka, Connection::open(doors.kafka).unwrap())
}

fn produce(connection: &mut Connection, value: &str) -> i64 {
    let batch = BatchBuilder::new().key_value(Clock::system().wall_ms(), "key", value.as_bytes().to_vec()).build();
    connection.send_produce("etcd", 0, -1, batch).unwrap();
    let produced = connection.receive_produce().unwrap();
    assert_eq!(produced.error, 0);
    produced.base_offset
}

fn values(connection: &mut Connection) -> Vec<String> {
    let fetched = connection.fetch("etcd", 0, 0, 100).unwrap();
    assert_eq!(fetched.error, 0);
    let text = |value: &bytes::Bytes| String::from_utf8(value.to_vec()).unwrap();
    fetched.records.iter().filter_map(|record| record.value.as_ref()).map(text).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_waits_for_etcd_and_serves_without_it_afterwards() {
    if binary().is_none() {
        return;
    }
    let (folder, http) = (tempfile::tempdir().unwrap(), free_port());
    let etcd = Member::alone(&folder.path().join("etcd"), &[]);
    let proxy = Proxy::start(etcd.endpoint()).await;
    proxy.set(Mode::Cut);
    let setup = setup(folder.path(), &proxy.endpoint(), http, &["--cluster-lease-ttl", "30s"]);
    let mut broker = setup.spawn();
    until("the broker says what it waits for", || async {
        let said = readiness(http);
        said.contains("503") && said.contains("opening the metadata store, waiting") && said.contains(&proxy.endpoint())
    })
    .await;
    tokio::time::sleep(AWAY).await;
    assert!(broker.ended_within(0).is_none(), "it does not end: {}", broker.log_tail());
    assert!(broker.log_tail().contains("opening the metadata store does not work yet"), "{}", broker.log_tail());
    proxy.set(Mode::Pass);
    let (broker, kafka, mut connection) = ready(broker).await;
    until("it is ready", || async { readiness(http).contains("200 OK") }).await;
    assert_eq!(connection.create_topic("etcd", 1).unwrap(), 0);
    produce(&mut connection, "one");

    // etcd is away, silent first and gone then.
    for (mode, value) in [(Mode::Freeze, "two"), (Mode::Cut, "three")] {
        proxy.set(mode);
        tokio::time::sleep(AWAY).await;
        produce(&mut connection, value);
    }
    assert_eq!(values(&mut connection), ["one", "two", "three"]);
    let error = connection.create_topic("more", 1).unwrap();
    assert_eq!(error, 7, "REQUEST_TIMED_OUT: to be tried again");
    proxy.set(Mode::Pass);
    until("topics are created again", || async {
        // 36: created by a try that was not answered.
        matches!(Connection::open(kafka).unwrap().create_topic("more", 1), Ok(0 | 36))
    })
    .await;
    drop(connection);
    assert!(tokio::task::spawn_blocking(move || broker.stop()).await.unwrap().success());

    // And again, on the etcd that knows it.
    let (broker, _, mut connection) = ready(setup.spawn()).await;
    assert_eq!(values(&mut connection), ["one", "two", "three"]);
    let keys = store(&[etcd.endpoint()]).range("/esker/").await.unwrap().entries;
    assert!(keys.iter().any(|entry| entry.key.ends_with("/topics/etcd")), "{keys:?}");
    drop(connection);
    assert!(tokio::task::spawn_blocking(move || broker.stop()).await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_waits_for_an_object_store_that_is_busy_or_away() {
    let Some(endpoint) = std::env::var("ESKER_TEST_S3_ENDPOINT").ok().filter(|_| binary().is_some()) else {
        assert!(std::env::var("ESKER_TEST_S3").is_err(), "ESKER_TEST_S3=required, but no endpoint");
        println!("lane etcd/s3: NOT RUN, no S3 server (tests/support/minio.sh run …)");
        return;
    };
    let (folder, http) = (tempfile::tempdir().unwrap(), free_port());
    let etcd = Member::alone(&folder.path().join("etcd"), &[]);
    let options = S3Options { endpoint: Some(endpoint.clone()), ..S3Options::default() };
    create_bucket("esker-etcd", &options).await.unwrap();
    let proxy = Proxy::start(endpoint.trim_start_matches("http://").to_owned()).await;
    proxy.set(Mode::Busy);
    let setup = setup(folder.path(), &etcd.endpoint(), http, &["--object-store", "s3://esker-etcd/start"])
        .with_variable("AWS_ENDPOINT_URL", &format!("http://{}", proxy.endpoint()));
    let mut broker = setup.spawn();
    for mode in [Mode::Busy, Mode::Cut] {
        proxy.set(mode);
        until("the broker says what it waits for", || async {
            readiness(http).contains("waiting") && readiness(http).contains("object store")
        })
        .await;
        tokio::time::sleep(AWAY).await;
        assert!(broker.ended_within(0).is_none(), "it does not end: {}", broker.log_tail());
    }
    proxy.set(Mode::Pass);
    let (broker, _, mut connection) = ready(broker).await;
    assert_eq!(connection.create_topic("etcd", 1).unwrap(), 0);
    produce(&mut connection, "one");
    assert_eq!(values(&mut connection), ["one"]);
    drop(connection);
    assert!(tokio::task::spawn_blocking(move || broker.stop()).await.unwrap().success());
}
