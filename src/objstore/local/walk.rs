//! The files below a directory in the byte order of their keys, read one directory at a time.

use std::fs;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use crate::objstore::ObjectMeta;

/// Calls `emit` for each file whose key starts with `prefix` and sorts after `start_after`, in key order, until it returns
/// false. Files that vanish meanwhile are left out; links, names that are not UTF-8 and dot names of the root are no
/// objects.
pub(super) fn walk(
    root: &Path,
    prefix: &str,
    start_after: Option<&str>,
    emit: &mut dyn FnMut(ObjectMeta) -> bool,
) -> io::Result<()> {
    // The deepest directory that holds everything that starts with the prefix.
    let start = prefix.rfind('/').map_or("", |slash| &prefix[..=slash]);
    if start.split_inclusive('/').any(|part| matches!(part, "/" | "./" | "../")) {
        return Ok(());
    }
    Walk { root, prefix, start_after, emit }.directory(start).map(|_| ())
}

struct Walk<'a> {
    root: &'a Path,
    prefix: &'a str,
    start_after: Option<&'a str>,
    emit: &'a mut dyn FnMut(ObjectMeta) -> bool,
}

impl Walk<'_> {
    /// `at` is empty or ends with a slash. False: the reader wants no more.
    fn directory(&mut self, at: &str) -> io::Result<bool> {
        for name in sorted_names(&self.root.join(at), at.is_empty())? {
            let key = format!("{at}{name}");
            let wanted = if key.ends_with('/') { self.may_hold(&key) } else { self.is_wanted(&key) };
            if !wanted {
                continue;
            }
            let go_on = if key.ends_with('/') { self.directory(&key)? } else { self.file(key)? };
            if !go_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_wanted(&self, key: &str) -> bool {
        key.starts_with(self.prefix) && self.start_after.is_none_or(|after| key > after)
    }

    /// Whether a directory (with its slash) may hold wanted keys.
    fn may_hold(&self, directory: &str) -> bool {
        (directory.starts_with(self.prefix) || self.prefix.starts_with(directory))
            && self.start_after.is_none_or(|after| directory > after || after.starts_with(directory))
    }

    fn file(&mut self, key: String) -> io::Result<bool> {
        let metadata = match fs::symlink_metadata(self.root.join(&key)) {
            Ok(metadata) => metadata,
            Err(error) if is_gone(&error) => return Ok(true),
            Err(error) => return Err(error),
        };
        let since_epoch = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let modified_ms = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
        Ok((self.emit)(ObjectMeta { key, size_bytes: metadata.len(), modified_ms }))
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Names in a directory, directories with a trailing slash, so that sorting them sorts the keys. Empty if it is gone.
fn sorted_names(directory: &Path, is_root: bool) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) && !is_root => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(mut name) = entry.file_name().into_string() else { continue };
        if is_root && name.starts_with('.') {
            continue;
        }
        let kind = match entry.file_type() {
            Ok(kind) => kind,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        if kind.is_dir() {
            name.push('/');
        } else if !kind.is_file() {
            continue;
        }
        names.push(name);
    }
    names.sort_unstable();
    Ok(names)
}
