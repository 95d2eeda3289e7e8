"""Which codecs there are: all of them, always.

In kafka-python each but gzip needs another package.
"""

__all__ = ["has_gzip", "has_lz4", "has_snappy", "has_zstd"]


def has_gzip() -> bool:
    """Return True: gzip is built in."""
    return True


def has_snappy() -> bool:
    """Return True: snappy is built in."""
    return True


def has_lz4() -> bool:
    """Return True: lz4 is built in."""
    return True


def has_zstd() -> bool:
    """Return True: zstd is built in."""
    return True
