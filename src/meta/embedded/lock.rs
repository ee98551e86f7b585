//! One process per directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::meta::MetaError;

/// An advisory lock on a file that names its owner's process id; the kernel releases it when the process ends, however
/// it ends.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock `path`. Another holder gives `Environment` with its process id.
    pub fn take(path: &Path) -> Result<Self, MetaError> {
        let trouble =
            |error: std::io::Error| MetaError::Environment(format!("cannot lock {}: {error}", path.display()));
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(trouble)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // The text only serves the message; without it the message is shorter.
                let _ = file.read_to_string(&mut owner);
                let owner = owner.trim();
                let by = if owner.is_empty() { "another process".to_owned() } else { format!("process {owner}") };
                let directory = path.parent().unwrap_or(path).display();
                return Err(MetaError::Environment(format!(
                    "the directory {directory} is in use by {by}: stop it first, or give this one another --data-dir"
                )));
            }
            Err(TryLockError::Error(error)) => return Err(trouble(error)),
        }
        file.set_len(0).map_err(trouble)?;
        file.rewind().map_err(trouble)?;
        writeln!(file, "{}", std::process::id()).map_err(trouble)?;
        Ok(Self { _file: file })
    }
}
