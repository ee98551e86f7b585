//! What is wrong with stored bytes.

use crate::base::ErrorKind;

/// Why bytes could not be read. The caller adds which object or file they came from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes end before the thing does.
    #[error("truncated {0}")]
    Truncated(&'static str),
    /// The bytes do not begin as they should: this is something else.
    #[error("not {0} (magic bytes differ)")]
    WrongMagic(&'static str),
    /// A checksum does not hold: the bytes were damaged.
    #[error("checksum of {0} does not match: the bytes are damaged")]
    Checksum(&'static str),
    /// Written by a newer Esker.
    #[error("{what} has format version {found}; this build reads up to {supported}: use a newer esker")]
    Newer {
        /// What.
        what: &'static str,
        /// Version found.
        found: u16,
        /// Newest version this build reads.
        supported: u16,
    },
    /// The checksum holds but the content makes no sense: a bug, or forged bytes.
    #[error("invalid {0}")]
    Invalid(&'static str),
}

impl FormatError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
}
