//! Little-endian integers and LEB128 varints, bounds-checked.

use bytes::{BufMut, BytesMut};
use uuid::Uuid;

use super::FormatError;

/// CRC-32C (Castagnoli), the checksum of every durable byte.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c_parts(&[bytes])
}

/// CRC-32C of the concatenation of `parts`.
pub fn crc32c_parts(parts: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    digest.finalize() as u32
}

/// Appends `value` as an unsigned LEB128 varint (1 to 10 bytes).
pub fn put_varint(into: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        into.put_u8((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    into.put_u8(value as u8);
}

/// Appends `value` zigzag-encoded as a varint.
pub fn put_signed(into: &mut BytesMut, value: i64) {
    put_varint(into, ((value << 1) ^ (value >> 63)) as u64);
}

/// A cursor over bytes to decode; every read checks what is left.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Cursor<'a> {
    /// Reads `bytes`; errors name `what`.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, what }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], FormatError> {
        if count > self.bytes.len() {
            return Err(FormatError::Truncated(self.what));
        }
        let (head, tail) = self.bytes.split_at(count);
        self.bytes = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.array::<1>()?[0])
    }

    /// A little-endian u16.
    pub fn u16(&mut self) -> Result<u16, FormatError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// A little-endian u32.
    pub fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A little-endian i32.
    pub fn i32(&mut self) -> Result<i32, FormatError> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    /// A little-endian u64.
    pub fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A little-endian i64.
    pub fn i64(&mut self) -> Result<i64, FormatError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// 16 bytes of UUID.
    pub fn uuid(&mut self) -> Result<Uuid, FormatError> {
        Ok(Uuid::from_bytes(self.array()?))
    }

    /// An unsigned varint.
    pub fn varint(&mut self) -> Result<u64, FormatError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                return Err(FormatError::Invalid(self.what));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(FormatError::Invalid(self.what))
    }

    /// A zigzag varint.
    pub fn signed(&mut self) -> Result<i64, FormatError> {
        let raw = self.varint()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// A varint that must fit `T`.
    pub fn varint_as<T: TryFrom<u64>>(&mut self) -> Result<T, FormatError> {
        T::try_from(self.varint()?).map_err(|_| FormatError::Invalid(self.what))
    }

    /// A zigzag varint that must fit `T`.
    pub fn signed_as<T: TryFrom<i64>>(&mut self) -> Result<T, FormatError> {
        T::try_from(self.signed()?).map_err(|_| FormatError::Invalid(self.what))
    }

    /// A count of things that take at least `least_bytes` each; refused if they cannot be there.
    pub fn count(&mut self, least_bytes: usize) -> Result<usize, FormatError> {
        let count: usize = self.varint_as()?;
        if count.saturating_mul(least_bytes.max(1)) > self.remaining() {
            return Err(FormatError::Truncated(self.what));
        }
        Ok(count)
    }

    /// `base + delta` where the delta is a zigzag varint.
    pub fn delta(&mut self, base: i64) -> Result<i64, FormatError> {
        base.checked_add(self.signed()?).ok_or(FormatError::Invalid(self.what))
    }

    /// Fails unless everything was read.
    pub fn finish(&self) -> Result<(), FormatError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(FormatError::Invalid(self.what)) }
    }
}
