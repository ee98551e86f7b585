//! The blocking half of the local store: each function is one operation, safe to repeat.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::{Errno, pread};

use crate::base::Rng;
use crate::objstore::{Created, Payload, StoreError};

const TEMP_DIRECTORY: &str = ".tmp";
/// How often a write starts again because its directory was removed (as empty) under its hands.
const DIRECTORY_RACE_TRIES: u32 = 16;
/// Directories remembered as durable; at the limit all are forgotten and synced again when next used.
const DURABLE_DIRECTORIES_MAX: usize = 8192;
const WRITE_BUFFER_BYTES: usize = 64 * 1024;

/// One root directory, opened by this process.
pub(super) struct Disk {
    root: PathBuf,
    /// `ROOT/.tmp/<instance>`; `<instance>.lock` beside it is locked as long as we live.
    temp: PathBuf,
    lock_path: PathBuf,
    next_temp: AtomicU64,
    durable: Mutex<HashSet<PathBuf>>,
    /// Why writes are refused, once a directory could not be synced.
    broken: OnceLock<String>,
    _lock: File,
}

/// A temporary file's name; removes the file when dropped unless it was moved away.
struct Temp(PathBuf);

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Disk {
    pub(super) fn open(root: &Path, rng: &Rng) -> io::Result<Self> {
        let root = std::path::absolute(root)?;
        make_durable_directory(&root)?;
        let all_temps = root.join(TEMP_DIRECTORY);
        make_durable_directory(&all_temps)?;
        // Held while owners come and go, so that nobody takes a newcomer's unlocked file for a dead one's.
        let gate = open_lock(&all_temps.join("lock"))?;
        gate.lock()?;
        remove_stale_temps(&all_temps)?;
        let instance = rng.uuid().simple().to_string();
        let temp = all_temps.join(&instance);
        fs::create_dir(&temp)?;
        let lock_path = all_temps.join(format!("{instance}.lock"));
        let lock = open_lock(&lock_path)?;
        lock.lock()?;
        Ok(Self {
            root,
            temp,
            lock_path,
            next_temp: AtomicU64::new(0),
            durable: Mutex::default(),
            broken: OnceLock::new(),
            _lock: lock,
        })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// An unmounted disk leaves an empty directory behind; its "nothing here" must not be believed.
    pub(super) fn check_still_there(&self) -> io::Result<()> {
        fs::metadata(&self.lock_path).map(|_| ()).map_err(|error| {
            let root = self.root.display();
            io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("'{root}' is not the directory that was opened any more (unmounted or replaced?): {error}"),
            )
        })
    }

    /// The error in words for an operation on `key`.
    pub(super) fn explain_at(&self, operation: &'static str, key: &str, error: &io::Error) -> StoreError {
        explain(operation, key, &self.root, error)
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// Opens a key's file; "not found" only while the root is still ours.
    fn open_object(&self, key: &str) -> io::Result<File> {
        let opened = File::open(self.path(key))
            .and_then(|file| if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) });
        if opened.is_err() {
            self.check_still_there()?;
        }
        opened
    }

    pub(super) fn size(&self, key: &str) -> io::Result<u64> {
        Ok(self.open_object(key)?.metadata()?.len())
    }

    pub(super) fn read(&self, key: &str, range: Range<u64>) -> io::Result<Bytes> {
        let file = self.open_object(key)?;
        let end = range.end.min(file.metadata()?.len());
        let wanted = usize::try_from(end.saturating_sub(range.start)).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(wanted);
        while bytes.len() < wanted {
            let position = range.start + bytes.len() as u64;
            match pread(&file, spare_capacity(&mut bytes), position) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        bytes.truncate(wanted);
        Ok(bytes.into())
    }

    pub(super) fn put(&self, key: &str, payload: &Payload) -> io::Result<()> {
        self.check_writable()?;
        let target = self.path(key);
        let temp = self.write_temp(payload)?;
        self.in_directory_of(&target, || fs::rename(&temp.0, &target))?;
        self.sync_directory_of(&target)
    }

    pub(super) fn create(&self, key: &str, payload: &Payload) -> io::Result<Created> {
        self.check_writable()?;
        let target = self.path(key);
        if target.symlink_metadata().is_ok() {
            return self.exists(&target);
        }
        let temp = self.write_temp(payload)?;
        match self.in_directory_of(&target, || move_to_free_name(&temp.0, &target)) {
            Ok(()) => self.sync_directory_of(&target).map(|()| Created::Yes),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.exists(&target),
            Err(error) => Err(error),
        }
    }

    /// The file at `path` becomes the object by a hard link: nobody may write to it afterwards. Where it cannot be linked
    /// (another file system, no links there) or synced, or is not as long as the payload, the payload is written instead.
    pub(super) fn create_from_file(&self, key: &str, path: &Path, payload: &Payload) -> io::Result<Created> {
        self.check_writable()?;
        let source = match File::open(path).and_then(|file| file.sync_all().and_then(|()| file.metadata())) {
            Ok(metadata) if metadata.is_file() && metadata.len() == payload.len() => path,
            Ok(metadata) => {
                let (has, wanted) = (metadata.len(), payload.len());
                tracing::warn!(path = %path.display(), has, wanted, "file is not its payload; writing the payload");
                return self.create(key, payload);
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "file could not be synced; writing its payload anew");
                return self.create(key, payload);
            }
        };
        let target = self.path(key);
        match self.in_directory_of(&target, || fs::hard_link(source, &target)) {
            Ok(()) => self.sync_directory_of(&target).map(|()| Created::Yes),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.exists(&target),
            Err(error) if cannot_link(&error) => self.create(key, payload),
            Err(error) => Err(error),
        }
    }

    pub(super) fn delete(&self, key: &str) -> io::Result<()> {
        let target = self.path(key);
        match fs::remove_file(&target) {
            Ok(()) => {}
            Err(error) if is_absent(&error) => return self.check_still_there(),
            // A directory: there is no object of that name.
            Err(_) if target.is_dir() => return Ok(()),
            Err(error) => return Err(error),
        }
        // Empty directories go as well; a write that comes in between makes them again (`in_directory_of`).
        for directory in target.ancestors().skip(1).take_while(|directory| *directory != self.root) {
            self.durable.lock().remove(directory);
            if fs::remove_dir(directory).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn check_writable(&self) -> io::Result<()> {
        match self.broken.get() {
            None => Ok(()),
            Some(why) => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("an earlier write could not be made durable ({why}); check the disk and restart"),
            )),
        }
    }

    fn exists(&self, target: &Path) -> io::Result<Created> {
        if target.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "other keys continue this one"));
        }
        match self.sync_directory_of(target) {
            // Deleted, with its directory, since we saw it; the caller finds nothing and tries again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Created::Exists),
            synced => synced.map(|()| Created::Exists),
        }
    }

    fn write_temp(&self, payload: &Payload) -> io::Result<Temp> {
        let temp = Temp(self.temp.join(self.next_temp.fetch_add(1, Ordering::Relaxed).to_string()));
        let opened = File::create_new(&temp.0);
        if opened.is_err() {
            self.check_still_there()?;
        }
        let mut file = BufWriter::with_capacity(WRITE_BUFFER_BYTES, opened?);
        for chunk in &payload.0 {
            file.write_all(chunk)?;
        }
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        Ok(temp)
    }

    /// Runs `place` with the target's directories made and durable; again if one vanished before it was used.
    fn in_directory_of(&self, target: &Path, mut place: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.make_directories(target).and_then(|()| place()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < DIRECTORY_RACE_TRIES => {
                    self.check_still_there()?;
                    self.durable.lock().clear();
                }
                placed => return placed,
            }
        }
    }

    /// Makes the directories between the root and `target`, each synced into its parent.
    fn make_directories(&self, target: &Path) -> io::Result<()> {
        let mut missing: Vec<&Path> = Vec::new();
        for directory in target.ancestors().skip(1).take_while(|directory| *directory != self.root) {
            if self.durable.lock().contains(directory) {
                break;
            }
            missing.push(directory);
        }
        for directory in missing.into_iter().rev() {
            match fs::create_dir(directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            self.sync_directory_of(directory)?;
            let mut durable = self.durable.lock();
            if durable.len() >= DURABLE_DIRECTORIES_MAX {
                durable.clear();
            }
            durable.insert(directory.to_owned());
        }
        Ok(())
    }

    /// Syncs the directory that holds `path`.
    fn sync_directory_of(&self, path: &Path) -> io::Result<()> {
        let directory = path.parent().unwrap_or(&self.root);
        File::open(directory)?.sync_all().inspect_err(|error| {
            let _ = self.broken.set(format!("syncing '{}': {error}", directory.display()));
        })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.temp);
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// Moves a file to a name that is free, in one step; `AlreadyExists` if it is not.
fn move_to_free_name(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // The file system does not know the flag (NFS); a hard link refuses existing names everywhere.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => fs::hard_link(from, to),
        Err(errno) => Err(errno.into()),
    }
}

