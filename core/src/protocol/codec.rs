//! Kafka's primitive types as bytes, and what the generated messages share.
//!
//! [`Encoder`] and [`Decoder`] keep the first error and do nothing useful after it: an encoder goes on without harm, a
//! decoder has no bytes left and reads defaults. So a message is written and read without a branch for each field, and
//! [`Message::encode`] and [`Message::decode`] ask once, at the end. Both know whether the message's version is
//! *flexible* (KIP-482), which decides how lengths are written and whether tagged fields are there.
//!
//! A decoder allocates in proportion to the bytes that it holds, never to a number that it read: an array's count is
//! checked against the smallest size of its elements first.

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::protocol::{ApiKey, ErrorCode};
use crate::{Error, ErrorKind};

/// Byte fields of at least this many bytes are kept as they are instead of being copied into the encoder's buffer.
const KEPT_APART: usize = 1024;

/// What is wrong with a message, or with the bytes that should be one.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The bytes end before the message does.
    #[error("message ends early position={position} wanted={wanted} remaining={remaining}")]
    Truncated {
        /// Where in the bytes something was to be read.
        position: usize,
        /// How many bytes it needs at least.
        wanted: usize,
        /// How many there are.
        remaining: usize,
    },
    /// A length or count that cannot be one.
    #[error("invalid length position={position} length={length}")]
    InvalidLength {
        /// Where in the bytes the length ends.
        position: usize,
        /// The length as read.
        length: i64,
    },
    /// A variable-length number of more than 32 bits.
    #[error("variable-length number is too long position={position}")]
    InvalidVarint {
        /// Where in the bytes the number ends.
        position: usize,
    },
    /// A string that is not UTF-8.
    #[error("string is not UTF-8 position={position}")]
    InvalidUtf8 {
        /// Where in the bytes the string starts.
        position: usize,
    },
    /// A null where the version has none.
    #[error("null where a value is required position={position}")]
    UnexpectedNull {
        /// Where in the bytes the null ends.
        position: usize,
    },
    /// The message has no such version.
    #[error("unsupported version message={message} version={version} supported={min}-{max}")]
    UnsupportedVersion {
        /// The message's name.
        message: &'static str,
        /// The version asked for.
        version: i16,
        /// The lowest version there is.
        min: i16,
        /// The highest version there is.
        max: i16,
    },
    /// No message is known under this key.
    #[error("unknown api key={0}")]
    UnknownApi(ApiKey),
    /// A field has a value that the version cannot say.
    #[error("field cannot be set in this version message={message} version={version} field={field}")]
    FieldNotInVersion {
        /// The message's name.
        message: &'static str,
        /// The version it was to be encoded in.
        version: i16,
        /// The field's name.
        field: &'static str,
    },
    /// A string, byte field, array or frame that is longer than its length field can say.
    #[error("value is too long message={message} length={length} limit={limit}")]
    TooLong {
        /// The message's name.
        message: &'static str,
        /// The length.
        length: usize,
        /// The most there can be.
        limit: usize,
    },
    /// A frame that is larger than the connection takes.
    #[error("frame is too large size={size} limit={limit}")]
    FrameTooLarge {
        /// The frame's size as announced.
        size: usize,
        /// The connection's limit.
        limit: usize,
    },
    /// A response that answers none of the requests that wait, or not the first of them.
    #[error("response does not match a request correlation_id={found} expected={expected:?}")]
    UnexpectedResponse {
        /// The correlation id of the response.
        found: i32,
        /// The correlation id of the oldest request without a response.
        expected: Option<i32>,
    },
    /// The peer does not speak an API, or no version of it that we do.
    #[error("broker has no common version api={api} ours={ours:?} theirs={theirs:?}")]
    NoCommonVersion {
        /// The API.
        api: ApiKey,
        /// Lowest and highest version that we speak.
        ours: Option<(i16, i16)>,
        /// Lowest and highest version that the peer speaks.
        theirs: Option<(i16, i16)>,
    },
}

impl From<ProtocolError> for Error {
    fn from(error: ProtocolError) -> Self {
        use ProtocolError as E;
        let kind = match error {
            E::UnsupportedVersion { .. } | E::UnknownApi(_) | E::NoCommonVersion { .. } => ErrorKind::Unsupported,
            E::FieldNotInVersion { .. } => ErrorKind::Unsupported,
            E::TooLong { .. } => ErrorKind::Invalid,
            _ => ErrorKind::Corrupt,
        };
        Self::new(kind, error.to_string())
    }
}

/// Something that is written as part of a message.
pub trait Encode {
    /// Appends the value as `version` of its message has it.
    fn write(&self, e: &mut Encoder, version: i16);
}

