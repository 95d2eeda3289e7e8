//! The five codecs: what they are called, and bytes through them.
//!
//! Reading never trusts a size that the compressed bytes claim: what is reserved ahead follows from the compressed size, the
//! rest grows as bytes come out, and the caller's limit ends it. The frames of LZ4 and Snappy are read and written here,
//! because they are as Kafka's Java client has them and not as the usual libraries do.

mod lz4;
mod snappy;
mod zstd;

#[cfg(test)]
pub(super) use lz4::xxh32;

use std::{
    fmt,
    io::{self, BufRead, BufReader, Read, Write},
    ops::RangeInclusive,
    str::FromStr,
};

use super::RecordError;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy in the framing of its Java library; bare blocks are read, too.
    Snappy,
    /// The LZ4 frame format, with independent blocks.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The number that stands for it in a batch's attributes.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The codec of a number, `None` if there is none.
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.get(usize::from(id)).copied()
    }

    /// The value of Kafka's option `compression.type` for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The levels that Kafka's options (`compression.gzip.level` and so on) accept, and the default among them. `None` for
    /// a codec without levels. For lz4 there is but one here, whatever the option says.
    pub const fn levels(self) -> Option<(RangeInclusive<i32>, i32)> {
        match self {
            Self::None | Self::Snappy => None,
            Self::Gzip => Some((1..=9, 6)),
            Self::Lz4 => Some((1..=17, 9)),
            Self::Zstd => Some((-131_072..=22, 3)),
        }
    }

    /// Compresses `plain` onto the end of `out`.
    pub(super) fn compress(self, level: Option<i32>, plain: &[u8], out: &mut Vec<u8>) -> Result<(), RecordError> {
        let level = self.levels().map(|(range, default)| match level {
            Some(level) => level.clamp(*range.start(), *range.end()),
            None => default,
        });
        let result = match self {
            Self::None => {
                out.extend_from_slice(plain);
                Ok(())
            }
            Self::Gzip => gzip(level.unwrap_or_default() as u32, plain, out),
            Self::Snappy => snappy::compress(plain, out),
            Self::Lz4 => lz4::compress(plain, out),
            Self::Zstd => zstd::compress(level.unwrap_or_default(), plain, out),
        };
        result.map_err(|error| self.failed(&error, usize::MAX))
    }

    /// Decompresses all of `packed`, to at most `limit` bytes. Not for `None`, which needs no copy.
    pub(super) fn decompress(self, packed: &[u8], limit: usize) -> Result<Vec<u8>, RecordError> {
        let mut plain = Vec::new();
        let result = match self {
            Self::None => fill(packed, packed.len(), &mut plain, limit),
            Self::Gzip => fill(flate2::bufread::MultiGzDecoder::new(packed), packed.len(), &mut plain, limit),
            Self::Zstd => zstd::decompress(packed, |reader| fill(reader, packed.len(), &mut plain, limit)).flatten(),
            Self::Snappy => {
                snappy::Blocks::new(packed).and_then(|blocks| concat(blocks, packed.len(), &mut plain, limit))
            }
            Self::Lz4 => lz4::Blocks::new(packed).and_then(|blocks| concat(blocks, packed.len(), &mut plain, limit)),
        };
        match result {
            Ok(()) => Ok(plain),
            Err(error) => Err(self.failed(&error, limit)),
        }
    }

    /// Hands a reader of the plain bytes to `visit`, so that they are never in memory as a whole. It is for the visitor to stop
    /// reading at `limit`; no single step of decompression exceeds it.
    pub(super) fn stream<V: Visit>(self, packed: &[u8], limit: usize, visit: V) -> Result<V::Output, RecordError> {
        let failed = |error: io::Error| self.failed(&error, limit);
        match self {
            Self::None => visit.visit(packed),
            Self::Gzip => visit.visit(BufReader::with_capacity(CHUNK, flate2::bufread::MultiGzDecoder::new(packed))),
            Self::Zstd => zstd::decompress(packed, |reader| visit.visit(BufReader::with_capacity(CHUNK, reader)))
                .map_err(failed)?,
            Self::Snappy => visit.visit(BlockReader::new(snappy::Blocks::new(packed).map_err(failed)?, limit)),
            Self::Lz4 => visit.visit(BlockReader::new(lz4::Blocks::new(packed).map_err(failed)?, limit)),
        }
    }

    /// What `error`, from this codec, is to a caller.
    pub(super) fn failed(self, error: &io::Error, limit: usize) -> RecordError {
        if error.kind() == io::ErrorKind::FileTooLarge {
            return RecordError::DecompressedTooLarge { codec: self, limit };
        }
        RecordError::Codec { codec: self, reason: error.to_string() }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Compression {
    type Err = RecordError;

    fn from_str(name: &str) -> Result<Self, RecordError> {
        Self::ALL.into_iter().find(|codec| codec.name() == name).ok_or(RecordError::UnknownCompressionName)
    }
}

/// Something to do with a reader, whatever its type: a closure with a type parameter.
pub(super) trait Visit {
    type Output;

    fn visit(self, reader: impl BufRead) -> Result<Self::Output, RecordError>;
}

/// How much is decompressed at a time where that is ours to say.
const CHUNK: usize = 32 * 1024;
/// What is reserved at most before anything has come out.
const AHEAD: usize = 4 << 20;

fn gzip(level: u32, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::new(level));
    encoder.write_all(plain)?;
    encoder.finish().map(drop)
}

