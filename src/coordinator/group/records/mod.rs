//! The records of `__consumer_offsets`, byte for byte Kafka's (`group-coordinator/…/common/message/*.json`).
//!
//! A key starts with its version, which is also its type: 0 and 1 are [`Key::Offset`], 2 is [`Key::Group`]; 3 and up
//! belong to protocols that are not served here (KIP-848, KIP-932) and are skipped. A value starts with its own
//! version; a missing value is a tombstone. Reading accepts every version that Kafka has written; writing uses what
//! Kafka 4.x writes: offset values 3 (1 when the client asked for a retention time), group values 3. Version 4 is the
//! flexible form of 3, kept for reading. The layout is in `docs/formats/consumer-offsets.md`.

mod value;
mod wire;

use bytes::Bytes;

pub use self::value::{GroupValue, MemberValue, OffsetValue};
use self::wire::{Reader, Writer};

/// The key version that is written for committed offsets.
pub const OFFSET_KEY_VERSION: i16 = 1;
/// The key version that is written for group metadata.
pub const GROUP_KEY_VERSION: i16 = 2;
/// The largest version of [`OffsetValue`] and [`GroupValue`] that can be read.
pub const HIGHEST_VALUE_VERSION: i16 = 4;
/// From this version on values are in the flexible encoding.
const FIRST_FLEXIBLE_VERSION: i16 = 4;

/// Why a record could not be read. The reader skips and counts it: one bad record costs one key, not the partition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// A field reaches past the end.
    #[error("a field reaches past the end of the record")]
    Truncated,
    /// A length is negative, null where it may not be, or an overlong varint.
    #[error("a length is out of range")]
    BadLength,
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// A value of a version that this build does not know.
    #[error("value version {0} is not known")]
    UnknownValueVersion(i16),
}

/// What a record is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A committed offset (`OffsetCommitKey`).
    Offset {
        /// The group.
        group: String,
        /// The topic's name.
        topic: String,
        /// The partition's index.
        partition: i32,
    },
    /// A group's generation (`GroupMetadataKey`).
    Group {
        /// The group.
        group: String,
    },
    /// A type that is not served here.
    Unknown {
        /// The key's version.
        version: i16,
    },
}

impl Key {
    /// Reads a key. Bytes after the last field are ignored, as Kafka does.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let mut reader = Reader::new(bytes);
        match reader.i16()? {
            0 | OFFSET_KEY_VERSION => {
                Ok(Self::Offset { group: reader.string()?, topic: reader.string()?, partition: reader.i32()? })
            }
            GROUP_KEY_VERSION => Ok(Self::Group { group: reader.string()? }),
            version => Ok(Self::Unknown { version }),
        }
    }

    /// The key of a committed offset.
    pub fn offset(group: &str, topic: &str, partition: i32) -> Bytes {
        let mut writer = Writer::versioned(OFFSET_KEY_VERSION, false);
        writer.string(group);
        writer.string(topic);
        writer.i32(partition);
        writer.finish()
    }

    /// The key of a group's metadata.
    pub fn group(group: &str) -> Bytes {
        let mut writer = Writer::versioned(GROUP_KEY_VERSION, false);
        writer.string(group);
        writer.finish()
    }
}
