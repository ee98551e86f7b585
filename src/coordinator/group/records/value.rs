//! The two values.

use bytes::Bytes;

use super::wire::{Reader, Writer};
use super::{BadRecord, FIRST_FLEXIBLE_VERSION, HIGHEST_VALUE_VERSION};

/// A committed offset (`OffsetCommitValue` versions 0 to 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetValue {
    /// The offset of the next record to consume.
    pub offset: i64,
    /// Leader epoch of the last consumed record, or -1.
    pub leader_epoch: i32,
    /// What the consumer wanted remembered.
    pub metadata: String,
    /// When it was committed, in milliseconds since the Unix epoch.
    pub commit_timestamp_ms: i64,
    /// When it expires, in milliseconds since the Unix epoch, or -1 for the broker's retention (only version 1 has it).
    pub expire_timestamp_ms: i64,
}

fn open(bytes: &[u8]) -> Result<(i16, Reader<'_>), BadRecord> {
    let mut reader = Reader::new(bytes);
    let version = reader.i16()?;
    if !(0..=HIGHEST_VALUE_VERSION).contains(&version) {
        return Err(BadRecord::UnknownValueVersion(version));
    }
    reader.flexible(version >= FIRST_FLEXIBLE_VERSION);
    Ok((version, reader))
}

impl OffsetValue {
    /// The version that Kafka 4.x writes this value in.
    pub fn version(&self) -> i16 {
        if self.expire_timestamp_ms >= 0 { 1 } else { 3 }
    }

    /// Writes the value in `version` (0 to 4); fields that the version lacks are left out.
    pub fn encode(&self, version: i16) -> Bytes {
        let mut writer = Writer::versioned(version, version >= FIRST_FLEXIBLE_VERSION);
        writer.i64(self.offset);
        if version >= 3 {
            writer.i32(self.leader_epoch);
        }
        writer.string(&self.metadata);
        writer.i64(self.commit_timestamp_ms);
        if version == 1 {
            writer.i64(self.expire_timestamp_ms);
        }
        writer.tags();
        writer.finish()
    }

    /// Reads any known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (version, mut reader) = open(bytes)?;
        let value = Self {
            offset: reader.i64()?,
            leader_epoch: if version >= 3 { reader.i32()? } else { -1 },
            metadata: reader.string()?,
            commit_timestamp_ms: reader.i64()?,
            expire_timestamp_ms: if version == 1 { reader.i64()? } else { -1 },
        };
        reader.tags()?;
        Ok(value)
    }
}

/// A generation of a group (`GroupMetadataValue` versions 0 to 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupValue {
    /// "consumer", "connect", …; empty for none.
    pub protocol_type: String,
    /// The generation.
    pub generation: i32,
    /// The assignor that the members agreed on.
    pub protocol: Option<String>,
    /// Member id of the leader.
    pub leader: Option<String>,
    /// When the group entered its state, in milliseconds since the Unix epoch, or -1 (before version 2).
    pub state_timestamp_ms: i64,
    /// The members, with what they were assigned.
    pub members: Vec<MemberValue>,
}

/// A member of a [`GroupValue`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberValue {
    /// The member's id.
    pub member_id: String,
    /// The static instance's id (KIP-345), from version 3.
    pub instance_id: Option<String>,
    /// The client's id.
    pub client_id: String,
    /// The client's address.
    pub client_host: String,
    /// Rebalance timeout in milliseconds, or -1 (before version 1).
    pub rebalance_timeout_ms: i32,
    /// Session timeout in milliseconds.
    pub session_timeout_ms: i32,
    /// The member's metadata under the group's protocol.
    pub subscription: Bytes,
    /// What the leader assigned to it.
    pub assignment: Bytes,
}

impl GroupValue {
    /// The version that Kafka 4.x writes.
    pub const VERSION: i16 = 3;

    /// Writes the value as Kafka 4.x does.
    pub fn encoded(&self) -> Bytes {
        self.encode(Self::VERSION)
    }

    /// Writes the value in `version` (0 to 4); fields that the version lacks are left out.
    pub fn encode(&self, version: i16) -> Bytes {
        let mut writer = Writer::versioned(version, version >= FIRST_FLEXIBLE_VERSION);
        writer.string(&self.protocol_type);
        writer.i32(self.generation);
        writer.nullable_string(self.protocol.as_deref());
        writer.nullable_string(self.leader.as_deref());
        if version >= 2 {
            writer.i64(self.state_timestamp_ms);
        }
        writer.array(self.members.len());
        for member in &self.members {
            writer.string(&member.member_id);
            if version >= 3 {
                writer.nullable_string(member.instance_id.as_deref());
            }
            writer.string(&member.client_id);
            writer.string(&member.client_host);
            if version >= 1 {
                writer.i32(member.rebalance_timeout_ms);
            }
            writer.i32(member.session_timeout_ms);
            writer.bytes(&member.subscription);
            writer.bytes(&member.assignment);
            writer.tags();
        }
        writer.tags();
        writer.finish()
    }

    /// Reads any known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (version, mut reader) = open(bytes)?;
        let mut value = Self {
            protocol_type: reader.string()?,
            generation: reader.i32()?,
            protocol: reader.nullable_string()?,
            leader: reader.nullable_string()?,
            state_timestamp_ms: if version >= 2 { reader.i64()? } else { -1 },
            members: Vec::new(),
        };
        let members = reader.array()?;
        if members > reader.remaining() {
            return Err(BadRecord::BadLength);
        }
        for _ in 0..members {
            value.members.push(MemberValue {
                member_id: reader.string()?,
                instance_id: if version >= 3 { reader.nullable_string()? } else { None },
                client_id: reader.string()?,
                client_host: reader.string()?,
                rebalance_timeout_ms: if version >= 1 { reader.i32()? } else { -1 },
                session_timeout_ms: reader.i32()?,
                subscription: reader.bytes()?,
                assignment: reader.bytes()?,
            });
            reader.tags()?;
        }
        reader.tags()?;
        Ok(value)
    }
}
