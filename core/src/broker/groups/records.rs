//! What the coordinator remembers, as records of `__consumer_offsets` in Kafka's own format, so that Kafka reads what we
//! wrote and we read what Kafka wrote.
//!
//! A key starts with a number that says what it is the key of: 0 and 1 an offset, 2 a group; others belong to kinds of
//! groups that came later. A value starts with its version. We write the versions that every Kafka since 2.3 reads.

use bytes::Bytes;

use crate::protocol::codec::Encode;
use crate::protocol::messages::group_metadata::{GroupMetadataKey, GroupMetadataValue};
use crate::protocol::messages::offset_commit_record::{OffsetCommitKey, OffsetCommitValue};
use crate::protocol::{Decoder, Encoder, Message, ProtocolError};
use crate::{Error, ErrorKind};

const OFFSET_KEY: i16 = 1;
const GROUP_KEY: i16 = 2;
const OFFSET_VALUE: i16 = 3;
/// The one version that has room for a time at which the offset expires; it has none for a leader epoch.
const EXPIRING_OFFSET_VALUE: i16 = 1;
const GROUP_VALUE: i16 = 3;

/// A key and a value; no value takes back what was remembered under the key.
pub(crate) type Record = (Bytes, Option<Bytes>);

/// What a record of the internal topic says.
#[derive(Debug)]
pub(super) enum Stored {
    Offset(OffsetCommitKey, Option<OffsetCommitValue>),
    Group(GroupMetadataKey, Option<GroupMetadataValue>),
    /// Of a kind or in a version that we do not know: the number is the key's, then the value's.
    Unknown(i16, Option<i16>),
}

pub(super) fn offset_key(group: &str, topic: &str, partition: i32) -> Result<Bytes, ProtocolError> {
    key(OFFSET_KEY, &OffsetCommitKey { group: group.to_owned(), topic: topic.to_owned(), partition })
}

pub(super) fn offset_value(value: &OffsetCommitValue) -> Result<Bytes, ProtocolError> {
    value.to_versioned_bytes(if value.expire_timestamp == -1 { OFFSET_VALUE } else { EXPIRING_OFFSET_VALUE })
}

pub(super) fn group_key(group: &str) -> Result<Bytes, ProtocolError> {
    key(GROUP_KEY, &GroupMetadataKey { group: group.to_owned() })
}

pub(super) fn group_value(value: &GroupMetadataValue) -> Result<Bytes, ProtocolError> {
    value.to_versioned_bytes(GROUP_VALUE)
}

/// The partition of `__consumer_offsets` that holds a group's records, of so many: Kafka's choice, by Java's hash.
pub(in crate::broker) fn partition_of(group: &str, partitions: usize) -> i32 {
    let hash = group.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()));
    let hash = hash.checked_abs().unwrap_or(0);
    i32::try_from(partitions).ok().and_then(|partitions| hash.checked_rem(partitions)).unwrap_or(0)
}

/// Reads a record.
///
/// # Errors
/// `Corrupt` if key or value are not what their versions have.
pub(super) fn read(key: &[u8], value: Option<&[u8]>) -> Result<Stored, Error> {
    let kind = leading_number(key)?;
    let version = value.map(leading_number).transpose()?;
    let mut d = Decoder::new(Bytes::copy_from_slice(&key[2..]));
    let known = |(min, max): (i16, i16)| version.is_none_or(|version| (min..=max).contains(&version));
    Ok(match kind {
        0 | OFFSET_KEY if known(OffsetCommitValue::VERSIONS) => {
            Stored::Offset(OffsetCommitKey::decode(&mut d, 0)?, decode(value)?)
        }
        GROUP_KEY if known(GroupMetadataValue::VERSIONS) => {
            Stored::Group(GroupMetadataKey::decode(&mut d, 0)?, decode(value)?)
        }
        _ => Stored::Unknown(kind, version),
    })
}

fn key(kind: i16, message: &impl Message) -> Result<Bytes, ProtocolError> {
    let mut e = Encoder::new();
    kind.write(&mut e, 0);
    message.encode(&mut e, 0)?;
    e.into_bytes()
}

fn decode<M: Message>(value: Option<&[u8]>) -> Result<Option<M>, ProtocolError> {
    value.map(|value| M::from_versioned_bytes(Bytes::copy_from_slice(value))).transpose()
}

fn leading_number(bytes: &[u8]) -> Result<i16, Error> {
    match bytes {
        [first, second, ..] => Ok(i16::from_be_bytes([*first, *second])),
        _ => Err(Error::new(ErrorKind::Corrupt, format!("record of a group has no version size={}", bytes.len()))),
    }
}
