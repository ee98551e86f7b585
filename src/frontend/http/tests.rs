use std::sync::{Arc, OnceLock};

use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{Readiness, register_process_metrics, serve};

struct Server {
    address: std::net::SocketAddr,
    readiness: Readiness,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn server(max_connections: usize) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut registry = Registry::default();
    register_process_metrics(&mut registry);
    let readiness = Readiness::starting("recovering");
    let stop = CancellationToken::new();
    let task = tokio::spawn(serve(
        listener,
        max_connections,
        Arc::new(OnceLock::from(registry)),
        readiness.clone(),
        stop.clone(),
    ));
    Server { address, readiness, stop, task }
}

async fn ask(server: &Server, request: &str) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    let _ = stream.read_to_string(&mut reply).await;
    reply
}

async fn get(server: &Server, path: &str) -> String {
    ask(server, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
}

#[tokio::test]
async fn readiness_follows_the_phase_and_the_checks() {
    let server = server(4).await;
    assert!(get(&server, "/healthz").await.starts_with("HTTP/1.1 200"));
    let reply = get(&server, "/readyz").await;
    assert!(reply.starts_with("HTTP/1.1 503") && reply.ends_with("not ready: recovering\n"), "{reply}");
    server.readiness.ready();
    assert!(get(&server, "/readyz").await.starts_with("HTTP/1.1 200"));
    let down = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = down.clone();
    server.readiness.add_check(move || {
        seen.load(std::sync::atomic::Ordering::SeqCst).then(|| "the object store is down".to_owned())
    });
    assert!(get(&server, "/readyz").await.starts_with("HTTP/1.1 200"));
    down.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(get(&server, "/readyz").await.ends_with("the object store is down\n"));
    server.readiness.not_ready("stopping");
    assert!(get(&server, "/readyz").await.ends_with("not ready: stopping\n"));
    assert!(get(&server, "/nothing").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn metrics_tell_about_the_process() {
    let server = server(4).await;
    let reply = get(&server, "/metrics").await;
    assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with("# EOF\n"), "{reply}");
    for name in ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds", "process_threads"] {
        let line = reply.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("{name}"));
        let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(value >= 0.0, "{line}");
    }
    assert!(reply.contains("esker_build_info{version=\""), "{reply}");
}

#[tokio::test]
async fn one_connection_too_many_waits_for_a_place() {
    let server = server(1).await;
    let mut first = TcpStream::connect(server.address).await.unwrap();
    first.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut some = [0; 12];
    first.read_exact(&mut some).await.unwrap();
    let second = get(&server, "/healthz");
    tokio::pin!(second);
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    assert!(second.await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn nonsense_is_refused_and_the_server_goes_on() {
    let server = server(4).await;
    for nonsense in ["\x16\x03\x01\x02\x00\x01\x00", "\0\0\0\x20\0\x12\0\x03", "GET\r\n\r\n", "\r\n\r\n\r\nx\r\n\r\n"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(nonsense.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply).await;
        assert!(get(&server, "/healthz").await.starts_with("HTTP/1.1 200"));
    }
    server.stop.cancel();
    server.task.await.unwrap();
}
