//! Variable-length integers: seven bits a byte, least significant first, signed ones folded so that small stays short.

/// The bytes that [`put`] writes for `value`.
#[inline]
pub(super) fn size(value: i64) -> usize {
    // (bits * 9 + 64) / 64 is bits / 7 rounded up, for 1 to 64 bits, without a division.
    let bits = 64 - (fold(value) | 1).leading_zeros() as usize;
    (bits * 9 + 64) / 64
}

/// Writes `value`. A 32-bit value is written alike by Kafka's `writeVarint` and `writeVarlong`.
#[inline]
pub(super) fn put(out: &mut Vec<u8>, value: i64) {
    let mut rest = fold(value);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[inline]
fn fold(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

#[inline]
fn unfold(folded: u64) -> i64 {
    (folded >> 1) as i64 ^ -((folded & 1) as i64)
}

/// Reads a value of at most 32 bits with `next`, which gives the bytes. `None` when it gives none, or the value is longer.
#[inline(always)]
pub(super) fn read32<E>(mut next: impl FnMut() -> Result<u8, E>) -> Result<Option<i32>, E> {
    let first = next()?;
    if first < 0x80 {
        return Ok(Some(unfold(u64::from(first)) as i32));
    }
    let second = next()?;
    let low = u64::from(first & 0x7f) | u64::from(second & 0x7f) << 7;
    if second < 0x80 {
        return Ok(Some(unfold(low) as i32));
    }
    Ok(read_long(low, 5, next)?.and_then(|value| i32::try_from(value).ok()))
}

/// Reads a value of at most 64 bits, otherwise as [`read32`].
#[inline(always)]
pub(super) fn read64<E>(mut next: impl FnMut() -> Result<u8, E>) -> Result<Option<i64>, E> {
    let first = next()?;
    if first < 0x80 {
        return Ok(Some(unfold(u64::from(first))));
    }
    let second = next()?;
    let low = u64::from(first & 0x7f) | u64::from(second & 0x7f) << 7;
    if second < 0x80 {
        return Ok(Some(unfold(low)));
    }
    read_long(low, 10, next)
}

/// The rest of a value whose first two bytes are in `value`.
fn read_long<E>(mut value: u64, max_bytes: u32, mut next: impl FnMut() -> Result<u8, E>) -> Result<Option<i64>, E> {
    for byte in 2..max_bytes {
        let bits = next()?;
        value |= u64::from(bits & 0x7f) << (7 * byte);
        if bits < 0x80 {
            return Ok(Some(unfold(value)));
        }
    }
    Ok(None)
}
