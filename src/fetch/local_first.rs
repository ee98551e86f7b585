//! Segments read from this broker's own write-ahead files while those are kept, else from the store.
//!
//! A finished write-ahead file has the segment's bytes, footer and all; one without its trailer is not used. A file that
//! goes away in between, or whose bytes failed a check above, is passed over: the store has them too.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::metrics::Metrics;
use super::source::StoreSource;
use crate::base::HashSet;
use crate::cache::{ReadError, Source};
use crate::format::keys::parse_segment;
use crate::format::segment::{TRAILER_BYTES, Trailer};
use crate::partition::{Log, ObjectRef};
use crate::wal::{Disk, DiskFile, LocalDisk, on_disk};

/// Damaged local copies remembered; when there are more the set starts anew.
const DISTRUSTED_COPIES: usize = 1024;

/// Where the local copy of an object is, while there is one.
pub type FindCopy = Arc<dyn Fn(ObjectRef) -> Option<PathBuf> + Send + Sync>;

/// A store behind local copies of some of its objects.
pub struct LocalFirst {
    store: StoreSource,
    disk: Arc<dyn Disk>,
    find: FindCopy,
    distrusted: Mutex<HashSet<String>>,
    metrics: Metrics,
}

impl fmt::Debug for LocalFirst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalFirst").field("store", &self.store).finish_non_exhaustive()
    }
}

impl LocalFirst {
    /// Reads `store`, and first the copies that `find` finds on `disk`.
    pub fn new(store: StoreSource, disk: Arc<dyn Disk>, find: FindCopy, metrics: Metrics) -> Self {
        Self { store, disk, find, distrusted: Mutex::default(), metrics }
    }

    /// Reads the store of `log`, and first the write-ahead files that it keeps.
    pub fn of_log(log: &Log, metrics: Metrics) -> Self {
        let find = log.clone();
        let disk = log.disk().cloned().unwrap_or_else(LocalDisk::shared);
        let store = StoreSource::new(log.store().clone());
        Self::new(store, disk, Arc::new(move |object| find.local_copy(object)), metrics)
    }

    fn copy_of(&self, object: &str) -> Option<PathBuf> {
        let (session, seq) = parse_segment(object)?;
        let path = (self.find)(ObjectRef::Segment { session, seq })?;
        (!self.distrusted.lock().contains(object)).then_some(path)
    }

    async fn read_copy<T: Send + 'static>(
        &self,
        object: &str,
        read: impl FnOnce(&dyn Disk, &Path) -> io::Result<T> + Send + 'static,
    ) -> Option<T> {
        let path = self.copy_of(object)?;
        // An error here is no trouble: the store has the bytes.
        on_disk(&self.disk, move |disk| read(disk, &path)).await.ok()
    }
}

/// A finished file and its length in bytes.
fn open(disk: &dyn Disk, path: &Path) -> io::Result<(Box<dyn DiskFile>, u64)> {
    let file = disk.open(path)?;
    let length = file.length()?;
    let mut trailer = [0; TRAILER_BYTES];
    let at = length.checked_sub(TRAILER_BYTES as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
    file.read_exact_at(&mut trailer, at)?;
    Trailer::decode(&trailer, length).map_err(io::Error::other)?;
    Ok((file, length))
}

#[async_trait]
impl Source for LocalFirst {
    async fn get_range(&self, object: &str, range: Range<u64>) -> Result<Bytes, ReadError> {
        let wanted = range.clone();
        let copied = self.read_copy(object, move |disk, path| {
            let (file, length) = open(disk, path)?;
            let end = wanted.end.min(length);
            let mut bytes = vec![0; end.saturating_sub(wanted.start) as usize];
            file.read_exact_at(&mut bytes, wanted.start)?;
            Ok(Bytes::from(bytes))
        });
        if let Some(bytes) = copied.await {
            self.metrics.local_copy_bytes.inc_by(bytes.len() as u64);
            return Ok(bytes);
        }
        self.store.get_range(object, range).await
    }

    async fn size(&self, object: &str) -> Result<u64, ReadError> {
        match self.read_copy(object, |disk, path| open(disk, path).map(|(_, length)| length)).await {
            Some(length) => Ok(length),
            None => self.store.size(object).await,
        }
    }

    fn is_local(&self) -> bool {
        self.store.is_local()
    }

    fn distrust(&self, object: &str) {
        if self.copy_of(object).is_some() {
            let mut distrusted = self.distrusted.lock();
            if distrusted.len() >= DISTRUSTED_COPIES {
                distrusted.clear();
            }
            distrusted.insert(object.to_owned());
        }
    }
}
