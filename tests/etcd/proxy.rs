//! A TCP proxy in front of a server, which can be cut, frozen, or made to lose every answer.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf};
use tokio::sync::watch;

/// What happens to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They go through.
    Pass,
    /// Connections are closed, and new ones refused.
    Cut,
    /// They wait, in both directions, until the mode changes.
    Freeze,
    /// Requests go through; answers are thrown away.
    LoseAnswers,
    /// Every HTTP/1 request is answered with 503.
    Busy,
}

/// A running proxy; it ends with the runtime.
pub struct Proxy {
    address: SocketAddr,
    mode: Arc<watch::Sender<Mode>>,
}

impl Proxy {
    /// In front of `target` (`host:port`).
    pub async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mode = Arc::new(watch::Sender::new(Mode::Pass));
        let modes = mode.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, modes) = (target.clone(), modes.subscribe());
                tokio::spawn(async move {
                    let mode = *modes.borrow();
                    match mode {
                        Mode::Cut => {}
                        Mode::Busy => busy(client).await,
                        _ => {
                            if let Ok(server) = TcpStream::connect(target).await {
                                join(client, server, modes).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, mode }
    }

    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn join(client: TcpStream, server: TcpStream, mut modes: watch::Receiver<Mode>) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let requests = copy(from_client, to_server, modes.clone(), false);
    let answers = copy(from_server, to_client, modes.clone(), true);
    tokio::select! {
        () = requests => {}
        () = answers => {}
        _ = modes.wait_for(|mode| matches!(mode, Mode::Cut | Mode::Busy)) => {}
    }
}

async fn busy(mut client: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    let _ = client.read(&mut buffer).await;
    let answer = "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let _ = client.write_all(answer.as_bytes()).await;
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut modes: watch::Receiver<Mode>, answers: bool) {
    let mut buffer = vec![0; 64 * 1024];
    // A stream with a hole in it would be something that no network makes: after lost bytes nothing goes through.
    let mut lost = false;
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        if modes.wait_for(|mode| *mode != Mode::Freeze).await.is_err() {
            return;
        }
        lost |= answers && *modes.borrow() == Mode::LoseAnswers;
        if !lost && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
