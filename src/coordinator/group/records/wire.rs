//! Kafka's field encodings that the records of `__consumer_offsets` use: plain (fixed-length prefixes) and flexible
//! (compact lengths and tagged fields, KIP-482).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::BadRecord;

/// Reads fields from the front of a record's key or value. Never panics, never allocates from an unchecked length.
pub(super) struct Reader<'a> {
    left: &'a [u8],
    flexible: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes, flexible: false }
    }

    /// From here on lengths are compact and structures end in tagged fields.
    pub(super) fn flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    pub(super) fn remaining(&self) -> usize {
        self.left.len()
    }

    fn need(&self, bytes: usize) -> Result<(), BadRecord> {
        if self.left.len() < bytes { Err(BadRecord::Truncated) } else { Ok(()) }
    }

    pub(super) fn i16(&mut self) -> Result<i16, BadRecord> {
        self.need(2)?;
        Ok(self.left.get_i16())
    }

    pub(super) fn i32(&mut self) -> Result<i32, BadRecord> {
        self.need(4)?;
        Ok(self.left.get_i32())
    }

    pub(super) fn i64(&mut self) -> Result<i64, BadRecord> {
        self.need(8)?;
        Ok(self.left.get_i64())
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], BadRecord> {
        self.need(bytes)?;
        let (taken, left) = self.left.split_at(bytes);
        self.left = left;
        Ok(taken)
    }

    fn unsigned_varint(&mut self) -> Result<u32, BadRecord> {
        let mut value = 0_u32;
        for shift in [0, 7, 14, 21, 28] {
            self.need(1)?;
            let byte = self.left.get_u8();
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(BadRecord::BadLength)
    }

    /// A length; `None` is null.
    fn length(&mut self, wide: bool) -> Result<Option<usize>, BadRecord> {
        if self.flexible {
            return Ok((self.unsigned_varint()? as usize).checked_sub(1));
        }
        let length = if wide { self.i32()? } else { i32::from(self.i16()?) };
        match length {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| BadRecord::BadLength),
        }
    }

    pub(super) fn nullable_string(&mut self) -> Result<Option<String>, BadRecord> {
        let Some(length) = self.length(false)? else { return Ok(None) };
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| BadRecord::NotUtf8)?;
        Ok(Some(text.to_owned()))
    }

    pub(super) fn string(&mut self) -> Result<String, BadRecord> {
        self.nullable_string()?.ok_or(BadRecord::BadLength)
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes, BadRecord> {
        let length = self.length(true)?.ok_or(BadRecord::BadLength)?;
        Ok(Bytes::copy_from_slice(self.take(length)?))
    }

    /// The number of elements of an array. Not to be trusted as a capacity.
    pub(super) fn array(&mut self) -> Result<usize, BadRecord> {
        self.length(true)?.ok_or(BadRecord::BadLength)
    }

    /// Skips tagged fields; nothing in the plain encoding.
    pub(super) fn tags(&mut self) -> Result<(), BadRecord> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.unsigned_varint()? {
            self.unsigned_varint()?;
            let length = self.unsigned_varint()? as usize;
            self.take(length)?;
        }
        Ok(())
    }
}

/// Writes fields in the plain or the flexible encoding.
pub(super) struct Writer {
    into: BytesMut,
    flexible: bool,
}

impl Writer {
    /// Starts with the version, which is never flexible.
    pub(super) fn versioned(version: i16, flexible: bool) -> Self {
        let mut into = BytesMut::with_capacity(64);
        into.put_i16(version);
        Self { into, flexible }
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.into.put_i32(value);
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.into.put_i64(value);
    }

    fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.into.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.into.put_u8(value as u8);
    }

    fn length(&mut self, length: Option<usize>, wide: bool) {
        match (self.flexible, wide) {
            (true, _) => self.unsigned_varint(length.map_or(0, |length| length as u32 + 1)),
            (false, true) => self.into.put_i32(length.map_or(-1, |length| length as i32)),
            (false, false) => self.into.put_i16(length.map_or(-1, |length| length as i16)),
        }
    }

    /// `text` is at most 32 767 bytes: every string here came through a Kafka string field or a limit.
    pub(super) fn nullable_string(&mut self, text: Option<&str>) {
        self.length(text.map(str::len), false);
        self.into.put_slice(text.unwrap_or_default().as_bytes());
    }

    pub(super) fn string(&mut self, text: &str) {
        self.nullable_string(Some(text));
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.length(Some(bytes.len()), true);
        self.into.put_slice(bytes);
    }

    pub(super) fn array(&mut self, elements: usize) {
        self.length(Some(elements), true);
    }

    pub(super) fn tags(&mut self) {
        if self.flexible {
            self.into.put_u8(0);
        }
    }

    pub(super) fn finish(self) -> Bytes {
        self.into.freeze()
    }
}
