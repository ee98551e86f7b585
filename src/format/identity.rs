//! Whom a directory or a bucket belongs to: the file `VERSION` of a data directory and the object `cluster` of a bucket.
//!
//! Text, so that a person can read it; a few lines of `name: value`, the last one the checksum of those before it:
//!
//! ```text
//! esker data directory        or: esker object store
//! format: 1
//! cluster: 5bF3nJ2pQxqk1o0yZ8dGwA
//! epochs: 2000000000          object store only, and only if not 0: then its format is 2
//! directory: 6f1c2a3e-…       data directory only
//! broker: 1                   data directory only
//! check: 0f3a99c1             CRC-32C of every byte above this line, as hex
//! ```

use std::fmt::Write as _;

use uuid::Uuid;

use super::FormatError;
use super::codec::crc32c;

/// Newest format version of a data directory that this build writes and reads.
pub const VERSION: u16 = 1;
/// Newest format version of an object store that this build writes and reads.
pub const STORE_VERSION: u16 = 2;
/// An identity is never longer than this, in bytes; more is not read.
pub const MAX_BYTES: usize = 4096;

/// Whom something belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Of a broker's data directory.
    DataDirectory {
        /// The cluster's id, as in the metadata store. Not empty; no white space.
        cluster_id: String,
        /// This directory's own id.
        directory_id: Uuid,
        /// The broker that it belongs to.
        broker_id: i32,
    },
    /// Of a bucket (with prefix) or a directory of objects.
    ObjectStore {
        /// The cluster's id.
        cluster_id: String,
        /// The `epoch_base` of the metadata store that the bucket goes with (docs/adr/0006); 0 unless that was rebuilt.
        epoch_base: u64,
    },
}

impl Identity {
    /// The cluster's id.
    pub fn cluster_id(&self) -> &str {
        match self {
            Self::DataDirectory { cluster_id, .. } | Self::ObjectStore { cluster_id, .. } => cluster_id,
        }
    }

    fn title(&self) -> &'static str {
        match self {
            Self::DataDirectory { .. } => "esker data directory",
            Self::ObjectStore { .. } => "esker object store",
        }
    }

    /// The text.
    pub fn encode(&self) -> String {
        let version = match self {
            Self::ObjectStore { epoch_base, .. } if *epoch_base != 0 => STORE_VERSION,
            _ => VERSION,
        };
        let mut text = format!("{}\nformat: {version}\ncluster: {}\n", self.title(), self.cluster_id());
        // Writing to a String cannot fail.
        match self {
            Self::DataDirectory { directory_id, broker_id, .. } => {
                let _ = write!(text, "directory: {directory_id}\nbroker: {broker_id}\n");
            }
            Self::ObjectStore { epoch_base: 0, .. } => {}
            Self::ObjectStore { epoch_base, .. } => {
                let _ = writeln!(text, "epochs: {epoch_base}");
            }
        }
        let check = crc32c(text.as_bytes());
        let _ = writeln!(text, "check: {check:08x}");
        text
    }

    /// Reads the text back. The version is looked at before anything else, so that a newer one is called newer.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let what = "identity (VERSION file or cluster object)";
        let text = std::str::from_utf8(bytes).map_err(|_| FormatError::WrongMagic("an esker identity"))?;
        let mut lines = text.lines();
        let title = lines.next().unwrap_or_default();
        if title != "esker data directory" && title != "esker object store" {
            return Err(FormatError::WrongMagic("an esker identity"));
        }
        let mut next = |name: &str| {
            let line = lines.next().ok_or(FormatError::Truncated(what))?;
            let value = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(": "));
            value.ok_or(FormatError::Invalid(what))
        };
        let found: u16 = next("format")?.parse().map_err(|_| FormatError::Invalid(what))?;
        let of_store = title == "esker object store";
        let supported = if of_store { STORE_VERSION } else { VERSION };
        if found > supported {
            return Err(FormatError::Newer { what: "the identity", found, supported });
        }
        let cluster_id = next("cluster")?.to_owned();
        let identity = if of_store {
            let epochs = |text: &str| text.parse().map_err(|_| FormatError::Invalid(what));
            let epoch_base = if found == 1 { 0 } else { epochs(next("epochs")?)? };
            Self::ObjectStore { cluster_id, epoch_base }
        } else {
            let directory_id = next("directory")?.parse().map_err(|_| FormatError::Invalid(what))?;
            let broker_id = next("broker")?.parse().map_err(|_| FormatError::Invalid(what))?;
            Self::DataDirectory { cluster_id, directory_id, broker_id }
        };
        next("check")?;
        // One way to write it: what encodes differently was changed.
        if identity.encode() == text { Ok(identity) } else { Err(FormatError::Checksum(what)) }
    }
}