fn cannot_link(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    matches!(error.kind(), CrossesDevices | PermissionDenied | TooManyLinks | Unsupported)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn open_lock(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(path)
}

/// `create_dir_all` where each new directory is synced into its parent.
fn make_durable_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_durable_directory(parent)?;
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Err(_) if !path.is_dir() => {
                return Err(io::Error::new(io::ErrorKind::NotADirectory, format!("'{}' is a file", path.display())));
            }
            _ => {}
        }
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Removes the temporary files of owners whose lock is free. The caller holds the gate.
fn remove_stale_temps(all_temps: &Path) -> io::Result<()> {
    let mut alive = HashSet::new();
    let mut directories = Vec::new();
    for entry in fs::read_dir(all_temps)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            directories.push(path);
        } else if path.extension().is_some_and(|extension| extension == "lock") {
            match open_lock(&path)?.try_lock() {
                Ok(()) => fs::remove_file(&path)?,
                Err(_) => _ = alive.insert(path.with_extension("")),
            }
        }
    }
    for stale in directories.into_iter().filter(|directory| !alive.contains(directory)) {
        fs::remove_dir_all(stale)?;
    }
    Ok(())
}

/// An I/O error as the caller should see it.
pub(crate) fn explain(operation: &'static str, key: &str, root: &Path, error: &io::Error) -> StoreError {
    use io::ErrorKind as Kind;
    let key = key.to_owned();
    let root = root.display();
    let refused = |key, reason| StoreError::Refused { operation, key, reason };
    match error.kind() {
        Kind::NotFound | Kind::NotADirectory if matches!(operation, "get" | "size") => StoreError::NotFound { key },
        Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => StoreError::Unavailable {
            operation,
            key,
            reason: format!("no space left under '{root}' ({error}); free some and it goes on by itself"),
        },
        Kind::PermissionDenied => {
            refused(key, format!("{error}; check who owns '{root}' and that this user may write there"))
        }
        Kind::ReadOnlyFilesystem => refused(key, format!("'{root}' is mounted read-only ({error})")),
        Kind::NotFound | Kind::NotADirectory if operation == "open" => {
            refused(key, format!("no directory can be made there ({error})"))
        }
        Kind::NotADirectory | Kind::IsADirectory => {
            refused(key, format!("its path is taken by another object or directory under '{root}' ({error})"))
        }
        Kind::InvalidFilename => refused(key, format!("the file system under '{root}' refuses the name ({error})")),
        _ => StoreError::Unavailable { operation, key, reason: error.to_string() },
    }
}