/// Something that is read as part of a message.
pub trait Decode: Sized {
    /// The fewest bytes that a value takes in any version.
    const MIN_SIZE: usize;

    /// Takes the value off the decoder's bytes; a default if they are not one, which the decoder remembers.
    fn read(d: &mut Decoder, version: i16) -> Self;
}

/// A whole message: a request, a response, or the key or value of a record that Kafka itself writes.
pub trait Message: Encode + Decode + Default {
    /// Kafka's name.
    const NAME: &'static str;
    /// The lowest and the highest version.
    const VERSIONS: (i16, i16);
    /// The lowest version with compact lengths and tagged fields; `i16::MAX` if there is none.
    const FLEXIBLE: i16;
    /// Whether a version above the highest is read as the highest, as Kafka's clients do with what other clients wrote.
    const READS_NEWER: bool = false;

    /// Appends the message in `version`.
    ///
    /// # Errors
    /// [`ProtocolError::UnsupportedVersion`], [`ProtocolError::FieldNotInVersion`] if a field has a value that would be
    /// lost and must not be, [`ProtocolError::TooLong`].
    fn encode(&self, e: &mut Encoder, version: i16) -> Result<(), ProtocolError> {
        check_version::<Self>(version)?;
        e.message = Self::NAME;
        e.version = version;
        e.flexible = version >= Self::FLEXIBLE;
        self.write(e, version);
        e.check()
    }

    /// Takes the message in `version` off the decoder's bytes and leaves what follows it.
    ///
    /// # Errors
    /// [`ProtocolError::UnsupportedVersion`], or what is wrong with the bytes.
    fn decode(d: &mut Decoder, version: i16) -> Result<Self, ProtocolError> {
        check_version::<Self>(version)?;
        d.flexible = version >= Self::FLEXIBLE;
        let message = Self::read(d, version);
        d.check()?;
        Ok(message)
    }

    /// The message behind its version as a 16-bit number, as keys and values of Kafka's own records have it and the
    /// members of a consumer group send it.
    ///
    /// # Errors
    /// As [`Message::encode`].
    fn to_versioned_bytes(&self, version: i16) -> Result<Bytes, ProtocolError> {
        let mut e = Encoder::new();
        version.write(&mut e, version);
        self.encode(&mut e, version)?;
        e.into_bytes()
    }

    /// The message in `bytes` that start with its version; what follows the message is ignored.
    ///
    /// # Errors
    /// As [`Message::decode`]; a newer version than we know only where Kafka itself does not read those.
    fn from_versioned_bytes(bytes: Bytes) -> Result<Self, ProtocolError> {
        let mut d = Decoder::new(bytes);
        let version = i16::read(&mut d, 0);
        d.check()?;
        Self::decode(&mut d, if Self::READS_NEWER { version.min(Self::VERSIONS.1) } else { version })
    }
}

fn check_version<M: Message>(version: i16) -> Result<(), ProtocolError> {
    let (min, max) = M::VERSIONS;
    if (min..=max).contains(&version) {
        return Ok(());
    }
    Err(ProtocolError::UnsupportedVersion { message: M::NAME, version, min, max })
}

/// Gathers the bytes of a message; large byte fields are kept as they are, so that they are never copied.
#[derive(Debug, Default)]
pub struct Encoder {
    buffer: BytesMut,
    /// Bytes that go in front of the buffer's byte at the position.
    apart: Vec<(usize, Bytes)>,
    apart_len: usize,
    framed: bool,
    message: &'static str,
    version: i16,
    flexible: bool,
    error: Option<ProtocolError>,
}

