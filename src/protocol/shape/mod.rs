//! Walks a request's bytes before they are decoded.
//!
//! The decoder of the `kafka-protocol` crate makes room for an array as soon as it has read its length, so a request of
//! twenty bytes could ask for terabytes and abort the process. [`check`] goes over the bytes first, allocates nothing,
//! and refuses a length that the rest of the request cannot hold and an absurd number of elements. Bytes after the last
//! field are nobody's and are ignored, as Kafka does: librdkafka (2.16) leaves three of them behind when it asks for the
//! metadata of all topics.
//!
//! Invariant: what passes here decodes with memory proportional to the request ([`MAX_ELEMENTS`] bounds the factor).

mod table;
#[cfg(test)]
mod tests;

use bytes::{Buf, TryGetError};
use kafka_protocol::messages::ApiKey;

/// Most array elements and tagged fields of one request, all arrays together.
pub const MAX_ELEMENTS: usize = 500_000;

const MAX: i16 = i16::MAX;
const NEVER: i16 = i16::MAX;

enum Kind {
    /// So many bytes.
    Fixed(usize),
    /// Length (16 bits, or compact) and bytes; may be null.
    Text,
    /// Length (32 bits, or compact) and bytes; may be null.
    Blob,
    /// An array of one kind without fields.
    Items(&'static Kind),
    /// An array of structs.
    Array(&'static [Field]),
    /// A struct (only in tagged fields).
    Struct(&'static [Field]),
    /// A byte that says whether a struct follows.
    OptionalStruct(&'static [Field]),
}

struct Field {
    from: i16,
    to: i16,
    tag: Option<u32>,
    kind: Kind,
}

struct Shape {
    api: ApiKey,
    flexible_from: i16,
    fields: &'static [Field],
}

/// Why a request will not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A field or an array reaches past the end.
    #[error("a length reaches past the end of the request")]
    PastEnd,
    /// More than [`MAX_ELEMENTS`].
    #[error("it has more than {MAX_ELEMENTS} elements")]
    TooManyElements,
    /// A length below -1, or a tagged field of a size that its type does not have.
    #[error("a length is invalid")]
    BadLength,
    /// No layout is known for the API.
    #[error("no layout is known for this API")]
    Unknown,
}

impl From<TryGetError> for ShapeError {
    fn from(_: TryGetError) -> Self {
        Self::PastEnd
    }
}

/// Checks that `body` (what follows the request header) is laid out as `api` in `version` says.
pub fn check(api: ApiKey, version: i16, body: &[u8]) -> Result<(), ShapeError> {
    walk(api, version, body).map(drop)
}

/// How many bytes follow the last field.
fn walk(api: ApiKey, version: i16, body: &[u8]) -> Result<usize, ShapeError> {
    let shape = table::SHAPES.iter().find(|shape| shape.api == api).ok_or(ShapeError::Unknown)?;
    let mut walk = Walk { rest: body, version, flexible: version >= shape.flexible_from, elements: 0 };
    walk.fields(shape.fields)?;
    Ok(walk.rest.len())
}

struct Walk<'a> {
    rest: &'a [u8],
    version: i16,
    flexible: bool,
    elements: usize,
}

impl Walk<'_> {
    fn fields(&mut self, fields: &'static [Field]) -> Result<(), ShapeError> {
        for field in fields {
            if field.tag.is_none() && (field.from..=field.to).contains(&self.version) {
                self.kind(&field.kind)?;
            }
        }
        if self.flexible { self.tags(fields) } else { Ok(()) }
    }

    fn tags(&mut self, fields: &'static [Field]) -> Result<(), ShapeError> {
        let count = self.unsigned()?;
        self.count(count)?;
        for _ in 0..count {
            let tag = self.unsigned()?;
            let size = self.unsigned()? as usize;
            let known = |field: &&Field| {
                field.tag.is_some_and(|known| known == tag) && (field.from..=field.to).contains(&self.version)
            };
            match fields.iter().find(known) {
                None => self.skip(size)?,
                Some(field) => {
                    let before = self.rest.len();
                    self.kind(&field.kind)?;
                    if before - self.rest.len() != size {
                        return Err(ShapeError::BadLength);
                    }
                }
            }
        }
        Ok(())
    }

    fn kind(&mut self, kind: &'static Kind) -> Result<(), ShapeError> {
        match kind {
            Kind::Fixed(bytes) => self.skip(*bytes),
            Kind::Text => {
                let length = if self.flexible { self.compact()? } else { i64::from(self.rest.try_get_i16()?) };
                self.skip_nullable(length)
            }
            Kind::Blob => {
                let length = self.length()?;
                self.skip_nullable(length)
            }
            Kind::Items(item) => {
                for _ in 0..self.array()? {
                    self.kind(item)?;
                }
                Ok(())
            }
            Kind::Array(fields) => {
                for _ in 0..self.array()? {
                    self.fields(fields)?;
                }
                Ok(())
            }
            Kind::Struct(fields) => self.fields(fields),
            Kind::OptionalStruct(fields) => {
                if self.rest.try_get_i8()? < 0 {
                    return Ok(());
                }
                self.fields(fields)
            }
        }
    }

    /// An array's element count; null counts as 0.
    fn array(&mut self) -> Result<u32, ShapeError> {
        let length = self.length()?;
        if length < -1 {
            return Err(ShapeError::BadLength);
        }
        let count = u32::try_from(length.max(0)).map_err(|_| ShapeError::BadLength)?;
        self.count(count)?;
        Ok(count)
    }

    /// Every element takes at least one byte, so a count that passes is no larger than the request.
    fn count(&mut self, count: u32) -> Result<(), ShapeError> {
        let count = count as usize;
        if count > self.rest.len() {
            return Err(ShapeError::PastEnd);
        }
        self.elements += count;
        if self.elements > MAX_ELEMENTS { Err(ShapeError::TooManyElements) } else { Ok(()) }
    }

    fn length(&mut self) -> Result<i64, ShapeError> {
        if self.flexible { self.compact() } else { Ok(i64::from(self.rest.try_get_i32()?)) }
    }

    fn compact(&mut self) -> Result<i64, ShapeError> {
        Ok(i64::from(self.unsigned()?) - 1)
    }

    /// As the decoder reads it: at most five bytes, surplus bits of the fifth dropped.
    fn unsigned(&mut self) -> Result<u32, ShapeError> {
        let mut value = 0_u32;
        for index in 0..5 {
            let byte = self.rest.try_get_u8()?;
            value |= u32::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                break;
            }
        }
        Ok(value)
    }

    fn skip_nullable(&mut self, length: i64) -> Result<(), ShapeError> {
        match length {
            -1 => Ok(()),
            _ => self.skip(usize::try_from(length).map_err(|_| ShapeError::BadLength)?),
        }
    }

    fn skip(&mut self, bytes: usize) -> Result<(), ShapeError> {
        self.rest = self.rest.get(bytes..).ok_or(ShapeError::PastEnd)?;
        Ok(())
    }
}
