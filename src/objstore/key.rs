//! What an object key may be: one rule for every store, so that a key that works on one works on all.

use super::StoreError;

/// Longest key in bytes. S3 allows 1024 for the prefix and the key together.
pub const MAX_KEY_BYTES: usize = 768;
/// Longest part between two slashes in bytes: what file systems allow for a name.
pub const MAX_PART_BYTES: usize = 255;

/// Accepts keys of `[A-Za-z0-9._=-]` parts joined by single slashes; no part is empty, `.` or `..`, and the first does not
/// start with a dot (such names belong to the stores themselves). Errors: `Config`.
pub fn check_key(key: &str) -> Result<(), StoreError> {
    let bad = |why: &str| Err(StoreError::Config(format!("'{key}' is not an object key: {why}")));
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return bad("it must have 1 to 768 bytes");
    }
    if key.starts_with('.') {
        return bad("it must not start with a dot");
    }
    for part in key.split('/') {
        if part.is_empty() || part == "." || part == ".." {
            return bad("a part is empty, '.' or '..'");
        }
        if part.len() > MAX_PART_BYTES {
            return bad("a part is longer than 255 bytes");
        }
        if !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._=-".contains(&byte)) {
            return bad("only A-Z a-z 0-9 . _ = - and / are allowed");
        }
    }
    Ok(())
}