impl Encoder {
    /// An encoder with no bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// An encoder whose bytes begin with their own length, as Kafka puts a message on a connection.
    pub fn framed() -> Self {
        let mut buffer = BytesMut::with_capacity(256);
        buffer.put_i32(0);
        Self { buffer, framed: true, ..Self::default() }
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.buffer.len() + self.apart_len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes in order, in as few pieces as can be had without copying large ones.
    ///
    /// # Errors
    /// The first error that was met.
    pub fn finish(mut self) -> Result<Vec<Bytes>, ProtocolError> {
        if self.framed {
            let length = self.len() - 4;
            let size = self.length(length, i32::MAX as usize) as u32;
            self.buffer[..4].copy_from_slice(&size.to_be_bytes());
        }
        self.check()?;
        let mut buffer = self.buffer.freeze();
        let mut pieces = Vec::with_capacity(2 * self.apart.len() + 1);
        let mut position = 0;
        for (at, bytes) in self.apart {
            if at > position {
                pieces.push(buffer.split_to(at - position));
                position = at;
            }
            pieces.push(bytes);
        }
        if !buffer.is_empty() {
            pieces.push(buffer);
        }
        Ok(pieces)
    }

    /// The bytes in one piece, which copies large fields.
    ///
    /// # Errors
    /// The first error that was met.
    pub fn into_bytes(self) -> Result<Bytes, ProtocolError> {
        let mut pieces = self.finish()?;
        if pieces.len() < 2 {
            return Ok(pieces.pop().unwrap_or_default());
        }
        Ok(pieces.concat().into())
    }

    pub(super) fn check(&self) -> Result<(), ProtocolError> {
        self.error.clone().map_or(Ok(()), Err)
    }

    pub(super) fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    fn fail(&mut self, error: ProtocolError) {
        self.error.get_or_insert(error);
    }

    /// Remembers an error unless `is_default`: `field` is not in the version, and its value would be lost.
    pub(super) fn require_default(&mut self, is_default: bool, field: &'static str) {
        if !is_default {
            let (message, version) = (self.message, self.version);
            self.fail(ProtocolError::FieldNotInVersion { message, version, field });
        }
    }

    /// Remembers an error unless `holds`: `field` is null, and the version has no null for it.
    pub(super) fn require(&mut self, holds: bool, field: &'static str) {
        self.require_default(holds, field);
    }

    fn length(&mut self, length: usize, limit: usize) -> usize {
        if length <= limit {
            return length;
        }
        let message = self.message;
        self.fail(ProtocolError::TooLong { message, length, limit });
        0
    }

    fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.buffer.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.put_u8(value as u8);
    }

    /// The length of a byte field or array; `None` is null.
    fn put_length(&mut self, length: Option<usize>) {
        let length = length.map(|length| self.length(length, i32::MAX as usize) as u32);
        match (self.flexible, length) {
            (true, length) => self.unsigned_varint(length.map_or(0, |length| length + 1)),
            (false, length) => self.buffer.put_i32(length.map_or(-1, |length| length as i32)),
        }
    }

    fn put_string(&mut self, string: Option<&str>) {
        let length = string.map(|string| self.length(string.len(), i16::MAX as usize));
        if self.flexible {
            self.unsigned_varint(length.map_or(0, |length| length as u32 + 1));
        } else {
            self.buffer.put_i16(length.map_or(-1, |length| length as i16));
        }
        self.buffer.put_slice(string.unwrap_or_default().as_bytes());
    }

    fn put_bytes(&mut self, bytes: &Bytes) {
        if bytes.len() < KEPT_APART {
            self.buffer.put_slice(bytes);
        } else {
            self.apart.push((self.buffer.len(), bytes.clone()));
            self.apart_len += bytes.len();
        }
    }

    /// A struct behind a byte that says whether it is there.
    pub(super) fn write_nullable<T: Encode>(&mut self, value: Option<&T>, version: i16) {
        match value {
            Some(value) => {
                self.buffer.put_i8(1);
                value.write(self, version);
            }
            None => self.buffer.put_i8(-1),
        }
    }

    /// The tagged fields (tag, whether it is there, value), in the order of their tags; nothing in older versions.
    pub(super) fn write_tagged(&mut self, fields: &[(u32, bool, &dyn Encode)], version: i16) {
        if !self.flexible {
            return;
        }
        self.unsigned_varint(fields.iter().filter(|(_, present, _)| *present).count() as u32);
        for (tag, _, value) in fields.iter().filter(|(_, present, _)| *present) {
            let mut field = Self { message: self.message, version: self.version, flexible: true, ..Self::default() };
            value.write(&mut field, version);
            self.unsigned_varint(*tag);
            let length = self.length(field.len(), i32::MAX as usize);
            self.unsigned_varint(length as u32);
            match field.finish() {
                Ok(pieces) => pieces.iter().for_each(|piece| self.put_bytes(piece)),
                Err(error) => self.fail(error),
            }
        }
    }

    /// The end of a struct that has no tagged fields; nothing in older versions.
    pub(super) fn write_no_tagged(&mut self) {
        if self.flexible {
            self.buffer.put_u8(0);
        }
    }
}

/// Reads the bytes of a message. Byte fields are slices of them and hold them alive.
#[derive(Debug)]
pub struct Decoder {
    bytes: Bytes,
    position: usize,
    /// Where reading stops: the end of the bytes, or of a tagged field.
    end: usize,
    flexible: bool,
    error: Option<ProtocolError>,
}

