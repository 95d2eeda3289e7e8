//! LZ4 frames as Kafka's Java client reads and writes them.
//!
//! A header (magic, flags, block size, its checksum), then blocks: a little-endian length whose top bit says "not
//! compressed", and the block; a length of zero ends the frame. Java refuses blocks that refer to the ones before, verifies the
//! checksums of header and blocks, and neither verifies nor reads that of the content. So does this, because what is taken
//! here and refused there would block every Java consumer. What follows the frame is not looked at.

use std::io;

use super::{NextBlock, invalid, take};

const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// Version 1 and independent blocks; blocks of up to 64 KiB; the checksum of these two.
const HEADER: [u8; 7] = [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], 0x60, 0x40, 0x82];
/// A little below the 64 KiB allowed, at which the compressor can still use its small table.
const BLOCK: usize = u16::MAX as usize - 1;
const NOT_COMPRESSED: u32 = 1 << 31;
/// Plain bytes for each byte of a block: its densest element is one byte of a length, for 255.
const MAX_RATIO: usize = 256;

pub(super) fn compress(plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    out.extend_from_slice(&HEADER);
    let room = lz4_flex::block::get_maximum_output_size(plain.len().min(BLOCK));
    let mut table = lz4_flex::block::CompressTable::small();
    for block in plain.chunks(BLOCK) {
        let start = out.len() + 4;
        out.resize(start + room, 0);
        let written = lz4_flex::block::compress_into_with_table(block, &mut out[start..], &mut table)
            .map_err(io::Error::other)?;
        let length = if written < block.len() {
            out.truncate(start + written);
            written as u32
        } else {
            out.truncate(start);
            out.extend_from_slice(block);
            block.len() as u32 | NOT_COMPRESSED
        };
        out[start - 4..start].copy_from_slice(&length.to_le_bytes());
    }
    out.extend_from_slice(&[0; 4]);
    Ok(())
}

/// The blocks of one frame.
pub(super) struct Blocks<'a> {
    rest: &'a [u8],
    max_block: usize,
    block_checksums: bool,
    ended: bool,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(packed: &'a [u8]) -> io::Result<Self> {
        let cut_off = "lz4 header is cut off";
        let mut rest = packed;
        if take(&mut rest, 4, cut_off)? != MAGIC {
            return Err(invalid("not an lz4 frame"));
        }
        let descriptor = rest;
        let &[flags, size] = take(&mut rest, 2, cut_off)? else { return Err(invalid(cut_off)) };
        if flags >> 6 != 1 {
            return Err(invalid("unknown version of the lz4 frame"));
        }
        if flags & 0b10_0000 == 0 {
            return Err(invalid("lz4 blocks depend on each other, which Kafka does not read"));
        }
        if flags & 0b11 != 0 || size & 0b1000_1111 != 0 || size >> 4 < 4 {
            return Err(invalid("unknown flags in the lz4 header"));
        }
        if flags & 0b1000 != 0 {
            take(&mut rest, 8, cut_off)?;
        }
        let described = descriptor.len() - rest.len();
        let checksum = take(&mut rest, 1, cut_off)?[0];
        if checksum != (xxh32(&descriptor[..described]) >> 8) as u8 {
            return Err(invalid("lz4 header checksum differs"));
        }
        let max_block = 1 << (8 + 2 * (size >> 4));
        Ok(Self { rest, max_block, block_checksums: flags & 0b1_0000 != 0, ended: false })
    }

    fn word(&mut self) -> io::Result<u32> {
        let mut word = [0; 4];
        word.copy_from_slice(take(&mut self.rest, 4, "lz4 frame is cut off")?);
        Ok(u32::from_le_bytes(word))
    }
}

impl NextBlock for Blocks<'_> {
    fn next_block(&mut self, out: &mut Vec<u8>, _limit: usize) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let length = self.word()?;
        if length == 0 {
            self.ended = true;
            return Ok(false);
        }
        let compressed = length & NOT_COMPRESSED == 0;
        let length = (length & !NOT_COMPRESSED) as usize;
        if length > self.max_block {
            return Err(invalid("lz4 block is larger than its frame allows"));
        }
        let block = take(&mut self.rest, length, "lz4 block is cut off")?;
        if self.block_checksums && self.word()? != xxh32(block) {
            return Err(invalid("lz4 block checksum differs"));
        }
        if compressed {
            let start = out.len();
            out.resize(start + self.max_block.min(length * MAX_RATIO), 0);
            let written = lz4_flex::block::decompress_into(block, &mut out[start..]).map_err(io::Error::other)?;
            out.truncate(start + written);
        } else {
            out.extend_from_slice(block);
        }
        Ok(true)
    }
}

/// The checksum of the frame format: XXH32 with seed 0.
pub(crate) fn xxh32(bytes: &[u8]) -> u32 {
    const PRIMES: [u32; 5] = [0x9e37_79b1, 0x85eb_ca77, 0xc2b2_ae3d, 0x27d4_eb2f, 0x1656_67b1];
    let round =
        |lane: u32, word: u32| lane.wrapping_add(word.wrapping_mul(PRIMES[1])).rotate_left(13).wrapping_mul(PRIMES[0]);

    let (stripes, tail) = bytes.as_chunks::<16>();
    let mut hash = if stripes.is_empty() {
        PRIMES[4]
    } else {
        let mut lanes = [PRIMES[0].wrapping_add(PRIMES[1]), PRIMES[1], 0, 0u32.wrapping_sub(PRIMES[0])];
        for stripe in stripes {
            let (words, _) = stripe.as_chunks::<4>();
            for (lane, &word) in lanes.iter_mut().zip(words) {
                *lane = round(*lane, u32::from_le_bytes(word));
            }
        }
        let [a, b, c, d] = lanes;
        let sum = a.rotate_left(1).wrapping_add(b.rotate_left(7)).wrapping_add(c.rotate_left(12));
        sum.wrapping_add(d.rotate_left(18))
    };
    hash = hash.wrapping_add(bytes.len() as u32);
    let (words, tail) = tail.as_chunks::<4>();
    for &word in words {
        let word = u32::from_le_bytes(word).wrapping_mul(PRIMES[2]);
        hash = hash.wrapping_add(word).rotate_left(17).wrapping_mul(PRIMES[3]);
    }
    for &byte in tail {
        let byte = u32::from(byte).wrapping_mul(PRIMES[4]);
        hash = hash.wrapping_add(byte).rotate_left(11).wrapping_mul(PRIMES[0]);
    }
    hash = (hash ^ hash >> 15).wrapping_mul(PRIMES[1]);
    hash = (hash ^ hash >> 13).wrapping_mul(PRIMES[2]);
    hash ^ hash >> 16
}
