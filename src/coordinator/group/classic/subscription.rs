//! The topics that the members of a consumer group subscribe to, read from their opaque metadata.

use bytes::Buf;

use super::group::Group;
use crate::base::HashSet;

/// Topics of all members; `None` if the group does not use the consumer protocol or a member's metadata is not what it
/// should be (then nothing may be concluded about what is in use).
pub(super) fn subscribed_topics(group: &Group) -> Option<HashSet<String>> {
    if !group.uses_consumer_protocol() {
        return None;
    }
    if group.members.is_empty() {
        return Some(HashSet::default());
    }
    let protocol = group.protocol.as_deref()?;
    let mut topics = HashSet::default();
    for member in group.members.values() {
        topics.extend(parse(&member.metadata(Some(protocol)))?);
    }
    Some(topics)
}

/// `ConsumerProtocolSubscription` version 0, which every later version starts with: a version and the topics' names.
fn parse(mut metadata: &[u8]) -> Option<Vec<String>> {
    if metadata.len() < 6 || metadata.get_i16() < 0 {
        return None;
    }
    let count = usize::try_from(metadata.get_i32()).ok()?;
    let mut topics = Vec::new();
    for _ in 0..count {
        if metadata.len() < 2 {
            return None;
        }
        let length = usize::try_from(metadata.get_i16()).ok()?;
        if metadata.len() < length {
            return None;
        }
        let (name, left) = metadata.split_at(length);
        topics.push(std::str::from_utf8(name).ok()?.to_owned());
        metadata = left;
    }
    Some(topics)
}
