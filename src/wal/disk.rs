//! What write-ahead files lie on: the machine's disk, or a simulated one that a test can crash.
//!
//! The methods are those of a file system and do not wait for anything else; whether they keep a thread waiting is what
//! [`Disk::latency`] says. Nothing survives power loss before it was synced: bytes by [`DiskFile::sync_data`], names by
//! [`Disk::sync_dir`].

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

/// A file system, as far as write-ahead files need one.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// `None` for a disk whose calls keep a thread waiting. A simulated one answers at once, and says how long the caller
    /// has to sleep before a call instead.
    fn latency(&self) -> Option<Duration>;

    /// Makes a directory and those above it; fine if it is there.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory survive power loss.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Names in a directory that are text, in any order; `NotFound` if there is no such directory.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// A file for reading and writing, empty.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// A file for reading.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// A second name for a file; fails if it is taken.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a name.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory with all that is in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// A file's bytes.
    fn read(&self, path: &Path) -> io::Result<Bytes> {
        let file = self.open(path)?;
        let mut bytes = vec![0; usize::try_from(file.length()?).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes.into())
    }
}

/// An open file.
pub trait DiskFile: fmt::Debug + Send {
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Reads exactly so many bytes from `position` on.
    fn read_exact_at(&self, into: &mut [u8], position: u64) -> io::Result<()>;

    /// Writes at `position`, beyond the end too.
    fn write_all_at(&mut self, bytes: &[u8], position: u64) -> io::Result<()>;

    /// Makes the bytes written so far survive power loss.
    fn sync_data(&mut self) -> io::Result<()>;
}

/// The machine's disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalDisk;

impl LocalDisk {
    /// To be shared.
    pub fn shared() -> Arc<dyn Disk> {
        Arc::new(Self)
    }
}

impl Disk for LocalDisk {
    fn latency(&self) -> Option<Duration> {
        None
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::open(path)?))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn read(&self, path: &Path) -> io::Result<Bytes> {
        fs::read(path).map(Bytes::from)
    }
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, into: &mut [u8], position: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, into, position)
    }

    fn write_all_at(&mut self, bytes: &[u8], position: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, position)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        Self::sync_data(self)
    }
}

/// Runs `work` where it may wait for the disk.
pub async fn on_disk<T: Send + 'static>(
    disk: &Arc<dyn Disk>,
    work: impl FnOnce(&dyn Disk) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let Some(latency) = disk.latency() else {
        let disk = disk.clone();
        return tokio::task::spawn_blocking(move || work(&*disk)).await.map_err(io::Error::other)?;
    };
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    work(&**disk)
}
