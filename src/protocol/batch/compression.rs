//! The codecs of record batches, bounded: what comes out never exceeds a limit that the caller names.

use std::io::{Read, Write};

use bytes::Bytes;

/// Compression of a batch's records (attribute bits 0 to 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// As they are.
    None,
    /// RFC 1952.
    Gzip,
    /// Raw snappy, or snappy in the framing of the Java library `xerial/snappy-java`.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard (KIP-110).
    Zstd,
}

/// Why records could not be decompressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// The compressed bytes are damaged.
    #[error("damaged {codec} data: {reason}")]
    Damaged {
        /// The codec's name.
        codec: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// More bytes came out than allowed.
    #[error("the records are more than {limit_bytes} bytes when decompressed")]
    TooLarge {
        /// The limit in bytes.
        limit_bytes: usize,
    },
}

const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
/// Magic, version and lowest compatible version.
const XERIAL_HEADER_BYTES: usize = 16;
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;
/// Largest zstd window accepted, as a power of two: 128 MiB, what `zstd` itself accepts unless told otherwise.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

impl Compression {
    /// By attribute bits; `None` for the unassigned 5, 6 and 7.
    pub fn from_id(id: i16) -> Option<Self> {
        match id {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The attribute bits.
    pub fn id(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The name that Kafka's settings use.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Decompresses all of `data`; at most `limit_bytes` come out. Uncompressed data is shared, not copied.
    pub fn decompress(self, data: &Bytes, limit_bytes: usize) -> Result<Bytes, DecompressError> {
        match self {
            Self::None if data.len() > limit_bytes => Err(DecompressError::TooLarge { limit_bytes }),
            Self::None => Ok(data.clone()),
            Self::Gzip => self.read_bounded(flate2::read::MultiGzDecoder::new(&data[..]), limit_bytes),
            Self::Lz4 => self.read_bounded(lz4_flex::frame::FrameDecoder::new(&data[..]), limit_bytes),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(&data[..]).map_err(|e| self.damaged(&e))?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|e| self.damaged(&e))?;
                self.read_bounded(decoder, limit_bytes)
            }
            Self::Snappy => self.snappy(data, limit_bytes),
        }
    }

    /// Compresses `data` in one piece.
    pub fn compress(self, data: &[u8]) -> std::io::Result<Vec<u8>> {
        match self {
            Self::None => Ok(data.to_vec()),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(data)?;
                encoder.finish()
            }
            Self::Snappy => {
                // The framing: the Java client cannot read raw snappy.
                let mut out = Vec::with_capacity(data.len() / 2 + XERIAL_HEADER_BYTES);
                out.extend_from_slice(XERIAL_MAGIC);
                out.extend_from_slice(&1_u32.to_be_bytes());
                out.extend_from_slice(&1_u32.to_be_bytes());
                for block in data.chunks(XERIAL_BLOCK_BYTES) {
                    let packed = snap::raw::Encoder::new().compress_vec(block).map_err(std::io::Error::other)?;
                    out.extend_from_slice(&(packed.len() as u32).to_be_bytes());
                    out.extend_from_slice(&packed);
                }
                Ok(out)
            }
            Self::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                encoder.write_all(data)?;
                encoder.finish().map_err(std::io::Error::other)
            }
            Self::Zstd => zstd::stream::encode_all(data, 0),
        }
    }

    fn read_bounded(self, reader: impl Read, limit_bytes: usize) -> Result<Bytes, DecompressError> {
        let mut out = Vec::new();
        reader.take(limit_bytes as u64 + 1).read_to_end(&mut out).map_err(|e| self.damaged(&e))?;
        if out.len() > limit_bytes { Err(DecompressError::TooLarge { limit_bytes }) } else { Ok(out.into()) }
    }

    fn snappy(self, data: &[u8], limit_bytes: usize) -> Result<Bytes, DecompressError> {
        let mut out = Vec::new();
        if !data.starts_with(XERIAL_MAGIC) {
            self.snappy_block(data, &mut out, limit_bytes)?;
            return Ok(out.into());
        }
        let mut rest = data.get(XERIAL_HEADER_BYTES..).ok_or_else(|| self.damaged(&"cut within its header"))?;
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            let block = after.get(..length).ok_or_else(|| self.damaged(&"a block is cut short"))?;
            self.snappy_block(block, &mut out, limit_bytes)?;
            rest = &after[length..];
        }
        if rest.is_empty() { Ok(out.into()) } else { Err(self.damaged(&"a block's length is cut short")) }
    }

    fn snappy_block(self, block: &[u8], out: &mut Vec<u8>, limit_bytes: usize) -> Result<(), DecompressError> {
        let length = snap::raw::decompress_len(block).map_err(|e| self.damaged(&e))?;
        // Snappy's densest element, a 3-byte copy of 64 bytes, bounds what so many bytes can honestly become.
        if length > block.len().saturating_mul(64) {
            return Err(self.damaged(&"it claims more bytes than it can hold"));
        }
        let start = out.len();
        let end = start.checked_add(length).filter(|end| *end <= limit_bytes);
        let end = end.ok_or(DecompressError::TooLarge { limit_bytes })?;
        out.resize(end, 0);
        let written = snap::raw::Decoder::new().decompress(block, &mut out[start..]).map_err(|e| self.damaged(&e))?;
        out.truncate(start + written);
        Ok(())
    }

    fn damaged(self, reason: &dyn ToString) -> DecompressError {
        DecompressError::Damaged { codec: self.name(), reason: reason.to_string() }
    }
}
