//! Real etcd members as child processes, each killed when dropped, and what an operator would do to them.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// The binary, and its name and version for people. `None` only if nobody asked for a server; a lane that requires one fails
/// instead of passing by skipping.
pub fn binary() -> Option<&'static str> {
    static SAID: OnceLock<Option<String>> = OnceLock::new();
    let found = SAID.get_or_init(|| {
        let setting = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let found = setting("ESKER_TEST_ETCD_BIN");
        if let Some(path) = &found {
            println!("lane etcd: {} ({path})", setting("ESKER_TEST_ETCD_SERVER").unwrap_or_default());
        } else {
            assert!(
                setting("ESKER_TEST_ETCD").as_deref() != Some("required"),
                "ESKER_TEST_ETCD=required but ESKER_TEST_ETCD_BIN is not set: start with tests/support/etcd.sh run"
            );
            println!("lane etcd: NOT RUN, no server (tests/support/etcd.sh run cargo test --test etcd)");
        }
        found
    });
    found.as_deref()
}

/// A port that nobody has now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

/// One member; its data outlives its process.
pub struct Member {
    name: String,
    folder: PathBuf,
    scheme: &'static str,
    port: u16,
    peer_port: u16,
    /// `name=url,…` of all members.
    peers: String,
    flags: Vec<String>,
    child: Option<Child>,
}

impl Member {
    /// The only member of its cluster, ready.
    pub fn alone(folder: &Path, flags: &[&str]) -> Self {
        let mut members = Self::cluster(folder, 1, flags);
        members.remove(0)
    }

    /// The only member of its cluster, over TLS; not waited for.
    pub fn with_tls(folder: &Path, flags: &[&str]) -> Self {
        let mut member = Self::plan(folder, 1, flags).remove(0);
        member.scheme = "https";
        member.spawn();
        member
    }

    /// Members of one cluster, ready.
    pub fn cluster(folder: &Path, count: usize, flags: &[&str]) -> Vec<Self> {
        let mut members = Self::plan(folder, count, flags);
        members.iter_mut().for_each(Self::spawn);
        members.iter().for_each(Self::wait);
        members
    }

    fn plan(folder: &Path, count: usize, flags: &[&str]) -> Vec<Self> {
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_port(), free_port())).collect();
        let url = |(at, (_, peer)): (usize, &(u16, u16))| format!("m{at}=http://127.0.0.1:{peer}");
        let peers = ports.iter().enumerate().map(url).collect::<Vec<_>>().join(",");
        let member = |(at, &(port, peer_port)): (usize, &(u16, u16))| Self {
            name: format!("m{at}"),
            folder: folder.join(format!("m{at}")),
            scheme: "http",
            port,
            peer_port,
            peers: peers.clone(),
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            child: None,
        };
        ports.iter().enumerate().map(member).collect()
    }

    /// `host:port` of the clients' door.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts the process, again perhaps, on the data that is there.
    pub fn spawn(&mut self) {
        std::fs::create_dir_all(&self.folder).expect("a folder");
        let log = File::options().create(true).append(true).open(self.folder.join("log")).expect("a log");
        let (client, peer) =
            (format!("{}://127.0.0.1:{}", self.scheme, self.port), format!("http://127.0.0.1:{}", self.peer_port));
        let child = Command::new(binary().expect("a server"))
            .args(["--name", &self.name, "--data-dir"])
            .arg(self.folder.join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.peers, "--unsafe-no-fsync"])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("etcd starts");
        self.child = Some(child);
    }

    /// Waits until it serves.
    pub fn wait(&self) {
        for _ in 0..600 {
            if self.http("GET", "/health", "").is_ok_and(|answer| answer.contains("true")) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        panic!("{} is not ready: {}", self.name, &log[log.len().saturating_sub(4_000)..]);
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it and starts it again.
    pub fn restart(&mut self) {
        self.kill();
        self.spawn();
        self.wait();
    }

    /// SIGSTOP: alive, and silent. On return its last thread has stopped.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let mut looks = 0;
        while !self.all_stopped() {
            looks += 1;
            assert!(looks < 10_000, "etcd did not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn all_stopped(&self) -> bool {
        let id = self.child.as_ref().expect("a process").id();
        let Ok(threads) = std::fs::read_dir(format!("/proc/{id}/task")) else { return false };
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The name, in brackets, may hold anything.
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
        })
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a process");
        kill_process(Pid::from_child(child), signal).expect("a signal");
    }

    /// Asks by etcd's JSON gateway; every call is one that an operator makes with etcdctl.
    pub fn ask(&self, path: &str, request: &Value) -> Value {
        let answer = self.http("POST", path, &request.to_string()).unwrap_or_else(|error| panic!("{path}: {error}"));
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{path}: {error}: {answer}"))
    }

    /// Whether this member leads.
    pub fn leads(&self) -> bool {
        let status = self.ask("/v3/maintenance/status", &json!({}));
        status["leader"] == status["header"]["member_id"]
    }

    /// Forgets every revision before the newest one.
    pub fn compact(&self) -> u64 {
        let status = self.ask("/v3/kv/range", &json!({ "key": "YQ==" }));
        let revision = status["header"]["revision"].as_str().expect("a revision").to_owned();
        self.ask("/v3/kv/compaction", &json!({ "revision": revision, "physical": true }));
        revision.parse().expect("a number")
    }

    fn http(&self, method: &str, path: &str, body: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}