/// Reads to the end. The buffer starts at a multiple of the compressed size and doubles, so that
/// zstd finds room for a whole frame and decodes straight into it.
fn fill(mut reader: impl Read, packed: usize, out: &mut Vec<u8>, limit: usize) -> io::Result<()> {
    // Room for a byte more, so that a read tells the end from the limit.
    let end = limit.saturating_add(1);
    out.resize(packed.saturating_mul(4).clamp(CHUNK, AHEAD).min(end), 0);
    let mut filled = 0;
    loop {
        match reader.read(&mut out[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if filled == out.len() {
            if filled >= end {
                return Err(too_large());
            }
            out.resize(filled.saturating_mul(2).min(end), 0);
        }
    }
    out.truncate(filled);
    Ok(())
}

/// Compressed bytes that come in blocks, each decompressed at once.
trait NextBlock {
    /// Appends the next block's bytes to `out`, possibly none; false at the end. Where a block says what it will be, and it
    /// would take `out` beyond `limit`, that is an error before anything is reserved.
    fn next_block(&mut self, out: &mut Vec<u8>, limit: usize) -> io::Result<bool>;
}

/// Reads all blocks.
fn concat(mut blocks: impl NextBlock, packed: usize, out: &mut Vec<u8>, limit: usize) -> io::Result<()> {
    out.reserve(packed.saturating_mul(3).min(limit).min(AHEAD));
    while blocks.next_block(out, limit)? {
        if out.len() > limit {
            return Err(too_large());
        }
    }
    Ok(())
}

/// Blocks as a reader.
struct BlockReader<B> {
    blocks: B,
    block: Vec<u8>,
    read: usize,
    limit: usize,
}

impl<B: NextBlock> BlockReader<B> {
    fn new(blocks: B, limit: usize) -> Self {
        Self { blocks, block: Vec::new(), read: 0, limit }
    }

    #[cold]
    fn refill(&mut self) -> io::Result<()> {
        self.block.clear();
        self.read = 0;
        while self.block.is_empty() && self.blocks.next_block(&mut self.block, self.limit)? {}
        Ok(())
    }
}

impl<B: NextBlock> BufRead for BlockReader<B> {
    #[inline]
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.read == self.block.len() {
            self.refill()?;
        }
        Ok(&self.block[self.read..])
    }

    #[inline]
    fn consume(&mut self, amount: usize) {
        self.read += amount;
    }
}

impl<B: NextBlock> Read for BlockReader<B> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(out)?;
        self.consume(read);
        Ok(read)
    }
}

fn too_large() -> io::Error {
    io::ErrorKind::FileTooLarge.into()
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Takes the first `len` bytes off `rest`.
fn take<'a>(rest: &mut &'a [u8], len: usize, reason: &'static str) -> io::Result<&'a [u8]> {
    rest.split_off(..len).ok_or_else(|| invalid(reason))
}
