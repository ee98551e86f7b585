//! Records as programs see them.

use bytes::Bytes;

/// A record to be written.
///
/// ```
/// use esker::client::Record;
/// let record = Record::new("a value").key("a key").header("colour", "red");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// What decides the partition, and in compacted topics what the record replaces; or none.
    pub key: Option<Bytes>,
    /// The value. `None` is Kafka's null, which in a compacted topic deletes the key.
    pub value: Option<Bytes>,
    /// Names and values in their order; a name may come several times.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Milliseconds since the Unix epoch. `None`: the time of sending.
    pub timestamp_ms: Option<i64>,
    /// Where it goes. `None`: the key decides, as in Kafka's clients; records without a key go to one partition for a while,
    /// then to another.
    pub partition: Option<i32>,
}

impl Record {
    /// A record of a value alone.
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    /// A null for a key.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), ..Self::default() }
    }

    /// With this key.
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// With one header more.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push((name.into(), Some(value.into())));
        self
    }

    /// With this time, in milliseconds since the Unix epoch.
    pub fn timestamp_ms(mut self, at_ms: i64) -> Self {
        self.timestamp_ms = Some(at_ms);
        self
    }

    /// To this partition.
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// What it costs of a batch and of the producer's buffer, in bytes: somewhat more than it takes, uncompressed.
    pub fn size_bytes(&self) -> usize {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + length(value) + 10).sum();
        RECORD_OVERHEAD_BYTES + length(&self.key) + length(&self.value) + headers
    }
}

/// Most that lengths and differences of one record take in a batch.
const RECORD_OVERHEAD_BYTES: usize = 30;

impl From<&str> for Record {
    fn from(value: &str) -> Self {
        Self::new(value.to_owned())
    }
}

impl From<String> for Record {
    fn from(value: String) -> Self {
        Self::new(value)
    }
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerRecord {
    /// Its topic.
    pub topic: std::sync::Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// Its place there.
    pub offset: i64,
    /// Milliseconds since the Unix epoch: the producer's time, or the broker's where the topic says so.
    pub timestamp_ms: i64,
    /// The key, if it has one.
    pub key: Option<Bytes>,
    /// The value; `None` is Kafka's null.
    pub value: Option<Bytes>,
    /// Names and values in their order. A name that is not UTF-8 has replacement characters.
    pub headers: Vec<(String, Option<Bytes>)>,
}

impl ConsumerRecord {
    /// The value as text: empty for null, with replacement characters where it is not UTF-8.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.value.as_deref().unwrap_or_default())
    }
}
