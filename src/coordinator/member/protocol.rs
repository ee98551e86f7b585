//! The opaque bytes that members of consumer groups send each other: Kafka's `ConsumerProtocolSubscription` and
//! `ConsumerProtocolAssignment`, version 0, which every later version begins with.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Partitions by topic.
pub type Assignment = BTreeMap<String, Vec<i32>>;

/// Name of the protocol type.
pub const CONSUMER: &str = "consumer";
/// Name of the one assignor that is spoken here.
pub const RANGE: &str = "range";

/// The metadata of a member that wants `topics`.
pub fn subscription<'a>(topics: impl ExactSizeIterator<Item = &'a str>) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    bytes.put_i32(i32::try_from(topics.len()).unwrap_or(i32::MAX));
    topics.for_each(|topic| put_text(&mut bytes, topic));
    // No data of the user's.
    bytes.put_i32(-1);
    bytes.freeze()
}

/// The topics that a member wants; `None` if its metadata is not what it should be.
pub fn topics_of(mut metadata: &[u8]) -> Option<Vec<String>> {
    if metadata.try_get_i16().ok()? < 0 {
        return None;
    }
    let count = metadata.try_get_i32().ok()?;
    (0..count.max(0)).map(|_| take_text(&mut metadata)).collect()
}

/// The assignment of a member.
pub fn assignment(of: &Assignment) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    bytes.put_i32(i32::try_from(of.len()).unwrap_or(i32::MAX));
    for (topic, partitions) in of {
        put_text(&mut bytes, topic);
        bytes.put_i32(i32::try_from(partitions.len()).unwrap_or(i32::MAX));
        for partition in partitions {
            bytes.put_i32(*partition);
        }
    }
    bytes.put_i32(-1);
    bytes.freeze()
}

/// What a member was assigned; nothing for no bytes, `None` if they are not what they should be.
pub fn assigned(mut bytes: &[u8]) -> Option<Assignment> {
    let mut assignment = Assignment::new();
    if bytes.is_empty() {
        return Some(assignment);
    }
    if bytes.try_get_i16().ok()? < 0 {
        return None;
    }
    for _ in 0..bytes.try_get_i32().ok()?.max(0) {
        let topic = take_text(&mut bytes)?;
        let count = bytes.try_get_i32().ok()?;
        let partitions: Option<Vec<i32>> = (0..count.max(0)).map(|_| bytes.try_get_i32().ok()).collect();
        assignment.entry(topic).or_default().extend(partitions?);
    }
    Some(assignment)
}

fn put_text(bytes: &mut BytesMut, text: &str) {
    // Names of topics are short; a longer one is nobody's.
    let text = &text.as_bytes()[..text.len().min(i16::MAX as usize)];
    bytes.put_i16(text.len() as i16);
    bytes.put_slice(text);
}

fn take_text(bytes: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(bytes.try_get_i16().ok()?).ok()?;
    let (text, left) = bytes.split_at_checked(length)?;
    *bytes = left;
    Some(std::str::from_utf8(text).ok()?.to_owned())
}
