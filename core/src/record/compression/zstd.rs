//! Zstandard, with its contexts kept between batches.
//!
//! Making a context clears tables of its own, which costs as much as a batch of 16 KiB: so each thread keeps one of each kind,
//! and gives it up if a frame has made it large. Nothing of one batch is left in it for the next.

use std::{cell::Cell, io, thread::LocalKey};

use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, ResetDirective, compress_bound, get_error_name};

/// A window larger than this is refused: Kafka's own bound, and the library's.
const WINDOW_LOG_MAX: u32 = 27;
/// A context larger than this is not kept.
const KEEP_BYTES: usize = 2 << 20;

thread_local! {
    static COMPRESSOR: Cell<Option<CCtx<'static>>> = const { Cell::new(None) };
    static DECOMPRESSOR: Cell<Option<DCtx<'static>>> = const { Cell::new(None) };
}

/// A context of this thread; a new one while it is in use.
fn take<T>(kept: &'static LocalKey<Cell<Option<T>>>, create: fn() -> Option<T>) -> io::Result<T> {
    // While the thread ends, its context may be gone.
    let kept = kept.try_with(Cell::take).ok().flatten();
    kept.or_else(create).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

fn keep<T>(kept: &'static LocalKey<Cell<Option<T>>>, context: T, size: usize) {
    if size <= KEEP_BYTES {
        let _ = kept.try_with(|kept| kept.set(Some(context)));
    }
}

pub(super) fn compress(level: i32, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut context = take(&COMPRESSOR, CCtx::try_create)?;
    let start = out.len();
    out.resize(start + compress_bound(plain.len()), 0);
    context.reset(ResetDirective::SessionAndParameters).map_err(failed)?;
    context.set_parameter(CParameter::CompressionLevel(level)).map_err(failed)?;
    let written = context.compress2(&mut out[start..], plain).map_err(failed)?;
    out.truncate(start + written);
    let size = context.sizeof();
    keep(&COMPRESSOR, context, size);
    Ok(())
}

/// Hands a reader of what `packed` is when decompressed to `read`.
pub(super) fn decompress<'p, T>(
    packed: &'p [u8],
    read: impl FnOnce(zstd::Decoder<'_, &'p [u8]>) -> T,
) -> io::Result<T> {
    let mut context = take(&DECOMPRESSOR, DCtx::try_create)?;
    context.reset(ResetDirective::SessionAndParameters).map_err(failed)?;
    context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(failed)?;
    let result = read(zstd::Decoder::with_context(packed, &mut context));
    let size = context.sizeof();
    keep(&DECOMPRESSOR, context, size);
    Ok(result)
}

fn failed(code: usize) -> io::Error {
    io::Error::other(get_error_name(code))
}
