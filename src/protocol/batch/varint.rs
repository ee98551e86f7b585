//! Zigzag base-128 integers, as records use them (`ByteUtils.readVarint`): low seven bits first, at most 5 or 10 bytes.

use bytes::{BufMut, BytesMut};

/// Takes a 32-bit varint from the front; `None` if it is cut short, longer than 5 bytes or does not fit.
pub fn read_varint(from: &mut &[u8]) -> Option<i32> {
    let raw = read_unsigned(from, 5)?;
    let raw = u32::try_from(raw).ok()?;
    Some((raw >> 1) as i32 ^ -((raw & 1) as i32))
}

/// Takes a 64-bit varint from the front; `None` if it is cut short, longer than 10 bytes or does not fit.
pub fn read_varlong(from: &mut &[u8]) -> Option<i64> {
    let raw = read_unsigned(from, 10)?;
    Some((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

fn read_unsigned(from: &mut &[u8], longest: usize) -> Option<u64> {
    let mut value = 0_u64;
    for (index, &byte) in from.iter().take(longest).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if index == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * index);
        if byte & 0x80 == 0 {
            *from = &from[index + 1..];
            return Some(value);
        }
    }
    None
}

/// Appends a 32-bit varint.
pub fn put_varint(into: &mut BytesMut, value: i32) {
    put_unsigned(into, u64::from(((value << 1) ^ (value >> 31)) as u32));
}

/// Appends a 64-bit varint.
pub fn put_varlong(into: &mut BytesMut, value: i64) {
    put_unsigned(into, ((value << 1) ^ (value >> 63)) as u64);
}

/// Bytes that [`put_varint`] appends.
pub fn varint_bytes(value: i32) -> usize {
    varlong_bytes(i64::from(value))
}

/// Bytes that [`put_varlong`] appends.
pub fn varlong_bytes(value: i64) -> usize {
    let bits = 64 - ((value << 1) ^ (value >> 63) | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

fn put_unsigned(into: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        into.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    into.put_u8(value as u8);
}
