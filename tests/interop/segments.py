"""Batches as they lie in a partition's directory: read by these few lines, and by Kafka's own dump tool."""

from __future__ import annotations

import itertools
import re
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from servers import kafka

FIELDS = (
    "base_offset length leader_epoch magic crc attributes last_delta t0 t1 producer_id producer_epoch sequence count"
)
HEADER = struct.Struct(">qiibIhiqqqhii")
#: What comes before the length's own count.
BEFORE = 12


@dataclass(frozen=True)
class Batch:
    """A record batch as it is stored."""

    data: bytes

    @property
    def base_offset(self) -> int:
        return int(HEADER.unpack_from(self.data)[0])

    @property
    def leader_epoch(self) -> int:
        return int(HEADER.unpack_from(self.data)[2])

    @property
    def attributes(self) -> int:
        return int(HEADER.unpack_from(self.data)[5])

    @property
    def next_offset(self) -> int:
        return self.base_offset + int(HEADER.unpack_from(self.data)[6]) + 1

    @property
    def count(self) -> int:
        return int(HEADER.unpack_from(self.data)[12])

    def __repr__(self) -> str:
        return " ".join(f"{n}={v}" for n, v in zip(FIELDS.split(), HEADER.unpack_from(self.data), strict=True))


def batches(directory: Path, start: int = 0) -> Iterator[Batch]:
    """The batches of a partition that end above `start`, in the order of its segments."""
    for segment in sorted(directory.glob("*.log")):
        data = segment.read_bytes()
        at = 0
        while at + HEADER.size <= len(data):
            _, length, _, magic, *_ = HEADER.unpack_from(data, at)
            assert magic == 2 and length > 0, f"no batch at {at} of {segment}"
            assert at + BEFORE + length <= len(data), f"{segment} ends within a batch"
            batch = Batch(data[at : at + BEFORE + length])
            if batch.next_offset > start:
                yield batch
            at += BEFORE + length
        assert at == len(data), f"{len(data) - at} bytes too many at the end of {segment}"


def check_same(source: Path, copy: Path, start: int = 0) -> list[Batch]:
    """Both have the same bytes from `start` on, and each offset once; what they have."""
    expected, found = list(batches(source, start)), list(batches(copy, start))
    for one, other in zip(expected, found, strict=False):
        assert one.data == other.data, f"{copy.name} differs:\n  {one}\n  {other}"
    assert len(found) == len(expected), (
        f"{copy.name} has {len(found)} of {len(expected)} batches, next in the source: {expected[len(found) :][:1]}, "
        f"next in the copy: {found[len(expected) :][:1]}"
    )
    for one, other in itertools.pairwise(found):
        assert one.next_offset == other.base_offset, f"{copy.name}: offsets are missing or twice:\n  {one}\n  {other}"
        assert one.leader_epoch <= other.leader_epoch, f"{copy.name}: epochs go back:\n  {one}\n  {other}"
    return found


def dump(directory: Path, *options: str, only: str = "") -> str:
    """What Kafka's own tool says of a partition's files, or `only` of those of a kind."""
    names = [only] if only else [".log", ".index", ".timeindex", ".txnindex", ".snapshot"]
    files = sorted(str(file) for file in directory.iterdir() if file.suffix in names)
    command = kafka.java(
        "org.apache.kafka.tools.DumpLogSegments", [*options, "--files", ",".join(files)], options=kafka.TOOL_OPTIONS
    )
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return run.stdout + run.stderr


def check_dump(text: str) -> None:
    """The tool found nothing wrong."""
    wrong = [
        line
        for line in text.splitlines()
        if re.search(r"mismatch|corrupt|isvalid: false|exception", line, re.IGNORECASE)
    ]
    assert not wrong, "\n".join(wrong[:10])


def dumped_batches(directory: Path, start: int = 0) -> list[str]:
    """The lines of Kafka's tool for the batches that end above `start`, without where in their files they are."""
    # A broker that runs has room for more in its indexes, which the tool finds fault with.
    text = dump(directory, only=".log")
    check_dump(text)
    lines = [line for line in text.splitlines() if line.startswith("baseOffset: ")]
    ends = [int(re.search(r" lastOffset: (\d+) ", line)[1]) for line in lines]  # type: ignore[index]
    return [re.sub(r" position: \d+", "", line) for line, end in zip(lines, ends, strict=True) if end >= start]