impl Decoder {
    /// A decoder at the start of `bytes`.
    pub fn new(bytes: Bytes) -> Self {
        let end = bytes.len();
        Self { bytes, position: 0, end, flexible: false, error: None }
    }

    /// How many bytes have not been read.
    pub fn remaining(&self) -> usize {
        self.end - self.position
    }

    pub(super) fn check(&self) -> Result<(), ProtocolError> {
        self.error.clone().map_or(Ok(()), Err)
    }

    pub(super) fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    fn fail(&mut self, error: ProtocolError) {
        self.error.get_or_insert(error);
        self.position = self.end;
    }

    /// Remembers an error unless `holds`: the version has no null for what was just read.
    pub(super) fn require(&mut self, holds: bool) {
        if !holds {
            self.fail(ProtocolError::UnexpectedNull { position: self.position });
        }
    }

    /// The next 16-bit number, which is left where it is; 0 if there is none.
    pub(super) fn peek_i16(&self) -> i16 {
        let next = &self.bytes[self.position..self.end];
        next.first_chunk().map_or(0, |bytes| i16::from_be_bytes(*bytes))
    }

    /// Takes the next `length` bytes; `None` if there are not so many.
    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let (position, remaining) = (self.position, self.remaining());
        if length > remaining {
            self.fail(ProtocolError::Truncated { position, wanted: length, remaining });
            return None;
        }
        self.position += length;
        Some(&self.bytes[position..position + length])
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
    }

    fn unsigned_varint(&mut self) -> u32 {
        let mut value = 0;
        for shift in (0..32).step_by(7) {
            let [byte] = self.array();
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                if shift == 28 && byte > 0x0f {
                    break;
                }
                return value;
            }
        }
        self.fail(ProtocolError::InvalidVarint { position: self.position });
        0
    }

    /// The length of a byte field or array, checked against the bytes that it needs at least; `None` is null.
    fn length(&mut self, min_size: usize) -> Option<usize> {
        let length = if self.flexible { i64::from(self.unsigned_varint()) - 1 } else { i64::from(i32::read(self, 0)) };
        self.check_length(length, min_size)
    }

    fn string_length(&mut self) -> Option<usize> {
        let length = if self.flexible { i64::from(self.unsigned_varint()) - 1 } else { i64::from(i16::read(self, 0)) };
        if length > i64::from(i16::MAX) {
            self.fail(ProtocolError::InvalidLength { position: self.position, length });
            return Some(0);
        }
        self.check_length(length, 1)
    }

    fn check_length(&mut self, length: i64, min_size: usize) -> Option<usize> {
        if length == -1 {
            return None;
        }
        let (position, remaining) = (self.position, self.remaining());
        match usize::try_from(length) {
            Ok(length) if length <= remaining / min_size.max(1) => Some(length),
            Ok(length) => {
                let wanted = length.saturating_mul(min_size);
                self.fail(ProtocolError::Truncated { position, wanted, remaining });
                Some(0)
            }
            Err(_) => {
                self.fail(ProtocolError::InvalidLength { position, length });
                Some(0)
            }
        }
    }

    fn string(&mut self, length: usize) -> String {
        let position = self.position;
        let bytes = self.take(length).unwrap_or_default();
        match std::str::from_utf8(bytes) {
            Ok(string) => string.to_owned(),
            Err(_) => {
                self.fail(ProtocolError::InvalidUtf8 { position });
                String::new()
            }
        }
    }

    fn slice(&mut self, length: usize) -> Bytes {
        let start = self.position;
        if self.take(length).is_none() {
            return Bytes::new();
        }
        self.bytes.slice(start..start + length)
    }

    fn elements<T: Decode>(&mut self, count: usize, version: i16) -> Vec<T> {
        let mut elements = Vec::with_capacity(count);
        while elements.len() < count && self.error.is_none() {
            elements.push(T::read(self, version));
        }
        elements
    }

    /// A value that must not be null.
    fn some<T: Default>(&mut self, value: Option<T>) -> T {
        self.require(value.is_some());
        value.unwrap_or_default()
    }

    /// A struct behind a byte that says whether it is there.
    pub(super) fn read_nullable<T: Decode>(&mut self, version: i16) -> Option<T> {
        if i8::read(self, version) < 0 || self.error.is_some() {
            return None;
        }
        Some(T::read(self, version))
    }

    /// The tagged fields: `read` reads the value of one, or returns false for one that it does not know, which is
    /// skipped. Nothing in older versions.
    pub(super) fn read_tagged(&mut self, read: &mut dyn FnMut(&mut Self, u32) -> bool) {
        if !self.flexible {
            return;
        }
        for _ in 0..self.unsigned_varint() {
            let tag = self.unsigned_varint();
            let size = self.unsigned_varint() as usize;
            let (position, remaining) = (self.position, self.remaining());
            if size > remaining {
                self.fail(ProtocolError::Truncated { position, wanted: size, remaining });
            }
            if self.error.is_some() {
                return;
            }
            let end = std::mem::replace(&mut self.end, position + size);
            read(self, tag);
            self.end = end;
            if self.error.is_some() {
                self.position = end;
                return;
            }
            self.position = position + size;
        }
    }

    /// The tagged fields of a struct that has none that we know.
    pub(super) fn skip_tagged(&mut self) {
        self.read_tagged(&mut |_, _| false);
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Encode for $number {
            fn write(&self, e: &mut Encoder, _: i16) {
                e.buffer.put_slice(&self.to_be_bytes());
            }
        }

        impl Decode for $number {
            const MIN_SIZE: usize = size_of::<$number>();

            fn read(d: &mut Decoder, _: i16) -> Self {
                Self::from_be_bytes(d.array())
            }
        }
    )*};
}

