//! Running the binary, and brokers for it to ask.
//!
//! ```ignore
//! let home = Home::new();                          // a directory that goes with the test
//! let broker = home.broker(&[]);                   // ready when this returns
//! let ran = broker.esker(&["cluster", "status"]);  // with ESKER_BOOTSTRAP set to it
//! ran.ok().has("controller  broker 1");
//! esker(&["cluster", "status", "-b", NOBODY]).fails(1, "no broker answers");
//! ```

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::process::{Broker, Doors, Setup};

/// A command that takes longer than this hangs.
const LIMIT: Duration = Duration::from_mins(1);
/// An address where nobody listens.
pub const NOBODY: &str = "127.0.0.1:1";

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    line: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `esker` with nothing of this machine's settings and no input.
#[track_caller]
pub fn esker(arguments: &[&str]) -> Ran {
    esker_with(arguments, &[], "")
}

/// Runs `esker` with these variables and this input.
#[track_caller]
pub fn esker_with(arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Ran {
    let mut running = spawn(arguments, variables);
    let mut stdin = running.child.stdin.take().unwrap();
    let input = input.to_owned();
    // It may end without reading all of it.
    std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    running.wait()
}

/// Starts `esker`; for commands that go on until they are told to stop.
pub fn spawn(arguments: &[&str], variables: &[(&str, &str)]) -> Running {
    let binary = std::env::var_os("ESKER_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_esker").into());
    let mut command = Command::new(binary);
    command.args(arguments).env_clear().envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Running { line: arguments.join(" "), child: command.spawn().unwrap() }
}

/// A command that runs; killed when dropped.
pub struct Running {
    line: String,
    pub child: Child,
}

impl Running {
    /// Ctrl-C.
    pub fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// Reads what it prints, to its end.
    #[track_caller]
    pub fn wait(mut self) -> Ran {
        drop(self.child.stdin.take());
        let stdout = collect(self.child.stdout.take());
        let stderr = collect(self.child.stderr.take());
        // Its end closes both.
        let (Ok(stdout), Ok(stderr)) = (stdout.recv_timeout(LIMIT), stderr.recv_timeout(LIMIT)) else {
            panic!("esker {} has not ended after {LIMIT:?}", self.line)
        };
        let status: ExitStatus = self.child.wait().unwrap();
        Ran { line: self.line.clone(), code: status.code(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a pipe to its end beside the test; nothing if somebody else took it.
fn collect(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, text) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    text
}

impl Ran {
    /// It ended with success and said nothing but results, without colours: nobody looks at a pipe.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        assert!(!self.stdout.contains('\u{1b}') && !self.stderr.contains('\u{1b}'), "{self:#?}");
        self
    }

    /// It ended with this exit code (1 failed, 2 not understood) and an error that has `why` in it; nothing of it went to
    /// stdout.
    #[track_caller]
    pub fn fails(self, code: i32, why: &str) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(self.stderr.contains("error: ") && self.stderr.contains(why), "no {why:?} in {self:#?}");
        assert!(!self.stderr.contains('\u{1b}') && !self.stderr.contains("panicked"), "{self:#?}");
        self
    }

    /// The result has each of these in it.
    #[track_caller]
    pub fn has(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stdout.contains(part), "no {part:?} in {self:#?}");
        }
        self
    }

    /// The result is one JSON value.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("esker {}: {error} in {}", self.line, self.stdout),
        }
    }
}

/// `esker … --help` names these, has examples at its end, and goes to stdout.
#[track_caller]
pub fn helps(command: &[&str], parts: &[&str]) {
    let help = esker(&[command, &["--help"]].concat()).ok().has(parts);
    let examples = help.stdout.find("Examples:\n").unwrap_or_else(|| panic!("no examples: {}", help.stdout));
    assert!(help.stdout[examples..].contains(&format!("  esker {}", command.join(" "))), "{}", help.stdout);
}

/// A directory of a test's own, with whatever brokers it starts.
pub struct Home(tempfile::TempDir);

/// A broker that serves, and where.
pub struct Serving {
    broker: Broker,
    pub doors: Doors,
}

impl Home {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The broker's data directory, as text.
    pub fn data_dir(&self) -> String {
        self.setup(&[]).data_dir().to_str().unwrap().to_owned()
    }

    /// A file below the data directory.
    pub fn data(&self, below: &str) -> PathBuf {
        self.setup(&[]).data_dir().join(below)
    }

    fn setup(&self, flags: &[&str]) -> Setup {
        Setup::new(self.path(), flags)
    }

    /// Starts a broker on free ports with its data in this directory; it is ready when this returns.
    pub fn broker(&self, flags: &[&str]) -> Serving {
        let (broker, doors) = self.setup(flags).start();
        Serving { broker, doors }
    }
}

impl Serving {
    /// Where `esker` commands ask it.
    pub fn bootstrap(&self) -> String {
        self.doors.grpc.to_string()
    }

    /// Runs `esker`, told by the environment where this broker is.
    #[track_caller]
    pub fn esker(&self, arguments: &[&str]) -> Ran {
        self.esker_with(arguments, "")
    }

    /// The same with input.
    #[track_caller]
    pub fn esker_with(&self, arguments: &[&str], input: &str) -> Ran {
        esker_with(arguments, &[("ESKER_BOOTSTRAP", &self.bootstrap())], input)
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(self) {
        assert!(self.broker.stop().success());
    }

    /// `kill -9`.
    pub fn kill(self) {
        self.broker.kill();
    }
}
