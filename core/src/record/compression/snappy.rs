//! Snappy as its Java library frames it, which is neither the bare block nor Snappy's own framing format.
//!
//! A header of 16 bytes (a magic, then two version numbers), then chunks: a big-endian length and a bare block of at most
//! 32 KiB of plain bytes. librdkafka and others write one bare block instead, and every consumer reads both.

use std::io;

use super::{NextBlock, invalid, take, too_large};

const MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
/// The magic, then version 1, readable since version 1.
const HEADER: &[u8; 16] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
const CHUNK: usize = 32 * 1024;
/// Plain bytes for each byte of a block: its densest element makes 64 of 3.
const MAX_RATIO: usize = 22;

pub(super) fn compress(plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut encoder = snap::raw::Encoder::new();
    out.extend_from_slice(HEADER);
    for chunk in plain.chunks(CHUNK) {
        let start = out.len() + 4;
        out.resize(start + snap::raw::max_compress_len(chunk.len()), 0);
        let written = encoder.compress(chunk, &mut out[start..])?;
        out[start - 4..start].copy_from_slice(&(written as u32).to_be_bytes());
        out.truncate(start + written);
    }
    Ok(())
}

/// The blocks of either kind.
pub(super) struct Blocks<'a> {
    rest: &'a [u8],
    framed: bool,
    decoder: snap::raw::Decoder,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(packed: &'a [u8]) -> io::Result<Self> {
        let mut rest = packed;
        let framed = packed.starts_with(MAGIC);
        if framed {
            take(&mut rest, HEADER.len(), "snappy header is cut off")?;
        } else if packed.is_empty() {
            return Err(invalid("no bytes"));
        }
        Ok(Self { rest, framed, decoder: snap::raw::Decoder::new() })
    }
}

impl NextBlock for Blocks<'_> {
    fn next_block(&mut self, out: &mut Vec<u8>, limit: usize) -> io::Result<bool> {
        if self.rest.is_empty() {
            return Ok(false);
        }
        let block = if !self.framed {
            std::mem::take(&mut self.rest)
        } else {
            // Streams may be written one after the other, each with its header.
            if self.rest.starts_with(MAGIC) {
                take(&mut self.rest, HEADER.len(), "snappy header is cut off")?;
                return Ok(true);
            }
            let Some(length) = self.rest.split_off(..4) else { return Err(invalid("snappy chunk length is cut off")) };
            let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
            take(&mut self.rest, length as usize, "snappy chunk is cut off")?
        };
        let claimed = snap::raw::decompress_len(block)?;
        if claimed > block.len().saturating_mul(MAX_RATIO) {
            return Err(invalid("snappy block claims more than it can hold"));
        }
        let start = out.len();
        if claimed > limit.saturating_sub(start) {
            return Err(too_large());
        }
        out.resize(start + claimed, 0);
        self.decoder.decompress(block, &mut out[start..])?;
        Ok(true)
    }
}