numbers!(i8, u16, i16, u32, i32, i64, f64);

impl Encode for bool {
    fn write(&self, e: &mut Encoder, _: i16) {
        e.buffer.put_u8(u8::from(*self));
    }
}

impl Decode for bool {
    const MIN_SIZE: usize = 1;

    fn read(d: &mut Decoder, _: i16) -> Self {
        d.array() != [0]
    }
}

impl Encode for Uuid {
    fn write(&self, e: &mut Encoder, _: i16) {
        e.buffer.put_slice(self.as_bytes());
    }
}

impl Decode for Uuid {
    const MIN_SIZE: usize = 16;

    fn read(d: &mut Decoder, _: i16) -> Self {
        Self::from_bytes(d.array())
    }
}

impl Encode for ErrorCode {
    fn write(&self, e: &mut Encoder, version: i16) {
        self.0.write(e, version);
    }
}

impl Decode for ErrorCode {
    const MIN_SIZE: usize = 2;

    fn read(d: &mut Decoder, version: i16) -> Self {
        Self(i16::read(d, version))
    }
}

impl Encode for String {
    fn write(&self, e: &mut Encoder, _: i16) {
        e.put_string(Some(self));
    }
}

impl Encode for Option<String> {
    fn write(&self, e: &mut Encoder, _: i16) {
        e.put_string(self.as_deref());
    }
}

impl Decode for String {
    const MIN_SIZE: usize = 1;

    fn read(d: &mut Decoder, version: i16) -> Self {
        let string = Decode::read(d, version);
        d.some(string)
    }
}

impl Decode for Option<String> {
    const MIN_SIZE: usize = 1;

    fn read(d: &mut Decoder, _: i16) -> Self {
        let length = d.string_length()?;
        Some(d.string(length))
    }
}

impl Encode for Bytes {
    fn write(&self, e: &mut Encoder, _: i16) {
        e.put_length(Some(self.len()));
        e.put_bytes(self);
    }
}

impl Encode for Option<Bytes> {
    fn write(&self, e: &mut Encoder, version: i16) {
        match self {
            Some(bytes) => bytes.write(e, version),
            None => e.put_length(None),
        }
    }
}

impl Decode for Bytes {
    const MIN_SIZE: usize = 1;

    fn read(d: &mut Decoder, version: i16) -> Self {
        let bytes = Decode::read(d, version);
        d.some(bytes)
    }
}

impl Decode for Option<Bytes> {
    const MIN_SIZE: usize = 1;

    fn read(d: &mut Decoder, _: i16) -> Self {
        let length = d.length(1)?;
        Some(d.slice(length))
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn write(&self, e: &mut Encoder, version: i16) {
        e.put_length(Some(self.len()));
        self.iter().for_each(|element| element.write(e, version));
    }
}

impl<T: Encode> Encode for Option<Vec<T>> {
    fn write(&self, e: &mut Encoder, version: i16) {
        match self {
            Some(elements) => elements.write(e, version),
            None => e.put_length(None),
        }
    }
}

impl<T: Decode> Decode for Vec<T> {
    const MIN_SIZE: usize = 1;

    fn read(d: &mut Decoder, version: i16) -> Self {
        let elements = Decode::read(d, version);
        d.some(elements)
    }
}

impl<T: Decode> Decode for Option<Vec<T>> {
    const MIN_SIZE: usize = 1;

    fn read(d: &mut Decoder, version: i16) -> Self {
        let count = d.length(T::MIN_SIZE)?;
        Some(d.elements(count, version))
    }
}
