//! Writing write-ahead files and finding them again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::disk::{Disk, DiskFile};
use crate::base::{ErrorKind, SessionId};

/// A local file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} '{}': {source}{}", .path.display(), advice(.source))]
pub struct WalError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (free space on this disk; the broker goes on by itself)"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            " (the broker must own its data directory and may write to it)"
        }
        _ => "",
    }
}

impl WalError {
    fn of<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self { what, path: path.to_owned(), source }
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Environment
    }
}

/// The directory of one session's write-ahead files.
#[derive(Debug, Clone)]
pub struct WalDir {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl WalDir {
    /// Makes (or finds) the directory of `session` under `root`; durable when this returns.
    pub fn create(disk: &Arc<dyn Disk>, root: &Path, session: SessionId) -> Result<Self, WalError> {
        let path = root.join(session.to_string());
        disk.create_dir_all(&path).map_err(WalError::of("create directory", &path))?;
        sync_directory(&**disk, root)?;
        if let Some(parent) = root.parent() {
            sync_directory(&**disk, parent)?;
        }
        Ok(Self { disk: disk.clone(), path })
    }

    /// The sessions that have a directory under `root`, in order.
    pub fn sessions(disk: &Arc<dyn Disk>, root: &Path) -> Result<Vec<SessionId>, WalError> {
        let names = names(&**disk, root)?;
        let mut sessions: Vec<SessionId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        sessions.sort();
        Ok(sessions)
    }

    /// The disk that it is on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Where the file of `seq` is (or would be).
    pub fn path(&self, seq: u64) -> PathBuf {
        self.path.join(format!("{seq:020}.seg"))
    }

    /// The files that are there, by seq.
    pub fn list(&self) -> Result<Vec<(u64, PathBuf)>, WalError> {
        let mut files: Vec<(u64, PathBuf)> = names(&*self.disk, &self.path)?
            .iter()
            .filter_map(|name| name.strip_suffix(".seg")?.parse().ok())
            .map(|seq| (seq, self.path(seq)))
            .collect();
        files.sort();
        Ok(files)
    }

    /// Starts the file of `seq`, empty.
    pub fn start(&self, seq: u64) -> Result<WalFile, WalError> {
        let path = self.path(seq);
        let file = self.disk.create(&path).map_err(WalError::of("create", &path))?;
        Ok(WalFile { disk: self.disk.clone(), file, path, named: false })
    }

    /// Deletes the file of `seq`, if it is there. Not made durable: a file that comes back is found uploaded already.
    pub fn remove(&self, seq: u64) -> Result<(), WalError> {
        let path = self.path(seq);
        match self.disk.remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(WalError::of("delete", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Deletes the whole directory.
    pub fn remove_all(self) -> Result<(), WalError> {
        self.disk.remove_dir_all(&self.path).map_err(WalError::of("delete", &self.path))
    }

    /// Moves the file of `seq` to `lost` (made if need be), never over another file.
    pub fn move_to_lost(&self, seq: u64, lost: &Path) -> Result<PathBuf, WalError> {
        self.disk.create_dir_all(lost).map_err(WalError::of("create directory", lost))?;
        let from = self.path(seq);
        let session = self.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let to = lost.join(format!("{session}-{seq:020}.seg"));
        self.disk.hard_link(&from, &to).map_err(WalError::of("move to the lost directory", &from))?;
        sync_directory(&*self.disk, lost)?;
        self.disk.remove_file(&from).map_err(WalError::of("delete", &from))?;
        Ok(to)
    }
}

/// A write-ahead file that is being written.
#[derive(Debug)]
pub struct WalFile {
    disk: Arc<dyn Disk>,
    file: Box<dyn DiskFile>,
    path: PathBuf,
    named: bool,
}

impl WalFile {
    /// Writes `bytes` at `position`.
    pub fn write_at(&mut self, position: u64, bytes: &Bytes) -> Result<(), WalError> {
        self.file.write_all_at(bytes, position).map_err(WalError::of("write", &self.path))
    }

    /// Makes everything written so far survive power loss, the file's name included.
    pub fn sync(&mut self) -> Result<(), WalError> {
        self.file.sync_data().map_err(WalError::of("sync", &self.path))?;
        if !self.named {
            if let Some(directory) = self.path.parent() {
                sync_directory(&*self.disk, directory)?;
            }
            self.named = true;
        }
        Ok(())
    }
}

fn names(disk: &dyn Disk, directory: &Path) -> Result<Vec<String>, WalError> {
    match disk.list(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(WalError::of("list", directory)),
    }
}

fn sync_directory(disk: &dyn Disk, path: &Path) -> Result<(), WalError> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    disk.sync_dir(path).map_err(WalError::of("sync directory", path))
}
