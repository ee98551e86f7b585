//! One request, decoded as far as its header, and the encoding of its reply.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

use super::frame::Reply;
use crate::protocol::shape::{self, ShapeError};

/// A request whose API and version are served.
#[derive(Debug, Clone)]
pub struct Call {
    /// The API.
    pub api: ApiKey,
    /// The request's version.
    pub version: i16,
    /// Echoed in the reply.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<StrBytes>,
    /// What follows the header.
    pub body: Bytes,
}

/// Why a request gets no reply and its connection is closed, as Kafka does.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The frame is too short for a header, or the header is malformed.
    #[error("malformed request header: {0}")]
    Header(String),
    /// No such API here.
    #[error("API key {0} is not served")]
    UnknownApi(i16),
    /// The API is served, not in this version.
    #[error("{api:?} version {version} is not served")]
    UnknownVersion {
        /// The API.
        api: ApiKey,
        /// The version asked for.
        version: i16,
    },
    /// The body's lengths do not fit.
    #[error("malformed {api:?} v{version} request: {reason}")]
    Shape {
        /// The API.
        api: ApiKey,
        /// Its version.
        version: i16,
        /// What is wrong.
        reason: ShapeError,
    },
    /// The body does not decode.
    #[error("malformed {api:?} v{version} request: {reason}")]
    Body {
        /// The API.
        api: ApiKey,
        /// Its version.
        version: i16,
        /// What the decoder said.
        reason: String,
    },
    /// A reply could not be encoded: a bug.
    #[error("{api:?} v{version}: the reply cannot be encoded: {reason}")]
    Encode {
        /// The API.
        api: ApiKey,
        /// Its version.
        version: i16,
        /// What the encoder said.
        reason: String,
    },
    /// An `acks=0` produce failed; closing is the only way to say so.
    #[error("produce with acks=0 failed: {0}")]
    SilentProduce(String),
}

/// The first eight bytes of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prelude {
    /// API key.
    pub api_key: i16,
    /// API version.
    pub version: i16,
    /// Correlation id.
    pub correlation_id: i32,
}

impl Prelude {
    /// Reads it from a frame.
    pub fn read(frame: &[u8]) -> Result<Self, CallError> {
        let short = || CallError::Header(format!("{} bytes", frame.len()));
        let (key, rest) = frame.split_first_chunk::<2>().ok_or_else(short)?;
        let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
        let correlation = rest.first_chunk::<4>().ok_or_else(short)?;
        Ok(Self {
            api_key: i16::from_be_bytes(*key),
            version: i16::from_be_bytes(*version),
            correlation_id: i32::from_be_bytes(*correlation),
        })
    }
}

impl Call {
    /// Decodes the header of a request whose API and version were found in the table.
    pub fn read(api: ApiKey, version: i16, mut frame: Bytes) -> Result<Self, CallError> {
        let header = RequestHeader::decode(&mut frame, api.request_header_version(version))
            .map_err(|error| CallError::Header(error.to_string()))?;
        Ok(Self { api, version, correlation_id: header.correlation_id, client_id: header.client_id, body: frame })
    }

    /// The body as `T`, after its lengths were checked; its byte fields share the frame.
    pub fn decode<T: Decodable>(&mut self) -> Result<T, CallError> {
        let (api, version) = (self.api, self.version);
        shape::check(api, version, &self.body).map_err(|reason| CallError::Shape { api, version, reason })?;
        let mut body = std::mem::take(&mut self.body);
        T::decode(&mut body, version).map_err(|error| CallError::Body { api, version, reason: error.to_string() })
    }

    /// The frame of a reply.
    pub fn encode<T: Encodable>(&self, response: &T) -> Result<Reply, CallError> {
        let failed = |reason: String| CallError::Encode { api: self.api, version: self.version, reason };
        let mut frame = self.reply_head(256);
        response.encode(&mut frame, self.version).map_err(|error| failed(error.to_string()))?;
        finish(&mut frame, 0).map_err(failed)?;
        Ok(Reply::new([frame.freeze()]))
    }

    /// Room for a length, and the response header.
    pub fn reply_head(&self, room_bytes: usize) -> BytesMut {
        let mut frame = BytesMut::with_capacity(room_bytes);
        frame.put_i32(0);
        let header = ResponseHeader::default().with_correlation_id(self.correlation_id);
        header
            .encode(&mut frame, self.api.response_header_version(self.version))
            .expect("a response header without tagged fields always encodes");
        frame
    }
}

/// Writes the length in front of a frame of which `more_bytes` follow elsewhere.
pub fn finish(frame: &mut BytesMut, more_bytes: usize) -> Result<(), String> {
    let length = frame.len() - 4 + more_bytes;
    let length = i32::try_from(length).map_err(|_| format!("{length} bytes do not fit a frame"))?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}
