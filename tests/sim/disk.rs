//! A disk that can be full, and that loses what was not synced when its power goes.
//!
//! Of the writes of a file since its last sync any may be lost, and any may be torn: what survives is chosen by chance.
//! Names (created, linked, removed) that were not synced survive up to some point of their order, as with a journal.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use esker::base::Rng;
use esker::wal::{Disk, DiskFile};
use parking_lot::Mutex;

/// Clones share one disk.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    rng: Rng,
    latency: Duration,
    full: bool,
    directories: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, File>,
    durable: BTreeMap<PathBuf, File>,
    unsynced: Vec<NameChange>,
}

#[derive(Debug, Clone)]
struct NameChange {
    path: PathBuf,
    file: Option<File>,
}

type File = Arc<Mutex<Content>>;

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

impl Content {
    fn write(into: &mut Vec<u8>, position: usize, bytes: &[u8]) {
        let end = position + bytes.len();
        if into.len() < end {
            into.resize(end, 0);
        }
        into[position..end].copy_from_slice(bytes);
    }

    fn lose(&mut self, rng: &Rng) {
        for (position, bytes) in std::mem::take(&mut self.unsynced) {
            match rng.below(3) {
                0 => {}
                1 => Self::write(&mut self.durable, position, &bytes[..rng.below(bytes.len() as u64) as usize]),
                _ => Self::write(&mut self.durable, position, &bytes),
            }
        }
        self.bytes.clone_from(&self.durable);
    }
}

impl SimDisk {
    pub fn new(rng: Rng) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng,
            latency: Duration::from_micros(200),
            full: false,
            directories: BTreeSet::new(),
            names: BTreeMap::new(),
            durable: BTreeMap::new(),
            unsynced: Vec::new(),
        })))
    }

    /// Every call takes this long.
    pub fn set_latency(&self, latency: Duration) {
        self.0.lock().latency = latency;
    }

    /// While full, nothing can be created or written.
    pub fn set_full(&self, full: bool) {
        self.0.lock().full = full;
    }

    /// The power goes: what was not synced is lost in part.
    pub fn lose_power(&self) {
        let mut state = self.0.lock();
        let state = &mut *state;
        let kept = state.rng.below(state.unsynced.len() as u64 + 1) as usize;
        for change in state.unsynced.drain(..).take(kept) {
            change.apply(&mut state.durable);
        }
        state.names.clone_from(&state.durable);
        for file in state.names.values() {
            file.lock().lose(&state.rng);
        }
    }

    fn change(&self, path: &Path, file: Option<File>) {
        let mut state = self.0.lock();
        let change = NameChange { path: path.to_owned(), file };
        change.apply(&mut state.names);
        state.unsynced.push(change);
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, File>) {
        match &self.file {
            Some(file) => names.insert(self.path.clone(), file.clone()),
            None => names.remove(&self.path),
        };
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

impl Disk for SimDisk {
    fn latency(&self) -> Option<Duration> {
        Some(self.0.lock().latency)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.lock().directories.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let state = &mut *state;
        if !state.directories.contains(path) {
            return Err(not_found());
        }
        // A journal is written in order, whichever directory asked.
        for change in state.unsynced.drain(..) {
            change.apply(&mut state.durable);
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        if !state.directories.contains(path) {
            return Err(not_found());
        }
        let below = state.names.keys().chain(&state.directories).filter(|name| name.parent() == Some(path));
        Ok(below.filter_map(|name| Some(name.file_name()?.to_str()?.to_owned())).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        if self.0.lock().full {
            return Err(full());
        }
        let known = self.0.lock().names.get(path).cloned();
        let file = known.unwrap_or_default();
        // Truncation counts as a new file of the same name: what was synced is gone once its name is.
        let file = if file.lock().bytes.is_empty() { file } else { File::default() };
        self.change(path, Some(file.clone()));
        Ok(Box::new(Open { disk: self.clone(), file }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.0.lock().names.get(path).cloned().ok_or_else(not_found)?;
        Ok(Box::new(Open { disk: self.clone(), file }))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (file, taken) = {
            let state = self.0.lock();
            (state.names.get(from).cloned(), state.names.contains_key(to))
        };
        if taken {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(to, Some(file.ok_or_else(not_found)?));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        if !self.0.lock().names.contains_key(path) {
            return Err(not_found());
        }
        self.change(path, None);
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let below: Vec<PathBuf> = self.0.lock().names.keys().filter(|name| name.starts_with(path)).cloned().collect();
        for name in below {
            self.change(&name, None);
        }
        self.0.lock().directories.retain(|directory| !directory.starts_with(path));
        Ok(())
    }
}

#[derive(Debug)]
struct Open {
    disk: SimDisk,
    file: File,
}

impl DiskFile for Open {
    fn length(&self) -> io::Result<u64> {
        Ok(self.file.lock().bytes.len() as u64)
    }

    fn read_exact_at(&self, into: &mut [u8], position: u64) -> io::Result<()> {
        let content = self.file.lock();
        let from = position as usize;
        let bytes = content.bytes.get(from..from + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(bytes);
        Ok(())
    }

    fn write_all_at(&mut self, bytes: &[u8], position: u64) -> io::Result<()> {
        if self.disk.0.lock().full {
            return Err(full());
        }
        let mut content = self.file.lock();
        Content::write(&mut content.bytes, position as usize, bytes);
        content.unsynced.push((position as usize, bytes.to_vec()));
        Ok(())
    }

    fn sync_data(&mut self) -> io::Result<()> {
        let mut content = self.file.lock();
        content.unsynced.clear();
        let Content { bytes, durable, .. } = &mut *content;
        durable.clone_from(bytes);
        Ok(())
    }
}
