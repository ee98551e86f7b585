//! The first 64 bytes of every durable object and write-ahead file.
//!
//! ```text
//!  0  8  magic: "ESKRSEGM" segment, "ESKRSEAL" seal, "ESKRCKPT" checkpoint, "ESKRRUNS" compacted run
//!  8  2  format version, 1
//! 10  6  zero
//! 16 16  object id: unique for each try to write something; tells our own earlier write from somebody else's
//! 32  4  broker id
//! 36  4  zero
//! 40  8  session epoch
//! 48  8  seq (of a compacted run: its number)
//! 56  4  zero
//! 60  4  CRC-32C of bytes 0..60
//! ```
//! Integers are little-endian.

use bytes::{BufMut, BytesMut};
use uuid::Uuid;

use super::FormatError;
use super::codec::{Cursor, crc32c};
use crate::base::SessionId;

/// Length of a prelude in bytes.
pub const PRELUDE_BYTES: usize = 64;
/// Newest format version this build writes and reads.
pub const VERSION: u16 = 1;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// Batches and control entries.
    Segment,
    /// The end of a stream.
    Seal,
    /// The states of all partitions of a session.
    Checkpoint,
    /// Batches of one topic's partitions, gathered from many segments.
    Run,
}

impl ObjectKind {
    const fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Segment => b"ESKRSEGM",
            Self::Seal => b"ESKRSEAL",
            Self::Checkpoint => b"ESKRCKPT",
            Self::Run => b"ESKRRUNS",
        }
    }
}

/// What every object says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prelude {
    /// What it is.
    pub kind: ObjectKind,
    /// Unique id of this write.
    pub object_id: Uuid,
    /// The stream it belongs to.
    pub session: SessionId,
    /// Its place in the stream; the number of a compacted run.
    pub seq: u64,
}

impl Prelude {
    /// The 64 bytes.
    pub fn encode(&self) -> [u8; PRELUDE_BYTES] {
        let mut bytes = BytesMut::with_capacity(PRELUDE_BYTES);
        bytes.put_slice(self.kind.magic());
        bytes.put_u16_le(VERSION);
        bytes.put_bytes(0, 6);
        bytes.put_slice(self.object_id.as_bytes());
        bytes.put_i32_le(self.session.broker_id);
        bytes.put_u32_le(0);
        bytes.put_u64_le(self.session.epoch);
        bytes.put_u64_le(self.seq);
        bytes.put_u32_le(0);
        bytes.put_u32_le(crc32c(&bytes));
        let mut array = [0; PRELUDE_BYTES];
        array.copy_from_slice(&bytes);
        array
    }

    /// Reads the first 64 bytes of an object.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let head = bytes.get(..PRELUDE_BYTES).ok_or(FormatError::Truncated("object prelude"))?;
        let mut cursor = Cursor::new(head, "object prelude");
        let magic = cursor.take(8)?;
        let kind = [ObjectKind::Segment, ObjectKind::Seal, ObjectKind::Checkpoint, ObjectKind::Run]
            .into_iter()
            .find(|kind| kind.magic() == magic)
            .ok_or(FormatError::WrongMagic("an esker object"))?;
        let version = cursor.u16()?;
        if crc32c(&head[..60]) != u32::from_le_bytes([head[60], head[61], head[62], head[63]]) {
            return Err(FormatError::Checksum("object prelude"));
        }
        if version > VERSION {
            return Err(FormatError::Newer { what: "object", found: version, supported: VERSION });
        }
        cursor.take(6)?;
        let object_id = cursor.uuid()?;
        let broker_id = cursor.i32()?;
        cursor.u32()?;
        let epoch = cursor.u64()?;
        let seq = cursor.u64()?;
        Ok(Self { kind, object_id, session: SessionId { broker_id, epoch }, seq })
    }
}

/// The bytes of a seal at `seq` of `session`.
pub fn encode_seal(object_id: Uuid, session: SessionId, seq: u64) -> [u8; PRELUDE_BYTES] {
    Prelude { kind: ObjectKind::Seal, object_id, session, seq }.encode()
}
