//! Frames: a 32-bit big-endian length and so many bytes.
//!
//! A request's bytes are one [`Bytes`], so the record batches in it are slices of what the socket gave.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Room made for reading ahead, and how much is read ahead while a request is at work.
const READ_AHEAD_BYTES: usize = 16 * 1024;
/// A frame that began and of which no byte came for this long is given up.
const STALL_MS: u64 = 30_000;
/// Most slices given to one vectored write.
const MAX_SLICES: usize = 64;

/// Why no frame came.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer closed in the middle of a frame.
    #[error("the connection ended in the middle of a request")]
    CutShort,
    /// The length is negative or over the limit.
    #[error("a request of {length} bytes was announced; the limit is {limit_bytes} (kafka.max_request)")]
    Length {
        /// The length received.
        length: i32,
        /// The limit in bytes.
        limit_bytes: usize,
    },
    /// No request came in time.
    #[error("idle")]
    Idle,
    /// A request began and did not go on.
    #[error("a request began and nothing more came for {STALL_MS} ms")]
    Stalled,
}

/// What the first bytes of a connection look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guess {
    /// Nothing else than Kafka.
    Kafka,
    /// A TLS client hello.
    Tls,
    /// An HTTP request.
    Http,
}

/// Guesses the protocol from the first four bytes: as lengths, those of the others are beyond any sensible limit.
pub fn guess(first: [u8; 4]) -> Guess {
    match &first {
        [0x16, 0x03, 0..=4, _] => Guess::Tls,
        b"GET " | b"POST" | b"PUT " | b"HEAD" | b"OPTI" | b"DELE" | b"PATC" | b"CONN" | b"PRI " => Guess::Http,
        _ => Guess::Kafka,
    }
}

/// The reading side of a connection.
#[derive(Debug)]
pub struct FrameReader<R> {
    half: R,
    buffer: BytesMut,
    ended: bool,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `half`.
    pub fn new(half: R) -> Self {
        Self { half, buffer: BytesMut::new(), ended: false }
    }

    /// The next frame's first four bytes, left in place; `None` if the peer closed between frames.
    pub async fn peek_length(&mut self, idle_ms: u64) -> Result<Option<[u8; 4]>, FrameError> {
        let mut wait_ms = idle_ms;
        loop {
            if let Some(length) = self.buffer.first_chunk::<4>() {
                return Ok(Some(*length));
            }
            if self.ended {
                return if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::CutShort) };
            }
            let read = timeout(Duration::from_millis(wait_ms), self.fill(READ_AHEAD_BYTES)).await;
            read.map_err(|_| if self.buffer.is_empty() { FrameError::Idle } else { FrameError::Stalled })??;
            wait_ms = STALL_MS;
        }
    }

    /// The frame whose length was peeked.
    pub async fn read(&mut self, length: usize) -> Result<Bytes, FrameError> {
        let whole = 4 + length;
        while self.buffer.len() < whole {
            if self.ended {
                return Err(FrameError::CutShort);
            }
            let missing = whole - self.buffer.len();
            timeout(Duration::from_millis(STALL_MS), self.fill(missing.max(READ_AHEAD_BYTES)))
                .await
                .map_err(|_| FrameError::Stalled)??;
        }
        let mut frame = self.buffer.split_to(whole);
        frame.advance(4);
        Ok(frame.freeze())
    }

    /// Resolves when the peer has closed its side; reads ahead a little meanwhile and then waits for ever.
    ///
    /// Cancellation loses nothing.
    pub async fn peer_closed(&mut self) {
        while !self.ended {
            if self.buffer.len() >= READ_AHEAD_BYTES {
                return std::future::pending().await;
            }
            if self.fill(READ_AHEAD_BYTES).await.is_err() {
                return;
            }
        }
    }

    async fn fill(&mut self, room: usize) -> io::Result<()> {
        if self.buffer.capacity() - self.buffer.len() < room.min(READ_AHEAD_BYTES) {
            self.buffer.reserve(room);
        }
        if self.half.read_buf(&mut self.buffer).await? == 0 {
            self.ended = true;
        }
        Ok(())
    }
}

/// A reply in pieces, its length prefix first; record batches are pieces of their own and are never copied.
#[derive(Debug, Default, Clone)]
pub struct Reply {
    pieces: std::collections::VecDeque<Bytes>,
}

impl Reply {
    /// Pieces after which nothing follows; the first begins with the frame's length.
    pub fn new(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        Self { pieces: pieces.into_iter().filter(|piece| !piece.is_empty()).collect() }
    }

    /// Bytes, length prefix included.
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// Adds another reply's pieces, to write both at once.
    pub fn append(&mut self, mut other: Self) {
        self.pieces.append(&mut other.pieces);
    }

    /// All bytes in one piece.
    #[cfg(test)]
    pub fn concat(&self) -> Bytes {
        let mut whole = BytesMut::with_capacity(self.bytes());
        self.pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
        whole.freeze()
    }

    /// Writes everything. `timeout_ms` bounds the time without progress.
    pub async fn write_to(mut self, half: &mut (impl AsyncWrite + Unpin), timeout_ms: u64) -> io::Result<()> {
        while !self.pieces.is_empty() {
            let slices: Vec<_> = self.pieces.iter().take(MAX_SLICES).map(|piece| io::IoSlice::new(piece)).collect();
            let written = timeout(Duration::from_millis(timeout_ms), half.write_vectored(&slices))
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the peer does not read"))??;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.advance(written);
        }
        Ok(())
    }

    fn advance(&mut self, mut bytes: usize) {
        while let Some(first) = self.pieces.front_mut() {
            if bytes < first.len() {
                first.advance(bytes);
                return;
            }
            bytes -= first.len();
            self.pieces.pop_front();
        }
    }
}
