//! `metadata.log`: reading it whole, appending to it, replacing it by a snapshot. Every function blocks on the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

use crate::format::metalog::{self, MetalogError, Operation, Record, RecordKind};
use crate::meta::machine::{Change, Machine};
use crate::meta::{Event, KeyValue, MetaError};

/// Name of the file in its directory.
pub const FILE_NAME: &str = "metadata.log";
const NEW_NAME: &str = "metadata.log.new";
/// A file below this many bytes is never replaced by a snapshot.
pub const REWRITE_MIN_BYTES: u64 = 4 * 1024 * 1024;
/// A file is replaced when it is this many times larger than what it holds.
const REWRITE_FACTOR: u64 = 4;
/// Keys and values of one record of a snapshot, in bytes.
const SNAPSHOT_RECORD_BYTES: usize = 1024 * 1024;

/// The open file. After [`AppendError::Unknown`] it must not be used.
#[derive(Debug)]
pub struct LogFile {
    directory: PathBuf,
    file: File,
    length: u64,
}

/// Why a record was not appended.
#[derive(Debug)]
pub enum AppendError {
    /// Nothing of it is in the file.
    Refused(io::Error),
    /// What the disk holds is not known.
    Unknown(io::Error),
}

impl LogFile {
    /// Opens or creates the file and applies what it holds. A torn tail is cut.
    pub fn open(directory: &Path, machine: &mut Machine) -> Result<Self, MetaError> {
        let path = directory.join(FILE_NAME);
        let trouble = |error: io::Error| MetaError::Environment(format!("cannot use {}: {error}", path.display()));
        // Left by a crash during a rewrite: never renamed, so it never counted.
        match std::fs::remove_file(directory.join(NEW_NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(trouble(error)),
            _ => {}
        }
        let mut file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Self::replace(directory, machine).map_err(|failed| match failed {
                    AppendError::Refused(error) | AppendError::Unknown(error) => trouble(error),
                });
            }
            Err(error) => return Err(trouble(error)),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(trouble)?;
        let bytes = Bytes::from(bytes);
        let (records, good) = metalog::scan(&bytes).map_err(|error| corrupt(&path, &error))?;
        if good < bytes.len() {
            let torn_bytes = bytes.len() - good;
            tracing::warn!(file = %path.display(), torn_bytes, "cut an unfinished record off the metadata file");
            file.set_len(good as u64).map_err(trouble)?;
            file.sync_all().map_err(trouble)?;
        }
        file.seek(SeekFrom::Start(good as u64)).map_err(trouble)?;
        for record in records {
            machine.apply(&change_of(record));
        }
        Ok(Self { directory: directory.to_owned(), file, length: good as u64 })
    }

    /// Appends a change durably.
    pub fn append(&mut self, change: &Change) -> Result<(), AppendError> {
        let mut bytes = BytesMut::new();
        metalog::encode(&record_of(change), &mut bytes);
        if let Err(error) = self.file.write_all(&bytes) {
            let cut = self.file.set_len(self.length);
            return Err(match cut.and_then(|()| self.file.seek(SeekFrom::Start(self.length))) {
                Ok(_) => AppendError::Refused(error),
                Err(_) => AppendError::Unknown(error),
            });
        }
        self.file.sync_data().map_err(AppendError::Unknown)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Whether a snapshot would be much smaller.
    pub fn wants_rewrite(&self, live_bytes: u64) -> bool {
        self.length > REWRITE_MIN_BYTES && self.length > live_bytes.saturating_mul(REWRITE_FACTOR)
    }

    /// Puts a snapshot in the file's place. After `Refused` the old file stands and stays in use.
    pub fn rewrite(&mut self, machine: &Machine) -> Result<(), AppendError> {
        *self = Self::replace(&self.directory, machine)?;
        Ok(())
    }

    fn replace(directory: &Path, machine: &Machine) -> Result<Self, AppendError> {
        let new = directory.join(NEW_NAME);
        let mut bytes = BytesMut::new();
        bytes.extend_from_slice(&metalog::header());
        for record in snapshot_of(machine) {
            metalog::encode(&record, &mut bytes);
        }
        let write = || {
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            Ok(file)
        };
        let file = write().map_err(AppendError::Refused)?;
        std::fs::rename(&new, directory.join(FILE_NAME)).map_err(AppendError::Refused)?;
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(AppendError::Unknown)?;
        Ok(Self { directory: directory.to_owned(), file, length: bytes.len() as u64 })
    }
}

fn corrupt(path: &Path, error: &MetalogError) -> MetaError {
    MetaError::Corrupt(format!(
        "{}: {error}. It was left as it is; restore it from a copy. (Topics and sessions are in this file; records are in \
         the object store and are not affected.)",
        path.display()
    ))
}

fn snapshot_of(machine: &Machine) -> Vec<Record> {
    let revision = machine.revision();
    let part = || Record { kind: RecordKind::SnapshotPart, revision, operations: Vec::new() };
    let (mut records, mut record, mut bytes) = (Vec::new(), part(), 0);
    for entry in machine.range("").entries {
        if bytes > SNAPSHOT_RECORD_BYTES {
            records.push(std::mem::replace(&mut record, part()));
            bytes = 0;
        }
        bytes += entry.key.len() + entry.value.len();
        record.operations.push(put_of(&entry));
    }
    records.push(Record { kind: RecordKind::SnapshotEnd, ..record });
    records
}

fn put_of(entry: &KeyValue) -> Operation {
    Operation::Put {
        key: entry.key.clone(),
        create_revision: entry.create_revision,
        mod_revision: entry.mod_revision,
        lease: entry.lease,
        value: entry.value.clone(),
    }
}

fn record_of(change: &Change) -> Record {
    let operation = |event: &Event| match event {
        Event::Put(entry) => Some(put_of(entry)),
        Event::Delete { key, .. } => Some(Operation::Delete { key: key.clone() }),
        Event::Resync => None,
    };
    let operations = change.events.iter().filter_map(operation).collect();
    Record { kind: RecordKind::Change, revision: change.revision, operations }
}

fn change_of(record: Record) -> Change {
    let revision = record.revision;
    let event = |operation| match operation {
        Operation::Put { key, create_revision, mod_revision, lease, value } => {
            // A copy, so that a small value does not keep the whole file in memory.
            let value = Bytes::copy_from_slice(&value);
            Event::Put(KeyValue { key, value, create_revision, mod_revision, lease })
        }
        Operation::Delete { key } => Event::Delete { key, revision },
    };
    Change { revision, events: record.operations.into_iter().map(event).collect() }
}
