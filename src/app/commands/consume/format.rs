//! How a record is printed: kcat's formats, and JSON.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::client::ConsumerRecord;

/// How a record is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// A line of JSON.
    Json,
    /// These one after the other.
    Parts(Vec<Part>),
}

/// A piece of a format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Text(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Key,
    KeyBytes,
    Value,
    ValueBytes,
    TimestampMs,
    Headers,
}

impl Format {
    /// What is printed when nothing is said.
    pub fn value_and_line_feed() -> Self {
        Self::Parts(vec![Part::Value, Part::Text(b"\n".to_vec())])
    }

    /// Appends the record.
    pub fn write(&self, record: &ConsumerRecord, into: &mut Vec<u8>) {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(-1, |bytes| bytes.len() as i64).to_string();
        let Self::Parts(parts) = self else {
            into.extend_from_slice(format!("{}\n", as_json(record)).as_bytes());
            return;
        };
        for part in parts {
            match part {
                Part::Text(text) => into.extend_from_slice(text),
                Part::Topic => into.extend_from_slice(record.topic.as_bytes()),
                Part::Partition => into.extend_from_slice(record.partition.to_string().as_bytes()),
                Part::Offset => into.extend_from_slice(record.offset.to_string().as_bytes()),
                Part::Key => into.extend_from_slice(record.key.as_deref().unwrap_or_default()),
                Part::KeyBytes => into.extend_from_slice(length(&record.key).as_bytes()),
                Part::Value => into.extend_from_slice(record.value.as_deref().unwrap_or_default()),
                Part::ValueBytes => into.extend_from_slice(length(&record.value).as_bytes()),
                Part::TimestampMs => into.extend_from_slice(record.timestamp_ms.to_string().as_bytes()),
                Part::Headers => {
                    for (at, (name, value)) in record.headers.iter().enumerate() {
                        into.extend_from_slice(if at > 0 { b"," } else { b"" });
                        into.extend_from_slice(name.as_bytes());
                        into.push(b'=');
                        into.extend_from_slice(value.as_deref().unwrap_or(b"NULL"));
                    }
                }
            }
        }
    }
}

/// Reads a format: `%` and a letter, `\n`, `\r`, `\t`, `\0`, `\\`, `\xHH`, `%%`, and anything else as it is.
pub fn parse(text: &str) -> Result<Format, String> {
    let mut parts: Vec<Part> = Vec::new();
    let mut bytes = Vec::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let part = match c {
            '%' => match rest.next() {
                Some('t') => Part::Topic,
                Some('p') => Part::Partition,
                Some('o') => Part::Offset,
                Some('k') => Part::Key,
                Some('K') => Part::KeyBytes,
                Some('s') => Part::Value,
                Some('S') => Part::ValueBytes,
                Some('T') => Part::TimestampMs,
                Some('h') => Part::Headers,
                Some('%') => {
                    bytes.push(b'%');
                    continue;
                }
                Some(other) => return Err(format!("there is no %{other}; there are %t %p %o %k %s %h %T %S %K %%")),
                None => return Err("it ends with a %".to_owned()),
            },
            '\\' => {
                bytes.push(match rest.next() {
                    Some('n') => b'\n',
                    Some('r') => b'\r',
                    Some('t') => b'\t',
                    Some('0') => 0,
                    Some('\\') => b'\\',
                    Some('x') => {
                        let digits: String = rest.by_ref().take(2).collect();
                        u8::from_str_radix(&digits, 16).map_err(|_| format!("\\x{digits} is no byte"))?
                    }
                    Some(other) => return Err(format!("there is no \\{other}; there are \\n \\r \\t \\0 \\\\ \\xHH")),
                    None => return Err("it ends with a \\".to_owned()),
                });
                continue;
            }
            other => {
                bytes.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
        };
        if !bytes.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut bytes)));
        }
        parts.push(part);
    }
    if !bytes.is_empty() {
        parts.push(Part::Text(bytes));
    }
    Ok(Format::Parts(parts))
}

/// One JSON object. Bytes that are no UTF-8 are in `key_hex` and `value_hex`.
fn as_json(record: &ConsumerRecord) -> Value {
    let text =
        |bytes: &Option<Bytes>| bytes.as_ref().and_then(|bytes| std::str::from_utf8(bytes).ok().map(str::to_owned));
    let header = |(name, value): &(String, Option<Bytes>)| {
        let mut header = json!({ "name": name, "value": text(value) });
        hex_if_needed(&mut header, "value", value.as_ref());
        header
    };
    let mut value = json!({
        "topic": &*record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "key": text(&record.key),
        "value": text(&record.value),
        "headers": record.headers.iter().map(header).collect::<Vec<_>>(),
    });
    hex_if_needed(&mut value, "key", record.key.as_ref());
    hex_if_needed(&mut value, "value", record.value.as_ref());
    value
}

fn hex_if_needed(of: &mut Value, name: &str, bytes: Option<&Bytes>) {
    if let Some(bytes) = bytes.filter(|bytes| std::str::from_utf8(bytes).is_err()) {
        let digit = |at: u8| char::from_digit(u32::from(at), 16).unwrap_or('0');
        let hex: String = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
        of[format!("{name}_hex")] = hex.into();
    }
}
