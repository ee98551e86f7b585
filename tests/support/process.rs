//! The real broker as a child process on a data directory of its own. `ESKER_BIN` names another binary than the one that
//! was built with the test.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use esker::base::Clock;
use rustix::process::{Pid, Signal, kill_process};

const READY_TIMEOUT: Duration = Duration::from_mins(1);
const END_TIMEOUT_MS: u64 = 60_000;
const LOG_TAIL_BYTES: usize = 6_000;

/// How a broker is started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Holds the data directory (`data`) and what the broker logs (`broker.log`).
    pub folder: PathBuf,
    pub flags: Vec<String>,
    pub variables: Vec<(String, String)>,
}

/// Where a broker that is ready listens.
#[derive(Debug, Clone, Copy)]
pub struct Doors {
    pub kafka: SocketAddr,
    #[allow(dead_code, reason = "not every test asks for metrics")]
    pub http: SocketAddr,
    #[allow(dead_code, reason = "not every test speaks gRPC")]
    pub grpc: SocketAddr,
}

/// A running process; killed when dropped.
pub struct Broker {
    child: Child,
    doors: Receiver<Doors>,
    log: PathBuf,
}

impl Setup {
    pub fn new(folder: &Path, flags: &[&str]) -> Self {
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        Self { folder: folder.to_owned(), flags, variables: Vec::new() }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub fn with_variable(&self, name: &str, value: &str) -> Self {
        let mut setup = self.clone();
        setup.variables.push((name.to_owned(), value.to_owned()));
        setup
    }

    /// Starts the process without waiting for it to be ready.
    pub fn spawn(&self) -> Broker {
        let log = self.folder.join("broker.log");
        let file = OpenOptions::new().create(true).append(true).open(&log).expect("the log file opens");
        let listen = ["--kafka-listen", "--grpc-listen", "--http-listen"]
            .into_iter()
            .filter(|&flag| !self.flags.iter().any(|given| given == flag));
        let listen = listen.flat_map(|flag| [flag, "127.0.0.1:0"]);
        let binary = std::env::var_os("ESKER_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_esker").into());
        let mut child = Command::new(binary)
            .arg("serve")
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(listen)
            .args(&self.flags)
            .env_remove("ESKER_CRASH_AT")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .expect("the broker starts");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let (sender, doors) = mpsc::channel();
        std::thread::spawn(move || {
            let (mut kafka, mut grpc, mut http) = (None, None, None);
            for line in stdout.lines().map_while(Result::ok) {
                let mut words = line.split_whitespace();
                match (words.next(), words.next()) {
                    (Some("kafka"), Some(address)) => kafka = address.parse().ok(),
                    (Some("grpc"), Some(address)) => grpc = address.parse().ok(),
                    (Some("http"), Some(url)) => {
                        http = url.trim_start_matches("http://").trim_end_matches('/').parse().ok();
                    }
                    _ => {}
                }
                if let (Some(kafka), Some(grpc), Some(http)) = (kafka, grpc, http) {
                    let _ = sender.send(Doors { kafka, http, grpc });
                }
            }
        });
        Broker { child, doors, log }
    }

    /// Starts the process and waits until it is ready.
    pub fn start(&self) -> (Broker, Doors) {
        let mut broker = self.spawn();
        match broker.ready() {
            Ok(doors) => (broker, doors),
            Err(status) => panic!("the broker ended with {status} while starting:\n{}", broker.log_tail()),
        }
    }
}

impl Broker {
    /// Waits until it is ready, or has ended.
    pub fn ready(&mut self) -> Result<Doors, ExitStatus> {
        match self.doors.recv_timeout(READY_TIMEOUT) {
            Ok(doors) => Ok(doors),
            Err(RecvTimeoutError::Disconnected) => Err(self.child.wait().expect("the child can be waited for")),
            Err(RecvTimeoutError::Timeout) => {
                panic!("the broker is not ready after {READY_TIMEOUT:?}:\n{}", self.log_tail())
            }
        }
    }

    /// `kill -9`.
    pub fn kill(mut self) -> ExitStatus {
        self.child.kill().expect("the child can be killed");
        self.child.wait().expect("the child can be waited for")
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(mut self) -> ExitStatus {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("the child can be signalled");
        match self.ended_within(END_TIMEOUT_MS) {
            Some(status) => status,
            None => panic!("the broker does not stop:\n{}", self.log_tail()),
        }
    }

    /// How it ended, if it does so in time.
    pub fn ended_within(&mut self, limit_ms: u64) -> Option<ExitStatus> {
        let clock = Clock::system();
        let until = clock.boot_ms() + limit_ms;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                return Some(status);
            }
            if clock.boot_ms() >= until {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The end of what it (and those before it in the same folder) logged.
    pub fn log_tail(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the broker's log ({}) ends:\n{}", self.log.display(), self.log_tail());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
