//! The data directory: who may use it and what it belongs to.
//!
//! ```text
//! LOCK       held by the running process; its pid inside
//! VERSION    format, cluster and broker that it belongs to (docs/formats/identity.md)
//! meta/      embedded metadata
//! wal/       write-ahead files
//! objects/   the objects, unless they are elsewhere
//! cache/     pages of objects
//! store-proof.json   that the S3 store was proven (see objstore::probe)
//! lost/      what could not be committed after a crash (DESIGN: never deleted silently)
//! ```
//!
//! Invariant: nothing in the directory is touched without the lock, and nothing but the lock before `VERSION` was checked.
//! A crash leaves the lock free (the kernel drops it) and `VERSION` whole or absent: it is written aside and renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::format::FormatError;
use crate::format::identity::{Identity, MAX_BYTES};

/// Why the directory cannot be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error(
        "the data directory '{0}' is in use by another esker{1}: stop that one, or give this one its own with --data-dir"
    )]
    InUse(PathBuf, String),
    /// Something is in the way of reading or writing.
    #[error("the data directory: {doing} '{path}' failed: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the machine said.
        source: io::Error,
    },
    /// The directory is not empty and not ours.
    #[error(
        "'{0}' is not empty and has no VERSION file, so it is no data directory of esker: name another with --data-dir"
    )]
    Foreign(PathBuf),
    /// `VERSION` cannot be read.
    #[error("'{path}': {reason}. {}", advice(.reason))]
    Version {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: FormatError,
    },
    /// The directory belongs to another broker.
    #[error("the data directory '{path}' belongs to broker {found}, and --broker-id is {wanted}: use one or the other")]
    OtherBroker {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: i32,
        /// Who asks.
        wanted: i32,
    },
    /// The directory belongs to another cluster.
    #[error(
        "the data directory '{path}' belongs to cluster {found}, but the metadata store to cluster {wanted}: use the \
         directory that goes with it, or an empty one"
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asks.
        wanted: String,
    },
}

fn advice(reason: &FormatError) -> &'static str {
    match reason {
        FormatError::Newer { .. } => "Start that esker, or use another --data-dir",
        _ => "If the file was changed by hand, restore it; nothing was touched",
    }
}

/// An opened data directory. The lock is held until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Option<Identity>,
    _lock: File,
}

impl DataDir {
    /// Makes the directory if need be, locks it and reads `VERSION`. `asked` is the broker id that it must have, if it
    /// remembers one.
    pub fn open(path: &Path, asked: Option<i32>) -> Result<Self, DataDirError> {
        let fail = |doing, at: &Path| {
            let path = at.to_path_buf();
            move |source| DataDirError::Io { doing, path, source }
        };
        fs::create_dir_all(path).map_err(fail("creating", path))?;
        let path = path.canonicalize().map_err(fail("opening", path))?;
        let lock = lock(&path)?;
        let version = path.join("VERSION");
        let identity = match File::open(&version) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // LOCK, and what a first start that was cut short may have left.
                let ours = [
                    "LOCK",
                    "VERSION.new",
                    "meta",
                    "objects",
                    "store-proof.json",
                    "store-proof.json.new",
                    "lost+found",
                ];
                for entry in fs::read_dir(&path).map_err(fail("listing", &path))? {
                    let name = entry.map_err(fail("listing", &path))?.file_name();
                    if !ours.iter().any(|known| name == *known) {
                        return Err(DataDirError::Foreign(path));
                    }
                }
                None
            }
            Err(error) => return Err(fail("opening", &version)(error)),
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(fail("reading", &version))?;
                let refuse = |reason| DataDirError::Version { path: version.clone(), reason };
                match Identity::decode(&bytes).map_err(refuse)? {
                    identity @ Identity::DataDirectory { broker_id: found, .. } => match asked {
                        Some(wanted) if wanted != found => {
                            return Err(DataDirError::OtherBroker { path, found, wanted });
                        }
                        _ => Some(identity),
                    },
                    Identity::ObjectStore { .. } => {
                        return Err(refuse(FormatError::WrongMagic("a data directory")));
                    }
                }
            }
        };
        Ok(Self { path, identity, _lock: lock })
    }

    /// The cluster that it belongs to, if it belongs to one yet.
    pub fn cluster_id(&self) -> Option<&str> {
        self.identity.as_ref().map(Identity::cluster_id)
    }

    /// The directory's own id, if it was given one.
    pub fn directory_id(&self) -> Option<Uuid> {
        match self.identity {
            Some(Identity::DataDirectory { directory_id, .. }) => Some(directory_id),
            _ => None,
        }
    }

    /// The broker id that it remembers, if it was used before.
    pub fn broker_id(&self) -> Option<i32> {
        match self.identity {
            Some(Identity::DataDirectory { broker_id, .. }) => Some(broker_id),
            _ => None,
        }
    }

    /// Checks that the directory belongs to the cluster, or makes it so if it belongs to none yet, with `new_id` as its
    /// own id. From then on it remembers `broker_id`, durably; another one than before is fine (it was in use).
    pub fn belong_to(&mut self, cluster_id: &str, broker_id: i32, new_id: Uuid) -> Result<(), DataDirError> {
        let directory_id = self.directory_id().unwrap_or(new_id);
        if let Some(identity) = &self.identity {
            if identity.cluster_id() != cluster_id {
                return Err(DataDirError::OtherCluster {
                    path: self.path.clone(),
                    found: identity.cluster_id().to_owned(),
                    wanted: cluster_id.to_owned(),
                });
            }
            if self.broker_id() == Some(broker_id) {
                return Ok(());
            }
        }
        let cluster_id = cluster_id.to_owned();
        let identity = Identity::DataDirectory { cluster_id, directory_id, broker_id };
        let version = self.path.join("VERSION");
        write_whole(&version, identity.encode().as_bytes()).map_err(|source| DataDirError::Io {
            doing: "writing",
            path: version.clone(),
            source,
        })?;
        self.identity = Some(identity);
        Ok(())
    }

    /// The directory itself, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Writes a file so that it is there whole, durably, or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    let mut file = File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn lock(dir: &Path) -> Result<File, DataDirError> {
    let path = dir.join("LOCK");
    let fail = |source| DataDirError::Io { doing: "locking", path: path.clone(), source };
    let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(fail)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            file.set_len(0).map_err(fail)?;
            writeln!(file, "{}", std::process::id()).map_err(fail)?;
            Ok(file)
        }
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let _ = file.take(32).read_to_string(&mut pid);
            let pid = pid.trim();
            let holder = if pid.is_empty() { String::new() } else { format!(" (process {pid})") };
            Err(DataDirError::InUse(dir.to_path_buf(), holder))
        }
        Err(error) => Err(fail(error.into())),
    }
}
